//! Length, batch, arithmetic and records of a run.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::require;
use crate::Result;

/// The run itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Updates of the run.
    pub steps: u64,
    /// Volumes per micro-batch.
    pub batch: usize,
    /// Micro-batches per update.
    pub accumulation: usize,
    /// Arithmetic of activations; parameters, moments and losses are f32 in any case.
    pub precision: Precision,
    /// Everything random follows from it.
    pub seed: u64,
    /// Threads of the CPU device, no more than help; 0: all cores. Results do not depend on it.
    pub threads: usize,
    /// Steps between two lines in the logs.
    pub log_every: u64,
    /// Steps between two checkpoints.
    pub save_every: u64,
    /// Steps between two pictures and measures of held-out cases; 0: none.
    pub picture_every: u64,
    /// Newest checkpoints that are kept; every `keep_every`-th step is kept as well (0: none).
    pub keep_last: usize,
    pub keep_every: u64,
    /// Steps in a row without finite numbers after which the run stops.
    pub max_bad_steps: u32,
}

/// Arithmetic of activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// bf16 on a GPU, f32 elsewhere.
    #[default]
    Auto,
    /// f32 everywhere.
    F32,
    /// bf16 storage, f32 sums: on the CUDA kernels only.
    Bf16,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            steps: 24_000,
            batch: 51,
            accumulation: 1,
            precision: Precision::Auto,
            seed: 0,
            threads: 0,
            log_every: 10,
            save_every: 500,
            picture_every: 500,
            keep_last: 3,
            keep_every: 0,
            max_bad_steps: 8,
        }
    }
}

impl TrainConfig {
    pub(super) fn validate(&self) -> Result<()> {
        require(
            (1..=1 << 16).contains(&self.batch) && (1..=1 << 16).contains(&self.accumulation),
            "train.batch and train.accumulation must lie between 1 and 65536",
        )?;
        require(
            self.log_every > 0 && self.save_every > 0 && self.keep_last > 0,
            "train.log_every, save_every and keep_last must be at least 1",
        )
    }
}
