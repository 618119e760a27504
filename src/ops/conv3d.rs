//! 3D convolution of channels-last volumes, `3 x 3 x 3` with zero padding 1 or `1 x 1 x 1`, stride 1:
//!
//! ```text
//! y[v, o] = bias[o] + sum over taps t and channels c of x[v + t, c] weight[o, c, t]
//! ```
//!
//! a cross-correlation, as in PyTorch. Two inputs stand for their concatenation along the channels,
//! which is not made in memory. A `1 x 1 x 1` convolution is a product of matrices, that of the op
//! `linear`.

pub mod fast;
mod hopper;
#[cfg(all(test, feature = "cuda"))]
mod hopper_fault_tests;
#[cfg(all(test, feature = "cuda"))]
mod hopper_tests;
mod launch;
mod reference;
#[cfg(test)]
mod tests;

use std::ops::Range;

use reference::{reference, reference_dw, reference_dx};

use super::cpu::gemm::{Epilogue, MatRef};
use super::grid::VoxelGrid;
use super::linear::{product, sum_rows};
use super::{Input, InputKind, OpArgs, OpCase, OpSpec, Tolerance, needs_grad};
use crate::device::{DType, Device, Real, Tensor, with_real};
use crate::tape::{Backward, Grads, Param, Tape, Var};
use crate::{Error, Result};

const OP: &str = "conv3d";

impl<'a> Tape<'a> {
    /// `y = conv([inputs]) + bias`.
    ///
    /// Shapes: one or two inputs `[grid.rows(), c_i]`, `weight` `[out, sum of c_i, k, k, k]` (axes d,
    /// h, w) with k = 3 or 1, `bias` `[out]`, result `[grid.rows(), out]`.
    /// Numerics: products are summed in the arithmetic of the tensors, those of bf16 in f32.
    /// Errors: `Shape` when sizes do not match.
    /// Source: `torch.nn.functional.conv3d` with padding k / 2.
    ///
    /// ```
    /// use glmae::device::{Device, Tensor};
    /// use glmae::ops::VoxelGrid;
    /// use glmae::tape::{Param, Tape, Var};
    /// let cpu = Device::Cpu;
    /// let grid = VoxelGrid { batch: 1, dims: [1, 1, 3] };
    /// let x = Var::constant(Tensor::from_slice(&cpu, &[1.0, 2.0, 3.0], &[3, 1])?);
    /// let weight = Param::constant(Tensor::from_slice(&cpu, &[1.0; 27], &[1, 1, 3, 3, 3])?);
    /// let y = Tape::new(&cpu).conv3d(&[&x], grid, &weight, None)?;
    /// // A kernel of ones sums the neighbours: 1 + 2, 1 + 2 + 3, 2 + 3.
    /// assert_eq!(y.value().to_f64_vec()?, [3.0, 6.0, 5.0]);
    /// # Ok::<(), glmae::Error>(())
    /// ```
    pub fn conv3d(
        &mut self,
        inputs: &[&Var],
        grid: VoxelGrid,
        weight: &Param,
        bias: Option<&Param>,
    ) -> Result<Var> {
        let conv = Conv::new(inputs, grid, weight)?;
        let dtype = inputs[0].value().dtype();
        self.convolve(conv, inputs, weight, bias, dtype)
    }

    /// As [`Tape::conv3d`] of one input with a 1 x 1 x 1 kernel, with the result in the dtype of the
    /// weight: the scores that a loss reads are f32 where activations are bf16.
    ///
    /// Shapes: `x` `[grid.rows(), c]`, `weight` `[out, c, 1, 1, 1]`, `bias` `[out]`, result
    /// `[grid.rows(), out]`.
    /// Numerics: products of bf16, sums and result f32. The backward rounds the gradient of the result
    /// to bf16, as an operand of its products.
    /// Errors: `Shape` when sizes do not match.
    pub fn conv3d_scores(
        &mut self,
        x: &Var,
        grid: VoxelGrid,
        weight: &Param,
        bias: Option<&Param>,
    ) -> Result<Var> {
        let conv = Conv::new(&[x], grid, weight)?;
        if conv.is_wide {
            let got = format!("{:?}", weight.value.shape());
            return Err(Error::shape(OP, "a 1 x 1 x 1 kernel for scores", got));
        }
        self.convolve(conv, &[x], weight, bias, weight.value.dtype())
    }

