//! Layer norm over the last axis: `y = (x - mean) / sqrt(var + eps) * weight + bias`.
//!
//! The statistics take two passes over a row (mean, then centred squares): `E[x^2] - m^2` in f32
//! is off by 18 % at mean 1000 and standard deviation 1, and HU statistics live there. The mean
//! itself, rounded to f32, is off by 3e-5 at 1000, so every pass centres a second time: it takes
//! the mean of `x - mean` off as well.

use super::linear::sum_rows;
use super::{Input, InputKind, OpArgs, OpCase, OpSpec, Tolerance, needs_grad};
use crate::Result;
use crate::device::launch::LaunchConfig;
use crate::device::{Device, KernelCall, Real, Tensor, with_real};
use crate::tape::{Backward, GradMode, Grads, Param, Tape, Var};

pub mod fast;

const OP: &str = "layer_norm";

impl<'a> Tape<'a> {
    /// Layer norm of every row.
    ///
    /// Shapes: `x` and result `[rows, c]`, `weight` and `bias` `[c]`.
    /// Numerics: two-pass statistics in the arithmetic of the tensors; biased variance; `eps` is
    /// added to the variance (1e-6 throughout GL-MAE).
    /// Errors: `Shape`.
    /// Source: Ba et al., arXiv 1607.06450; timm 0.3.2 `Block` for eps.
    ///
    /// ```
    /// use glmae::device::{Device, Tensor};
    /// use glmae::tape::{Param, Tape, Var};
    /// let cpu = Device::Cpu;
    /// let x = Var::constant(Tensor::from_slice(&cpu, &[1.0, 3.0], &[1, 2])?);
    /// let weight = Param::constant(Tensor::from_slice(&cpu, &[2.0, 2.0], &[2])?);
    /// let bias = Param::constant(Tensor::from_slice(&cpu, &[10.0, 10.0], &[2])?);
    /// let y = Tape::new(&cpu).layer_norm(&x, &weight, &bias, 0.0)?;
    /// // Mean 2, variance 1: -1 * 2 + 10 and 1 * 2 + 10.
    /// assert_eq!(y.value().to_f64_vec()?, [8.0, 12.0]);
    /// # Ok::<(), glmae::Error>(())
    /// ```
    pub fn layer_norm(&mut self, x: &Var, weight: &Param, bias: &Param, eps: f64) -> Result<Var> {
        let (rows, c) = x.value().matrix(OP)?;
        weight.value.expect_shape(OP, &[c])?;
        bias.value.expect_shape(OP, &[c])?;
        let dtype = x.value().dtype();
        let mut y = Tensor::empty(self.device(), dtype, &[rows, c])?;
        let mut mean = Tensor::empty(self.device(), weight.value.dtype(), &[rows])?;
        let mut rstd = Tensor::empty(self.device(), weight.value.dtype(), &[rows])?;
        match self.device() {
            Device::Cpu => with_real!(OP, dtype, T => {
                forward::<T>(
                    y.host_mut()?, mean.host_mut()?, rstd.host_mut()?,
                    x.value().host()?, weight.value.host()?, bias.value.host()?, eps,
                );
                Ok(())
            })?,
            device => KernelCall::typed(device, "layer_norm_fwd", dtype)
                .output(&mut y)?
                .output(&mut mean)?
                .output(&mut rstd)?
                .input(x.value())?
                .input(&weight.value)?
                .input(&bias.value)?
                .value(rows as i64)
                .value(c as i32)
                .value(eps as f32)
                .launch(fwd_launch(rows, c))?,
        }
        let keeps = needs_grad(&[x], &[weight, bias]);
        Ok(self.record(OP, y, keeps, || LayerNormBwd {
            x: x.clone(),
            weight: weight.clone(),
            bias: bias.clone(),
            mean,
            rstd,
        }))
    }
}

struct LayerNormBwd {
    x: Var,
    weight: Param,
    bias: Param,
    mean: Tensor,
    rstd: Tensor,
}

impl Backward for LayerNormBwd {
    fn run(self: Box<Self>, dy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        if *dy.device() != Device::Cpu {
            return self.run_kernels(&dy, grads);
        }
        with_real!(OP, dy.dtype(), T => {
            let (d, x) = (dy.host::<T>()?, self.x.value().host::<T>()?);
            let (mean, rstd) = (self.mean.host::<T>()?, self.rstd.host::<T>()?);
            let weight = self.weight.value.host::<T>()?;
            let mut dx = Tensor::empty(dy.device(), dy.dtype(), dy.shape())?;
            let (mut dw, mut db) = (self.weight.value.duplicate()?, self.bias.value.duplicate()?);
            backward::<T>(
                dx.host_mut()?,
                dw.host_mut()?,
                db.host_mut()?,
                d,
                x,
                mean,
                rstd,
                weight,
            );
            for (param, gradient) in [(&self.weight, dw), (&self.bias, db)] {
                if let Some((mut slot, mode)) = grads.param(param)? {
                    for (s, &g) in slot.host_mut::<T>()?.iter_mut().zip(gradient.host::<T>()?) {
                        *s = if mode.accumulates() { *s + g } else { g };
                    }
                }
            }
            grads.add(&self.x, dx)
        })
    }
}

