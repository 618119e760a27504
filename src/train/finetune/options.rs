//! What a run is told beside its configuration, and what it tells at its end.

use std::path::PathBuf;

use super::checkpoint::Best;
use super::program::SegReport;
use crate::device::Device;
use crate::interchange::ImportReport;
use crate::train::memory::MemoryPlan;
use crate::train::options::Resume;
use crate::train::program::Launches;

/// What a run is told beside its configuration.
#[derive(Clone, Debug)]
pub struct FinetuneOptions {
    /// The run folder; created if absent.
    pub out: PathBuf,
    /// What [`crate::interchange::read_encoder`] reads; absent: from scratch.
    pub encoder: Option<PathBuf>,
    /// Take what fits of an encoder with parameters that are missing or unknown.
    pub partial: bool,
    pub resume: Resume,
    pub device: Device,
    pub launches: Launches,
    /// Check configuration, data and encoder and predict the memory; write nothing.
    pub dry_run: bool,
}

impl FinetuneOptions {
    /// A run from scratch into `out` on `device` that resumes what it finds there.
    pub fn new(out: impl Into<PathBuf>, device: Device) -> Self {
        Self {
            out: out.into(),
            encoder: None,
            partial: false,
            resume: Resume::Auto,
            device,
            launches: Launches::default(),
            dry_run: false,
        }
    }
}

/// What a run did.
#[derive(Clone, Debug)]
pub struct FinetuneSummary {
    pub steps: u64,
    /// Whether the network tells classes of images, not of voxels.
    pub classifies: bool,
    /// Of the first and the last step of this process.
    pub first: Option<SegReport>,
    pub last: Option<SegReport>,
    /// The last validation: mean Dice of the regions and that of each; of image classes the accuracy, then
    /// balanced accuracy and AUC, NaN where they are undefined.
    pub validation: Option<(f64, Vec<(String, f64)>)>,
    pub best: Option<Best>,
    pub checkpoint: Option<PathBuf>,
    pub pictures: Vec<PathBuf>,
    pub warnings: Vec<String>,
    pub training_cases: usize,
    pub validation_cases: usize,
    pub parameters: usize,
    /// What became of the encoder's file.
    pub encoder: Option<ImportReport>,
    pub plan: MemoryPlan,
}
