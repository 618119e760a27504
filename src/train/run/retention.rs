//! Which checkpoints a run removes.

use std::collections::BTreeSet;

use super::folder::RunFolder;
use super::training::Pace;
use crate::Result;
use crate::checkpoint::{self, glance};

/// Knows the checkpoints that were written or loaded by this process, and so are sound.
#[derive(Debug)]
pub struct Retention {
    keep_last: usize,
    keep_every: u64,
    sound: BTreeSet<u64>,
}

impl Retention {
    /// For a run that goes on from the checkpoint of step `resumed`, if any.
    pub fn new(pace: &Pace, resumed: Option<u64>) -> Self {
        let sound = resumed.into_iter().collect();
        Self { keep_last: pace.keep_last.max(1), keep_every: pace.keep_every, sound }
    }

    /// A checkpoint was written.
    pub fn wrote(&mut self, step: u64) {
        self.sound.insert(step);
    }

    /// Removes what is older than the newest `keep_last` sound checkpoints, unless its step is a multiple of
    /// `keep_every` or another run wrote it. Returns the removed steps.
    pub fn prune(&mut self, folder: &RunFolder) -> Result<Vec<u64>> {
        let (mut kept, mut removed) = (0, Vec::new());
        for (step, path) in checkpoint::list(folder.path())?.into_iter().rev() {
            let seen = glance(&path);
            if kept < self.keep_last {
                kept += usize::from(seen.is_ok() && self.sound.contains(&step));
                continue;
            }
            let is_chosen = self.keep_every > 0 && step.is_multiple_of(self.keep_every);
            let is_ours = seen.is_ok_and(|seen| seen.run.as_deref() == Some(folder.run()));
            if is_ours && !is_chosen {
                checkpoint::remove(&path)?;
                self.sound.remove(&step);
                removed.push(step);
            }
        }
        removed.reverse();
        Ok(removed)
    }
}
