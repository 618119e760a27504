//! The MAE decoder: embeds the encoder's outputs, fills in the mask token, predicts voxels.

use super::block::{Block, Linear, Norm, run_blocks};
use super::params::Params;
use crate::Result;
use crate::config::ModelConfig;
use crate::device::{Tensor, nvtx};
use crate::ops::attention::Packing;
use crate::ops::linear::{Layer, PostOp};
use crate::ops::row_assemble::{AssemblePlan, Assembly};
use crate::ops::row_gather::GatherPlan;
use crate::param_layout::{ParamId, ParamLayout};
use crate::tape::{Tape, Var};

/// MAE decoder over packed sequences.
#[derive(Clone, Debug)]
pub struct Decoder {
    mask_token: ParamId,
    embed: Linear,
    blocks: Vec<Block>,
    norm: Norm,
    pred: Linear,
    recompute: bool,
}

impl Decoder {
    /// Parameters as in the official model (docs/method.md, 3.8); `prefix` is empty for the shared decoder.
    pub fn new(layout: &mut ParamLayout, config: &ModelConfig, prefix: &str) -> Self {
        let dim = config.dec_dim;
        let name = |part: &str| format!("{prefix}{part}");
        let embed = Linear::new(layout, &name("decoder_embed"), &[dim, config.dim]);
        let mask_token = layout.add(name("mask_token"), &[1, 1, dim]);
        let hidden = config.dec_mlp_hidden();
        let blocks = (0..config.dec_depth)
            .map(|i| {
                Block::new(
                    layout,
                    &name(&format!("decoder_blocks.{i}")),
                    dim,
                    config.dec_heads,
                    hidden,
                )
            })
            .collect();
        let norm = Norm::new(layout, &name("decoder_norm"), dim);
        let pred = Linear::new(layout, &name("decoder_pred"), &[config.patch_voxels(), dim]);
        Self { mask_token, embed, blocks, norm, pred, recompute: config.recompute }
    }

    /// What the pixel head sees of the patches that `wanted` names.
    ///
    /// Shapes: `latent` `[encoder rows, dim]`, `table` the decoder's position table, result
    /// `[wanted.taken(), decoder dim]`. The norm runs on wanted rows only.
    #[allow(clippy::too_many_arguments)] // the plan of one pass; a struct would only rename it
    pub fn features<'a>(
        &'a self,
        tape: &mut Tape<'a>,
        params: &'a Params,
        latent: &Var,
        table: &Tensor,
        assemble: &AssemblePlan,
        packing: &'a Packing,
        wanted: &GatherPlan,
    ) -> Result<Var> {
        let _range = nvtx::range(|| "decoder");
        let tokens = self.embed.forward(tape, params, latent, PostOp::None)?;
        let with = Assembly { token: &params.get(self.mask_token)?, table, plan: assemble };
        let x = tape.row_assemble(&tokens, &with)?;
        drop(tokens);
        let x = run_blocks(&self.blocks, tape, params, x, packing, self.recompute)?;
        let x = tape.row_gather(&x, wanted)?;
        self.norm.forward(tape, params, &x)
    }

    /// The pixel head: from [`Decoder::features`] to voxels, `p^3 C` of them in channels-last order.
    pub fn pixel_head(&self, params: &Params) -> Result<Layer> {
        self.pred.layer(params)
    }

    /// Predicts the patches that `wanted` names: `[wanted.taken(), p^3 C]`; see
    /// [`Decoder::features`]. Training compares without writing them ([`Tape::masked_mse`]).
    #[allow(clippy::too_many_arguments)] // as above
    pub fn forward<'a>(
        &'a self,
        tape: &mut Tape<'a>,
        params: &'a Params,
        latent: &Var,
        table: &Tensor,
        assemble: &AssemblePlan,
        packing: &'a Packing,
        wanted: &GatherPlan,
    ) -> Result<Var> {
        let x = self.features(tape, params, latent, table, assemble, packing, wanted)?;
        self.pred.forward(tape, params, &x, PostOp::None)
    }
}