impl LayerNormBwd {
    /// dx and per-block partial sums of dgamma and dbeta in one pass, then their sum in order.
    fn run_kernels(&self, dy: &Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let (rows, c) = dy.matrix(OP)?;
        let (device, dtype) = (dy.device().clone(), dy.dtype());
        let launch = bwd_launch(rows, c);
        let parts = launch.grid[0] as usize;
        let stat = self.weight.value.dtype();
        let mut partial = Tensor::empty(&device, stat, &[parts, 2, c])?;
        // The kernel always writes dx, so it gets memory even when that gradient is not needed.
        let mut spare;
        let (mut dx, mode) = match grads.slot(&self.x)? {
            Some(slot) => slot,
            None => {
                spare = Tensor::empty(&device, dtype, &[rows, c])?;
                (spare.as_mut(), GradMode::Overwrite)
            }
        };
        KernelCall::typed(&device, "layer_norm_bwd", dtype)
            .output_mut(&mut dx)?
            .output(&mut partial)?
            .input(&self.mean)?
            .input(&self.rstd)?
            .input(dy)?
            .input(self.x.value())?
            .input(&self.weight.value)?
            .value(rows as i64)
            .value(c as i32)
            .value(mode.as_arg())
            .launch(launch)?;
        drop(dx);
        for (param, first) in [(&self.weight, 0), (&self.bias, c)] {
            if let Some((mut gradient, mode)) = grads.param(param)? {
                KernelCall::new(&device, "layer_norm_bwd_params_f32")
                    .output_mut(&mut gradient)?
                    .input(&partial)?
                    .value(parts as i32)
                    .value(c as i32)
                    .value(first as i32)
                    .value(mode.as_arg())
                    .launch(LaunchConfig {
                        grid: [c.div_ceil(32) as u32, 1, 1],
                        block: [32, 8, 1],
                        shared_bytes: 0,
                    })?;
            }
        }
        Ok(())
    }
}

/// Four warps, each with two rows: at once where they are short, else one after the other.
fn fwd_launch(rows: usize, c: usize) -> LaunchConfig {
    // The weight and the bias, columns rounded up to 256; longer rows read them from the cache.
    let bytes = if c <= 1536 { 8 * c.next_multiple_of(256) } else { 0 };
    LaunchConfig::linear(rows.div_ceil(8).max(1) as u32, 128).shared(bytes as u32)
}

/// The backward's grid depends on the sizes alone: it fixes the order of the partial sums.
fn bwd_launch(rows: usize, c: usize) -> LaunchConfig {
    // Shared memory of a warp: two sums per column, columns rounded up to 256.
    let bytes = 8 * c.next_multiple_of(256);
    let warps = (48 * 1024 / bytes).clamp(1, 8);
    let blocks = rows.div_ceil(4 * warps).clamp(1, 264);
    LaunchConfig::linear(blocks as u32, 32 * warps as u32).shared((warps * bytes) as u32)
}

/// See [`Tape::layer_norm`]: the fast path in f32, the plain loops, which are the oracle, in f64.
fn forward<T: Real>(
    y: &mut [T],
    mean: &mut [T],
    rstd: &mut [T],
    x: &[T],
    weight: &[T],
    bias: &[T],
    eps: f64,
) {
    let Some(f) = T::same_as_f32() else {
        return reference(y, mean, rstd, x, weight, bias, T::of(eps));
    };
    let (y, mean, rstd) = (f.of_mut(y), f.of_mut(mean), f.of_mut(rstd));
    fast::forward(y, mean, rstd, f.of(x), f.of(weight), f.of(bias), eps as f32);
}

/// Gradients of the input, the weight and the bias; all three are overwritten.
#[allow(clippy::too_many_arguments)] // three outputs and what the formula needs
fn backward<T: Real>(
    dx: &mut [T],
    dweight: &mut [T],
    dbias: &mut [T],
    dy: &[T],
    x: &[T],
    mean: &[T],
    rstd: &[T],
    weight: &[T],
) {
    let Some(f) = T::same_as_f32() else {
        reference_dx(dx, dy, x, mean, rstd, weight);
        reference_dweight(dweight, dy, x, mean, rstd);
        return sum_rows(dbias, dy, false);
    };
    let (dx, dweight, dbias) = (f.of_mut(dx), f.of_mut(dweight), f.of_mut(dbias));
    let (dy, x, mean, rstd) = (f.of(dy), f.of(x), f.of(mean), f.of(rstd));
    fast::backward(dx, dweight, dbias, dy, x, mean, rstd, f.of(weight), false);
}

