//! The one place where the command line meets the training run and the reconstruction.
//!
//! In this build neither is part of the library: the types below have the names and fields of
//! `glmae::train` and `glmae::infer`, and the calls say so. With those modules this file is the
//! three lines of re-exports at its end.

#![allow(dead_code)]

use std::path::PathBuf;
use std::str::FromStr;

use glmae::config::Config;
use glmae::data::loader::Quarantined;
use glmae::device::Device;
use glmae::glmae::objective::Losses;
use glmae::{Error, Result};

#[derive(Clone, Debug, PartialEq)]
pub enum Resume {
    Auto,
    Never,
    From(PathBuf),
}

impl FromStr for Resume {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        Ok(match text {
            "auto" => Self::Auto,
            "never" => Self::Never,
            path => Self::From(path.into()),
        })
    }
}

pub struct RunOptions {
    pub out: PathBuf,
    pub resume: Resume,
    pub device: Device,
    pub dry_run: bool,
}

pub struct HeldOut;

impl HeldOut {
    pub fn text(&self) -> String {
        String::new()
    }
}

pub struct MemoryPlan;

impl MemoryPlan {
    pub fn classes(&self) -> [(&'static str, u64); 0] {
        []
    }

    pub fn device_bytes(&self) -> u64 {
        0
    }
}

pub struct Summary {
    pub steps: u64,
    pub first: Losses,
    pub last: Losses,
    pub heldout: Option<HeldOut>,
    pub pictures: Vec<PathBuf>,
    pub checkpoint: Option<PathBuf>,
    pub quarantined: Vec<Quarantined>,
    pub warnings: Vec<String>,
    pub plan: MemoryPlan,
}

pub fn pretrain(config: &Config, _: &RunOptions) -> Result<Summary> {
    glmae::data::discover(config.data.path.as_ref(), &Default::default())?;
    Err(missing("pretrain"))
}

pub struct ReconstructOptions {
    pub checkpoint: PathBuf,
    pub input: PathBuf,
    pub out: PathBuf,
    pub mask_ratio: Option<f64>,
    pub seed: u64,
    pub device: Device,
}

pub struct ReconstructReport {
    pub step: u64,
    pub tiles: usize,
    pub kind: &'static str,
    pub mask_ratio: f64,
    pub seed: u64,
    pub explained: f64,
    pub mean_guess: f64,
    pub patch_normalised: Option<f64>,
    pub uses_target_statistics: bool,
    pub files: Vec<PathBuf>,
}

pub fn reconstruct(_: &ReconstructOptions) -> Result<ReconstructReport> {
    Err(missing("reconstruct"))
}

fn missing(verb: &str) -> Error {
    Error::Unsupported(format!("'{verb}': the training run is not in this build"))
}

// pub use glmae::infer::reconstruct::{ReconstructOptions, ReconstructReport, reconstruct};
// pub use glmae::train::memory::MemoryPlan;
// pub use glmae::train::pretrain::{Resume, RunOptions, Summary, pretrain};
