//! The same run on other devices: emulated kernels one by one and as a captured graph, f32 and bf16.

use std::path::Path;

use glmae::config::Config;
use glmae::device::Device;
use glmae::device::emulated::{Mode, Schedule};
use glmae::train::pretrain::{Pretrained, pretrain};
use glmae::train::run::Launches;
use glmae::train::run::{RunOptions, Summary};

use super::{config, log, tensors, volumes};
use crate::support::copy_folder;

fn emulated() -> Device {
    Device::emulated(Mode::Plain, Schedule::Ascending)
}

fn run_on(device: Device, launches: Launches, config: &Config, out: &Path) -> Summary<Pretrained> {
    pretrain(config, &RunOptions { launches, ..RunOptions::new(out, device) }).unwrap()
}

/// A graph replays what was launched one by one: same losses, same state, also over a resume.
#[test]
fn a_captured_step_gives_the_bits_of_single_launches() {
    let folder = tempfile::tempdir().unwrap();
    let data = volumes(folder.path(), 6);
    let [single, graph, resumed] = ["single", "graph", "resumed"].map(|n| folder.path().join(n));
    for (precision, steps) in [("f32", 7), ("bf16", 5)] {
        let set = |steps: u64| {
            let keys = [format!("train.steps={steps}"), format!("train.precision={precision}")];
            config(&data, &[&keys[0], &keys[1], "train.save_every=3", "train.keep_last=9"])
        };
        let folder = |out: &Path| out.join(precision);
        run_on(emulated(), Launches::Single, &set(steps), &folder(&single));
        run_on(emulated(), Launches::Graph, &set(steps), &folder(&graph));
        assert_eq!(log(&folder(&single)), log(&folder(&graph)), "{precision}");
        assert!(tensors(&folder(&single), steps) == tensors(&folder(&graph), steps), "{precision}");
        // Stopped after step 3 and resumed, the rest as a graph.
        std::fs::create_dir_all(folder(&resumed).join("checkpoints")).unwrap();
        let step = "checkpoints/step_00000003";
        copy_folder(&folder(&graph).join(step), &folder(&resumed).join(step));
        run_on(emulated(), Launches::Graph, &set(steps), &folder(&resumed));
        assert!(tensors(&folder(&single), steps) == tensors(&folder(&resumed), steps));
    }
}

/// bf16 follows f32 closely while the two have not had time to part (training is chaotic), and learns.
#[test]
fn bf16_trains_like_f32() {
    let folder = tempfile::tempdir().unwrap();
    let data = volumes(folder.path(), 6);
    let run = |precision: &str, steps: u64, device: Device| {
        let keys = [format!("train.steps={steps}"), format!("train.precision={precision}")];
        let more = ["optim.lr=3e-3", "loss.teacher_targets=center"];
        let config = config(&data, &[&keys[0], &keys[1], more[0], more[1]]);
        run_on(device, Launches::Graph, &config, &folder.path().join(format!("{precision}{steps}")))
    };
    let (wide, half) = (run("f32", 5, Device::Cpu), run("bf16", 5, emulated()));
    for ((name, a), (_, b)) in wide.last.iter().copied().zip(half.last.iter().copied()) {
        assert!((a - b).abs() <= 0.02 * a.abs(), "{name}: {a} in f32, {b} in bf16");
        assert_ne!(a, b, "{name} was not computed in bf16");
    }
    let half = run("bf16", 25, emulated());
    assert!(half.last[0].1 < 0.8 * half.first[0].1);
}

#[test]
fn bf16_on_the_cpu_is_refused_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let data = volumes(folder.path(), 6);
    let config = config(&data, &["train.precision=bf16"]);
    let out = folder.path().join("out");
    let error = pretrain(&config, &RunOptions::new(&out, Device::Cpu)).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("--device cuda"), "{error}");
    assert!(!out.exists());
}
