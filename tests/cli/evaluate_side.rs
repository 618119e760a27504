//! `glmae evaluate` on what people's data are really like: turned axes, interpolated labels, labels to be
//! ignored, names of other systems.

use std::fs;
use std::path::{Path, PathBuf};

use glmae::data::nifti::{Stored, write_volume};
use glmae::data::{Affine, Volume};
use serde_json::Value;

use super::run;
use crate::support::shared;

const UNIT: Affine = [[1., 0., 0., 5.], [0., 2., 0., 6.], [0., 0., 3., 7.], [0., 0., 0., 1.]];

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, dims: [usize; 3], affine: Affine, data: Vec<f32>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        write_volume(&path, &Volume::new(data, 1, dims, affine, 1).unwrap(), Stored::F32).unwrap();
    }

    /// Code, stdout, stderr, and the JSON if there is one.
    fn judge(&self, pred: &str, reference: &str, more: &[&str]) -> (i32, String, String, Value) {
        let json = self.path("summary.json");
        let _ = fs::remove_file(&json);
        let text = |p: &Path| p.to_str().unwrap().to_owned();
        let [pred, reference] = [pred, reference].map(|name| text(&self.path(name)));
        let args = ["evaluate", "--pred", &pred, "--ref", &reference, "--json"];
        let (code, out, err) = run(&[&args[..], &[&text(&json)], more].concat());
        let json = fs::read_to_string(json).ok();
        let json = json.map_or(Value::Null, |t| serde_json::from_str(&t).unwrap());
        (code, out, err, json)
    }
}

/// 2 x 3 x 4 voxels, class 1 in a corner and class 2 in another.
fn labels() -> Vec<f32> {
    let mut data = vec![0.0; 24];
    (data[0], data[1], data[23]) = (1.0, 1.0, 2.0);
    data
}

