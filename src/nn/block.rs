//! The transformer block of encoder and decoder (timm 0.3.2 `Block`, pre-norm):
//! `x + attn(norm1(x))`, then `x + mlp(norm2(x))`.

use super::NORM_EPS;
use super::params::Params;
use crate::Result;
use crate::ops::attention::Packing;
use crate::ops::linear::{Layer, PostOp};
use crate::param_layout::{ParamId, ParamLayout};
use crate::tape::{Tape, Var};

/// Weight and bias of a layer norm.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    weight: ParamId,
    bias: ParamId,
    eps: f64,
}

impl Norm {
    pub fn new(layout: &mut ParamLayout, name: &str, dim: usize) -> Self {
        Self {
            weight: layout.add(format!("{name}.weight"), &[dim]),
            bias: layout.add(format!("{name}.bias"), &[dim]),
            eps: NORM_EPS,
        }
    }

    /// The same norm with another epsilon.
    pub fn with_eps(self, eps: f64) -> Self {
        Self { eps, ..self }
    }

    pub fn forward(&self, tape: &mut Tape<'_>, params: &Params, x: &Var) -> Result<Var> {
        tape.layer_norm(x, &params.get(self.weight)?, &params.get(self.bias)?, self.eps)
    }
}

/// Weight and bias of a linear layer.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    weight: ParamId,
    bias: ParamId,
}

impl Linear {
    pub fn new(layout: &mut ParamLayout, name: &str, shape: &[usize]) -> Self {
        Self {
            weight: layout.add(format!("{name}.weight"), shape),
            bias: layout.add(format!("{name}.bias"), &shape[..1]),
        }
    }

    pub fn forward(
        &self,
        tape: &mut Tape<'_>,
        params: &Params,
        x: &Var,
        post_op: PostOp<'_>,
    ) -> Result<Var> {
        tape.linear(x, &params.get(self.weight)?, Some(&params.get(self.bias)?), post_op)
    }

    /// Weight and bias, for an op that the layer is part of.
    pub fn layer(&self, params: &Params) -> Result<Layer> {
        Ok(Layer { weight: params.get(self.weight)?, bias: Some(params.get(self.bias)?) })
    }
}

/// One transformer block.
#[derive(Clone, Debug)]
pub struct Block {
    heads: usize,
    norm1: Norm,
    qkv: Linear,
    proj: Linear,
    norm2: Norm,
    fc1: Linear,
    fc2: Linear,
}

impl Block {
    /// `name` is the prefix of the checkpoint names, e.g. `blocks.3`; `hidden` the MLP's width.
    pub fn new(
        layout: &mut ParamLayout,
        name: &str,
        dim: usize,
        heads: usize,
        hidden: usize,
    ) -> Self {
        Self {
            heads,
            norm1: Norm::new(layout, &format!("{name}.norm1"), dim),
            qkv: Linear::new(layout, &format!("{name}.attn.qkv"), &[3 * dim, dim]),
            proj: Linear::new(layout, &format!("{name}.attn.proj"), &[dim, dim]),
            norm2: Norm::new(layout, &format!("{name}.norm2"), dim),
            fc1: Linear::new(layout, &format!("{name}.mlp.fc1"), &[hidden, dim]),
            fc2: Linear::new(layout, &format!("{name}.mlp.fc2"), &[dim, hidden]),
        }
    }

    /// The same block with another epsilon in its norms.
    pub fn with_eps(self, eps: f64) -> Self {
        Self { norm1: self.norm1.with_eps(eps), norm2: self.norm2.with_eps(eps), ..self }
    }

    /// Rows `[T, dim]` of packed sequences in, the same out.
    pub fn forward(
        &self,
        tape: &mut Tape<'_>,
        params: &Params,
        x: &Var,
        packing: &Packing,
    ) -> Result<Var> {
        let normed = self.norm1.forward(tape, params, x)?;
        let qkv = self.qkv.forward(tape, params, &normed, PostOp::None)?;
        let mixed = tape.attention(&qkv, packing, self.heads)?;
        let x = self.proj.forward(tape, params, &mixed, PostOp::Add(x))?;
        let normed = self.norm2.forward(tape, params, &x)?;
        tape.mlp(&normed, &self.fc1.layer(params)?, &self.fc2.layer(params)?, Some(&x))
    }
}

/// Runs blocks one after the other. With `recompute`, each block keeps only its input and runs
/// again in the backward pass.
pub fn run_blocks<'a>(
    blocks: &'a [Block],
    tape: &mut Tape<'a>,
    params: &'a Params,
    mut x: Var,
    packing: &'a Packing,
    recompute: bool,
) -> Result<Var> {
    for block in blocks {
        x = if recompute && tape.records() {
            tape.checkpoint(&[&x], move |tape, x| block.forward(tape, params, &x[0], packing))?
        } else {
            block.forward(tape, params, &x, packing)?
        };
    }
    Ok(x)
}
