//! Signals end a run with a checkpoint and code 75, and the same command goes on to the bits of a whole run.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::log;
use super::tiny::{Bench, EVERY, KINDS, Kind, signal, steps, wait_for_step, wait_until};

/// Longer than a test waits for a signal to arrive.
const LONG: u64 = 1_000_000;

#[test]
fn a_signal_ends_a_run_with_a_checkpoint_that_resumes() {
    let bench = Bench::new();
    for kind in KINDS {
        for name in ["TERM", "INT", "USR1", "USR2", "HUP", "XCPU"] {
            let out = bench.at(&format!("{}_{name}", kind.verb()));
            let mut child = bench.spawn(kind, &out, &[&kind.steps(LONG), kind.plain()]);
            wait_for_step(&out, &mut child, EVERY);
            signal(&child, name);
            assert_eq!(child.wait().unwrap().code(), Some(75), "{kind:?}, {name}");
            let step = newest(kind, &bench, &out);
            assert_eq!(step, log(&out).len() as u64, "not that of the last finished step");
            let text = fs::read_to_string(out.join("log.jsonl")).unwrap();
            assert!(text.contains(&format!(r#""signal":"SIG{name}""#)), "{kind:?}, {name}");
        }
    }
}

/// Wherever in an epoch the signal came.
#[test]
fn a_run_that_a_signal_ended_goes_on_to_the_bits_of_a_whole_one() {
    let bench = Bench::new();
    for kind in KINDS {
        let at = |name: &str| bench.at(&format!("{}_{name}", kind.verb()));
        let (out, whole) = (at("out"), at("whole"));
        let (length, last) = (kind.steps(200), 200);
        let set = [&*length, "train.save_every=50", kind.plain()];
        bench.run(kind, &whole, &set).unwrap();
        let mut stopped = 0;
        for i in 0.. {
            let mut child = bench.spawn(kind, &out, &set);
            let so_far = || fs::read_to_string(out.join("log.jsonl")).unwrap_or_default().len();
            let before = so_far();
            // The third process comes to the end.
            if i < 2 {
                wait_until(&mut child, "step", || so_far() > before + 2000);
                signal(&child, "USR2");
            }
            match child.wait().unwrap().code() {
                Some(75) => stopped += 1,
                code => {
                    assert_eq!(code, Some(0), "{kind:?}");
                    break;
                }
            }
        }
        assert!(stopped > 0, "{kind:?}: no signal came in time");
        assert!(kind.weights(&out, last) == kind.weights(&whole, last), "{kind:?}: other weights");
        assert_eq!(log(&out), log(&whole), "{kind:?}");
    }
}

/// As `nohup` starts it.
#[test]
fn a_run_that_ignores_hangups_goes_on() {
    let bench = Bench::new();
    for kind in KINDS {
        let out = bench.at(kind.verb());
        let length = kind.steps(LONG);
        let begin: &[&str] = if kind == Kind::Finetune { &["--scratch"] } else { &[] };
        let program = bench.program(
            kind,
            &out,
            &[begin, &["--set", &length, "--set", kind.plain()]].concat(),
        );
        let mut child = Command::new("sh")
            .args(["-c", "trap '' HUP; exec \"$0\" \"$@\" >/dev/null 2>&1"])
            .arg(program.get_program())
            .args(program.get_args())
            .spawn()
            .unwrap();
        wait_for_step(&out, &mut child, EVERY);
        signal(&child, "HUP");
        // It has not ended some steps later.
        let step = *steps(&out).last().unwrap();
        wait_for_step(&out, &mut child, step + 3 * EVERY);
        signal(&child, "TERM");
        assert_eq!(child.wait().unwrap().code(), Some(75), "{kind:?}");
        let text = fs::read_to_string(out.join("log.jsonl")).unwrap();
        assert!(text.contains("SIGTERM") && !text.contains("SIGHUP"), "{kind:?}");
    }
}

/// The step of the newest checkpoint, which must be sound.
fn newest(kind: Kind, bench: &Bench, out: &Path) -> u64 {
    let (step, warnings) = bench.newest_sound(kind, out).unwrap().unwrap();
    assert_eq!(warnings, [""; 0]);
    step
}
