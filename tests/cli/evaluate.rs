//! `glmae evaluate` from outside.

use std::fs;
use std::path::Path;

use glmae::data::Volume;
use glmae::data::nifti::{Stored, write_volume};
use serde_json::Value;

use super::run;
use crate::seg::{Reference, distance};
use crate::support::shared;

fn labels(path: &Path, dims: [usize; 3], mm: [f64; 3], data: Vec<f32>) {
    let mut affine = [[0.0; 4]; 4];
    for a in 0..3 {
        affine[a][a] = mm[a];
        affine[a][3] = 10.0 * a as f64;
    }
    affine[3][3] = 1.0;
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    write_volume(path, &Volume::new(data, 1, dims, affine, 1).unwrap(), Stored::F32).unwrap();
}

/// The cases of the MONAI reference, written as NIfTI files: spacing and axes go through the files.
#[test]
fn files_give_the_numbers_of_monai() {
    let Some(file) = Reference::open("metrics") else { return };
    let dir = tempfile::tempdir().unwrap();
    let floats = |name: &str| file.values(name).into_iter().map(|v| v as f32).collect();
    for (name, about) in file.cases() {
        let mm: [f64; 3] = serde_json::from_value(about["spacing"].clone()).unwrap();
        for (side, file_name) in
            [("pred", format!("pred/{name}_0000.nii.gz")), ("ref", format!("ref/{name}.nii"))]
        {
            let dims = file.dims(&format!("{name}.{side}"));
            labels(&dir.path().join(file_name), dims, mm, floats(&format!("{name}.{side}")));
        }
    }
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (json, csv) = (path("summary.json"), path("cases.csv"));
    let args = ["evaluate", "--pred", &path("pred"), "--ref", &path("ref"), "--classes", "4"];
    let (code, out, err) = run(&[&args[..], &["--json", &json, "--csv", &csv]].concat());
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("7 cases") && out.contains("mean of cases"), "{out}");
    let summary: Value = serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap();
    let number = |v: &Value| v.as_f64().unwrap_or(f64::NAN);
    for (ours, theirs, bound) in [
        ("Dice", "dice", 1e-6),
        ("HD95", "hd95", 1e-4),
        ("NSD_1mm", "nsd1", 1e-6),
        ("NSD_2mm", "nsd2", 1e-6),
    ] {
        let mean = file.values(&format!("mean.{theirs}"));
        assert!(distance(&[number(&summary["case_mean"][ours])], &mean) <= bound, "{ours}");
        let per_class = ["1", "2", "3"].map(|c| number(&summary["mean"][c][ours]));
        let want = file.values(&format!("mean_per_class.{theirs}"));
        assert!(distance(&per_class, &want) <= bound, "{ours}: {per_class:?}");
        for case in summary["metric_per_case"].as_array().unwrap() {
            let got = ["1", "2", "3"].map(|c| number(&case["metrics"][c][ours]));
            let want = file.values(&format!("{}.{theirs}", case["case"].as_str().unwrap()));
            assert!(distance(&got, &want) <= bound, "{case}");
        }
    }
    assert_eq!(fs::read_to_string(csv).unwrap().lines().count(), 1 + 7 * 3);
}

/// A real task against itself: everything is perfect, names come from its dataset.json.
#[test]
fn a_real_task_agrees_with_itself() {
    let Some(task) = shared("data/hippocampus") else { return };
    let labels = task.join("labelsTr").to_str().unwrap().to_owned();
    let json = task.join("dataset.json").to_str().unwrap().to_owned();
    let (code, out, err) =
        run(&["evaluate", "--pred", &labels, "--ref", &labels, "--labels", &json]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("200 cases"), "{out}");
    let row = out.lines().find(|l| l.contains("mean of cases")).unwrap();
    let values: Vec<&str> = row.split_whitespace().skip(3).collect();
    assert_eq!(values, ["1.0000", "1.0000", "0.00", "0.00", "1.0000", "1.0000"]);
    assert!(out.contains("1 Anterior") || out.contains("1 anterior"), "{out}");
    assert!(err.contains("evaluate 200/200"), "{err}");
}

