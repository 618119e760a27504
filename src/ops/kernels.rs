//! Where the CPU device chooses between an op's plain reference and its fast path.
//!
//! f64 always runs the reference: it is the oracle. f32 runs the fast path ([`super::cpu`]) where one
//! exists, and the tests of the registry compare the two.

use std::ops::Range;

use super::cpu;
use super::cpu::gemm::{Epilogue, MatRef, gemm};
use super::grid::Grid;
use super::{adamw_ema, attention, conv_transpose, conv3d, layer_norm, linear};
use crate::Result;
use crate::device::Real;

/// What follows the product of a linear layer on the CPU.
#[derive(Default)]
pub struct After<'a, T> {
    pub bias: Option<&'a [T]>,
    /// Saves the pre-activation here and goes on with its GELU.
    pub gelu: Option<&'a mut [T]>,
    pub residual: Option<&'a [T]>,
}

/// The arithmetic of a CPU device, with the loops that are worth more than plain code.
pub trait Kernels: Real {
    /// `c = a b` or `c += a b`, then `after`; `c` is row-major without gaps.
    fn gemm(
        a: MatRef<'_, Self>,
        b: MatRef<'_, Self>,
        accumulate: bool,
        c: &mut [Self],
        after: After<'_, Self>,
    ) -> Result<()> {
        linear::reference(a, b, accumulate, c, after);
        Ok(())
    }

    /// `dy <- dy gelu'(pre)` in place.
    fn gelu_backward(dy: &mut [Self], pre: &[Self]) {
        for (d, &u) in dy.iter_mut().zip(pre) {
            *d *= linear::gelu_derivative(u);
        }
    }

    /// `out[j] (+)= sum_i x[i, j]`.
    fn sum_rows(out: &mut [Self], x: &[Self], accumulate: bool) {
        linear::sum_rows(out, x, accumulate);
    }

    /// See [`layer_norm`].
    fn layer_norm(
        y: &mut [Self],
        mean: &mut [Self],
        rstd: &mut [Self],
        x: &[Self],
        weight: &[Self],
        bias: &[Self],
        eps: Self,
    ) {
        layer_norm::reference(y, mean, rstd, x, weight, bias, eps);
    }

    /// Gradients of a layer norm's input, weight and bias; all three are overwritten.
    #[allow(clippy::too_many_arguments)] // three outputs and what the formula needs
    fn layer_norm_backward(
        dx: &mut [Self],
        dweight: &mut [Self],
        dbias: &mut [Self],
        dy: &[Self],
        x: &[Self],
        mean: &[Self],
        rstd: &[Self],
        weight: &[Self],
    ) {
        layer_norm::reference_dx(dx, dy, x, mean, rstd, weight);
        layer_norm::reference_dweight(dweight, dy, x, mean, rstd);
        linear::sum_rows(dbias, dy, false);
    }

    /// See [`attention`].
    fn attention(
        out: &mut [Self],
        lse: &mut [Self],
        qkv: &[Self],
        cu_seqlens: &[i32],
        heads: usize,
    ) -> Result<()> {
        attention::reference(out, lse, qkv, cu_seqlens, heads);
        Ok(())
    }

    /// Gradient of queries, keys and values.
    fn attention_backward(
        dqkv: &mut [Self],
        dout: &[Self],
        qkv: &[Self],
        out: &[Self],
        lse: &[Self],
        cu_seqlens: &[i32],
        heads: usize,
    ) -> Result<()> {
        attention::reference_backward(dqkv, dout, qkv, out, lse, cu_seqlens, heads);
        Ok(())
    }

    /// See [`conv3d`], 3 x 3 x 3; `inputs` are matrices and their channels.
    fn conv3d(
        y: &mut [Self],
        inputs: &[(&[Self], usize)],
        weight: &[Self],
        bias: Option<&[Self]>,
        out: usize,
        grid: Grid,
    ) {
        conv3d::reference(y, inputs, weight, bias, out, grid);
    }

    /// Gradient of the input that has `range` of `channels`.
    fn conv3d_backward_x(
        dx: &mut [Self],
        accumulate: bool,
        dy: &[Self],
        weight: &[Self],
        range: Range<usize>,
        channels: usize,
        grid: Grid,
    ) {
        conv3d::reference_dx(dx, accumulate, dy, weight, range, channels, grid);
    }

