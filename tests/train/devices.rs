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

/// Twenty steps of the compiled kernels: the losses of the emulated ones, and the same bits twice.
#[cfg(feature = "cuda")]
#[test]
fn compiled_kernels_train_like_emulated_ones() {
    let folder = tempfile::tempdir().unwrap();
    let data = volumes(folder.path(), 6);
    let ptx = |arch: &str| Device::parse(&format!("ptx:{arch}"));
    let (Ok(first), Ok(second)) = (ptx("80"), ptx("90a")) else {
        println!("skipped: no PTX of both sm_80 and sm_90a in this build");
        return;
    };
    // Small steps: training parts two roundings by itself, the faster it goes.
    let keys = ["train.steps=20", "train.save_every=20", "train.log_every=1", "optim.lr=1e-4"];
    let config = config(&data, &keys);
    let run = |name: &str, device: Device| {
        let out = folder.path().join(name);
        run_on(device, Launches::Graph, &config, &out);
        (log(&out), tensors(&out, 20))
    };
    let emulated = run("emulated", emulated());
    let compiled = run("ptx80", first.clone());
    assert_eq!(emulated.0.len(), compiled.0.len());
    follow("sm_80", &compiled.0, &emulated.0);
    let again = run("again", first);
    assert!(compiled.0 == again.0 && compiled.1 == again.1, "two runs, two results");
    // What nvcc makes of the same text for sm_90a may be fused otherwise.
    let hopper = run("ptx90a", second);
    follow("sm_90a", &hopper.0, &emulated.0);
}

/// The losses agree to 1e-5 while two roundings have not had time to part.
#[cfg(feature = "cuda")]
fn follow(what: &str, ours: &[String], theirs: &[String]) {
    assert_eq!((ours.len(), theirs.len()), (20, 20), "{what}");
    for (step, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
        let parse = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
        let (ours, theirs) = (parse(ours), parse(theirs));
        let mut worst = 0.0f64;
        for key in ["loss", "rec_global", "rec_local", "g2g", "l2g"] {
            let (a, b) = (ours[key].as_f64().unwrap(), theirs[key].as_f64().unwrap());
            worst = worst.max((a - b).abs() / b.abs());
        }
        println!("{what}, step {}: losses differ by {worst:.1e}", step + 1);
        assert!(worst <= 1e-5 || step >= SAME, "{what}, step {}: {worst}", step + 1);
    }
}

/// Steps over which rounding differs, and training has not yet made more of it.
#[cfg(feature = "cuda")]
const SAME: usize = 5;

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
