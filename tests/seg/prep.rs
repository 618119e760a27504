//! Preparing a case for segmentation, stage by stage, against MONAI 1.6.1.

use std::path::Path;

use glmae::data::geometry::to_ras;
use glmae::data::nifti::{Stored, write_volume};
use glmae::data::{Affine, Intensity, Limits, PrepareConfig, Resample, Volume, prepare_volume};
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

    #[track_caller]
    fn near(&self, part: &str, ours: &[f64], bound: f64) {
        let gap = distance(ours, &self.values(part));
        println!("{:12} {part:14} {gap:9.2e} of {bound:.0e}", self.case);
        assert!(gap <= bound, "{} {part}: {gap:e}", self.case);
    }
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| v.into()).collect()
}

fn config(file: &Reference) -> PrepareConfig {
    let [lo, hi]: [f32; 2] = serde_json::from_value(file.json("window")).unwrap();
    PrepareConfig {
        spacing_mm: Some(serde_json::from_value(file.json("spacing")).unwrap()),
        intensity: Intensity::Window { lo, hi },
        ..PrepareConfig::default()
    }
}

#[test]
fn every_stage_equals_monai() {
    let Some(file) = Reference::open("prep") else { return };
    let config = config(&file);
    let mut ties = 0;
    for (case, _) in file.cases() {
        let stage = Stage { file: &file, case: &case };
        let (ras, orientation) = to_ras(stage.volume("raw", "image")).unwrap();
        let (ras_label, _) = to_ras(stage.volume("raw", "label")).unwrap();
        assert_eq!(ras.dims, stage.dims("ras.image"));
        assert_eq!(wide(&ras.data), stage.values("ras.image"), "{case}");
        assert_eq!(wide(&ras_label.data), stage.values("ras.label"), "{case}");
        stage.near("ras.affine", &ras.affine.concat(), 1e-12);

        let to = Resample::to_spacing(ras.dims, &ras.affine, config.spacing_mm.unwrap()).unwrap();
        assert_eq!(to.to_dims, stage.dims("spaced.image"), "{case}");
        stage.near("spaced.affine", &to.to_affine.concat(), 1e-12);
        let mut image = to.linear(&ras.data).unwrap();
        stage.near("spaced.image", &wide(&image), 1e-6);
        let label = to.nearest(&ras_label.data).unwrap();
        let tied = stage.values("spaced.ties");
        for (i, want) in stage.values("spaced.label").into_iter().enumerate() {
            assert!(tied[i] != 0.0 || f64::from(label[i]) == want, "{case}: label {i}");
        }
        ties += tied.iter().filter(|&&t| t != 0.0).count();

        let map = config.intensity.fit(&image).unwrap();
        image.iter_mut().for_each(|v| *v = map.forward(*v));
        stage.near("scaled.image", &wide(&image), 1e-6);

        // The same in one call, through to the crop; the label goes along.
        let raw = stage.volume("raw", "image");
        let prepared = prepare_volume(&case, raw, Path::new(&case), &config).unwrap();
        let record = prepared.record();
        assert_eq!(record.orientation, orientation);
        let start = record.crop.start.map(|v| v as f64);
        let end = [0, 1, 2].map(|a| start[a] + record.crop.size[a] as f64);
        assert_eq!([start, end].concat(), stage.values("cropped.box"), "{case}");
        assert_eq!(prepared.dims(), stage.dims("cropped.image"));
        stage.near("cropped.image", &wide(prepared.voxels()), 1e-6);
        stage.near("cropped.affine", &prepared.affine().concat(), 1e-12);
        let raw_label: Vec<u8> = stage.values("raw.label").into_iter().map(|v| v as u8).collect();
        let placed = record.place_labels(&raw_label).unwrap();
        let tied = record.crop.cut(&tied).unwrap();
        for (i, want) in stage.values("cropped.label").into_iter().enumerate() {
            assert!(tied[i] != 0.0 || f64::from(placed[i]) == want, "{case}: label {i}");
        }
        assert!(placed.iter().any(|&l| l > 0), "{case}: no label is left");
    }
    assert_eq!(ties, 74, "voxels that the comparison leaves out");
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
    let limits = Limits::default();
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
