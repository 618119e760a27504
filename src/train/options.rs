//! What a run is told beside its configuration, and what it tells at its end.

use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;

use super::heldout::HeldOut;
use super::memory::MemoryPlan;
use super::program::Launches;
use crate::data::loader::Quarantined;
use crate::device::Device;
use crate::glmae::objective::Losses;

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

/// What a run did.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Steps done, those before a resume included.
    pub steps: u64,
    /// Losses of the first and the last step of this process.
    pub first: Losses,
    pub last: Losses,
    /// Reconstruction on held-out cases at the end; absent when none are held out.
    pub heldout: Option<HeldOut>,
    /// Pictures and volumes of this process, in order.
    pub pictures: Vec<PathBuf>,
    /// The last checkpoint.
    pub checkpoint: Option<PathBuf>,
    pub quarantined: Vec<Quarantined>,
    pub warnings: Vec<String>,
    pub plan: MemoryPlan,
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

impl Summary {
    /// Of a run that did nothing but plan.
    pub(super) fn of_plan(plan: MemoryPlan) -> Self {
        Self {
            steps: 0,
            first: Losses::default(),
            last: Losses::default(),
            heldout: None,
            pictures: Vec::new(),
            checkpoint: None,
            quarantined: Vec::new(),
            warnings: Vec::new(),
            plan,
        }
    }
}