    /// The result is of `dtype`.
    fn convolve(
        &mut self,
        conv: Conv,
        inputs: &[&Var],
        weight: &Param,
        bias: Option<&Param>,
        dtype: DType,
    ) -> Result<Var> {
        if let Some(b) = bias {
            b.value.expect_shape(OP, &[conv.out])?;
        }
        let mut params = vec![weight];
        params.extend(bias);
        let keeps = self.records() && needs_grad(inputs, &params);
        let mut y = Tensor::empty(self.device(), dtype, &[conv.grid.rows(), conv.out])?;
        let values: Vec<&Tensor> = inputs.iter().map(|x| x.value()).collect();
        match self.device() {
            Device::Cpu => with_real!(OP, dtype, T => {
                let bias = bias.map(|b| b.value.host()).transpose()?;
                conv.forward::<T>(y.host_mut()?, &values, weight.value.host()?, bias)
            })?,
            _ => launch::forward(&conv, &mut y, &values, weight, bias.map(|b| &b.value))?,
        }
        Ok(self.record(OP, y, keeps, || ConvBwd {
            conv,
            inputs: inputs.iter().map(|&x| x.clone()).collect(),
            weight: weight.clone(),
            bias: bias.cloned(),
        }))
    }
}

/// The sizes of a call.
#[derive(Clone, Debug)]
pub(super) struct Conv {
    pub grid: VoxelGrid,
    /// Of each input.
    pub channels: Vec<usize>,
    pub out: usize,
    /// Whether the kernel is 3 x 3 x 3 (else 1 x 1 x 1).
    pub is_wide: bool,
}

impl Conv {
    fn new(inputs: &[&Var], grid: VoxelGrid, weight: &Param) -> Result<Self> {
        if !matches!(inputs.len(), 1 | 2) {
            return Err(Error::shape(OP, "one or two inputs", inputs.len().to_string()));
        }
        let mut channels = Vec::new();
        for x in inputs {
            let (rows, c) = x.value().matrix(OP)?;
            if rows != grid.rows() || c == 0 || x.value().dtype() != inputs[0].value().dtype() {
                let expected = format!("inputs [{}, c] of one dtype ({grid:?})", grid.rows());
                return Err(Error::shape(OP, expected, format!("{:?}", x.value())));
            }
            channels.push(c);
        }
        let all: usize = channels.iter().sum();
        let is_wide = match weight.value.shape() {
            &[out, c, 3, 3, 3] if c == all && out > 0 => true,
            &[out, c, 1, 1, 1] if c == all && out > 0 => false,
            shape => {
                let expected = format!("a weight [out, {all}, k, k, k] with k = 3 or 1");
                return Err(Error::shape(OP, expected, format!("{shape:?}")));
            }
        };
        let out = weight.value.shape()[0];
        Ok(Self { grid, channels, out, is_wide })
    }

    /// Channels of all inputs.
    pub fn all_channels(&self) -> usize {
        self.channels.iter().sum()
    }

    /// The channels of each input among those of all.
    pub fn ranges(&self) -> impl Iterator<Item = Range<usize>> {
        self.channels.iter().scan(0, |first, &c| {
            *first += c;
            Some(*first - c..*first)
        })
    }

