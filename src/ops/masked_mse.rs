//! Masked mean square error: how well the masked patches are reconstructed.
//!
//! `loss_g = mean over the rows r of group g of mean_j (pred[r, j] - t[r, j])^2`, where `t` is the
//! target patch itself or, with `norm_pix`, `(t - mean(t)) / sqrt(var(t) + 1e-6)` with the unbiased
//! variance of the patch. Only masked rows are ever predicted, so there is no mask to multiply.

use rayon::prelude::*;

use super::accumulate::flat_launch;
use super::{Args, Case, Input, InputKind, OpSpec, Tolerance, needs_grad};
use crate::device::launch::LaunchConfig;
use crate::device::{DType, Device, KernelCall, Real, Tensor, TensorMut, with_real};
use crate::tape::{Backward, Grads, Tape, Var};
use crate::{Error, Result};

const OP: &str = "masked_mse";

impl<'a> Tape<'a> {
    /// One loss per group of consecutive rows (masked patches of global views, of local views).
    ///
    /// Shapes: `pred` and `target` `[rows, p^3 C]`, `group_rows` sums to rows; result `[groups]`. `pred`
    /// may be bf16 on a GPU; `target` and the losses are f32.
    /// Numerics: patch statistics in two passes; value and gradient in one pass.
    /// Errors: `Shape`; an empty group has no mean and is refused.
    /// Source: gl-mae 1.6; He et al., arXiv 2111.06377 (`norm_pix_loss`).
    pub fn masked_mse(
        &mut self,
        pred: &Var,
        target: &Var,
        group_rows: &[usize],
        norm_pix: bool,
    ) -> Result<Var> {
        let (rows, width) = pred.value().matrix(OP)?;
        target.value().expect_shape(OP, &[rows, width])?;
        if group_rows.iter().sum::<usize>() != rows || group_rows.contains(&0) {
            return Err(Error::shape(
                OP,
                format!("non-empty groups of {rows} rows"),
                format!("{group_rows:?}"),
            ));
        }
        let (dtype, wide) = (pred.value().dtype(), target.value().dtype());
        let mut losses = Tensor::empty(self.device(), wide, &[group_rows.len()])?;
        let mut gradient = Tensor::empty(self.device(), dtype, &[rows, width])?;
        match self.device() {
            Device::Cpu => with_real!(OP, dtype, T => {
                reference::<T>(
                    losses.host_mut()?, gradient.host_mut()?, pred.value().host()?,
                    target.value().host()?, group_rows, norm_pix,
                );
                Ok(())
            })?,
            _ if wide != DType::F32 => return Err(Error::shape(OP, "f32 targets", wide.name())),
            _ => {
                let (pred, target) = (pred.value(), target.value());
                run_kernels(&mut losses, &mut gradient, pred, target, group_rows, norm_pix)?;
            }
        }
        Ok(self.record(OP, losses, needs_grad(&[pred], &[]), || MaskedMseBwd {
            pred: pred.clone(),
            gradient,
            group_rows: group_rows.to_vec(),
        }))
    }
}

struct MaskedMseBwd {
    pred: Var,
    /// Gradient of each row's own group loss.
    gradient: Tensor,
    group_rows: Vec<usize>,
}

impl Backward for MaskedMseBwd {
    fn run(mut self: Box<Self>, dy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let (_, width) = self.gradient.matrix(OP)?;
        if *dy.device() != Device::Cpu {
            let (device, dtype) = (dy.device(), self.gradient.dtype());
            let mut first = 0;
            for (g, &rows) in self.group_rows.iter().enumerate() {
                let n = rows * width;
                if n > 0 {
                    KernelCall::typed(device, "masked_mse_bwd", dtype)
                        .output_mut(&mut TensorMut::new(&mut self.gradient, first, &[n])?)?
                        .input(&dy.view(g, &[1])?)?
                        .value(n as i64)
                        .launch(flat_launch(n, dtype))?;
                }
                first += n;
            }
            return grads.add(&self.pred, self.gradient);
        }
        with_real!(OP, dy.dtype(), T => {
            let mut rest = self.gradient.host_mut::<T>()?;
            for (&rows, &d) in self.group_rows.iter().zip(dy.host::<T>()?) {
                let (group, tail) = rest.split_at_mut(rows * width);
                group.iter_mut().for_each(|g| *g *= d);
                rest = tail;
            }
            Ok(())
        })?;
        grads.add(&self.pred, self.gradient)
    }
}

/// Group by group (there are two at most in a step): one block per row, then the mean of the rows.
fn run_kernels(
    losses: &mut Tensor,
    gradient: &mut Tensor,
    pred: &Tensor,
    target: &Tensor,
    group_rows: &[usize],
    norm_pix: bool,
) -> Result<()> {
    let (rows, width) = pred.matrix(OP)?;
    let device = pred.device();
    let mut row_loss = Tensor::empty(device, DType::F32, &[rows])?;
    let mut first = 0;
    for (g, &count) in group_rows.iter().enumerate() {
        let (at, shape) = (first * width, [count, width]);
        KernelCall::typed(device, "masked_mse_fwd", pred.dtype())
            .output_mut(&mut TensorMut::new(gradient, at, &shape)?)?
            .output_mut(&mut TensorMut::new(&mut row_loss, first, &[count])?)?
            .input(&pred.view(at, &shape)?)?
            .input(&target.view(at, &shape)?)?
            .value(width as i32)
            .value((2.0 / (width as f64 * count as f64)) as f32)
            .value(i32::from(norm_pix))
            .launch(LaunchConfig::linear(count as u32, 256))?;
        KernelCall::new(device, "masked_mse_fwd_f32_mean")
            .output_mut(&mut TensorMut::new(losses, g, &[1])?)?
            .input(&row_loss.view(first, &[count])?)?
            .value(count as i64)
            .launch(LaunchConfig::linear(1, 256))?;
        first += count;
    }
    Ok(())
}

