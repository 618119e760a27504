//! The cells of a study and their names.

use super::config::StudyConfig;
use crate::Result;
use crate::config::Objective;

/// What the grid calls a start without pre-training.
pub const SCRATCH: &str = "scratch";

/// What an encoder starts from.
#[derive(Clone, Debug, PartialEq)]
pub struct Start {
    objective: String,
    name: String,
    pretraining: Option<Pretraining>,
}

/// A pre-training.
#[derive(Clone, Debug, PartialEq)]
pub struct Pretraining {
    pub objective: Objective,
    /// Absent: that of the settings.
    pub mask_ratio: Option<f64>,
    /// Share of the images.
    pub share: f64,
}

impl Start {
    pub(super) fn scratch() -> Self {
        let name = SCRATCH.to_owned();
        Self { objective: name.clone(), name, pretraining: None }
    }

    pub(super) fn pretrained(objective: Objective, mask_ratio: Option<f64>, share: f64) -> Self {
        let mut name = objective.name().to_owned();
        if let Some(ratio) = mask_ratio {
            name += &format!("_mask{ratio}");
        }
        if share < 1.0 {
            name += &format!("_images{share}");
        }
        Self {
            objective: objective.name().to_owned(),
            name,
            pretraining: Some(Pretraining { objective, mask_ratio, share }),
        }
    }

    /// Such as `scratch`, `gl-mae`, `gl-mae_mask0.6`: also the name of the run's folder.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// As the grid has it.
    pub fn objective(&self) -> &str {
        &self.objective
    }

    /// Absent: from scratch.
    pub fn pretraining(&self) -> Option<&Pretraining> {
        self.pretraining.as_ref()
    }
}

/// A fine-tuning.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    pub start: Start,
    pub fraction: f64,
    pub seed: u64,
}

impl Cell {
    /// Every cell, by seeds first: whatever is done when a study is stopped can be compared.
    pub fn all(config: &StudyConfig) -> Result<Vec<Self>> {
        let starts = config.starts()?;
        let mut cells = Vec::new();
        for &seed in &config.grid.seeds {
            for &fraction in &config.grid.fractions {
                cells.extend(starts.iter().map(|s| Self { start: s.clone(), fraction, seed }));
            }
        }
        Ok(cells)
    }

    /// The name of its folder.
    pub fn name(&self) -> String {
        format!("{}_labels{}_seed{}", self.start.name, self.fraction, self.seed)
    }
}
