//! From files to voxels.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::require;
use crate::Result;

/// From files to voxels that views are cut from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// A folder, a NIfTI file, a text list, an MSD `dataset.json` or an nnU-Net raw folder.
    pub path: String,
    /// How intensities become numbers near 0..1 or -1..1.
    pub intensity: IntensityKind,
    /// Window of `intensity = "window"`, in Hounsfield units.
    pub window_hu: [f64; 2],
    /// Percentiles of `intensity = "percentile"` and of `"zscore"`'s clipping.
    pub percentiles: [f64; 2],
    /// Voxels above this value (after the intensity map) are foreground; the box around them is
    /// what views are cut from. `-inf`: the whole volume.
    pub foreground: Option<f64>,
    /// Ids of cases that the run must not see; each must be there.
    pub exclude: Vec<String>,
    /// Every how many-th case is kept out of training to measure reconstruction; 0: none.
    pub holdout_every: usize,
    /// Threads that read cases ahead of the training loop, no more than help; 0: all cores, at most 8.
    pub workers: usize,
    /// Prepared cases kept in memory, in MiB.
    pub cache_mib: usize,
    /// Volumes kept on a GPU, in MiB, beside what a step needs.
    pub device_cache_mib: usize,
    /// What to do with NaN and infinite voxels.
    pub nonfinite: NonFinite,
    /// Share of bad cases that ends a run; below it they are reported and left out.
    pub bad_case_limit: f64,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            path: String::new(),
            intensity: IntensityKind::Window,
            window_hu: [-1000.0, 1000.0],
            percentiles: [0.5, 99.5],
            foreground: Some(0.0),
            exclude: Vec::new(),
            holdout_every: 0,
            workers: 2,
            cache_mib: 4096,
            device_cache_mib: 8192,
            nonfinite: NonFinite::Error,
            bad_case_limit: 0.01,
        }
    }
}

impl DataConfig {
    pub(super) fn validate(&self) -> Result<()> {
        require(
            self.window_hu[0] < self.window_hu[1] && self.window_hu.iter().all(|x| x.is_finite()),
            "data.window_hu must be [low, high] with low < high",
        )?;
        let [low, high] = self.percentiles;
        require(
            0.0 <= low && low < high && high <= 100.0,
            "data.percentiles must be [low, high] within 0 to 100",
        )?;
        require(
            self.foreground.is_none_or(|f| !f.is_nan()),
            "data.foreground must be a number, or -inf for the whole volume",
        )?;
        require(self.holdout_every != 1, "data.holdout_every = 1 would leave nothing to train on")?;
        require(
            (0.0..=1.0).contains(&self.bad_case_limit),
            "data.bad_case_limit is a share between 0 and 1",
        )
    }
}

/// How intensities are mapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum IntensityKind {
    /// CT: clip to a window of Hounsfield units, map to 0..1.
    #[default]
    Window,
    /// MRI: clip to percentiles of the volume, map to 0..1.
    Percentile,
    /// MRI: clip to percentiles of the volume, then zero mean and unit variance.
    Zscore,
}

/// What to do with NaN and infinite voxels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NonFinite {
    /// The case cannot be used (see `bad_case_limit`); the message says where they are.
    #[default]
    Error,
    /// They are read as 0.
    Zero,
}
