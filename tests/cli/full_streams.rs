//! stdout and stderr that take nothing: a full disk, a reader that has gone. The exit code stays what the
//! work came to, and nothing panics.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::process::{Command, Stdio};

fn program(args: &[&str]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("glmae"));
    command.env_remove("RUST_LOG").args(args);
    command
}

fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").unwrap()
}

/// A pipe whose reader has gone.
fn closed() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

#[test]
fn a_full_stderr_keeps_the_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("demo");
    let scan = dir.path().join("nothing.nii");
    std::fs::write(&scan, [0; 10]).unwrap();
    for (code, args) in [
        (2, &["pretrain", "--config", "nope", "--out", "x"][..]),
        (2, &["pretrain", "--config", "tiny", "--out", "x", "--set", "optim.lr=x"]),
        (2, &["--log", "a=b=c", "presets"]),
        (2, &["pretran"]),
        (3, &["inspect", scan.to_str().unwrap()]),
        (1, &["inspect", "no-such-file"]),
        (0, &["presets"]),
        (0, &["--log", "trace", "doctor"]),
        (2, &["demo", "--scans", "3", "--out", out.to_str().unwrap()]),
    ] {
        for (stderr, which) in [(Stdio::from(full()), "full"), (closed(), "closed")] {
            let status = program(args).stdout(Stdio::null()).stderr(stderr).status().unwrap();
            assert_eq!(status.code(), Some(code), "{args:?} with a {which} stderr");
        }
    }
}

/// Notes before the work, progress, warnings and the log go to stderr, too. The run is then asked for a costly
/// prediction, which says so before it begins.
#[test]
fn a_run_does_not_need_stderr() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (demo, maps) = (path("demo"), path("maps"));
    let args = ["--log", "debug", "demo", "--steps", "2", "--epochs", "1", "--out", &demo];
    let status = program(&args).stdout(Stdio::null()).stderr(full()).status().unwrap();
    assert_eq!(status.code(), Some(0));

    let (seg, scan) = (path("demo/seg"), path("demo/scans/imagesTr/synthetic_005.nii.gz"));
    let base = ["predict", "--checkpoint", &seg, "--input", &scan, "--out", &maps];
    let overlap = |share: &'static str| program(&[&base[..], &["--overlap", share]].concat());
    let output = overlap("0.85").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("times those of an overlap of 0.5"), "{said}");
    // Before the first window, or nobody could still stop it.
    let cost = said.find("times those").unwrap();
    assert!(said.find("1/").is_none_or(|window| cost < window), "{said}");
    let status = overlap("0.85").stdout(Stdio::null()).stderr(closed()).status().unwrap();
    assert_eq!(status.code(), Some(0));
    for share in ["1", "-0.1", "nan"] {
        let output = overlap(share).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("infer.overlap = ") && said.contains("must lie in [0, 1)"), "{said}");
    }
}

#[test]
fn results_that_cannot_be_written_are_an_error_that_says_so() {
    let mut command = program(&["presets"]);
    let output = command.stdout(full()).stderr(Stdio::piped()).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("stdout: cannot write") && !text.contains("panicked"), "{text}");
    let status = program(&["presets"]).stdout(full()).stderr(full()).status().unwrap();
    assert_eq!(status.code(), Some(1));
}

#[test]
fn a_reader_may_stop_early() {
    for args in [&["presets"][..], &["presets", "--keys"], &["ops"], &["--help"]] {
        let mut child =
            program(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let mut text = String::new();
        child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!((child.wait().unwrap().code(), text.as_str()), (Some(0), ""), "{args:?}");
    }
}
