//! The ViT encoder: patch embedding, cls token, blocks, final norm.

use super::block::{Block, Linear, Norm, run_blocks};
use super::params::Params;
use crate::Result;
use crate::config::ModelConfig;
use crate::device::{Tensor, nvtx};
use crate::ops::attention::Packing;
use crate::ops::row_assemble::{AssemblePlan, Assembly};
use crate::param_layout::{ParamId, ParamLayout};
use crate::tape::{Tape, Var};

/// ViT encoder over packed sequences of patches.
#[derive(Clone, Debug)]
pub struct Encoder {
    cls_token: ParamId,
    patch_embed: Linear,
    blocks: Vec<Block>,
    norm: Norm,
    recompute: bool,
}

impl Encoder {
    /// Parameters as in the official encoder (docs/method.md, 3.8).
    pub fn new(layout: &mut ParamLayout, config: &ModelConfig) -> Self {
        let (dim, p) = (config.dim, config.patch);
        let cls_token = layout.add("cls_token", &[1, 1, dim]);
        let kernel = [dim, config.in_chans, p, p, p];
        let patch_embed = Linear::new(layout, "patch_embed.proj", &kernel);
        let block = |i| format!("blocks.{i}");
        let blocks = (0..config.depth)
            .map(|i| Block::new(layout, &block(i), dim, config.heads, config.mlp_hidden()))
            .collect();
        let norm = Norm::new(layout, "norm", dim);
        Self { cls_token, patch_embed, blocks, norm, recompute: config.recompute }
    }

    /// Encodes packed sequences, each with its cls token in front.
    ///
    /// Shapes: `patches` `[patches, C p^3]` in channels-first order, `table` the position table that
    /// `assemble` refers to, result [rows of `assemble`, dim].
    pub fn forward<'a>(
        &'a self,
        tape: &mut Tape<'a>,
        params: &'a Params,
        patches: &Var,
        table: &Tensor,
        assemble: &AssemblePlan,
        packing: &'a Packing,
    ) -> Result<Var> {
        let _range = nvtx::range(|| "encoder");
        let with = Assembly { token: &params.get(self.cls_token)?, table, plan: assemble };
        let x = tape.patch_embed(patches, &self.patch_embed.layer(params)?, &with)?;
        let x = run_blocks(&self.blocks, tape, params, x, packing, self.recompute)?;
        self.norm.forward(tape, params, &x)
    }
}