    /// Gradient of the weight.
    fn conv3d_backward_weight(
        dw: &mut [Self],
        accumulate: bool,
        dy: &[Self],
        inputs: &[(&[Self], usize)],
        out: usize,
        grid: Grid,
    ) {
        conv3d::reference_dw(dw, accumulate, dy, inputs, out, grid);
    }

    /// See [`conv_transpose`]; `sizes`: in and out.
    fn conv_transpose(
        y: &mut [Self],
        x: &[Self],
        weight: &[Self],
        sizes: [usize; 2],
        grid: Grid,
    ) -> Result<()> {
        conv_transpose::reference(y, x, weight, sizes, grid);
        Ok(())
    }

    /// Gradient of x.
    fn conv_transpose_backward_x(
        dx: &mut [Self],
        accumulate: bool,
        dy: &[Self],
        weight: &[Self],
        sizes: [usize; 2],
        grid: Grid,
    ) -> Result<()> {
        conv_transpose::reference_dx(dx, accumulate, dy, weight, sizes, grid);
        Ok(())
    }

    /// Gradient of the weight.
    fn conv_transpose_backward_weight(
        dw: &mut [Self],
        accumulate: bool,
        dy: &[Self],
        x: &[Self],
        sizes: [usize; 2],
        grid: Grid,
    ) -> Result<()> {
        conv_transpose::reference_dw(dw, accumulate, dy, x, sizes, grid);
        Ok(())
    }

    /// See [`adamw_ema`]; one segment.
    fn adamw(
        settings: &adamw_ema::AdamW,
        segment: &adamw_ema::Segment,
        p: &mut [Self],
        g: &[Self],
        m: &mut [Self],
        v: &mut [Self],
    ) {
        adamw_ema::reference(settings, segment, p, g, m, v);
    }

    /// `teacher <- momentum teacher + (1 - momentum) student`.
    fn ema(teacher: &mut [Self], student: &[Self], momentum: f64) {
        let (mu, rest) = (Self::of(momentum), Self::of(1.0 - momentum));
        for (t, &s) in teacher.iter_mut().zip(student) {
            *t = mu * *t + rest * s;
        }
    }
}

impl Kernels for f64 {}

/// Elements per task of the elementwise loops.
const BLOCK: usize = 1 << 14;

impl Kernels for f32 {
    fn gemm(
        a: MatRef<'_, f32>,
        b: MatRef<'_, f32>,
        accumulate: bool,
        c: &mut [f32],
        after: After<'_, f32>,
    ) -> Result<()> {
        let columns = b.cols();
        let epilogue = Epilogue {
            bias: after.bias,
            gelu: after.gelu,
            residual: after.residual,
            ..Epilogue::default()
        };
        gemm(1.0, a, b, f32::from(accumulate), c, columns, epilogue)
    }

    fn gelu_backward(dy: &mut [f32], pre: &[f32]) {
        use rayon::prelude::*;
        dy.par_chunks_mut(BLOCK)
            .zip(pre.par_chunks(BLOCK))
            .for_each(|(dy, pre)| cpu::math::gelu_backward(dy, pre));
    }

    fn sum_rows(out: &mut [f32], x: &[f32], accumulate: bool) {
        cpu::reduce::column_sums(out, x, accumulate);
    }

    fn layer_norm(
        y: &mut [f32],
        mean: &mut [f32],
        rstd: &mut [f32],
        x: &[f32],
        weight: &[f32],
        bias: &[f32],
        eps: f32,
    ) {
        let (rows, c) = (mean.len(), weight.len());
        cpu::norm::layer_norm_fwd(y, mean, rstd, x, weight, bias, rows, c, eps);
    }

    fn layer_norm_backward(
        dx: &mut [f32],
        dweight: &mut [f32],
        dbias: &mut [f32],
        dy: &[f32],
        x: &[f32],
        mean: &[f32],
        rstd: &[f32],
        weight: &[f32],
    ) {
        let (rows, c) = (mean.len(), weight.len());
        cpu::norm::layer_norm_bwd(dx, dweight, dbias, dy, x, mean, rstd, weight, rows, c, false);
    }

    fn attention(
        out: &mut [f32],
        lse: &mut [f32],
        qkv: &[f32],
        cu_seqlens: &[i32],
        heads: usize,
    ) -> Result<()> {
        if !cpu::attention::is_supported() {
            attention::reference(out, lse, qkv, cu_seqlens, heads);
            return Ok(());
        }
        let head_dim = out.len() / lse.len().max(1);
        cpu::attention::forward(out, lse, qkv, shape(cu_seqlens, heads, head_dim))
    }

