//! Bad input: a clear error with the remedy, and nothing half-written. And what good input leaves.

use std::fs;

use glmae::device::Device;
use glmae::infer::reconstruct::{ReconstructOptions, reconstruct};
use glmae::train::pretrain::pretrain;
use glmae::train::run::RunOptions;

use super::{config, run, volumes, write_case};

#[test]
fn bad_data_is_explained_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    };
    let (empty, truncated, nan, small) = (at("empty"), at("truncated"), at("nan"), at("small"));
    write_case(&truncated.join("a.nii.gz"), [12; 3], |d, h, w| (d * h + w * w) as f32 * 0.37);
    let bytes = fs::read(truncated.join("a.nii.gz")).unwrap();
    fs::write(truncated.join("a.nii.gz"), &bytes[..bytes.len() / 2]).unwrap();
    write_case(&nan.join("a.nii.gz"), [12; 3], |d, _, _| if d == 3 { f32::NAN } else { 1.0 });
    write_case(&small.join("a.nii.gz"), [12, 12, 6], |d, _, _| d as f32);
    let four = at("four");
    let data = (0..2 * 12 * 12 * 12).map(|i| i as f32).collect();
    let affine = [[1., 0., 0., 0.], [0., 1., 0., 0.], [0., 0., 1., 0.], [0., 0., 0., 1.]];
    let volume = glmae::data::Volume::new(data, 2, [12; 3], affine, 1).unwrap();
    let stored = glmae::data::nifti::Stored::F32;
    glmae::data::nifti::write_volume(&four.join("a.nii.gz"), &volume, stored).unwrap();
    let missing = folder.path().join("missing");
    for (path, code, words) in [
        (&missing, 3, ["missing", "no such file or folder"]),
        (&empty, 3, ["empty", "no NIfTI file"]),
        (&truncated, 3, ["a.nii.gz", "1 of 1 cases cannot be used"]),
        (&nan, 3, ["a.nii.gz", "NaN or infinite"]),
        (&four, 3, ["a.nii.gz", "channels"]),
        (&small, 2, ["larger than every volume", "choose smaller views"]),
    ] {
        let out = folder.path().join("out");
        let error = run(&config(path, &["data.holdout_every=0"]), &out).unwrap_err();
        let text = error.to_string();
        assert!(words.iter().all(|w| text.contains(w)), "{}: {text}", path.display());
        assert_eq!(error.exit_code(), code, "{text}");
        assert!(!out.exists(), "{text}");
    }
}

#[test]
fn a_dry_run_plans_and_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let data = volumes(folder.path(), 5);
    let out = folder.path().join("out");
    let options = RunOptions { dry_run: true, ..RunOptions::new(&out, Device::Cpu) };
    let summary = pretrain(&config(&data, &[]), &options).unwrap();
    let plan = summary.plan;
    assert_eq!(plan.class("gradients") * 2, plan.class("moments"));
    assert!(plan.student_parameters > plan.teacher_parameters && plan.class("activations") > 0);
    assert!(!out.exists());
}

/// The run folder is complete, the picture and the volume fit the input, and `reconstruct` gives the
/// same answer as the run did.
#[test]
fn a_run_leaves_what_the_documentation_names() {
    let folder = tempfile::tempdir().unwrap();
    let data = volumes(folder.path(), 5);
    let out = folder.path().join("run");
    let set = ["train.steps=6", "train.picture_every=3"];
    let summary = run(&config(&data, &set), &out).unwrap();
    for name in ["config.toml", "env.json", "log.jsonl", "metrics.csv", "tb", "latest"] {
        assert!(out.join(name).exists(), "{name}");
    }
    assert_eq!(summary.pictures.len(), 4);
    let heldout = summary.found.heldout.unwrap();
    assert!(heldout.explained.is_finite() && heldout.explained < 1.0);
    assert_eq!(heldout.cases.len(), 1);
    let csv = fs::read_to_string(out.join("metrics.csv")).unwrap();
    assert_eq!(csv.lines().count(), 7);
    let input = data.join("case_3.nii.gz");
    let options = ReconstructOptions {
        checkpoint: out.clone(),
        input: input.clone(),
        out: folder.path().join("recon"),
        mask_ratio: None,
        seed: 0,
        device: Device::Cpu,
    };
    let report = reconstruct(&options).unwrap();
    assert_eq!(heldout.cases[0].0, "case_3");
    assert!((report.explained - heldout.cases[0].1).abs() < 1e-12);
    let read = |path: &std::path::Path| {
        let channels = glmae::data::Channels::Single;
        let options = glmae::data::ReadOptions { channels, limits: Default::default() };
        glmae::data::read_volume(path, &options).unwrap()
    };
    let (x, y, hidden) = (read(&input), read(&report.files[1]), read(&report.files[2]));
    assert_eq!((x.dims, x.affine), (y.dims, y.affine));
    // Seen voxels come back in input units; three quarters are hidden.
    let seen = x.data.iter().zip(&y.data).zip(&hidden.data).filter(|(_, h)| **h == 0.0);
    assert!(seen.map(|((x, y), _)| (x - y).abs()).fold(0.0, f32::max) < 1e-4);
    let share = hidden.data.iter().sum::<f32>() / hidden.data.len() as f32;
    assert!((0.6..0.9).contains(&share), "{share}");
    let error = reconstruct(&ReconstructOptions { mask_ratio: Some(0.999), ..options });
    assert!(error.unwrap_err().to_string().contains("mask ratio"));
}

/// Steps without finite numbers are skipped, then end the run with tensor, cases and batch named.
#[test]
fn lasting_non_finite_steps_end_the_run_and_keep_the_batch() {
    let folder = tempfile::tempdir().unwrap();
    let data = volumes(folder.path(), 5);
    let out = folder.path().join("run");
    let base = ["train.steps=30", "train.max_bad_steps=3", "optim.warmup=1", "optim.clip_grad=0"];
    // A step of this length throws the weights beyond the range of f32.
    let wild = [&base[..], &["optim.lr=1e38", "optim.weight_decay=0", "optim.weight_decay_end=0"]];
    let error = run(&config(&data, &wild.concat()), &out).unwrap_err();
    let text = error.to_string();
    assert_eq!(error.exit_code(), 1, "{text}");
    assert!(text.contains("case_") && text.contains("optim.lr"), "{text}");
    let dump = fs::read_dir(&out)
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p.extension().is_some_and(|e| e == "safetensors"))
        .expect("the dumped batch");
    assert!(text.contains(&*dump.file_name().unwrap().to_string_lossy()));
    let bytes = fs::read(dump).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.tensor("batch.0.voxels").unwrap().shape(), [2 * 2 * 512]);
}