fn reference<T: Real>(
    losses: &mut [T],
    gradient: &mut [T],
    pred: &[T],
    target: &[T],
    group_rows: &[usize],
    norm_pix: bool,
) {
    let rows: usize = group_rows.iter().sum();
    let width = pred.len() / rows.max(1);
    let mut errors = vec![T::default(); rows];
    let mut first = 0;
    for (loss, &count) in losses.iter_mut().zip(group_rows) {
        let scale = T::of(2.0 / (width as f64 * count as f64));
        let range = first * width..(first + count) * width;
        gradient[range.clone()]
            .par_chunks_exact_mut(width)
            .zip(pred[range.clone()].par_chunks_exact(width))
            .zip(target[range].par_chunks_exact(width))
            .zip(&mut errors[first..first + count])
            .for_each(|(((g, p), t), error)| *error = row(g, p, t, scale, norm_pix));
        let sum: T = errors[first..first + count].iter().copied().sum();
        *loss = sum / T::of(count as f64);
        first += count;
    }
}

/// Mean square error of one row; its gradient, times `scale / 2`, into `g`.
fn row<T: Real>(g: &mut [T], p: &[T], t: &[T], scale: T, norm_pix: bool) -> T {
    let (mut mean, mut rest, mut rstd) = (T::default(), T::default(), T::of(1.0));
    if norm_pix {
        (mean, rstd) = patch_statistics(t);
        rest = remainder(t, mean);
    }
    let mut error = T::default();
    for ((g, &p), &t) in g.iter_mut().zip(p).zip(t) {
        let difference = p - (t - mean - rest) * rstd;
        error += difference * difference;
        *g = difference * scale;
    }
    error / T::of(p.len() as f64)
}

/// Mean and `1 / sqrt(unbiased variance + 1e-6)` of a patch. A patch of one voxel has no unbiased
/// variance; it counts as 0, which leaves the centred value 0.
pub fn patch_statistics<T: Real>(patch: &[T]) -> (T, T) {
    let n = patch.len() as f64;
    let mean = patch.iter().copied().sum::<T>() / T::of(n);
    let rest = remainder(patch, mean);
    let squares = patch.iter().map(|&x| (x - mean - rest) * (x - mean - rest)).sum::<T>();
    let var = squares / T::of((n - 1.0).max(1.0));
    (mean, T::of(1.0) / (var + T::of(1e-6)).sqrt())
}

/// What the rounded mean of a patch left over (see `layer_norm`).
fn remainder<T: Real>(patch: &[T], mean: T) -> T {
    patch.iter().map(|&x| x - mean).sum::<T>() / T::of(patch.len() as f64)
}

/// The op in the registry. Dims of a case: width, rows of group 0, of group 1, norm_pix.
pub struct Spec;

impl OpSpec for Spec {
    fn name(&self) -> &'static str {
        OP
    }

    fn summary(&self) -> &'static str {
        "mean square error of masked patches, raw or per-patch normalised"
    }

    fn cases(&self) -> Vec<Case> {
        let case = |d: [usize; 4]| Case::new(&["width", "rows0", "rows1", "norm_pix"], &d);
        vec![
            // Many rows of size 1: half an ulp of bf16 is 2^-8, so the error of a few values is at the
            // mercy of their roundings (two here: the gradient is saved, then scaled).
            case([1, 61, 40, 0]),
            case([13, 3, 5, 0]),
            case([27, 7, 2, 1]),
            case([50, 4, 6, 1]),
            case([512, 5, 3, 1]),
            // More than one unit per thread in registers, the last one ragged; rows too long for them.
            case([2056, 2, 1, 1]),
            case([4104, 1, 2, 1]),
            case([64, 3, 4, 1]).with_offset(1000.0),
            // Far enough for the rounding of the mean alone (2e-4) to break the bound.
            case([96, 2, 3, 1]).with_offset(8000.0),
        ]
    }

    fn bench_case(&self) -> Case {
        Case::new(&["width", "rows0", "rows1", "norm_pix"], &[512, 1500, 648, 1])
    }

    fn inputs(&self, case: &Case) -> Vec<Input> {
        let [width, rows] = [case.dims[0], case.dims[1] + case.dims[2]];
        let shape = [rows, width];
        let pred = case.normal(0, rows * width, 0.0, 1.0);
        let target = case.normal(1, rows * width, case.offset, 1.0);
        vec![
            Input::new("pred", InputKind::Activation, &shape, pred),
            Input::new("target", InputKind::Constant, &shape, target).wide(),
        ]
    }

    fn run(&self, tape: &mut Tape<'_>, case: &Case, args: &Args) -> Result<Vec<Var>> {
        let norm_pix = case.dims[3] == 1;
        Ok(vec![tape.masked_mse(args.var(0)?, args.var(1)?, &case.dims[1..3], norm_pix)?])
    }

    fn tolerance(&self, _: &Case) -> Tolerance {
        Tolerance::Reduction
    }

    fn has_kernels(&self) -> bool {
        true
    }

    fn bytes(&self, case: &Case, size: usize) -> u64 {
        (3 * case.dims[0] * (case.dims[1] + case.dims[2]) * size) as u64
    }

    fn flops(&self, case: &Case) -> u64 {
        8 * (case.dims[0] * (case.dims[1] + case.dims[2])) as u64
    }
}
