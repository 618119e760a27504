//! Fine-tuning in bf16 on the kernels: as in f32 within a bound, and the same bits again over a resume,
//! as a graph and launched one by one.

use std::path::Path;

use glmae::config::finetune::FinetuneConfig;
use glmae::device::Device;
use glmae::device::emulated::{Mode, Schedule};
use glmae::train::finetune::{Finetuned, finetune};
use glmae::train::run::{Launches, Summary};

use super::finetune::{balls, bytes, config, on_device, options};
use crate::support::copy_folder;

fn on_kernels(config: &FinetuneConfig, out: &Path, launches: Launches) -> Summary<Finetuned> {
    let device = Device::emulated(Mode::Plain, Schedule::Ascending);
    finetune(config, &on_device(out, device, launches)).unwrap()
}

/// Losses of every step.
fn losses(out: &Path) -> Vec<[f64; 3]> {
    let steps = super::log(out).into_iter().map(|line| {
        let step: serde_json::Value = serde_json::from_str(&line).unwrap();
        ["loss", "dice_loss", "cross_entropy"].map(|name| step[name].as_f64().unwrap())
    });
    steps.collect()
}

const SET: [&str; 6] = [
    "train.epochs=3",
    "train.accumulation=2",
    "train.batch=1",
    "train.keep_last=9",
    "train.validate_every=4",
    // Steps as small as a real run's: at 3e-2 the two part before the epochs are over.
    "optim.lr=4e-3",
];

/// Bound of docs/numerics.md: every loss of nine steps within 5e-3 of f32's.
#[test]
fn bf16_follows_f32_and_repeats_and_resumes_its_bits() {
    let folder = tempfile::tempdir().unwrap();
    balls(folder.path());
    let at = |name: &str| folder.path().join(name);
    let wide = config(folder.path(), &SET);
    let half = config(folder.path(), &[&SET[..], &["train.precision=bf16"]].concat());
    let cpu = finetune(&wide, &options(&at("f32"))).unwrap();
    let first = on_kernels(&half, &at("first"), Launches::Graph);
    assert_eq!((cpu.steps, first.steps), (9, 9));
    let (ours, reference) = (losses(&at("first")), losses(&at("f32")));
    assert_eq!((ours.len(), reference.len()), (9, 9));
    let mut worst = 0.0f64;
    for (step, (ours, reference)) in ours.iter().zip(&reference).enumerate() {
        for (a, b) in ours.iter().zip(reference) {
            assert_ne!(a, b, "step {step} was not computed in bf16");
            worst = worst.max((a - b).abs() / b.abs());
            assert!((a - b).abs() <= 5e-3 * b.abs(), "step {step}: {ours:?}, f32 {reference:?}");
        }
    }
    println!("largest relative distance of a loss from f32: {worst:.2e}");
    // They did not merely agree on standing still.
    assert!(reference[8][0] < 0.95 * reference[0][0], "{reference:?}");

    // The same bits from a checkpoint on, also launched one by one.
    let step = "checkpoints/step_00000006";
    copy_folder(&at("first").join(step), &at("resumed").join(step));
    let resumed = on_kernels(&half, &at("resumed"), Launches::Single);
    assert!(bytes(&at("first"), 9) == bytes(&at("resumed"), 9), "other bits");
    assert_eq!(resumed.found.validation, first.found.validation);
}

/// From the first upload to the last validation, a run holds what its plan says, to the byte.
#[test]
fn a_run_with_its_validation_holds_what_was_planned() {
    let folder = tempfile::tempdir().unwrap();
    balls(folder.path());
    let set = ["train.epochs=1", "train.validate_every=1", "train.batch=1", "infer.windows=8"];
    for (i, more) in [&[][..], &["model.frozen_encoder=true"]].into_iter().enumerate() {
        let config = config(folder.path(), &[&set[..], more].concat());
        let device = Device::emulated(Mode::Plain, Schedule::Ascending);
        let out = folder.path().join(i.to_string());
        let done = finetune(&config, &on_device(&out, device.clone(), Launches::Single)).unwrap();
        let Device::Emulated(emulated) = device else { panic!("not emulated") };
        assert_eq!(emulated.usage().peak as u64, done.plan.peak_bytes, "{more:?}");
        // The windows make most of it.
        assert!(done.plan.class("validation") > done.plan.peak_bytes / 2, "{:?}", done.plan);
    }
}

#[test]
fn bf16_on_the_cpu_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    balls(folder.path());
    let out = folder.path().join("out");
    let config = config(folder.path(), &["train.precision=bf16"]);
    let error = finetune(&config, &options(&out)).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("--device cuda"), "{error}");
    assert!(!out.exists());
}
