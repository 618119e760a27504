//! The projection head on the cls output (DINO's): three linear layers with GELU between them,
//! L2 normalisation, and unit-length prototypes.

use super::block::Linear;
use super::params::Params;
use crate::Result;
use crate::config::{HeadConfig, ModelConfig};
use crate::ops::linear::PostOp;
use crate::param_layout::{ParamId, ParamLayout};
use crate::tape::{Tape, Var};

/// Projection head.
#[derive(Clone, Debug)]
pub struct ProjectionHead {
    mlp: [Linear; 3],
    weight_g: ParamId,
    weight_v: ParamId,
}

/// Prefix of the parameters that `freeze_last_layer` leaves out of the first updates.
pub const LAST_LAYER: &str = "head.last_layer.";

impl ProjectionHead {
    /// Names as in the official checkpoint: `head.mlp.{0,2,4}`, `head.last_layer.weight_{g,v}`.
    pub fn new(layout: &mut ParamLayout, model: &ModelConfig, config: &HeadConfig) -> Self {
        let widths = [model.dim, config.hidden, config.hidden, config.bottleneck];
        let mlp = [0, 1, 2].map(|i| {
            Linear::new(layout, &format!("head.mlp.{}", 2 * i), &[widths[i + 1], widths[i]])
        });
        let weight_g = layout.add(format!("{LAST_LAYER}weight_g"), &[config.prototypes, 1]);
        let shape = [config.prototypes, config.bottleneck];
        let weight_v = layout.add(format!("{LAST_LAYER}weight_v"), &shape);
        if config.norm_last_layer {
            layout.freeze(weight_g);
        }
        Self { mlp, weight_g, weight_v }
    }

    /// cls outputs `[views, dim]` in, logits over the prototypes `[views, K]` out.
    pub fn forward(&self, tape: &mut Tape<'_>, params: &Params, cls: &Var) -> Result<Var> {
        let [first, second, third] = &self.mlp;
        let x = first.forward(tape, params, cls, PostOp::Gelu)?;
        let x = second.forward(tape, params, &x, PostOp::Gelu)?;
        let x = third.forward(tape, params, &x, PostOp::None)?;
        let x = tape.l2_normalize(&x)?;
        tape.weight_norm_linear(&x, &params.get(self.weight_g)?, &params.get(self.weight_v)?)
    }
}