    fn attention_backward(
        dqkv: &mut [f32],
        dout: &[f32],
        qkv: &[f32],
        out: &[f32],
        lse: &[f32],
        cu_seqlens: &[i32],
        heads: usize,
    ) -> Result<()> {
        if !cpu::attention::is_supported() {
            attention::reference_backward(dqkv, dout, qkv, out, lse, cu_seqlens, heads);
            return Ok(());
        }
        let head_dim = out.len() / lse.len().max(1);
        cpu::attention::backward(dqkv, dout, qkv, out, lse, shape(cu_seqlens, heads, head_dim))
    }

    fn conv3d(
        y: &mut [f32],
        inputs: &[(&[f32], usize)],
        weight: &[f32],
        bias: Option<&[f32]>,
        out: usize,
        grid: Grid,
    ) {
        cpu::conv::forward(y, inputs, weight, bias, out, grid);
    }

    fn conv3d_backward_x(
        dx: &mut [f32],
        accumulate: bool,
        dy: &[f32],
        weight: &[f32],
        range: Range<usize>,
        channels: usize,
        grid: Grid,
    ) {
        cpu::conv::backward_x(dx, accumulate, dy, weight, range, channels, grid);
    }

    fn conv3d_backward_weight(
        dw: &mut [f32],
        accumulate: bool,
        dy: &[f32],
        inputs: &[(&[f32], usize)],
        out: usize,
        grid: Grid,
    ) {
        cpu::conv::backward_weight(dw, accumulate, dy, inputs, out, grid);
    }

    fn conv_transpose(
        y: &mut [f32],
        x: &[f32],
        weight: &[f32],
        sizes: [usize; 2],
        grid: Grid,
    ) -> Result<()> {
        cpu::conv_transpose::forward(y, x, weight, sizes, grid)
    }

    fn conv_transpose_backward_x(
        dx: &mut [f32],
        accumulate: bool,
        dy: &[f32],
        weight: &[f32],
        sizes: [usize; 2],
        grid: Grid,
    ) -> Result<()> {
        cpu::conv_transpose::backward_x(dx, accumulate, dy, weight, sizes, grid)
    }

    fn conv_transpose_backward_weight(
        dw: &mut [f32],
        accumulate: bool,
        dy: &[f32],
        x: &[f32],
        sizes: [usize; 2],
        grid: Grid,
    ) -> Result<()> {
        cpu::conv_transpose::backward_weight(dw, accumulate, dy, x, sizes, grid)
    }

    fn adamw(
        settings: &adamw_ema::AdamW,
        segment: &adamw_ema::Segment,
        p: &mut [f32],
        g: &[f32],
        m: &mut [f32],
        v: &mut [f32],
    ) {
        let scalars = cpu::optim::AdamW {
            lr: settings.lr,
            beta1: settings.beta1,
            beta2: settings.beta2,
            eps: settings.eps,
            weight_decay: if segment.decays { settings.weight_decay } else { 0.0 },
            step: segment.update,
            grad_scale: settings.grad_scale,
        };
        cpu::optim::adamw(p, g, m, v, scalars);
    }

    fn ema(teacher: &mut [f32], student: &[f32], momentum: f64) {
        cpu::optim::ema(teacher, student, momentum);
    }
}

fn shape(cu_seqlens: &[i32], heads: usize, head_dim: usize) -> cpu::attention::Shape<'_> {
    let scale = (1.0 / (head_dim as f64).sqrt()) as f32;
    cpu::attention::Shape { cu_seqlens, heads, head_dim, scale }
}

/// Copies blocks of rows in parallel: `f(row, destination)` for every row of `out`.
pub(super) fn for_each_row<T: Real>(
    out: &mut [T],
    width: usize,
    f: impl Fn(usize, &mut [T]) + Sync,
) {
    use rayon::prelude::*;
    let rows = (BLOCK / width.max(1)).max(1);
    out.par_chunks_mut(rows * width.max(1)).enumerate().for_each(|(block, part)| {
        for (i, row) in part.chunks_exact_mut(width.max(1)).enumerate() {
            f(block * rows + i, row);
        }
    });
}