    fn forward<T: Real>(
        &self,
        y: &mut [T],
        inputs: &[&Tensor],
        weight: &[T],
        bias: Option<&[T]>,
    ) -> Result<()> {
        let inputs = self.host::<T>(inputs)?;
        if self.is_wide {
            forward(y, &inputs, weight, bias, self.out, self.grid);
            return Ok(());
        }
        let rows = self.grid.rows();
        for (range, (x, c)) in self.ranges().zip(&inputs) {
            let x = MatRef::new(x, rows, *c)?;
            let w = self.columns(weight, &range)?;
            let bias = bias.filter(|_| range.start == 0);
            let epilogue = Epilogue { bias, ..Epilogue::default() };
            product(x, w.t(), range.start > 0, y, epilogue)?;
        }
        Ok(())
    }

    fn host<'t, T: Real>(&self, inputs: &[&'t Tensor]) -> Result<Vec<(&'t [T], usize)>> {
        inputs.iter().zip(&self.channels).map(|(x, &c)| Ok((x.host::<T>()?, c))).collect()
    }

    /// The columns of a `[out, all channels]` weight that belong to an input.
    fn columns<'t, T: Real>(&self, weight: &'t [T], range: &Range<usize>) -> Result<MatRef<'t, T>> {
        let from = weight.get(range.start..).unwrap_or_default();
        MatRef::strided(from, self.out, range.len(), self.all_channels(), 1)
    }
}

struct ConvBwd {
    conv: Conv,
    inputs: Vec<Var>,
    weight: Param,
    bias: Option<Param>,
}

impl Backward for ConvBwd {
    fn run(self: Box<Self>, dy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        if *dy.device() != Device::Cpu {
            return self.run_kernels(dy, grads);
        }
        with_real!(OP, dy.dtype(), T => self.run_on_cpu::<T>(&dy, grads))
    }
}

impl ConvBwd {
    fn run_on_cpu<T: Real>(&self, dy: &Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let Conv { grid, out, is_wide, .. } = self.conv;
        let (rows, all) = (grid.rows(), self.conv.all_channels());
        let d = dy.host::<T>()?;
        let weight = self.weight.value.host::<T>()?;
        for (range, x) in self.conv.ranges().zip(&self.inputs) {
            let Some((mut dx, mode)) = grads.slot(x)? else { continue };
            let (dx, adds) = (dx.host_mut::<T>()?, mode.accumulates());
            if is_wide {
                backward_x(dx, adds, d, weight, range, all, grid);
            } else {
                let w = self.conv.columns(weight, &range)?;
                product(MatRef::new(d, rows, out)?, w, adds, dx, Epilogue::default())?;
            }
        }
        if let Some((mut dw, mode)) = grads.param(&self.weight)? {
            let values: Vec<&Tensor> = self.inputs.iter().map(Var::value).collect();
            let inputs = self.conv.host::<T>(&values)?;
            let (dw, adds) = (dw.host_mut::<T>()?, mode.accumulates());
            if is_wide {
                backward_weight(dw, adds, d, &inputs, out, grid);
            } else {
                product_of_columns(dw, adds, MatRef::new(d, rows, out)?.t(), &inputs)?;
            }
        }
        if let Some(bias) = &self.bias
            && let Some((mut db, mode)) = grads.param(bias)?
        {
            sum_rows(db.host_mut()?, d, mode.accumulates());
        }
        Ok(())
    }
}

/// The 3 x 3 x 3 convolution; `inputs` are matrices and their channels. As the two gradients below: the
/// fast path in f32, the plain loops, which are the oracle, in f64.
fn forward<T: Real>(
    y: &mut [T],
    inputs: &[(&[T], usize)],
    weight: &[T],
    bias: Option<&[T]>,
    out: usize,
    grid: VoxelGrid,
) {
    let Some(f) = T::same_as_f32() else {
        return reference(y, inputs, weight, bias, out, grid);
    };
    let inputs: Vec<_> = inputs.iter().map(|&(x, c)| (f.of(x), c)).collect();
    fast::forward(f.of_mut(y), &inputs, f.of(weight), bias.map(|b| f.of(b)), out, grid);
}

