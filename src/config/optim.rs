//! AdamW, its schedules, and the moving average of the teacher.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::require;
use crate::Result;

/// U9: the optimiser and its schedules, in steps (updates).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OptimConfig {
    /// Learning rate after warm-up.
    pub lr: f64,
    /// Learning rate at the end of the half cosine.
    pub lr_end: f64,
    /// Steps of linear warm-up from 0.
    pub warmup: u64,
    /// Weight decay at the start and at the end of its half cosine.
    pub weight_decay: f64,
    pub weight_decay_end: f64,
    /// AdamW's decays of its two moments, and what keeps its division from 0.
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    /// Global gradient norm above which gradients are scaled down; 0: never.
    pub clip_grad: f64,
    /// First steps in which the head's last layer is not updated.
    pub freeze_last_layer: u64,
    /// Teacher momentum at the start; it ends at 1 on a half cosine.
    pub ema_start: f64,
}

impl Default for OptimConfig {
    fn default() -> Self {
        Self {
            lr: 2e-4,
            lr_end: 0.0,
            warmup: 600,
            weight_decay: 0.05,
            weight_decay_end: 0.05,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            clip_grad: 3.0,
            freeze_last_layer: 15,
            ema_start: 0.996,
        }
    }
}

impl OptimConfig {
    pub(super) fn validate(&self) -> Result<()> {
        let rates =
            [self.lr, self.lr_end, self.weight_decay, self.weight_decay_end, self.clip_grad];
        require(
            rates.iter().all(|r| r.is_finite() && *r >= 0.0),
            "optim.lr, lr_end, weight_decay, weight_decay_end and clip_grad: finite, not negative",
        )?;
        require(
            (0.0..1.0).contains(&self.beta1) && (0.0..1.0).contains(&self.beta2) && self.eps > 0.0,
            "optim.beta1 and beta2 must lie in [0, 1), optim.eps must be positive",
        )?;
        require((0.0..=1.0).contains(&self.ema_start), "optim.ema_start must lie between 0 and 1")
    }
}