#[test]
fn what_cannot_be_judged_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let put = |name: &str, dims: [usize; 3], mm: f64, last: f32| {
        let mut data = vec![0.0; dims.iter().product()];
        *data.last_mut().unwrap() = last;
        labels(Path::new(&path(name)), dims, [mm; 3], data);
    };
    put("ref/a.nii", [2, 3, 4], 1.0, 1.0);
    let with = |pred: &str, more: &[&str]| {
        let (pred, reference) = (path(pred), path("ref/a.nii"));
        run(&[&["evaluate", "--pred", &pred, "--ref", &reference], more].concat())
    };
    let refused = |got: (i32, String, String), code: i32, words: &[&str]| {
        assert_eq!((got.0, got.1.as_str()), (code, ""), "{}", got.2);
        for word in words {
            assert!(got.2.contains(word), "'{word}' is not in: {}", got.2);
        }
    };
    put("size.nii", [2, 4, 3], 1.0, 1.0);
    refused(with("size.nii", &[]), 3, &["size.nii", "ref/a.nii", "[2, 4, 3]", "[2, 3, 4]"]);
    put("moved.nii", [2, 3, 4], 1.0 + 5e-4, 1.0);
    refused(with("moved.nii", &[]), 3, &["moved.nii", "ref/a.nii", "0.0019 mm apart", "1.00049"]);
    put("near.nii", [2, 3, 4], 1.0 + 2e-4, 1.0);
    assert_eq!(with("near.nii", &[]).0, 0);
    put("half.nii", [2, 3, 4], 1.0, 0.5);
    refused(with("half.nii", &[]), 3, &["half.nii", "[1, 2, 3] is 0.5", "whole number"]);
    put("beyond.nii", [2, 3, 4], 1.0, 2.0);
    refused(with("beyond.nii", &["--classes", "2"]), 3, &["beyond.nii", "is 2", "0 to 1"]);
    assert_eq!(with("beyond.nii", &["--classes", "3"]).0, 0);
    refused(with("near.nii", &["--classes", "1"]), 2, &["--classes 1"]);
    refused(with("near.nii", &["--tolerance=-1"]), 2, &["--tolerance -1"]);
    refused(with("near.nii", &["--tolerance", "nan"]), 2, &["--tolerance NaN"]);
    refused(with("near.nii", &["--json", &path("no/x.json")]), 2, &["no/x.json", "does not exist"]);
    refused(with("near.nii", &["--csv", &path("ref")]), 2, &["is a folder"]);
    let [near, table] = ["near.nii", "table.txt"].map(path);
    refused(with("near.nii", &["--csv", &near]), 2, &["near.nii is a file that is judged"]);
    refused(with("near.nii", &["--csv", &table, "--json", &table]), 2, &["name the same file"]);
    refused(with("gone.nii", &[]), 1, &["gone.nii", "check the path"]);
    fs::write(path("dataset.json"), "{}").unwrap();
    refused(with("near.nii", &["--labels", &path("dataset.json")]), 3, &["declares no label"]);

    refused(with("near.nii", &["--task", "cc-ccii"]), 2, &["--task cc-ccii", "no label maps"]);
    refused(with("near.nii", &["--task", "lits"]), 2, &["'lits'", "btcv"]);
    // Folders: missing partners are listed; the rest is judged on request.
    put("preds/a.nii.gz", [2, 3, 4], 1.0, 1.0);
    put("preds/c.nii.gz", [2, 3, 4], 1.0, 1.0);
    put("ref/b.nii", [2, 3, 4], 1.0, 1.0);
    let (preds, refs) = (path("preds"), path("ref"));
    let args = ["evaluate", "--pred", &preds, "--ref", &refs];
    refused(run(&args), 3, &["preds/c.nii.gz", "ref/b.nii", "--allow-missing"]);
    let (code, out, err) = run(&[&args[..], &["--allow-missing"]].concat());
    assert_eq!(code, 0);
    assert!(out.contains("1 case\n") && err.contains("ref/b.nii"), "{out}{err}");
}

/// References of MM-WHS hold the set's own values, predictions are classes.
#[test]
fn a_task_brings_names_and_label_map() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let data = |a: f32, b: f32| [vec![0.0; 8], vec![a; 8], vec![b; 8]].concat();
    labels(Path::new(&path("pred.nii")), [2, 3, 4], [1.0; 3], data(1.0, 7.0));
    labels(Path::new(&path("ref.nii")), [2, 3, 4], [1.0; 3], data(205.0, 850.0));
    let (pred, reference) = (path("pred.nii"), path("ref.nii"));
    let args = ["evaluate", "--pred", &pred, "--ref", &reference, "--task", "mm-whs"];
    let (code, out, err) = run(&args);
    assert_eq!(code, 0, "{err}");
    let row = |name: &str| -> Vec<&str> {
        let line = out.lines().find(|l| l.contains(name)).unwrap();
        line.split(name).nth(1).unwrap().split_whitespace().take(4).collect()
    };
    assert_eq!(row("7 pulmonary artery"), ["1", "0", "0", "1.0000"]);
    assert_eq!(row("4 right atrium"), ["0", "0", "0", "-"]);
    let (code, _, err) =
        run(&["evaluate", "--pred", &reference, "--ref", &reference, "--task", "mm-whs"]);
    assert!(code == 3 && err.contains("is 205"), "{err}");
}
