//! Memory that is not there: code 4 and a message, never an abort (134) or a kill.
#![cfg(unix)]

use std::process::Command;

use super::run;
use crate::train::{classify, finetune};

/// Exit code and stderr of the program under `ulimit -v` (KiB).
fn under(kib: u64, args: &[&str]) -> (Option<i32>, String, String) {
    let program = assert_cmd::cargo::cargo_bin!("glmae");
    let output = Command::new("sh")
        .args(["-c", &format!("ulimit -v {kib} && exec \"$0\" \"$@\"")])
        .arg(program)
        .args(args)
        .env_remove("RUST_LOG")
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// A volume of noise large enough for every preset's views.
fn scans(folder: &std::path::Path) -> String {
    use glmae::data::Volume;
    use glmae::data::nifti::{Stored, write_volume};
    std::fs::create_dir_all(folder).unwrap();
    let mut affine = [[0.0; 4]; 4];
    (0..4).for_each(|a| affine[a][a] = 1.0);
    for name in ["a.nii", "b.nii"] {
        let data = (0..64u32.pow(3)).map(|i| (i.wrapping_mul(2654435761) >> 22) as f32).collect();
        let volume = Volume::new(data, 1, [64; 3], affine, 1).unwrap();
        write_volume(&folder.join(name), &volume, Stored::F32).unwrap();
    }
    folder.to_str().unwrap().to_owned()
}

/// Both kinds of run, for voxels and for images, in earnest and to see what it needs: the parts, the limit
/// and a way out are told, and nothing has been made.
#[test]
fn a_run_that_does_not_fit_is_refused_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let scans = scans(&dir.path().join("scans"));
    finetune::balls(dir.path());
    classify::balls(dir.path());
    let (config, out) = (path("small.toml"), path("run"));
    std::fs::write(&config, finetune::CONFIG).unwrap();
    let large = "train.batch=256 model.depth=12 model.dim=384";
    let pretrain = ["pretrain", "--config", "tiny", "--data", &scans];
    let voxels = ["finetune", "--task", &path("balls.toml"), "--data", &path("balls")];
    let images = ["finetune", "--task", &path("classes.toml"), "--data", &path("classes")];
    let more = ["--config", &config, "--scratch"];
    for (what, args, large) in [
        ("pre-training", pretrain.to_vec(), large),
        ("fine-tuning", [&voxels[..], &more].concat(), "train.crops=4096"),
        ("fine-tuning", [&images[..], &more].concat(), "train.crops=4096 model.dim=384"),
    ] {
        let sets = large.split(' ').flat_map(|set| ["--set", set]);
        let args: Vec<&str> = args.iter().copied().chain(["--out", &out]).chain(sets).collect();
        for args in [args.clone(), [&args[..], &["--dry-run"]].concat()] {
            let (code, said, err) = under(1_500_000, &args);
            assert_eq!((code, said.as_str()), (Some(4), ""), "{args:?}: {err}");
            let parts = format!("out of memory: {what} (tensors ");
            for word in [&parts, "program", "ulimit -v (RLIMIT_AS): ", "try:", "train.batch"] {
                assert!(err.contains(word), "'{word}' is not in: {err}");
            }
            assert!(!dir.path().join("run").exists(), "{args:?}");
        }
    }
    // One that fits shows what it needs beside what there is.
    let fits = [&pretrain[..], &["--out", &out, "--dry-run"]].concat();
    let (code, said, err) = under(4_000_000, &fits);
    assert_eq!(code, Some(0), "{err}");
    for word in ["memory of the host", "prepared cases", "together", "ulimit -v (RLIMIT_AS): "] {
        assert!(said.contains(word), "'{word}' is not in: {said}");
    }
}

/// So little that something fails which nobody checks: a list, a string, a thread's stack.
#[test]
fn small_allocations_do_not_abort_either() {
    let dir = tempfile::tempdir().unwrap();
    let scans = scans(&dir.path().join("scans"));
    let mut refused = 0;
    // What the program and its libraries map by themselves differs from build to build.
    for kib in (100_000..=400_000).step_by(20_000) {
        let out = dir.path().join(format!("run{kib}"));
        let out = out.to_str().unwrap();
        let args = ["pretrain", "--config", "tiny", "--data", &scans, "--out", out];
        let (code, _, err) =
            under(kib, &[&args[..], &["--set", "train.batch=16", "--steps", "2"]].concat());
        match code {
            Some(0) => break,
            // The loader of the system, before there is a program.
            Some(127) => {}
            Some(4) => {
                refused += 1;
                assert!(err.contains("out of memory") && err.contains("try:"), "{kib}: {err}");
            }
            other => panic!("ulimit -v {kib} ends with {other:?}: {err}"),
        }
    }
    println!("{refused} limits were refused");
}

#[cfg(target_os = "linux")]
#[test]
fn doctor_names_the_limit_that_binds() {
    let (code, out, err) = under(2_000_000, &["doctor"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("memory that a run may use"), "{out}");
    let line = out.lines().find(|l| l.contains("binds")).unwrap();
    assert!(line.contains("ulimit -v (RLIMIT_AS)") && line.contains("of 1.9 GiB"), "{out}");
    assert!(out.contains("of the machine"), "{out}");
    let (code, out, _) = run(&["doctor"]);
    assert!(code == 0 && out.contains("of the machine"), "{out}");
}
