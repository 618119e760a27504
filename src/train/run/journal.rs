//! What a run writes down and says: logs, progress, warnings, pictures.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::logs::Logs;
use super::training::Values;
use crate::Result;
use crate::report::progress::TrainProgress;

/// Everything that a run writes down goes through here, so that log, screen and summary agree.
pub struct Journal {
    out: PathBuf,
    logs: Logs,
    progress: TrainProgress,
    pub warnings: Vec<String>,
    pub pictures: Vec<PathBuf>,
}

impl Journal {
    pub fn new(out: &Path, logs: Logs, progress: TrainProgress) -> Self {
        let out = out.to_owned();
        Self { out, logs, progress, warnings: Vec::new(), pictures: Vec::new() }
    }

    /// The run folder.
    pub fn out(&self) -> &Path {
        &self.out
    }

    /// A line on the screen.
    pub fn say(&mut self, text: &str) {
        self.progress.message(text);
    }

    /// A warning: on the screen now and at the end, and in the log.
    pub fn warn(&mut self, step: u64, text: String) -> Result<()> {
        self.say(&format!("warning: {text}"));
        self.event(step, "warning", json!({ "text": text }))?;
        self.warnings.push(text);
        Ok(())
    }

    /// A record of `log.jsonl`.
    pub fn event(&mut self, step: u64, kind: &str, fields: Value) -> Result<()> {
        self.logs.event(step, kind, fields)
    }

    /// A picture that was written to `path`, also for TensorBoard.
    pub fn picture(&mut self, step: u64, name: &str, size: [usize; 2], png: &[u8]) -> Result<()> {
        self.logs.picture(step, name, size, png)
    }

    /// The numbers of a step in all logs; `asides` go into `log.jsonl` only.
    pub(super) fn step(&mut self, done: u64, values: &Values, asides: &Values) -> Result<()> {
        self.logs.step(done, values, asides)
    }

    /// The numbers of a step on the screen.
    pub(super) fn show(&mut self, done: u64, values: &Values) {
        self.progress.update(done, values);
    }

    /// Makes the logs durable.
    pub(super) fn sync(&self) -> Result<()> {
        self.logs.sync()
    }

    /// Ends the progress on the screen.
    pub(super) fn close(&mut self) {
        self.progress.finish();
    }
}