#[test]
fn the_same_voxels_on_other_axes_are_turned_and_said() {
    let dir = Folder::new();
    dir.put("ref.nii", [2, 3, 4], UNIT, labels());
    // Axis 0 reversed, then the axes as (w, d, h).
    let mut affine = UNIT;
    for r in 0..3 {
        let [d, h, w] = [UNIT[r][0], UNIT[r][1], UNIT[r][2]];
        affine[r] = [w, -d, h, UNIT[r][3] + d];
    }
    let mut turned = vec![0.0; 24];
    for (i, v) in labels().into_iter().enumerate() {
        let (d, h, w) = (i / 12, i / 4 % 3, i % 4);
        turned[(w * 2 + (1 - d)) * 3 + h] = v;
    }
    dir.put("pred.nii", [4, 2, 3], affine, turned);
    let (code, out, err, json) = dir.judge("pred.nii", "ref.nii", &[]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(json["case_mean"]["Dice"], 1.0);
    assert_eq!(json["metric_per_case"][0]["turned"], "SLA to RAS");
    assert!(out.contains("nothing was interpolated") && out.contains("SLA to RAS"), "{out}");
    // Half a voxel away there is no such way.
    affine[0][3] += 0.5;
    dir.put("moved.nii", [4, 2, 3], affine, vec![0.0; 24]);
    let (code, _, err, _) = dir.judge("moved.nii", "ref.nii", &[]);
    assert!(code == 3 && err.contains("another grid"), "{err}");
}

#[test]
fn interpolated_labels_are_rounded_when_asked() {
    let dir = Folder::new();
    dir.put("ref.nii", [2, 3, 4], UNIT, labels());
    let near = labels().into_iter().map(|v| if v > 1.5 { 2.0235 } else { 0.9882 * v }).collect();
    dir.put("near.nii", [2, 3, 4], UNIT, near);
    let (code, out, err, _) = dir.judge("near.nii", "ref.nii", &[]);
    assert!(code == 3 && out.is_empty(), "{out}{err}");
    assert!(err.contains("up to 0.0235") && err.contains("--round-labels 0.1"), "{err}");
    let (code, _, err, json) = dir.judge("near.nii", "ref.nii", &["--round-labels", "0.1"]);
    assert_eq!((code, &json["case_mean"]["Dice"]), (0, &Value::from(1.0)), "{err}");
    dir.put("image.nii", [2, 3, 4], UNIT, labels().into_iter().map(|v| v * 0.48).collect());
    let (code, _, err, _) = dir.judge("image.nii", "ref.nii", &["--round-labels", "0.1"]);
    assert!(code == 3 && err.contains("image or probabilities"), "{err}");
    for bad in ["0", "0.5", "nan", "-1"] {
        let (code, _, err, _) =
            dir.judge("near.nii", "ref.nii", &[&format!("--round-labels={bad}")]);
        assert!(code == 2 && err.contains("--round-labels"), "{bad}: {err}");
    }
}

#[test]
fn rows_are_of_labels_that_occur_and_255_is_explained() {
    let dir = Folder::new();
    let mut reference = labels();
    (reference[5], reference[6]) = (255.0, 255.0);
    dir.put("ref/a.nii", [2, 3, 4], UNIT, reference.clone());
    dir.put("ref/b.nii", [2, 3, 4], UNIT, labels());
    let mut pred = labels();
    pred[5] = 1.0;
    dir.put("pred/a.nii", [2, 3, 4], UNIT, pred);
    dir.put("pred/b.nii", [2, 3, 4], UNIT, labels());
    let keys = |json: &Value| -> Vec<String> {
        json["mean"].as_object().unwrap().keys().cloned().collect()
    };
    let (code, out, err, json) = dir.judge("pred", "ref", &[]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(keys(&json), ["1", "2", "255"]);
    // Class 1: one voxel too many in a; b has no 255.
    assert_eq!(json["metric_per_case"][0]["metrics"]["1"]["FP"], 1);
    assert_eq!(json["metric_per_case"][1]["metrics"]["255"]["n_ref"], 0);
    for word in ["ignore label", "--ignore-label 255", "labels.ignore"] {
        assert!(out.contains(word), "'{word}' is not in: {out}");
    }
    let (code, out, err, json) = dir.judge("pred", "ref", &["--ignore-label", "255"]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(keys(&json), ["1", "2"]);
    let first = &json["metric_per_case"][0]["metrics"]["1"];
    assert_eq!((&first["FP"], &first["Dice"], &first["TN"]), (&0.into(), &1.0.into(), &20.into()));
    assert_eq!(json["ignore_label"], 255);
    assert!(out.contains("2 voxels of the ignore label 255 are not judged"), "{out}");
    // The key of nnU-Net.
    let key = r#"{"labels": {"background": 0, "a": 1, "b": 2, "ignore": 255}}"#;
    fs::write(dir.path("dataset.json"), key).unwrap();
    let file = dir.path("dataset.json");
    let (code, _, err, json) = dir.judge("pred", "ref", &["--labels", file.to_str().unwrap()]);
    assert_eq!((code, &json["case_mean"]["Dice"]), (0, &Value::from(1.0)), "{err}");
    let (code, _, err, _) = dir.judge("pred", "ref", &["--classes", "3"]);
    assert!(code == 3 && err.contains("is 255") && err.contains("labels.ignore"), "{err}");
}

#[test]
fn a_miss_counts_as_the_diagonal_when_asked() {
    let dir = Folder::new();
    dir.put("ref.nii", [2, 3, 4], UNIT, labels());
    let pred = labels().into_iter().map(|v| if v == 2.0 { 0.0 } else { v }).collect();
    dir.put("pred.nii", [2, 3, 4], UNIT, pred);
    let (_, out, _, json) = dir.judge("pred.nii", "ref.nii", &[]);
    assert_eq!(json["missed_distance"], "left-out");
    assert!(json["mean"]["2"]["HD95"].is_null() && out.contains("in no mean of HD95"), "{out}");
    let (code, out, err, json) =
        dir.judge("pred.nii", "ref.nii", &["--missed-distance", "diagonal"]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(json["missed_distance"], "diagonal");
    // 2 x 1, 3 x 2 and 4 x 3 mm.
    let diagonal = (4.0f64 + 36.0 + 144.0).sqrt();
    for name in ["HD95", "HD"] {
        assert_eq!(json["mean"]["2"][name].as_f64(), Some(diagonal), "{name}");
        assert_eq!(json["foreground_mean"][name].as_f64(), Some(diagonal / 2.0), "{name}");
    }
    assert!(out.contains("the diagonal of its volume"), "{out}");
    let (code, _, err, _) = dir.judge("pred.nii", "ref.nii", &["--missed-distance", "zero"]);
    assert!(code == 2 && err.contains("left-out"), "{err}");
}

#[test]
fn names_of_other_systems_are_paired_and_case_is_told() {
    let dir = Folder::new();
    for name in ["ref/caf\u{e9}.nii", "ref/bob.nii", "pred/cafe\u{301}.nii", "pred/Bob.nii"] {
        dir.put(name, [2, 3, 4], UNIT, labels());
    }
    let (code, _, err, _) = dir.judge("pred", "ref", &[]);
    assert!(code == 3 && err.contains("Bob.nii and bob.nii differ only by"), "{err}");
    let (code, out, err, _) = dir.judge("pred", "ref", &["--allow-missing"]);
    assert!(code == 0 && out.contains("1 case"), "{out}{err}");
}

/// The files that failed once.
#[test]
fn the_files_that_failed_once_are_judged() {
    let Some(folder) = shared("cases/data-side") else { return };
    let dice = |pred: &str, more: &[&str]| -> (i32, f64, String) {
        let dir = tempfile::tempdir().unwrap();
        let json = dir.path().join("s.json");
        let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
        let (pred, reference) = (path(pred), path("labels_reference.nii.gz"));
        let args = ["evaluate", "--pred", &pred, "--ref", &reference, "--json"];
        let (code, out, err) = run(&[&args[..], &[json.to_str().unwrap()], more].concat());
        let text = fs::read_to_string(&json).unwrap_or_else(|_| "{}".into());
        let json: Value = serde_json::from_str(&text).unwrap();
        let dice = json["case_mean"]["Dice"].as_f64().unwrap_or(f64::NAN);
        (code, dice, out + &err)
    };
    let (code, value, text) = dice("labels_same_space_flipped_axis.nii.gz", &[]);
    assert_eq!((code, value), (0, 1.0), "{text}");
    assert_eq!(dice("labels_near_integers.nii.gz", &[]).0, 3);
    let (code, value, text) = dice("labels_near_integers.nii.gz", &["--round-labels", "0.1"]);
    assert_eq!((code, value), (0, 1.0), "{text}");
    let (code, _, text) = dice("labels_with_ignore_255.nii.gz", &[]);
    assert_eq!(code, 0, "{text}");
    assert!(text.lines().count() < 15 && text.contains("--ignore-label 255"), "{text}");

    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (code, out, err) = run(&["inspect", &path("sform_and_qform_disagree.nii.gz")]);
    assert!(code == 0 && out.contains("sform and qform disagree"), "{out}{err}");
    assert!(out.contains(" mm elsewhere"), "{out}");
}
