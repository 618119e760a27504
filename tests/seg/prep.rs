//! Preparing cases with their labels, and the way back. Stage by stage against MONAI: `unetr_parity.rs`.

use std::path::Path;

use glmae::data::nifti::{Stored, write_volume};
use glmae::data::{Affine, Intensity, PrepareConfig, ReadLimits, Volume, prepare_volume};
use glmae::seg::LabelRules;

use super::{Reference, distance};

struct Stage<'a> {
    file: &'a Reference,
    case: &'a str,
}

impl Stage<'_> {
    fn values(&self, part: &str) -> Vec<f64> {
        self.file.values(&format!("{}.{part}", self.case))
    }

    fn dims(&self, part: &str) -> [usize; 3] {
        self.file.dims(&format!("{}.{part}", self.case))
    }

    fn affine(&self, stage: &str) -> Affine {
        let v = self.values(&format!("{stage}.affine"));
        [0, 1, 2, 3].map(|r| [0, 1, 2, 3].map(|c| v[4 * r + c]))
    }

    fn volume(&self, stage: &str, part: &str) -> Volume {
        let name = format!("{stage}.{part}");
        let data = self.values(&name).into_iter().map(|v| v as f32).collect();
        Volume::new(data, 1, self.dims(&name), self.affine(stage), 1).unwrap()
    }
}

fn config(file: &Reference) -> PrepareConfig {
    let [lo, hi]: [f32; 2] = serde_json::from_value(file.json("window")).unwrap();
    PrepareConfig {
        spacing_mm: Some(serde_json::from_value(file.json("spacing")).unwrap()),
        intensity: Intensity::Window { lo, hi },
        ..PrepareConfig::default()
    }
}

/// Results return to the grid of the file, resampled cases too.
#[test]
fn resampled_cases_come_back() {
    let Some(file) = Reference::open("prep") else { return };
    for case in ["real", "oblique"] {
        let stage = Stage { file: &file, case };
        let raw = stage.volume("raw", "image");
        let config = PrepareConfig { foreground_threshold: None, ..config(&file) };
        let prepared = prepare_volume(case, raw.clone(), Path::new(case), &config).unwrap();
        assert!(prepared.record().resample.is_some());
        let back = prepared.record().restore(prepared.voxels(), -175.0).unwrap();
        assert_eq!((back.dims, back.affine), (raw.dims, raw.affine));
        let label: Vec<u8> = stage.values("raw.label").into_iter().map(|v| v as u8).collect();
        let placed = prepared.record().place_labels(&label).unwrap();
        let returned = prepared.record().restore_labels(&placed).unwrap();
        assert_eq!(returned.len(), label.len());
        let same = returned.iter().zip(&label).filter(|(a, b)| a == b).count();
        assert!(same as f64 > 0.93 * label.len() as f64, "{case}: {same} of {}", label.len());
        // A record with a resampling goes through JSON; serde_json reads numbers to the last bit
        // but one.
        let text = serde_json::to_string(prepared.record()).unwrap();
        let read: glmae::data::CaseRecord = serde_json::from_str(&text).unwrap();
        let (read, want) = (read.resample.unwrap(), prepared.record().resample.unwrap());
        assert_eq!((read.from_dims, read.to_dims), (want.from_dims, want.to_dims));
        assert!(distance(&read.to_affine.concat(), &want.to_affine.concat()) < 1e-15);
    }
}

/// A label map with raw values of MM-WHS, through files, onto the prepared grid.
#[test]
fn label_files_are_mapped_and_placed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ct_train_1001_label.nii.gz");
    let dims = [6, 5, 4];
    let affine = [[-1., 0., 0., 9.], [0., 0., 3., 1.], [0., -1., 0., 5.], [0., 0., 0., 1.]];
    let raw = [0.0, 205.0, 820.0];
    let labels: Vec<f32> = (0..120).map(|i| raw[i / 7 % 3]).collect();
    let classes: Vec<f32> = (0..120).map(|i| [0.0, 1.0, 6.0][i / 7 % 3]).collect();
    let volume = |data| Volume::new(data, 1, dims, affine, 1).unwrap();
    write_volume(&path, &volume(labels.clone()), Stored::I16).unwrap();
    let config = PrepareConfig {
        spacing_mm: Some([1.0, 1.5, 1.0]),
        intensity: Intensity::Identity,
        foreground_threshold: None,
        min_size: [8; 3],
        ..PrepareConfig::default()
    };
    // The image holds the classes; nearest sampling of it is what the label must become.
    let prepared = prepare_volume("a", volume(classes.clone()), &path, &config).unwrap();
    let rules =
        LabelRules { classes: Some(8), map: Some([(205, 1), (820, 6)].into_iter().collect()) };
    let limits = ReadLimits::default();
    let got = rules.prepare(&path, prepared.record(), &limits).unwrap();
    assert_eq!(got.len(), prepared.voxels().len());
    let bytes: Vec<u8> = classes.iter().map(|&v| v as u8).collect();
    assert_eq!(got, prepared.record().place_labels(&bytes).unwrap());
    assert!(got.contains(&6) && got.contains(&1));
    let error = LabelRules { classes: Some(6), ..rules.clone() }
        .prepare(&path, prepared.record(), &limits)
        .unwrap_err()
        .to_string();
    assert!(error.contains("820") && error.contains("ct_train_1001_label"), "{error}");
    let other = prepare_volume(
        "b",
        Volume { affine: [[-1., 0., 0., 8.], affine[1], affine[2], affine[3]], ..volume(classes) },
        &path,
        &config,
    );
    let error = rules.prepare(&path, other.unwrap().record(), &limits).unwrap_err().to_string();
    assert!(error.contains("another grid"), "{error}");
}
