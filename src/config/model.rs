//! The networks: encoder, decoder and projection head.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::require;
use crate::Result;

/// Encoder and decoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// Channels of a volume.
    pub in_chans: usize,
    /// Edge of a cubic patch in voxels.
    pub patch: usize,
    /// Width, blocks and heads of the encoder.
    pub dim: usize,
    pub depth: usize,
    pub heads: usize,
    /// Width of an MLP over the width of its block, encoder and decoder.
    pub mlp_ratio: f64,
    /// Width, blocks and heads of the decoder (U8: 512 and 576 are both read into the paper).
    pub dec_dim: usize,
    pub dec_depth: usize,
    pub dec_heads: usize,
    /// U2: how the position tables of the two view grids come about.
    pub position_table: PositionTable,
    /// U10: one decoder for both kinds of views, or one each.
    pub shared_decoder: bool,
    /// Keep only the inputs of blocks and run them again in the backward pass: less memory.
    pub recompute: bool,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            in_chans: 1,
            patch: 16,
            dim: 768,
            depth: 12,
            heads: 12,
            mlp_ratio: 4.0,
            dec_dim: 512,
            dec_depth: 8,
            dec_heads: 16,
            position_table: PositionTable::Native,
            shared_decoder: true,
            recompute: false,
        }
    }
}

impl ModelConfig {
    /// Width of the encoder's MLPs.
    pub fn mlp_hidden(&self) -> usize {
        (self.dim as f64 * self.mlp_ratio) as usize
    }

    /// Width of the decoder's MLPs.
    pub fn dec_mlp_hidden(&self) -> usize {
        (self.dec_dim as f64 * self.mlp_ratio) as usize
    }

    /// Voxels of a patch, all channels.
    pub fn patch_voxels(&self) -> usize {
        self.patch.pow(3) * self.in_chans
    }

    pub(super) fn validate(&self) -> Result<()> {
        let sizes = [
            self.in_chans,
            self.patch,
            self.dim,
            self.depth,
            self.heads,
            self.dec_dim,
            self.dec_heads,
        ];
        require(sizes.iter().all(|&n| n > 0), "sizes in [model] must be at least 1")?;
        require(self.patch <= 64, "model.patch must be at most 64")?;
        require(
            self.dim.is_multiple_of(self.heads),
            "model.dim must be a multiple of model.heads",
        )?;
        require(
            self.dec_dim.is_multiple_of(self.dec_heads),
            "model.dec_dim must be a multiple of model.dec_heads",
        )?;
        require(
            self.mlp_ratio <= 64.0 && self.mlp_hidden() > 0 && self.dec_mlp_hidden() > 0,
            "model.mlp_ratio must be above 0, leave the MLPs at least one channel, and be at most 64",
        )
    }
}

/// U2: the position tables of the global and the local grid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PositionTable {
    /// Each grid has its own integer positions.
    #[default]
    Native,
    /// The global table is interpolated from the local one.
    InterpFromLocal,
    /// The local table is interpolated from the global one.
    InterpFromGlobal,
}

/// U3: the projection head (DINO's form).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HeadConfig {
    /// Widths of the two hidden layers and of the bottleneck that is normalised.
    pub hidden: usize,
    pub bottleneck: usize,
    /// K, the number of prototypes.
    pub prototypes: usize,
    /// Freeze the prototypes' gains at 1.
    pub norm_last_layer: bool,
}

impl Default for HeadConfig {
    fn default() -> Self {
        Self { hidden: 2048, bottleneck: 256, prototypes: 65536, norm_last_layer: true }
    }
}

impl HeadConfig {
    pub(super) fn validate(&self) -> Result<()> {
        require(
            self.hidden > 0 && self.bottleneck > 0 && self.prototypes > 1,
            "[head] sizes must be at least 1, head.prototypes at least 2",
        )
    }
}
