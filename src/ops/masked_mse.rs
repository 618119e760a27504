//! The pixel head and its masked mean square error: how well the masked patches are reconstructed.
//!
//! `loss_g = mean over the rows r of group g of mean_j (pred[r, j] - t[r, j])^2` with `pred = x W^T + b`,
//! where `t` is the target patch itself or, with `norm_pix`, `(t - mean(t)) / sqrt(var(t) + 1e-6)` with the
//! unbiased variance of the patch. Only masked rows are ever predicted, so there is no mask to multiply.
//!
//! On a GPU the comparison is the epilogue of the product: the prediction, the largest matrix of the
//! decoder, is written only for pictures and comparisons.

mod launch;
#[cfg(test)]
mod tests;

use rayon::prelude::*;

pub(super) use self::launch::Comparing;
use super::linear::{Activation, Layer};
use super::{Input, InputKind, OpArgs, OpCase, OpSpec, Tolerance, needs_grad};
use crate::device::launch::LaunchConfig;
use crate::device::{Device, KernelCall, Real, Tensor, TensorMut, with_real};
use crate::tape::{Backward, Grads, Tape, Var};
use crate::{Error, Result};

const OP: &str = "masked_mse";

/// What the predictions are compared with, and how.
#[derive(Clone, Copy, Debug)]
pub struct Comparison<'t> {
    /// `[rows, p^3 C]`, in the dtype of the activations.
    pub target: &'t Tensor,
    /// Sizes of the groups of consecutive rows that have a loss each: one or two (masked patches of
    /// global views, of local views).
    pub group_rows: &'t [usize],
    /// Compare with patches normalised to mean 0 and deviation 1.
    pub norm_pix: bool,
    /// Also return the predictions: for pictures.
    pub wants_prediction: bool,
}

impl<'a> Tape<'a> {
    /// The losses `[groups]` of the predictions that `head` makes of `x`, and the predictions where
    /// they are wanted. No gradient flows through the latter.
    ///
    /// Shapes: `x` `[rows, in]`, `head` to `p^3 C` outputs; see [`Comparison`].
    /// Numerics: patch statistics in two passes; value and gradient in one pass, from predictions in
    /// the arithmetic of the product (f32 when `x` is bf16). The losses are f32 then.
    /// Errors: `Shape`; an empty group has no mean and is refused, as are more than two.
    /// Source: docs/method.md, 4.2; He et al., arXiv 2111.06377 (`norm_pix_loss`).
    ///
    /// ```
    /// use glmae::device::{Device, Tensor};
    /// use glmae::ops::linear::Layer;
    /// use glmae::ops::masked_mse::Comparison;
    /// use glmae::tape::{Param, Tape, Var};
    /// let cpu = Device::Cpu;
    /// let x = Var::constant(Tensor::from_slice(&cpu, &[1.0, 2.0], &[1, 2])?);
    /// let weight = Param::constant(Tensor::from_slice(&cpu, &[1.0, 0.0, 0.0, 1.0], &[2, 2])?);
    /// let head = Layer { weight, bias: None };
    /// let target = Tensor::from_slice(&cpu, &[1.0, 4.0], &[1, 2])?;
    /// let with =
    ///     Comparison { target: &target, group_rows: &[1], norm_pix: false, wants_prediction: false };
    /// let (loss, _) = Tape::new(&cpu).masked_mse(&x, &head, &with)?;
    /// // The head predicts x itself: (0^2 + 2^2) / 2.
    /// assert_eq!(loss.value().to_f64_vec()?, [2.0]);
    /// # Ok::<(), glmae::Error>(())
    /// ```
    pub fn masked_mse(
        &mut self,
        x: &Var,
        head: &Layer,
        with: &Comparison<'_>,
    ) -> Result<(Var, Option<Tensor>)> {
        let (rows, fan_in) = x.value().matrix(OP)?;
        let width = head.out(OP, fan_in)?;
        with.target.expect_shape(OP, &[rows, width])?;
        let groups = with.group_rows;
        if groups.iter().sum::<usize>() != rows
            || groups.contains(&0)
            || !(1..=2).contains(&groups.len())
        {
            let expected = format!("one or two non-empty groups of {rows} rows");
            return Err(Error::shape(OP, expected, format!("{groups:?}")));
        }
        let dtype = x.value().dtype();
        if with.target.dtype() != dtype {
            return Err(Error::shape(OP, format!("{dtype} targets"), with.target.dtype().name()));
        }
        let keeps = self.records() && needs_grad(&[x], &head.params());
        let mut losses = Tensor::empty(self.device(), dtype.master(), &[groups.len()])?;
        let mut gradient = Tensor::empty(self.device(), dtype, &[rows, width])?;
        let pred = match self.device() {
            Device::Cpu => {
                let (pred, _) = head.apply(x.value(), Activation::None, None)?;
                with_real!(OP, dtype, T => {
                    reference::<T>(
                        losses.host_mut()?, gradient.host_mut()?, pred.host()?,
                        with.target.host()?, groups, with.norm_pix,
                    );
                    Ok(())
                })?;
                Some(pred).filter(|_| with.wants_prediction)
            }
            device => {
                let mut pred = match with.wants_prediction {
                    true => Some(Tensor::empty(device, dtype, &[rows, width])?),
                    false => None,
                };
                Comparing { choice: None, x: x.value(), head }.run(
                    &mut losses,
                    &mut gradient,
                    pred.as_mut(),
                    with,
                )?;
                pred
            }
        };
        let losses = self.record(OP, losses, keeps, || MaskedMseBwd {
            x: x.clone(),
            head: head.clone(),
            gradient,
            group_rows: groups.to_vec(),
        });
        Ok((losses, pred))
    }
}

