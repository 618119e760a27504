//! One file per op. Each holds, top to bottom, what the op computes, its shape checks,
//! the differentiable call on [`crate::tape::Tape`], the CPU reference and its backward, and its
//! cases. An op whose plain reference is too slow for the CPU has a fast path beside it (`fast`) and
//! chooses between the two; [`cpu`] is what fast paths are built from. [`OPS`] is the only list; tests,
//! gradient checks and benchmarks are made from it.

pub mod accumulate;
pub mod adamw_ema;
pub mod argmax;
pub mod attention;
pub mod center_update;
pub mod conv3d;
pub mod conv_transpose;
pub mod cpu;
pub mod cross_entropy;
mod dice;
pub mod dice_bce;
pub mod dice_ce;
pub mod gemm;
pub mod grad_norm;
mod grid;
pub mod instance_norm;
pub mod l2_normalize;
pub mod layer_norm;
pub mod linear;
pub mod masked_mse;
pub mod mean_pool;
pub mod mlp;
pub mod patch_embed;
pub mod patch_gather;
pub mod resample;
pub mod row_assemble;
pub mod row_gather;
pub mod soft_cross_entropy;
mod spec;
pub mod teacher_targets;
pub mod tolerance;
pub mod unpatchify;
pub mod view_cut;
pub mod weight_norm_linear;
pub mod weighted_sum;
pub mod window_blend;

pub use grid::VoxelGrid;
pub use spec::{Input, InputKind, OpArg, OpArgs, OpCase, OpSpec};
pub use tolerance::Tolerance;

use crate::tape::{Param, Var};

/// Every op of the engine, in the order in which a step meets them.
pub static OPS: &[&dyn OpSpec] = &[
    &view_cut::Spec,
    &patch_gather::Spec,
    &patch_embed::Spec,
    &unpatchify::Spec,
    &linear::Spec,
    &mlp::Spec,
    &row_assemble::Spec,
    &row_gather::Spec,
    &layer_norm::Spec,
    &attention::Spec,
    &conv3d::Spec,
    &conv_transpose::Spec,
    &instance_norm::Spec,
    &l2_normalize::Spec,
    &weight_norm_linear::Spec,
    &masked_mse::Spec,
    &teacher_targets::Spec,
    &soft_cross_entropy::Spec,
    &dice_ce::Spec,
    &dice_bce::Spec,
    &mean_pool::Spec,
    &cross_entropy::Spec,
    &weighted_sum::Spec,
    &accumulate::Spec,
    &center_update::Spec,
    &grad_norm::Spec,
    &adamw_ema::Spec,
    &resample::Spec,
    &window_blend::Spec,
    &argmax::Spec,
];

/// Whether a gradient has to flow through a call with these inputs.
fn needs_grad(vars: &[&Var], params: &[&Param]) -> bool {
    vars.iter().any(|v| v.id().is_some()) || params.iter().any(|p| p.slot.is_some())
}
