//! Weights, temperatures and targets of the loss terms.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Objective, TERMS, require};
use crate::Result;

/// The loss: its terms, their weights and what they compare with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LossConfig {
    pub objective: Objective,
    /// U5: normalise each target patch.
    pub norm_pix: bool,
    /// U6: weights of the terms; beta1 is global-to-global, beta2 local-to-global.
    pub rec_global: f64,
    pub rec_local: f64,
    pub beta1: f64,
    pub beta2: f64,
    /// U4: which teacher and student global views are compared.
    pub gg_pairs: Pairs,
    /// Temperatures of student and teacher; the teacher's warms up linearly from `tau_t_start`
    /// over `tau_t_warmup` steps.
    pub tau_s: f64,
    pub tau_t: f64,
    pub tau_t_start: f64,
    pub tau_t_warmup: u64,
    /// How the teacher's logits become targets (docs/training.md).
    pub teacher_targets: TeacherTargets,
    /// Of the running centre of `teacher_targets = "center"`: the share of the old one that stays.
    pub center_momentum: f64,
}

impl Default for LossConfig {
    fn default() -> Self {
        Self {
            objective: Objective::GlMae,
            norm_pix: true,
            rec_global: 1.0,
            rec_local: 1.0,
            beta1: 0.1,
            beta2: 0.1,
            gg_pairs: Pairs::Same,
            tau_s: 0.1,
            tau_t: 0.04,
            tau_t_start: 0.04,
            tau_t_warmup: 0,
            teacher_targets: TeacherTargets::Center,
            center_momentum: 0.9,
        }
    }
}

impl LossConfig {
    pub(super) fn validate(&self) -> Result<()> {
        let mut weights = TERMS.iter().map(|row| (row.weight)(self));
        require(
            weights.all(|w| w.is_finite() && w >= 0.0),
            "loss weights must be finite and not negative",
        )?;
        require(
            [self.tau_s, self.tau_t, self.tau_t_start].iter().all(|t| t.is_finite() && *t > 0.0),
            "temperatures must be positive",
        )?;
        require(
            (0.0..=1.0).contains(&self.center_momentum),
            "loss.center_momentum must lie between 0 and 1",
        )
    }
}

/// U4: pairs (i, j) of intact and masked global views of a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Pairs {
    /// i = j: the masked copy of the anchor view.
    #[default]
    Same,
    /// i != j.
    Cross,
    /// Every i and j.
    All,
}

/// How the teacher's logits become targets (docs/training.md).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TeacherTargets {
    /// Centred and sharpened, as DINO: faithful default of the paper presets.
    #[default]
    Center,
    /// Standardised over the batch: keeps the consistency terms alive on small data sets.
    Standardise,
    /// Sinkhorn-Knopp over the batch, as SwAV.
    Sinkhorn,
}

impl TeacherTargets {
    /// Whether targets follow from the rows of the micro-batch they belong to, and from nothing else.
    pub fn is_of_the_batch(self) -> bool {
        self != Self::Center
    }

    /// As the key has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Center => "center",
            Self::Standardise => "standardise",
            Self::Sinkhorn => "sinkhorn",
        }
    }
}
