//! What a step did, as the host sees it.

use super::schedule::Scheduled;
use crate::glmae::objective::Losses;

/// What a step did.
pub struct StepReport {
    /// Number of the step.
    pub step: u64,
    /// Means over the micro-batches.
    pub losses: Losses,
    /// Global gradient norm before clipping.
    pub grad_norm: f64,
    pub scheduled: Scheduled,
    /// Why no update was made: the first tensor that is not finite.
    pub not_finite: Option<String>,
}

impl Losses {
    /// Term by term; a term that one of them lacks is absent.
    pub(super) fn mean(all: &[Self]) -> Self {
        let n = all.len().max(1) as f64;
        let mean = |term: fn(&Self) -> Option<f64>| -> Option<f64> {
            let values: Option<Vec<f64>> = all.iter().map(term).collect();
            values.filter(|v| !v.is_empty()).map(|v| v.iter().sum::<f64>() / n)
        };
        Self {
            rec_global: mean(|l| l.rec_global),
            rec_local: mean(|l| l.rec_local),
            g2g: mean(|l| l.g2g),
            l2g: mean(|l| l.l2g),
            total: mean(|l| Some(l.total)).unwrap_or(f64::NAN),
        }
    }
}
