//! Keys and flags from outside: a value that cannot be read, flags that mean keys, what does not help.

use std::fs;

use super::bad_input::refused;
use super::run;

const BASE: [&str; 7] = ["pretrain", "--config", "tiny", "--data", ".", "--out", "x"];

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&BASE[..], more].concat()
}

#[test]
fn a_value_that_cannot_be_read_names_key_and_place() {
    let words = ["--set optim.lr=0,001", "expected a number", "0.001"];
    let text = refused(2, &with(&["--set", "optim.lr=0,001"]), &words);
    assert!(!text.contains("tiny:"), "the preset is not at fault: {text}");
    refused(2, &with(&["--lr", "0,001"]), &["--lr 0,001 (optim.lr)", "expected a number"]);
    refused(2, &with(&["--steps", "1.5"]), &["--steps 1.5 (train.steps)", "a whole number"]);
    refused(2, &with(&["--steps", "-3"]), &["--steps -3 (train.steps)", "not negative"]);
    refused(2, &with(&["--objective", "mae"]), &["--objective mae", "one of mae3d, +global"]);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mine.toml");
    for (text, words) in [
        ("[model]\ndim = 48\n[optim]\nlr = \"1e-3\"\n", "mine.toml, line 4: optim.lr = \"1e-3\""),
        ("[model]\npatch = 8.0\n", "mine.toml, line 2: model.patch = 8.0"),
        ("[model]\npatch = 8\npatch = 9\n", "mine.toml, line 3: "),
    ] {
        fs::write(&file, text).unwrap();
        let file = file.to_str().unwrap();
        refused(2, &["pretrain", "--config", file, "--data", ".", "--out", "x"], &[words]);
    }
    let finetune = ["finetune", "--scratch", "--task", "btcv", "--data", ".", "--out", "x"];
    for (more, words) in [
        (&["--epochs", "ten"][..], "--epochs ten (train.epochs): expected a whole number"),
        (&["--set", "model.dim=9.5"], "--set model.dim=9.5: expected a whole number"),
        (&["--set", "infer.overlap=1"], "infer.overlap = 1 must lie in [0, 1)"),
    ] {
        refused(2, &[&finetune[..], more].concat(), &[words]);
    }
    let study = ["study", "--config", "demo", "--data", ".", "--out", "x", "--set"];
    let words = "--set grid.updates=many: expected a whole number";
    refused(2, &[&study[..], &["grid.updates=many"]].concat(), &[words]);
}

/// A flag and `--set` of its key end the same way, whatever the value.
#[test]
fn flags_and_set_have_the_same_bounds() {
    for (flag, key, values) in [
        ("--lr", "optim.lr", &["1e19", "-1", "nan", ".001", "1e400", "x"][..]),
        ("--batch", "train.batch", &["0", "65536", "65537", "1_000", "2.0"]),
        ("--mask-ratio", "views.mask_ratio", &["0", "1", "0.5", "0,5", ".5"]),
        ("--seed", "train.seed", &["18446744073709551615", "-1", "007", "7"]),
    ] {
        for value in values {
            // Where the configuration is fine, the folder without scans is what is refused.
            let set = format!("{key}={value}");
            let dir = tempfile::tempdir().unwrap();
            let data = dir.path().to_str().unwrap();
            let base = ["pretrain", "--config", "tiny", "--data", data, "--out", "x"];
            let (by_flag, _, flag_said) = run(&[&base[..], &[flag, value]].concat());
            let (by_set, _, set_said) = run(&[&base[..], &["--set", &set]].concat());
            assert_eq!(by_flag, by_set, "{flag} {value}: {flag_said}{set_said}");
            let same =
                set_said.replace(&format!("--set {set}"), &format!("{flag} {value} ({key})"));
            assert_eq!(flag_said, same);
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().to_str().unwrap();
    let args = ["pretrain", "--config", "tiny", "--data", data, "--out", "x", "--lr", "1e19"];
    refused(3, &args, &["no"]);
}

#[test]
fn targets_of_a_single_row_are_refused() {
    let alone = ["--batch", "1", "--set", "views.n_global=1"];
    for kind in ["standardise", "sinkhorn"] {
        let set = format!("loss.teacher_targets={kind}");
        let args = [&with(&alone)[..], &["--set", &set]].concat();
        refused(2, &args, &[&format!("\"{kind}\""), "train.batch of at least 2", "\"center\""]);
    }
}

#[cfg(unix)]
#[test]
fn a_path_that_is_no_text_is_named() {
    use std::os::unix::ffi::OsStrExt;
    let bad = std::ffi::OsStr::from_bytes(b"scans-\xff");
    for verb in [
        &["pretrain", "--config", "tiny", "--out", "x", "--data"][..],
        &["finetune", "--scratch", "--task", "btcv", "--out", "x", "--data"],
    ] {
        let output = super::glmae(verb).arg(bad).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains("--data scans-") && text.contains("UTF-8"), "{text}");
    }
}

#[test]
fn help_has_the_meaning_of_the_keys() {
    let (code, out, _) = run(&["pretrain", "--help"]);
    assert_eq!(code, 0);
    for words in ["Learning rate after warm-up `[key: optim.lr]`", "[key: data.path]", "gl-mae"] {
        assert!(out.contains(words), "{words}: {out}");
    }
    let (_, out, _) = run(&["finetune", "--help"]);
    assert!(out.contains("[key: model.frozen_encoder]"), "{out}");
}

/// Neither aborts, nor takes long: what does not help is not started.
#[test]
fn thousands_of_threads_and_readers_are_not_started() {
    let dir = tempfile::tempdir().unwrap();
    let scans = dir.path().join("scans");
    glmae::data::synthetic::generate(&scans, 2, 0).unwrap();
    let (scans, out) = (scans.to_str().unwrap(), dir.path().join("run"));
    let base = ["pretrain", "--config", "demo", "--data", scans, "--out", out.to_str().unwrap()];
    let more = ["--steps", "1", "--batch", "2", "--threads", "5000", "--workers", "20000"];
    let (code, _, said) = run(&[&base[..], &more].concat());
    assert_eq!(code, 0, "{said}");
    for key in ["train.threads = 5000: ", "data.workers = 20000: "] {
        assert_eq!(said.matches(key).count(), 1, "{key}: {said}");
    }
    let env: serde_json::Value =
        serde_json::from_slice(&fs::read(out.join("env.json")).unwrap()).unwrap();
    let threads = env["threads"].as_u64().unwrap() as usize;
    assert!(threads <= glmae::config::cores::cores().max(8), "{threads} threads");
}
