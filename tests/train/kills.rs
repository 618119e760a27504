//! kill -9 at random moments, those of saving among them: a sound checkpoint is always there, and the run ends with
//! the bits of one that was never killed.
//!
//! Each kind of run is killed [`KILLS`] times; `GLMAE_TEST_KILLS` sets another number:
//!
//! ```sh
//! GLMAE_TEST_KILLS=100 cargo test --locked --test main -- --nocapture train::kills
//! ```

use std::fs;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use glmae::rng::Rng;

use super::log;
use super::tiny::{Bench, Kind, steps};
use crate::support::fresh_rng;

/// Kills of each kind of run.
const KILLS: u64 = 20;
/// Steps of a run; half of them save.
const STEPS: u64 = 16;

#[test]
fn a_killed_pre_training_loses_nothing() {
    campaign(Kind::Pretrain);
}

#[test]
fn a_killed_fine_tuning_loses_nothing() {
    campaign(Kind::Finetune);
}

fn campaign(kind: Kind) {
    let kills = std::env::var("GLMAE_TEST_KILLS").map_or(KILLS, |n| n.parse().unwrap());
    let (bench, mut rng) = (Bench::new(), fresh_rng());
    let length = kind.steps(STEPS);
    let set = [&*length, "train.keep_last=2"];
    let whole = bench.at("whole");
    let begin = Instant::now();
    let mut child = bench.spawn(kind, &whole, &set);
    assert!(child.wait().unwrap().success());
    let duration = begin.elapsed().as_micros() as u64;
    let (weights, lines) = (kind.weights(&whole, STEPS), log(&whole));
    let (mut done, mut in_saves, mut runs) = (0, 0, 0);
    while done < kills {
        let out = bench.at(&format!("run_{runs}"));
        let mut newest = None;
        loop {
            // After the last kill the run is let go on to its end.
            let mut child = bench.spawn(kind, &out, &set);
            let is_killed = done < kills && kill(&mut child, &out, duration, &mut rng);
            done += u64::from(is_killed);
            in_saves += u64::from(is_killed && is_in_save(&out));
            if !is_killed {
                assert!(child.wait().unwrap().success(), "kill {done}: the run does not go on");
                break;
            }
            let found = bench.newest_sound(kind, &out).unwrap();
            // Everything that has the name of a checkpoint is one, and the newest is not older than before.
            let (step, warnings) = found.map_or((None, vec![]), |(s, w)| (Some(s), w));
            assert_eq!(warnings, [""; 0], "kill {done}");
            assert_eq!(step, steps(&out).last().copied(), "kill {done}");
            assert!(step >= newest, "kill {done}: step {step:?} after {newest:?}");
            newest = step;
        }
        assert!(kind.weights(&out, STEPS) == weights, "kill {done}: other weights");
        assert_eq!(log(&out), lines, "kill {done}");
        assert!(!is_in_save(&out), "kill {done}: what a killed writer left is still there");
        fs::remove_dir_all(&out).unwrap();
        runs += 1;
    }
    println!("{kind:?}: {kills} kills of {runs} runs of {STEPS} steps, {in_saves} during a save");
    // Otherwise this has not shown what it is for.
    assert!(in_saves > 0, "{kills} kills, none of them during a save");
}

/// Kills a child at a random moment of a run of this duration, or of the next save. False: it came to its end.
fn kill(child: &mut Child, out: &Path, duration: u64, rng: &mut Rng) -> bool {
    let begin = Instant::now();
    let (wait, in_save) = match rng.below(2) {
        0 => (rng.below(duration), false),
        _ => (rng.below(3000), true),
    };
    while in_save && !is_in_save(out) && child.try_wait().unwrap().is_none() {
        std::hint::spin_loop();
        assert!(begin.elapsed() < Duration::from_secs(60), "the child neither saves nor ends");
    }
    std::thread::sleep(Duration::from_micros(wait));
    child.kill().unwrap();
    !child.wait().unwrap().success()
}

/// Whether a hidden folder of a checkpoint that is being written is there.
fn is_in_save(out: &Path) -> bool {
    let entries = fs::read_dir(out.join("checkpoints")).into_iter().flatten().flatten();
    entries.into_iter().any(|e| e.file_name().to_string_lossy().starts_with('.'))
}
