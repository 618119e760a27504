//! Results: parity with the reference, presets, benchmarks, help.

use glmae::device::launch::KERNELS;
use glmae::lab::case::ReferenceCase;
use serde_json::Value;

use super::{glmae, run};
use crate::support::shared;

#[test]
fn help_teaches_and_goes_to_stdout() {
    let (code, out, err) = run(&["--help"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("glmae demo") && out.contains("Exit codes"), "{out}");
    for verb in ["demo", "pretrain", "reconstruct", "verify", "inspect", "presets"] {
        let (code, out, _) = run(&[verb, "--help"]);
        assert!(code == 0 && out.contains(&format!("Examples:\n  glmae {verb}")), "{verb}: {out}");
    }
    let (_, out, _) = run(&["--version"]);
    assert!(out.starts_with(concat!("glmae ", env!("CARGO_PKG_VERSION"))), "{out}");
}

#[test]
fn presets_print_as_files_that_load() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mine.toml");
    for more in [&[][..], &["--resolved"]] {
        let (code, out, _) = run(&[&["presets", "ct-small"], more].concat());
        assert_eq!(code, 0);
        std::fs::write(&file, out).unwrap();
        let loaded = glmae::config::Config::load(file.to_str().unwrap(), &[]).unwrap();
        assert_eq!(loaded, glmae::config::preset("ct-small").unwrap());
    }
    let (_, out, _) = run(&["presets"]);
    for (name, _) in glmae::config::PRESETS {
        assert!(out.lines().any(|l| l.starts_with(name)), "{name}");
    }
}

#[test]
fn doctor_knows_the_machine() {
    let (code, out, _) = run(&["doctor"]);
    assert_eq!(code, 0);
    for words in ["version", "threads", "vector units", "cpu ", "nvcc", "C++ compiler"] {
        assert!(out.contains(words), "'{words}' is not in: {out}");
    }
    // What the binary holds, also where there is no GPU.
    let line = |name: &str| {
        let found = out.lines().find(|l| l.trim_start().starts_with(name));
        found.unwrap_or_else(|| panic!("no line '{name}' in: {out}")).to_owned()
    };
    let kernels = line("kernels");
    let count = kernels.split_whitespace().nth(1).and_then(|n| n.parse::<usize>().ok());
    let own = KERNELS.iter().filter(|k| !matches!(k.file, "faults" | "primitives"));
    assert_eq!(count, Some(own.count()), "{kernels}");
    let code = line("GPU code");
    match cfg!(feature = "cuda") {
        true => assert!(code.contains("sm_") && code.contains("compute_"), "{code}"),
        false => assert!(code.contains("none"), "{code}"),
    }
}

#[test]
fn a_step_is_timed() {
    let args = "bench step --preset tiny --set train.batch=1 --threads 1 --warmup 0 --repeats 2";
    let args: Vec<&str> = args.split(' ').collect();
    let (code, out, _) = run(&[&args[..], &["--json"]].concat());
    assert_eq!(code, 0);
    let row: Value = serde_json::from_str(&out).unwrap();
    let number = |key: &str| row[key].as_f64().unwrap_or_else(|| panic!("{key} in {out}"));
    assert_eq!((number("n"), number("threads"), number("batch")), (2.0, 1.0, 1.0));
    assert!(number("ms_min") <= number("ms") && number("ms") <= number("ms_max"));
    assert!((number("gflop_per_s") - 1e3 * number("gflop") / number("ms")).abs() < 1e-6);
    let (_, out, _) = run(&args);
    assert!(out.contains("tokens/s") && out.contains("median of 2"), "{out}");
}

#[test]
fn a_case_passes_and_a_changed_one_fails() {
    let Some(case) = shared("peer/cases/mini.safetensors") else { return };
    let dir = tempfile::tempdir().unwrap();
    let ours = dir.path().join("new/ours.safetensors");
    let (path, out) = (case.to_str().unwrap(), ours.to_str().unwrap());
    let (code, text, _) = run(&["verify", path, "--dtype", "f64", "--out", out]);
    assert!(code == 0 && text.contains("0 failed, 1 cases"), "{text}");

    // What was written has the names and shapes of the case.
    let bytes = std::fs::read(&ours).unwrap();
    let written = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let reference = ReferenceCase::load(&case).unwrap();
    for name in reference.tensors.names("fp64.") {
        let shape = reference.get(&format!("fp64.{name}")).unwrap().0;
        assert_eq!(written.tensor(name).unwrap().shape(), shape, "{name}");
    }

    // One wrong bit in an input of step 0 must show.
    let mut bytes = std::fs::read(&case).unwrap();
    let (header, meta) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let (start, _) = meta.info("init.student.norm.weight").unwrap().data_offsets;
    bytes[8 + header + start + 2] ^= 0x40;
    let changed = dir.path().join("changed.safetensors");
    std::fs::write(&changed, bytes).unwrap();
    let (code, text, _) = run(&["verify", changed.to_str().unwrap(), "--json"]);
    assert_eq!(code, 1, "{text}");
    let reports: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(reports[0]["pass"], false);
    assert!(reports[0]["quantities"].as_array().unwrap().iter().any(|q| q["pass"] == false));
}

#[test]
fn a_closed_pipe_is_no_error() {
    use std::process::Stdio;
    let mut command = std::process::Command::new(glmae(&[]).get_program());
    let mut child = command
        .args(["presets", "--keys"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let done = child.wait_with_output().unwrap();
    assert_eq!((done.status.code(), done.stderr.len()), (Some(0), 0));
}
