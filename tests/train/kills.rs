//! kill -9 at random moments of saving never leaves a run folder without a loadable checkpoint.

use std::time::Duration;

use glmae::checkpoint;
use glmae::rng::{Purpose, Rng};

use super::resume::{spawn, wait_for_step};
use super::{config, newest_sound, volumes};

#[test]
fn fifty_kills_leave_a_loadable_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let data = volumes(folder.path(), 5);
    let out = folder.path().join("run");
    let set =
        ["train.steps=1000000", "train.save_every=1", "train.log_every=1000", "train.batch=1"];
    let config = config(&data, &set);
    let (mut newest, mut strays) = (0, 0);
    for kill in 0..50 {
        let mut child = spawn(&out, &data, &set);
        wait_for_step(&out, &mut child, newest + 1);
        let mut rng = Rng::new(11, Purpose::Test, kill, 0, 0);
        std::thread::sleep(Duration::from_micros(rng.below(20_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        let entries = std::fs::read_dir(out.join("checkpoints")).unwrap();
        strays += entries
            .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with('.'))
            .count();
        let resumed = newest_sound(&out, &config);
        let listed = checkpoint::list(&out).unwrap();
        assert_eq!(resumed.warnings, Vec::<String>::new(), "kill {kill}");
        assert_eq!(Some(resumed.step), listed.last().map(|(step, _)| *step));
        assert!(resumed.step > newest);
        newest = resumed.step;
    }
    // Otherwise no kill hit the middle of a save, and this test would have shown nothing.
    assert!(strays > 0, "50 kills, none of them during a save");
    println!("50 kills, {strays} stray folders seen, {newest} steps");
}