/// Gradient of the input that has `range` of `channels`.
fn backward_x<T: Real>(
    dx: &mut [T],
    accumulate: bool,
    dy: &[T],
    weight: &[T],
    range: Range<usize>,
    channels: usize,
    grid: VoxelGrid,
) {
    let Some(f) = T::same_as_f32() else {
        return reference_dx(dx, accumulate, dy, weight, range, channels, grid);
    };
    let (dx, dy, weight) = (f.of_mut(dx), f.of(dy), f.of(weight));
    fast::backward_x(dx, accumulate, dy, weight, range, channels, grid);
}

/// Gradient of the weight.
fn backward_weight<T: Real>(
    dw: &mut [T],
    accumulate: bool,
    dy: &[T],
    inputs: &[(&[T], usize)],
    out: usize,
    grid: VoxelGrid,
) {
    let Some(f) = T::same_as_f32() else {
        return reference_dw(dw, accumulate, dy, inputs, out, grid);
    };
    let inputs: Vec<_> = inputs.iter().map(|&(x, c)| (f.of(x), c)).collect();
    fast::backward_weight(f.of_mut(dw), accumulate, f.of(dy), &inputs, out, grid);
}

/// `dw [out, all] (+)= dy^T [inputs]`.
fn product_of_columns<T: Real>(
    dw: &mut [T],
    accumulate: bool,
    dy: MatRef<'_, T>,
    inputs: &[(&[T], usize)],
) -> Result<()> {
    if let [(x, c)] = *inputs {
        return product(dy, MatRef::new(x, dy.cols(), c)?, accumulate, dw, Epilogue::default());
    }
    let all: usize = inputs.iter().map(|x| x.1).sum();
    let mut first = 0;
    for &(x, c) in inputs {
        let mut part = vec![T::default(); dy.rows() * c];
        product(dy, MatRef::new(x, dy.cols(), c)?, false, &mut part, Epilogue::default())?;
        for (to, from) in dw.chunks_exact_mut(all).zip(part.chunks_exact(c)) {
            for (to, &from) in to[first..first + c].iter_mut().zip(from) {
                *to = if accumulate { *to + from } else { from };
            }
        }
        first += c;
    }
    Ok(())
}

/// The op in the registry. Dims of a case: batch, d, h, w, channels of two inputs (0: absent), out,
/// side of the kernel, bias (0 or 1), and for scores a 1.
pub struct Spec;

const NAMES: [&str; 10] = ["batch", "d", "h", "w", "c", "c2", "out", "k", "bias", "scores"];

fn grid(case: &OpCase) -> VoxelGrid {
    VoxelGrid { batch: case.dims[0], dims: [case.dims[1], case.dims[2], case.dims[3]] }
}

/// All channels, output channels and taps of a case.
fn sizes(case: &OpCase) -> [usize; 3] {
    [case.dims[4] + case.dims[5], case.dims[6], case.dims[7].pow(3)]
}

