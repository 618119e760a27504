//! Every bad input that the command line can meet: the exit code, a message that names the culprit
//! and the remedy, nothing on stdout, and nothing written.

use std::fs;

use super::run;

/// Runs `args` and checks code and words of the message; returns the message.
#[track_caller]
pub(super) fn refused(code: i32, args: &[&str], words: &[&str]) -> String {
    let (got, out, err) = run(args);
    assert_eq!(got, code, "{args:?}: {err}");
    assert!(out.is_empty(), "{args:?} printed results: {out}");
    assert!(!err.contains("panicked"), "{err}");
    for word in words {
        assert!(err.contains(word), "{args:?}: '{word}' is not in: {err}");
    }
    err
}

#[test]
fn unknown_preset_lists_the_presets() {
    for verb in [
        &["pretrain", "--config", "vit-x", "--data", ".", "--out", "x"][..],
        &["presets", "vit-x"],
        &["bench", "step", "--preset", "vit-x"],
    ] {
        refused(2, verb, &["'vit-x'", "presets: demo, tiny", "glmae presets"]);
    }
}

#[test]
fn unknown_key_gets_a_suggestion() {
    let base = ["pretrain", "--config", "tiny", "--data", ".", "--out", "x"];
    let with = |set: &'static str| [&base[..], &["--set", set]].concat();
    refused(2, &with("train.step=3"), &["'train.step'", "did you mean 'train.steps'"]);
    refused(2, &with("train.steps"), &["section.key=value"]);
    refused(2, &with("loss.gg_pairs=some"), &["some"]);

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mine.toml");
    fs::write(&file, "[loss]\nbeta_1 = 0.1\n").unwrap();
    let file = file.to_str().unwrap();
    let args = ["pretrain", "--config", file, "--data", ".", "--out", "x"];
    refused(2, &args, &["mine.toml", "'loss.beta_1'", "did you mean 'loss.beta1'", "--keys"]);
}

#[test]
fn values_that_do_not_go_together() {
    let base = ["pretrain", "--config", "tiny", "--data", ".", "--out", "x"];
    let with = |more: &[&'static str]| [&base[..], more].concat();
    // The patch does not divide the view.
    refused(2, &with(&["--set", "model.patch=7"]), &["views.global_size", "model.patch = 7"]);
    refused(2, &with(&["--mask-ratio", "1"]), &["views.mask_ratio = 1"]);
    refused(2, &with(&["--batch", "0"]), &["train.batch"]);
    refused(2, &with(&["--lr", "nan"]), &["optim.lr"]);
    refused(2, &with(&["--steps=-3"]), &["--steps", "-3"]);
}

#[test]
fn data_that_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let missing = dir.path().join("nowhere");
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let base = ["pretrain", "--config", "tiny", "--out", out.to_str().unwrap()];
    refused(2, &base, &["--data PATH", "data.path"]);
    for (path, words) in [(&missing, ["nowhere", "no such file"]), (&empty, ["empty", "no"])] {
        let args = [&base[..], &["--data", path.to_str().unwrap()]].concat();
        refused(3, &args, &words);
        assert!(!out.join("config.toml").exists(), "half a run was written");
    }
}

#[test]
fn wrong_device() {
    let base = ["pretrain", "--config", "tiny", "--data", ".", "--out", "x", "--device"];
    refused(2, &[&base[..], &["gpu"]].concat(), &["'gpu'", "cpu"]);
    #[cfg(not(feature = "cuda"))]
    for device in ["cuda", "cuda:0"] {
        let words = ["feature 'cuda'", "--device cpu", device];
        refused(2, &[&base[..], &[device]].concat(), &words);
    }
    // Where there is no such GPU, with a driver or without one.
    #[cfg(feature = "cuda")]
    refused(5, &[&base[..], &["cuda:99"]].concat(), &["CUDA"]);
}

#[test]
fn files_that_are_no_cases() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    refused(1, &["verify", "no-such-case.safetensors"], &["no-such-case", "cannot read", "try:"]);
    for bytes in [&b""[..], b"short", &[0xff; 64], &[0; 64], b"\x40\0\0\0\0\0\0\0{\"a\":"] {
        let path = write("garbage.safetensors", bytes);
        refused(3, &["verify", &path], &["garbage.safetensors", "not a safetensors file"]);
        refused(3, &["inspect", &path], &["garbage.safetensors", "safetensors"]);
    }
    // A sound safetensors file that is no case, and one of another version.
    let header = |json: &str| [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat();
    let plain = write("plain.safetensors", &header("{}"));
    refused(3, &["verify", &plain], &["no reference case"]);
    let other = write("v9.safetensors", &header(r#"{"__metadata__":{"format":"glmae-case-9"}}"#));
    refused(3, &["verify", &other], &["'glmae-case-9'", "'glmae-case-1'"]);
    let hollow = r#"{"__metadata__":{"format":"glmae-case-1","config":"{}","steps":"1"}}"#;
    let hollow = write("hollow.safetensors", &header(hollow));
    refused(3, &["verify", &hollow], &["metadata 'config'"]);
}

#[test]
fn usage() {
    refused(2, &[], &["Usage: glmae"]);
    refused(2, &["pretran"], &["'pretran'", "pretrain"]);
    refused(2, &["pretrain", "--conf", "tiny"], &["--config"]);
    refused(2, &["bench", "step", "--repeats", "0"], &["at least 1"]);
    refused(2, &["verify"], &["<CASE>"]);
    refused(2, &["--log", "a=b=c", "presets"], &["--log", "glmae=debug"]);
    let ratio = ["--mask-ratio", "1.5"];
    let base = ["reconstruct", "--checkpoint", "a", "--input", "b", "--out", "c"];
    refused(2, &[&base[..], &ratio].concat(), &["--mask-ratio 1.5", "between 0 and 1"]);
}

#[test]
fn paths_that_inspect_does_not_know() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    refused(3, &["inspect", path], &["config.toml", "state.json"]);
    refused(3, &["inspect", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")], &["NIfTI"]);
    refused(1, &["inspect", "no-such-file"], &["no-such-file", "check the path"]);
    let scan = dir.path().join("broken.nii");
    fs::write(&scan, [7; 400]).unwrap();
    refused(3, &["inspect", scan.to_str().unwrap()], &["broken.nii", "not a NIfTI file"]);
    let state = dir.path().join("state.json");
    fs::write(&state, "{").unwrap();
    refused(3, &["inspect", path], &["state.json", "not JSON"]);
}
