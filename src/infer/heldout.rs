//! How well hidden voxels are reconstructed on cases that were kept out of training.
//!
//! The measure is `1 - MSE / variance` over the hidden voxels of whole volumes, in mapped
//! intensities, summed over volumes before the division; the variance is that of the hidden voxels
//! of the same volume, so differences between volumes are not counted as success. Beside it stands
//! what copying the mean of the visible voxels of each view would give.

use crate::Result;
use crate::config::Config;
use crate::data::{Case, PrepareConfig, prepare};
use crate::device::Device;
use crate::glmae::model::Networks;
use crate::infer::tiles::{Explained, Masking, reconstruct_volume};
use crate::nn::params::Params;

/// The result on held-out cases.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct HeldOut {
    /// Steps done when it was measured (a log record has it already).
    #[serde(skip)]
    pub step: u64,
    /// Share of the variance of hidden voxels that is explained, over all cases together. With
    /// `uses_target_statistics` it knows mean and deviation of every hidden patch.
    pub explained: f64,
    /// The same for copying the mean of the visible voxels of the view.
    pub mean_guess: f64,
    /// Share of patch-normalised values that is explained; only with `loss.norm_pix`.
    pub patch_normalised: Option<f64>,
    /// `loss.norm_pix` is on: `explained` is no honest measure, `patch_normalised` is.
    pub uses_target_statistics: bool,
    /// Share of every case.
    pub cases: Vec<(String, f64)>,
    /// Cases that could not be read, and why.
    pub unreadable: Vec<(String, String)>,
}

impl HeldOut {
    /// One line for people.
    pub fn text(&self) -> String {
        let percent = |x: f64| format!("{:.1} %", 100.0 * x);
        let raw = format!(
            "{} of the variance of hidden voxels explained on {} held-out cases \
             (mean of the visible: {})",
            percent(self.explained),
            self.cases.len(),
            percent(self.mean_guess)
        );
        match self.patch_normalised {
            None => raw,
            Some(share) => format!(
                "{} of the variance of patch-normalised hidden voxels explained; in intensities, \
                 with mean and deviation of the hidden patches given: {raw}",
                percent(share)
            ),
        }
    }
}

/// Measures on `cases`, whose masks depend on the run's seed and their place in the list only.
/// `None` when no case can be read.
///
/// Errors: whatever stops a reconstruction; an unreadable case does not.
pub fn measure(
    device: &Device,
    config: &Config,
    nets: &Networks,
    params: &Params,
    cases: &[Case],
    prepare_config: &PrepareConfig,
    step: u64,
) -> Result<Option<HeldOut>> {
    let (mut sum, mut shares, mut unreadable) = (Explained::default(), vec![], vec![]);
    for (sample, case) in cases.iter().enumerate() {
        let prepared = match prepare(case, prepare_config) {
            Ok(prepared) => prepared,
            Err(e) => {
                unreadable.push((case.id.clone(), e.to_string()));
                continue;
            }
        };
        let ratio = config.views.mask_ratio;
        let masking = Masking { seed: config.train.seed, ratio, sample: sample as u32 };
        let result = reconstruct_volume(device, config, nets, params, &prepared, &masking)?;
        sum.add(&result.explained);
        shares.push((case.id.clone(), result.explained.share()));
    }
    Ok((!shares.is_empty()).then(|| HeldOut {
        step,
        explained: sum.share(),
        mean_guess: sum.mean_guess_share(),
        patch_normalised: sum.normalised_share(),
        uses_target_statistics: config.loss.norm_pix,
        cases: shares,
        unreadable,
    }))
}
