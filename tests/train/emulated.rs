//! Training through the CUDA kernels, executed on the host: as on the CPU, twice the same bits, and over
//! a resume. From outside, as a user runs it.

use std::fs;
use std::path::Path;

use super::{MICRO, log, tensors, volumes};
use crate::support::shared;

/// Runs `glmae pretrain` and returns what it said on stderr.
fn pretrain(config: &str, data: &Path, out: &Path, device: &str, more: &[&str]) -> String {
    let mut command = assert_cmd::Command::new(assert_cmd::cargo::cargo_bin!("glmae"));
    command.env_remove("RUST_LOG").args(["pretrain", "--config", config, "--device", device]);
    command.arg("--data").arg(data).arg("--out").arg(out);
    command.args(["--picture-every", "0", "--log-every", "1"]).args(more);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{device}: {text}");
    text
}

const TERMS: [&str; 5] = ["loss", "rec_global", "rec_local", "g2g", "l2g"];

/// The named values of every logged step.
fn values(out: &Path, names: &[&str]) -> Vec<Vec<f64>> {
    let number = |line: &str| {
        let step: serde_json::Value = serde_json::from_str(line).unwrap();
        names.iter().map(|name| step[name].as_f64().unwrap()).collect()
    };
    log(out).iter().map(|line| number(line)).collect()
}

#[test]
fn twenty_steps_follow_the_cpu_and_repeat_their_bits() {
    let folder = tempfile::tempdir().unwrap();
    let data = volumes(folder.path(), 6);
    let config = folder.path().join("micro.toml");
    fs::write(&config, MICRO).unwrap();
    let run = |name: &str, device: &str| {
        let out = folder.path().join(name);
        pretrain(config.to_str().unwrap(), &data, &out, device, &["--steps", "20"]);
        out
    };
    let (cpu, first, second) =
        (run("cpu", "cpu"), run("first", "emulated"), run("second", "emulated"));
    let (ours, reference) = (values(&first, &TERMS), values(&cpu, &TERMS));
    assert_eq!((ours.len(), reference.len()), (20, 20));
    for (step, (ours, reference)) in ours.iter().zip(&reference).enumerate() {
        for ((name, a), b) in TERMS.iter().zip(ours).zip(reference) {
            assert!((a - b).abs() <= 1e-4 * b.abs(), "step {step} {name}: {a}, on the CPU {b}");
        }
    }
    // They did not merely agree on standing still.
    assert!(reference[19][0] < 0.99 * reference[0][0], "{reference:?}");
    assert_eq!(log(&first), log(&second));
    assert!(tensors(&first, 20) == tensors(&second, 20));
}

/// The preset `tiny` on CT volumes: 4 steps straight equal 2, then the rest in another process, where the
/// caller has set another number of threads.
#[test]
fn a_run_on_ct_resumes_bit_by_bit() {
    let Some(data) = shared("data/ct") else { return };
    let folder = tempfile::tempdir().unwrap();
    let [straight, resumed] = ["straight", "resumed"].map(|name| folder.path().join(name));
    // A schedule of four steps in both, of which the second run does two at first.
    let base = ["--steps", "4", "--save-every", "2", "--set", "train.keep_last=9"];
    pretrain("tiny", &data, &straight, "emulated", &base);
    let step = "checkpoints/step_00000002";
    fs::create_dir_all(resumed.join(step)).unwrap();
    for entry in fs::read_dir(straight.join(step)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), resumed.join(step).join(entry.file_name())).unwrap();
    }
    let threads = ["--threads", "1"];
    pretrain("tiny", &data, &resumed, "emulated", &[&base[..], &threads].concat());
    assert!(tensors(&straight, 4) == tensors(&resumed, 4));
    assert_eq!(log(&straight)[2..], log(&resumed)[..], "the resumed run logged other steps");
    assert_eq!(log(&resumed).len(), 2);
}