impl OpSpec for Spec {
    fn name(&self) -> &'static str {
        OP
    }

    fn summary(&self) -> &'static str {
        "3D convolution, 3x3x3 or 1x1x1, of one input or of two side by side"
    }

    fn cases(&self) -> Vec<OpCase> {
        let case = |d: [usize; 9]| OpCase::new(&NAMES, &d);
        let scores = |[b, d, h, w, c, out, bias]: [usize; 7]| {
            OpCase::new(&NAMES, &[b, d, h, w, c, 0, out, 1, bias, 1])
        };
        vec![
            case([1, 1, 1, 1, 1, 0, 1, 3, 1]),
            case([2, 3, 5, 7, 3, 0, 5, 3, 0]),
            // The first convolution of a network; more than one brick along every axis.
            case([1, 5, 6, 13, 1, 0, 16, 3, 0]),
            case([2, 3, 4, 9, 16, 0, 16, 3, 1]),
            // A decoder's: two inputs whose rows allow 16-byte loads, two tiles of output channels.
            case([1, 3, 2, 9, 16, 8, 40, 3, 0]),
            case([1, 2, 7, 3, 13, 6, 11, 3, 1]),
            // Nine parts of four bricks in the gradient of the weight.
            case([3, 4, 5, 41, 2, 0, 3, 3, 1]),
            case([2, 3, 5, 7, 16, 24, 19, 1, 1]),
            case([1, 4, 3, 5, 5, 0, 3, 1, 0]),
            // Rows that Hopper's products take, as a UNETR has them.
            case([2, 3, 5, 7, 16, 24, 32, 1, 1]),
            case([1, 3, 4, 5, 8, 0, 8, 3, 0]).with_offset(1000.0),
            // Rows that allow 16-byte loads, and rows that do not; two tiles of scores.
            scores([2, 3, 5, 7, 16, 14, 1]),
            scores([1, 4, 3, 7, 5, 3, 0]),
            scores([1, 3, 4, 5, 24, 70, 1]),
            scores([1, 3, 4, 5, 24, 16, 1]),
        ]
    }

    fn bench_case(&self) -> OpCase {
        OpCase::new(&NAMES, &[1, 48, 48, 48, 32, 0, 32, 3, 0])
    }

    fn inputs(&self, case: &OpCase) -> Vec<Input> {
        let rows = grid(case).rows();
        let [channels, out, taps] = sizes(case);
        let k = case.dims[7];
        let x = |i: u32, c: usize| case.normal(i, rows * c, case.offset, 1.0);
        let scale = 1.0 / ((channels * taps) as f64).sqrt();
        let mut data = [x(0, case.dims[4]), x(1, case.dims[5])];
        let mut weight = case.normal(2, out * channels * taps, 0.0, scale);
        let mut bias = case.normal(3, out, 0.0, 0.5);
        if rows * channels * out == 1 {
            // As for `linear`: numbers whose products bf16 holds.
            data[0] = vec![1.5];
            weight.iter_mut().for_each(|w| *w = half::bf16::from_f64(*w).to_f64());
            if let Some(centre) = weight.get_mut(taps / 2) {
                *centre = -0.5;
            }
            bias = vec![0.25];
        }
        let [a, b] = data;
        let activation = InputKind::Activation;
        vec![
            Input::new("a", activation, &[rows, case.dims[4]], a),
            Input::new("b", activation, &[rows, case.dims[5]], b),
            Input::new("weight", InputKind::Param, &[out, channels, k, k, k], weight),
            Input::new("bias", InputKind::Param, &[out], bias).wide(),
        ]
    }

    fn run(&self, tape: &mut Tape<'_>, case: &OpCase, args: &OpArgs) -> Result<Vec<Var>> {
        let inputs = [args.var(0)?, args.var(1)?];
        let inputs = if case.dims[5] == 0 { &inputs[..1] } else { &inputs[..] };
        let bias = if case.dims[8] == 1 { Some(args.param(3)?) } else { None };
        if case.dims.len() > 9 {
            return Ok(vec![tape.conv3d_scores(inputs[0], grid(case), args.param(2)?, bias)?]);
        }
        Ok(vec![tape.conv3d(inputs, grid(case), args.param(2)?, bias)?])
    }

    fn has_kernels(&self) -> bool {
        true
    }

    fn tolerance(&self, case: &OpCase) -> Tolerance {
        let [channels, out, taps] = sizes(case);
        Tolerance::Products { k: (channels * taps).max(out * taps).max(grid(case).rows()) }
    }

    fn bytes(&self, case: &OpCase, size: usize) -> u64 {
        let [channels, out, taps] = sizes(case);
        ((grid(case).rows() * (channels + out) + channels * out * taps) * size) as u64
    }

    fn flops(&self, case: &OpCase) -> u64 {
        let [channels, out, taps] = sizes(case);
        2 * (grid(case).rows() * channels * out * taps) as u64
    }
}
