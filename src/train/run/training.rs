//! What the engine asks of a kind of training.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::journal::Journal;
use crate::checkpoint::Counters;
use crate::config::TOTAL;
use crate::device::Tensor;
use crate::{Error, Result};

/// Names and values, in the order in which they are shown.
pub type Values = Vec<(&'static str, f64)>;

/// The value of a name.
pub fn value(values: &[(&'static str, f64)], name: &str) -> Option<f64> {
    values.iter().find(|(n, _)| *n == name).map(|(_, value)| *value)
}

/// When a run does what, in steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Steps of the whole run.
    pub steps: u64,
    /// Micro-batches per step.
    pub micro_batches: usize,
    /// Steps between two lines of the logs, two checkpoints, two judgements with pictures (0: none).
    pub log_every: u64,
    pub save_every: u64,
    pub judge_every: u64,
    /// Newest checkpoints that are kept, and every how many-th step is kept beside them (0: none).
    pub keep_last: usize,
    pub keep_every: u64,
    /// Steps in a row without finite numbers after which the run ends.
    pub max_bad_steps: u32,
}

impl Pace {
    /// Whether the network is judged after `done` steps.
    pub fn judges(&self, done: u64) -> bool {
        self.judge_every > 0 && (done == self.steps || done.is_multiple_of(self.judge_every))
    }

    /// Whether a checkpoint is due after `done` steps.
    pub fn saves(&self, done: u64) -> bool {
        done == self.steps || done.is_multiple_of(self.save_every)
    }
}

/// What a step did: means over its micro-batches.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepReport {
    /// Number of the step.
    pub step: u64,
    /// The terms of the loss, the total (`loss`) first.
    pub losses: Values,
    /// Global gradient norm before clipping.
    pub grad_norm: f64,
    /// What the schedules gave it.
    pub scheduled: Values,
    /// Why no update was made: the first number that is not finite.
    pub not_finite: Option<String>,
}

impl StepReport {
    /// The total loss.
    pub fn loss(&self) -> f64 {
        value(&self.losses, TOTAL).unwrap_or(f64::NAN)
    }

    /// Errors: [`Error::NotFinite`] for a step without an update.
    pub fn checked(self) -> Result<Self> {
        match &self.not_finite {
            None => Ok(self),
            Some(what) => Err(Error::NotFinite(format!("step {}: {what}", self.step))),
        }
    }
}

/// A kind of training. A step is [`Training::prepare`] and [`Training::micro_batch`] for every micro-batch,
/// then [`Training::update`], then [`Training::finish`]; on a GPU only the last waits.
pub trait Training {
    /// Says what else is to be said before the first step.
    fn begin(&mut self, journal: &mut Journal) -> Result<()>;

    /// The numbers of the state: steps done, and what became of them.
    fn counters(&self) -> Counters;

    /// Puts micro-batch `k` of `step` where the device will read it. Nothing but these numbers decides what
    /// it holds.
    fn prepare(&mut self, step: u64, k: usize, journal: &mut Journal) -> Result<()>;

    /// Starts forward and backward of what was prepared.
    fn micro_batch(&mut self) -> Result<()>;

    /// Starts the update.
    fn update(&mut self) -> Result<()>;

    /// Waits for the step, and counts it.
    fn finish(&mut self) -> Result<StepReport>;

    /// Further numbers of a step that is logged; what deserves a warning goes to `journal`.
    fn observe(&mut self, report: &StepReport, journal: &mut Journal) -> Result<Values>;

    /// Judges the network on cases it was not trained on. The numbers are logged.
    fn judge(&mut self, journal: &mut Journal) -> Result<Values>;

    /// Writes the pictures that go with a judgement.
    fn picture(&mut self, journal: &mut Journal) -> Result<()>;

    /// Ids of the cases of a step.
    fn case_ids(&mut self, step: u64) -> Result<Vec<String>>;

    /// The micro-batch that is prepared, for a file that shows why a step failed.
    fn prepared(&mut self) -> Result<Vec<(String, Tensor)>>;

    /// Writes a checkpoint into the run folder `out`.
    fn save(&self, out: &Path) -> Result<PathBuf>;

    /// Time that was spent waiting for data so far.
    fn data_wait(&self) -> Duration;

    /// After the last step.
    fn end(&mut self, journal: &mut Journal) -> Result<()>;
}
