//! Bit-exact resume, over thread counts and after kill -9.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use glmae::checkpoint;
use glmae::train::run::Resume;

use super::tiny::wait_for_step;
use super::{MICRO, config, log, run, run_with, tensors, volumes};

/// Starts the program on the same run.
fn spawn(out: &Path, data: &Path, set: &[&str]) -> Child {
    let config = data.with_file_name("micro.toml");
    fs::write(&config, MICRO).unwrap();
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("glmae"));
    command.env_remove("RUST_LOG").arg("pretrain").args(set.iter().flat_map(|s| ["--set", s]));
    command.arg("--config").arg(config).arg("--data").arg(data).arg("--out").arg(out);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// 20 steps straight equal 10, kill -9, and the rest, each with another number of threads.
#[test]
fn killed_and_resumed_runs_equal_an_uninterrupted_one() {
    let folder = tempfile::tempdir().unwrap();
    let data = volumes(folder.path(), 7);
    let straight = folder.path().join("straight");
    run(&config(&data, &[]), &straight).unwrap();
    let (weights, losses) = (tensors(&straight, 20), log(&straight));
    assert_eq!(losses.len(), 20);
    for (first, second) in [("1", "8"), ("2", "1"), ("8", "2")] {
        let out = folder.path().join(format!("killed_{first}_{second}"));
        let mut child =
            spawn(&out, &data, &[&format!("train.threads={first}"), "train.keep_last=9"]);
        wait_for_step(&out, &mut child, 10);
        child.kill().unwrap();
        child.wait().unwrap();
        // The child may have come further than step 10: go back to it.
        for (step, path) in checkpoint::list(&out).unwrap() {
            if step > 10 {
                fs::remove_dir_all(path).unwrap();
            }
        }
        let threads = format!("train.threads={second}");
        let summary = run(&config(&data, &[&threads]), &out).unwrap();
        assert_eq!(summary.steps, 20);
        assert!(tensors(&out, 20) == weights, "{first} then {second} threads: other weights");
        assert_eq!(log(&out), losses);
    }
}

/// Every part of the state matters: a resume that forgets one of them ends elsewhere.
#[test]
fn no_part_of_the_state_is_idle() {
    let folder = tempfile::tempdir().unwrap();
    let data = volumes(folder.path(), 5);
    let set = ["train.keep_last=9", "loss.teacher_targets=center", "train.steps=10"];
    let config = config(&data, &set);
    let out = folder.path().join("run");
    run(&config, &out).unwrap();
    let weights = tensors(&out, 10);
    let device = glmae::device::Device::Cpu;
    let dtype = glmae::device::DType::F32;
    let nets = glmae::glmae::model::Networks::new(&device, dtype, &config).unwrap();
    let from = out.join("checkpoints/step_00000005");
    for part in ["nothing", "m", "v", "teacher", "center", "updates", "step"] {
        let (info, mut loaded) = checkpoint::load_state(&from, &device, &config, &nets).unwrap();
        let state = &mut loaded;
        match part {
            "m" => state.m.host_mut::<f32>().unwrap().fill(0.0),
            "v" => state.v.host_mut::<f32>().unwrap().fill(1e-4),
            "teacher" => {
                let student = state.weights.student.flat().to_vec::<f32>().unwrap();
                let teacher = state.weights.teacher.as_mut().unwrap().flat_mut();
                let n = teacher.len();
                teacher.host_mut::<f32>().unwrap().copy_from_slice(&student[..n]);
            }
            "center" => {
                let center = state.weights.center.as_mut().unwrap();
                center.host_mut::<f32>().unwrap().fill(0.0);
            }
            "updates" => state.counters.updates = 0,
            "step" => state.counters.step = 4,
            _ => {}
        }
        let other = folder.path().join(part);
        let snapshot = checkpoint::Snapshot {
            config: &config,
            nets: &nets,
            state,
            data: info.data,
            run: "test",
        };
        checkpoint::save(&other, &snapshot).unwrap();
        run(&config, &other).unwrap();
        assert_eq!(tensors(&other, 10) == weights, part == "nothing", "{part}");
    }
}

#[test]
fn another_model_is_refused_and_other_keys_are_logged() {
    let folder = tempfile::tempdir().unwrap();
    let data = volumes(folder.path(), 5);
    let out = folder.path().join("run");
    run(&config(&data, &["train.steps=5"]), &out).unwrap();
    let before = tensors(&out, 5);
    let error = run(&config(&data, &["model.dim=24"]), &out).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("model.dim: 12 -> 24"), "{error}");
    assert!(tensors(&out, 5) == before);
    let error = run_with(&config(&data, &[]), &out, Resume::Never).unwrap_err().to_string();
    assert!(error.contains("--resume auto"), "{error}");
    let summary = run(&config(&data, &["train.steps=8", "optim.lr=2e-3"]), &out).unwrap();
    assert_eq!(summary.steps, 8);
    for key in ["train.steps: 5 -> 8", "optim.lr: 0.001 -> 0.002"] {
        assert!(summary.warnings.iter().any(|w| w.contains(key)), "{:?}", summary.warnings);
    }
    // From a checkpoint into a folder of its own.
    let other = folder.path().join("other");
    let from = Resume::From(out.join("checkpoints/step_00000005"));
    run_with(&config(&data, &["train.steps=8", "optim.lr=2e-3"]), &other, from).unwrap();
    assert!(tensors(&other, 8) == tensors(&out, 8));
}
