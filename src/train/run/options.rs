//! What a run is told beside its configuration, and what it tells at its end.

use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;

use super::captured::Launches;
use super::memory::MemoryPlan;
use super::training::Values;
use crate::device::Device;

/// Where a run starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Resume {
    /// From the newest sound checkpoint of the run folder, or anew when it has none.
    #[default]
    Auto,
    /// Anew; a folder that holds checkpoints is refused.
    Never,
    /// From a checkpoint folder, or from the newest checkpoint of a run folder.
    From(PathBuf),
}

impl FromStr for Resume {
    type Err = std::convert::Infallible;

    /// `auto`, `never`, or a path.
    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        Ok(match text {
            "auto" => Self::Auto,
            "never" => Self::Never,
            path => Self::From(path.into()),
        })
    }
}

/// What a run is told beside its configuration.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The run folder; created if absent.
    pub out: PathBuf,
    pub resume: Resume,
    pub device: Device,
    pub launches: Launches,
    /// Steps that a profiler collects (`--profile-steps`).
    pub profile: Option<Range<u64>>,
    /// Check configuration and data and predict the memory; write nothing.
    pub dry_run: bool,
}

impl RunOptions {
    /// A run into `out` on `device` that resumes what it finds there.
    pub fn new(out: impl Into<PathBuf>, device: Device) -> Self {
        Self {
            out: out.into(),
            resume: Resume::Auto,
            device,
            launches: Launches::default(),
            profile: None,
            dry_run: false,
        }
    }
}

/// What a run did; `found` is what its kind adds.
#[derive(Clone, Debug)]
pub struct Summary<T> {
    /// Steps done, those before a resume included.
    pub steps: u64,
    /// Terms of the loss in the first and the last step of this process; empty when it made none.
    pub first: Values,
    pub last: Values,
    /// Pictures and volumes of this process, in order.
    pub pictures: Vec<PathBuf>,
    /// The last checkpoint.
    pub checkpoint: Option<PathBuf>,
    pub warnings: Vec<String>,
    pub plan: MemoryPlan,
    pub found: T,
}

impl<T> Summary<T> {
    /// Of a run that did nothing but plan.
    pub(in crate::train) fn of_plan(plan: MemoryPlan, warnings: Vec<String>, found: T) -> Self {
        Self {
            steps: 0,
            first: Values::new(),
            last: Values::new(),
            pictures: Vec::new(),
            checkpoint: None,
            warnings,
            plan,
            found,
        }
    }

    /// The same, with `found` made into something else.
    pub(in crate::train) fn map<U>(self, make: impl FnOnce(T) -> U) -> Summary<U> {
        let Self { steps, first, last, pictures, checkpoint, warnings, plan, found } = self;
        Summary { steps, first, last, pictures, checkpoint, warnings, plan, found: make(found) }
    }
}