struct MaskedMseBwd {
    x: Var,
    head: Layer,
    /// Of the predictions: the gradient of each row's own group loss.
    gradient: Tensor,
    group_rows: Vec<usize>,
}

impl Backward for MaskedMseBwd {
    fn run(self: Box<Self>, dy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let Self { x, head, mut gradient, group_rows } = *self;
        let (_, width) = gradient.matrix(OP)?;
        if *dy.device() == Device::Cpu {
            with_real!(OP, dy.dtype(), T => {
                let mut rest = gradient.host_mut::<T>()?;
                for (&rows, &d) in group_rows.iter().zip(dy.host::<T>()?) {
                    let (group, tail) = rest.split_at_mut(rows * width);
                    group.iter_mut().for_each(|g| *g *= d);
                    rest = tail;
                }
                Ok(())
            })?;
        } else {
            let (device, dtype) = (dy.device(), gradient.dtype());
            let mut first = 0;
            for (g, &rows) in group_rows.iter().enumerate() {
                let n = rows * width;
                KernelCall::typed(device, "masked_mse_bwd", dtype)
                    .output_mut(&mut TensorMut::new(&mut gradient, first, &[n])?)?
                    .input(&dy.view(g, &[1])?)?
                    .value(n as i64)
                    .launch(LaunchConfig::flat(n, dtype))?;
                first += n;
            }
        }
        if let Some((mut dx, mode)) = grads.slot(&x)? {
            head.input_gradient(&mut dx, &gradient, mode)?;
        }
        head.param_gradients(&gradient, x.value(), grads)
    }
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

/// The op in the registry. Dims of a case: width, in, rows of group 0, of group 1 (0: one group),
/// norm_pix, whether the head has a bias, whether the predictions are wanted.
pub struct Spec;

const NAMES: [&str; 7] = ["width", "in", "rows0", "rows1", "norm_pix", "bias", "pred"];

impl OpSpec for Spec {
    fn name(&self) -> &'static str {
        OP
    }