fn reference<T: Real>(
    y: &mut [T],
    mean: &mut [T],
    rstd: &mut [T],
    x: &[T],
    weight: &[T],
    bias: &[T],
    eps: T,
) {
    let c = weight.len();
    let n = T::of(c as f64);
    for (r, row) in x.chunks_exact(c).enumerate() {
        let m = row.iter().copied().sum::<T>() / n;
        let rest = remainder(row, m);
        let var = row.iter().map(|&x| (x - m - rest) * (x - m - rest)).sum::<T>() / n;
        let rs = T::of(1.0) / (var + eps).sqrt();
        (mean[r], rstd[r]) = (m, rs);
        for (j, &x) in row.iter().enumerate() {
            y[r * c + j] = (x - m - rest) * rs * weight[j] + bias[j];
        }
    }
}

/// What the rounded mean of a row left over.
fn remainder<T: Real>(row: &[T], mean: T) -> T {
    row.iter().map(|&x| x - mean).sum::<T>() / T::of(row.len() as f64)
}

/// `dweight[j] = sum_r dy[r, j] (x[r, j] - mean[r]) rstd[r]`, rows in order.
fn reference_dweight<T: Real>(dweight: &mut [T], dy: &[T], x: &[T], mean: &[T], rstd: &[T]) {
    let c = dweight.len();
    dweight.fill(T::default());
    for (r, (dy, x)) in dy.chunks_exact(c).zip(x.chunks_exact(c)).enumerate() {
        let rest = remainder(x, mean[r]);
        for j in 0..c {
            dweight[j] += dy[j] * (x[j] - mean[r] - rest) * rstd[r];
        }
    }
}

/// `dx = rstd (g - mean(g) - xhat mean(g xhat))` with `g = dy weight`.
fn reference_dx<T: Real>(dx: &mut [T], dy: &[T], x: &[T], mean: &[T], rstd: &[T], weight: &[T]) {
    let c = weight.len();
    let n = T::of(c as f64);
    for (r, dst) in dx.chunks_exact_mut(c).enumerate() {
        let (dy, x) = (&dy[r * c..][..c], &x[r * c..][..c]);
        let rest = remainder(x, mean[r]);
        let (mut sum_g, mut sum_gx) = (T::default(), T::default());
        for j in 0..c {
            let g = dy[j] * weight[j];
            sum_g += g;
            sum_gx += g * (x[j] - mean[r] - rest) * rstd[r];
        }
        for j in 0..c {
            let xhat = (x[j] - mean[r] - rest) * rstd[r];
            dst[j] = rstd[r] * (dy[j] * weight[j] - sum_g / n - xhat * sum_gx / n);
        }
    }
}

/// The op in the registry. Dims of a case: rows, c, and whether the rows are quiet.
pub struct Spec;

impl OpSpec for Spec {
    fn name(&self) -> &'static str {
        OP
    }

    fn summary(&self) -> &'static str {
        "layer norm over the last axis, two-pass statistics"
    }

    fn cases(&self) -> Vec<OpCase> {
        let case = |rows, c| OpCase::new(&["rows", "c"], &[rows, c]);
        let quiet = |rows, c| OpCase::new(&["rows", "c", "quiet"], &[rows, c, 1]);
        vec![
            case(1, 1),
            case(1, 7),
            case(13, 31),
            case(30, 50),
            case(55, 192),
            // Vectors, but a row shorter than one pass of a warp.
            case(17, 40),
            case(9, 768),
            // Longer than what stays in registers in the backward, and in the forward.
            case(5, 1000),
            case(3, 2056),
            quiet(6, 64),
            // More blocks than the sum over blocks takes in one round, in rounds that do not come out.
            case(333, 9),
            case(21, 45).with_offset(1000.0),
            case(21, 48).with_offset(1000.0),
        ]
    }

    fn bench_case(&self) -> OpCase {
        OpCase::new(&["rows", "c"], &[2002, 192])
    }

    fn inputs(&self, case: &OpCase) -> Vec<Input> {
        let [rows, c] = [case.dims[0], case.dims[1]];
        // A quiet case has so little variance that eps counts.
        let std = if case.dims.len() > 2 { 0.01 } else { 1.0 };
        vec![
            Input::new(
                "x",
                InputKind::Activation,
                &[rows, c],
                case.normal(0, rows * c, case.offset, std),
            ),
            Input::new("weight", InputKind::Param, &[c], case.normal(1, c, 1.0, 0.3)),
            Input::new("bias", InputKind::Param, &[c], case.normal(2, c, 0.0, 0.3)),
        ]
    }

    fn run(&self, tape: &mut Tape<'_>, _: &OpCase, args: &OpArgs) -> Result<Vec<Var>> {
        Ok(vec![tape.layer_norm(args.var(0)?, args.param(1)?, args.param(2)?, 1e-6)?])
    }

    fn tolerance(&self, _: &OpCase) -> Tolerance {
        Tolerance::Reduction
    }

    fn has_kernels(&self) -> bool {
        true
    }

    fn bytes(&self, case: &OpCase, size: usize) -> u64 {
        (2 * case.dims[0] * case.dims[1] * size) as u64
    }

    fn flops(&self, case: &OpCase) -> u64 {
        8 * (case.dims[0] * case.dims[1]) as u64
    }
}
