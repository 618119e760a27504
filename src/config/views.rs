//! What is cut from a volume, and how much of it is hidden.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ModelConfig, require};
use crate::Result;

/// Global or local.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ViewKind {
    Global,
    Local,
}

impl ViewKind {
    pub const ALL: [Self; 2] = [Self::Global, Self::Local];

    /// `global` or `local`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Global => "global",
            Self::Local => "local",
        }
    }
}

/// What a view is and how many there are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ViewConfig {
    /// Voxels of a view along d, h, w; multiples of the patch.
    pub global_size: [usize; 3],
    pub local_size: [usize; 3],
    /// U7: p and q, views per volume.
    pub n_global: usize,
    pub n_local: usize,
    /// Share of the tokens that is masked, both kinds.
    pub mask_ratio: f64,
    /// U1: whether a global view is a native crop or a resized box.
    pub global_crop: GlobalCrop,
    /// Share of the foreground box's volume that a resized global box has, least and most.
    pub global_scale: [f64; 2],
    /// Mirror a view along an axis with this probability (the paper's code: 0).
    pub flip_probability: f64,
}

impl Default for ViewConfig {
    fn default() -> Self {
        Self {
            global_size: [160; 3],
            local_size: [96; 3],
            n_global: 2,
            n_local: 8,
            mask_ratio: 0.75,
            global_crop: GlobalCrop::Resized,
            global_scale: [0.4, 1.0],
            flip_probability: 0.0,
        }
    }
}

impl ViewConfig {
    /// Visible tokens of a view with `tokens` tokens: `floor(tokens (1 - mask_ratio))`.
    pub fn visible(&self, tokens: usize) -> usize {
        (tokens as f64 * (1.0 - self.mask_ratio)) as usize
    }

    pub(super) fn validate(&self, model: &ModelConfig) -> Result<()> {
        let (patch, ratio) = (model.patch, self.mask_ratio);
        for (key, size) in [("global_size", self.global_size), ("local_size", self.local_size)] {
            require(
                size.iter().all(|&n| n > 0 && n % patch == 0),
                &format!("views.{key} = {size:?} must be multiples of model.patch = {patch}"),
            )?;
            let tokens = size.iter().map(|n| n / patch).product::<usize>();
            let visible = self.visible(tokens);
            require(
                ratio > 0.0 && ratio < 1.0 && visible > 0 && visible < tokens,
                &format!(
                    "views.mask_ratio = {ratio} must lie between 0 and 1 and leave some of the {tokens} \
                     tokens of views.{key} visible and some masked"
                ),
            )?;
        }
        require(
            self.n_local > 0,
            "views.n_local must be at least 1 (every objective reconstructs local views)",
        )?;
        let [low, high] = self.global_scale;
        require(
            0.0 < low && low <= high && high <= 1.0,
            "views.global_scale must be [least, most] with 0 < least <= most <= 1",
        )?;
        require((0.0..=1.0).contains(&self.flip_probability), "views.flip_probability: 0 to 1")
    }
}

/// U1: content of a global view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum GlobalCrop {
    /// A random box of 40 to 100 % of the foreground, resized to the view.
    #[default]
    Resized,
    /// A native crop, as local views are.
    Native,
}