    fn summary(&self) -> &'static str {
        "pixel head and mean square error of masked patches, raw or per-patch normalised"
    }

    fn cases(&self) -> Vec<OpCase> {
        let case = |d: [usize; 7]| OpCase::new(&NAMES, &d);
        vec![
            // Many rows of size 1: half an ulp of bf16 is 2^-8, so the error of a few values is at the
            // mercy of their roundings (two here: the gradient is saved, then scaled).
            case([1, 2, 61, 40, 0, 1, 1]),
            case([13, 7, 3, 5, 0, 0, 0]),
            case([27, 10, 7, 2, 1, 1, 1]),
            case([50, 9, 4, 6, 1, 1, 0]),
            // 16-byte loads; several blocks of a tile, groups that meet within one.
            case([512, 24, 5, 3, 1, 1, 1]),
            case([136, 40, 41, 40, 0, 1, 0]),
            case([72, 16, 70, 0, 0, 0, 1]),
            // More than one unit per thread in registers, the last one ragged; rows too long for them.
            case([2056, 8, 2, 1, 1, 1, 0]),
            case([4104, 3, 1, 2, 1, 0, 0]),
            case([64, 12, 3, 4, 1, 1, 0]).with_offset(1000.0),
            // Far enough for the rounding of the mean alone (2e-4) to break the bound.
            case([96, 5, 2, 3, 1, 1, 0]).with_offset(8000.0),
        ]
    }

    fn bench_case(&self) -> OpCase {
        OpCase::new(&NAMES, &[512, 128, 1500, 648, 1, 1, 0])
    }

    fn inputs(&self, case: &OpCase) -> Vec<Input> {
        let [width, fan_in] = [case.dims[0], case.dims[1]];
        let rows = case.dims[2] + case.dims[3];
        let x = case.normal(0, rows * fan_in, 0.0, 1.0);
        let weight = case.normal(2, width * fan_in, 0.0, 1.0 / (fan_in as f64).sqrt());
        let target = case.normal(1, rows * width, case.offset, 1.0);
        vec![
            Input::new("x", InputKind::Activation, &[rows, fan_in], x),
            Input::new("weight", InputKind::Param, &[width, fan_in], weight),
            Input::new("bias", InputKind::Param, &[width], case.normal(3, width, 0.0, 0.5)).wide(),
            Input::new("target", InputKind::Constant, &[rows, width], target),
        ]
    }

    fn run(&self, tape: &mut Tape<'_>, case: &OpCase, args: &OpArgs) -> Result<Vec<Var>> {
        let bias = (case.dims[5] == 1).then(|| args.param(2).cloned()).transpose()?;
        let head = Layer { weight: args.param(1)?.clone(), bias };
        let group_rows: Vec<usize> = case.dims[2..4].iter().copied().filter(|&n| n > 0).collect();
        let with = Comparison {
            target: args.var(3)?.value(),
            group_rows: &group_rows,
            norm_pix: case.dims[4] == 1,
            wants_prediction: case.dims[6] == 1,
        };
        let (losses, pred) = tape.masked_mse(args.var(0)?, &head, &with)?;
        Ok(std::iter::once(losses).chain(pred.map(Var::constant)).collect())
    }

    fn tolerance(&self, case: &OpCase) -> Tolerance {
        Tolerance::Products { k: case.dims[0].max(case.dims[1]).max(case.dims[2]) }
    }

    fn detached(&self, case: &OpCase) -> usize {
        case.dims[6]
    }

    fn has_kernels(&self) -> bool {
        true
    }

    fn bytes(&self, case: &OpCase, size: usize) -> u64 {
        let [width, fan_in] = [case.dims[0], case.dims[1]];
        let rows = case.dims[2] + case.dims[3];
        // Target and gradient; the target once more for its statistics; the prediction where wanted.
        let matrices = 2 + case.dims[4] + case.dims[6];
        ((rows * fan_in + width * fan_in + matrices * rows * width) * size) as u64
    }

    fn flops(&self, case: &OpCase) -> u64 {
        2 * (case.dims[0] * case.dims[1] * (case.dims[2] + case.dims[3])) as u64
    }
}
