//! Transposed 3D convolution `2 x 2 x 2` with stride 2 of channels-last volumes: every voxel becomes a
//! block of eight,
//!
//! ```text
//! y[2 v + t, o] = sum over channels s of x[v, s] weight[s, o, t],   t in {0, 1}^3
//! ```
//!
//! No two voxels meet in an output, so it is one product `[rows, in] x [in, 8 out]` whose result is
//! written to eight places.

pub mod fast;
mod launch;
#[cfg(test)]
mod tests;

use super::grid::VoxelGrid;
use super::{Input, InputKind, OpArgs, OpCase, OpSpec, Tolerance, needs_grad};
use crate::device::{Device, Real, Tensor, with_real};
use crate::tape::{Backward, Grads, Param, Tape, Var};
use crate::{Error, Result};

const OP: &str = "conv_transpose";

impl<'a> Tape<'a> {
    /// The volume at twice the size.
    ///
    /// Shapes: `x` `[grid.rows(), in]`, `weight` `[in, out, 2, 2, 2]` (axes d, h, w), result
    /// `[grid.doubled().rows(), out]`.
    /// Numerics: products are summed in the arithmetic of the tensors, those of bf16 in f32.
    /// Errors: `Shape` when sizes do not match.
    /// Source: `torch.nn.functional.conv_transpose3d` with stride 2.
    ///
    /// ```
    /// use glmae::device::{Device, Tensor};
    /// use glmae::ops::VoxelGrid;
    /// use glmae::tape::{Param, Tape, Var};
    /// let cpu = Device::Cpu;
    /// let grid = VoxelGrid { batch: 1, dims: [1, 1, 1] };
    /// let x = Var::constant(Tensor::from_slice(&cpu, &[3.0], &[1, 1])?);
    /// let weight = Param::constant(Tensor::from_slice(&cpu, &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], &[1, 1, 2, 2, 2])?);
    /// let y = Tape::new(&cpu).conv_transpose(&x, grid, &weight)?;
    /// // One voxel becomes eight: 3 times each tap.
    /// assert_eq!(y.value().to_f64_vec()?, [0.0, 3.0, 6.0, 9.0, 12.0, 15.0, 18.0, 21.0]);
    /// # Ok::<(), glmae::Error>(())
    /// ```
    pub fn conv_transpose(&mut self, x: &Var, grid: VoxelGrid, weight: &Param) -> Result<Var> {
        let (rows, fan_in) = x.value().matrix(OP)?;
        let out = match weight.value.shape() {
            &[i, out, 2, 2, 2] if i == fan_in && rows == grid.rows() && i > 0 && out > 0 => out,
            shape => {
                let expected =
                    format!("a weight [{fan_in}, out, 2, 2, 2] and {} rows", grid.rows());
                return Err(Error::shape(OP, expected, format!("{shape:?} and {rows}")));
            }
        };
        let dtype = x.value().dtype();
        let mut y = Tensor::empty(self.device(), dtype, &[grid.doubled().rows(), out])?;
        match self.device() {
            Device::Cpu => with_real!(OP, dtype, T => {
                forward::<T>(
                    y.host_mut()?, x.value().host()?, weight.value.host()?, [fan_in, out], grid,
                )
            })?,
            _ => launch::forward(&mut y, x.value(), weight, grid)?,
        }
        Ok(self.record(OP, y, needs_grad(&[x], &[weight]), || ConvTransposeBwd {
            x: x.clone(),
            weight: weight.clone(),
            grid,
        }))
    }
}

impl VoxelGrid {
    /// The grid with two voxels for one along every axis.
    pub fn doubled(self) -> Self {
        Self { dims: self.dims.map(|n| 2 * n), ..self }
    }

    /// The rows of [`VoxelGrid::doubled`] that row `row` becomes, in the order of the taps.
    pub(super) fn children(self, row: usize) -> [usize; 8] {
        let [d, h, w] = self.dims;
        let (x, y, z) = (row % w, row / w % h, row / (w * h));
        debug_assert!(z < self.batch * d);
        let at = |t: usize| ((2 * z + t / 4) * 2 * h + 2 * y + t / 2 % 2) * 2 * w + 2 * x + t % 2;
        std::array::from_fn(at)
    }
}

struct ConvTransposeBwd {
    x: Var,
    weight: Param,
    grid: VoxelGrid,
}

impl Backward for ConvTransposeBwd {
    fn run(self: Box<Self>, dy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        if *dy.device() != Device::Cpu {
            return self.run_kernels(&dy, grads);
        }
        let (_, fan_in) = self.x.value().matrix(OP)?;
        let (_, out) = dy.matrix(OP)?;
        let sizes = [fan_in, out];
        with_real!(OP, dy.dtype(), T => {
            let d = dy.host::<T>()?;
            if let Some((mut dx, mode)) = grads.slot(&self.x)? {
                let weight = self.weight.value.host::<T>()?;
                let adds = mode.accumulates();
                backward_x(dx.host_mut()?, adds, d, weight, sizes, self.grid)?;
            }
            if let Some((mut dw, mode)) = grads.param(&self.weight)? {
                let x = self.x.value().host::<T>()?;
                let adds = mode.accumulates();
                backward_weight(dw.host_mut()?, adds, d, x, sizes, self.grid)?;
            }
            Ok(())
        })
    }
}

/// See [`Tape::conv_transpose`]; `sizes`: in and out. As the two gradients below: the fast path in f32,
/// the plain loops, which are the oracle, in f64.
fn forward<T: Real>(
    y: &mut [T],
    x: &[T],
    weight: &[T],
    sizes: [usize; 2],
    grid: VoxelGrid,
) -> Result<()> {
    let Some(f) = T::same_as_f32() else {
        reference(y, x, weight, sizes, grid);
        return Ok(());
    };
    fast::forward(f.of_mut(y), f.of(x), f.of(weight), sizes, grid)
}

/// Gradient of x.
fn backward_x<T: Real>(
    dx: &mut [T],
    accumulate: bool,
    dy: &[T],
    weight: &[T],
    sizes: [usize; 2],
    grid: VoxelGrid,
) -> Result<()> {
    let Some(f) = T::same_as_f32() else {
        reference_dx(dx, accumulate, dy, weight, sizes, grid);
        return Ok(());
    };
    fast::backward_x(f.of_mut(dx), accumulate, f.of(dy), f.of(weight), sizes, grid)
}

/// Gradient of the weight.
fn backward_weight<T: Real>(
    dw: &mut [T],
    accumulate: bool,
    dy: &[T],
    x: &[T],
    sizes: [usize; 2],
    grid: VoxelGrid,
) -> Result<()> {
    let Some(f) = T::same_as_f32() else {
        reference_dw(dw, accumulate, dy, x, sizes, grid);
        return Ok(());
    };
    fast::backward_weight(f.of_mut(dw), accumulate, f.of(dy), f.of(x), sizes, grid)
}

fn reference<T: Real>(
    y: &mut [T],
    x: &[T],
    weight: &[T],
    [fan_in, out]: [usize; 2],
    grid: VoxelGrid,
) {
    for (row, x) in x.chunks_exact(fan_in).enumerate() {
        for (tap, child) in grid.children(row).into_iter().enumerate() {
            for o in 0..out {
                let terms = x.iter().enumerate().map(|(s, &x)| x * weight[(s * out + o) * 8 + tap]);
                y[child * out + o] = terms.sum();
            }
        }
    }
}

fn reference_dx<T: Real>(
    dx: &mut [T],
    accumulate: bool,
    dy: &[T],
    weight: &[T],
    [fan_in, out]: [usize; 2],
    grid: VoxelGrid,
) {
    for (row, dx) in dx.chunks_exact_mut(fan_in).enumerate() {
        let children = grid.children(row);
        for (s, dx) in dx.iter_mut().enumerate() {
            let mut sum = if accumulate { *dx } else { T::default() };
            for (tap, child) in children.into_iter().enumerate() {
                for o in 0..out {
                    sum += dy[child * out + o] * weight[(s * out + o) * 8 + tap];
                }
            }
            *dx = sum;
        }
    }
}

fn reference_dw<T: Real>(
    dw: &mut [T],
    accumulate: bool,
    dy: &[T],
    x: &[T],
    [fan_in, out]: [usize; 2],
    grid: VoxelGrid,
) {
    if !accumulate {
        dw.fill(T::default());
    }
    for (row, x) in x.chunks_exact(fan_in).enumerate() {
        for (tap, child) in grid.children(row).into_iter().enumerate() {
            for (s, &x) in x.iter().enumerate() {
                for o in 0..out {
                    dw[(s * out + o) * 8 + tap] += x * dy[child * out + o];
                }
            }
        }
    }
}

/// The op in the registry. Dims of a case: batch, d, h, w, in, out.
pub struct Spec;

const NAMES: [&str; 6] = ["batch", "d", "h", "w", "in", "out"];

fn grid(case: &OpCase) -> VoxelGrid {
    VoxelGrid { batch: case.dims[0], dims: [case.dims[1], case.dims[2], case.dims[3]] }
}

impl OpSpec for Spec {
    fn name(&self) -> &'static str {
        OP
    }

    fn summary(&self) -> &'static str {
        "transposed 3D convolution 2x2x2 with stride 2"
    }

    fn cases(&self) -> Vec<OpCase> {
        let case = |d: [usize; 6]| OpCase::new(&NAMES, &d);
        vec![
            case([1, 1, 1, 1, 1, 1]),
            case([2, 3, 5, 7, 3, 5]),
            case([2, 2, 3, 11, 24, 16]),
            // Several tiles of rows, columns and depth.
            case([1, 5, 3, 5, 40, 24]),
            case([1, 7, 1, 3, 13, 9]),
            case([1, 2, 3, 4, 8, 8]).with_offset(1000.0),
        ]
    }

    fn bench_case(&self) -> OpCase {
        OpCase::new(&NAMES, &[1, 24, 24, 24, 64, 32])
    }

    fn inputs(&self, case: &OpCase) -> Vec<Input> {
        let (rows, fan_in, out) = (grid(case).rows(), case.dims[4], case.dims[5]);
        let scale = 1.0 / (fan_in as f64).sqrt();
        let mut x = case.normal(0, rows * fan_in, case.offset, 1.0);
        let mut weight = case.normal(1, fan_in * out * 8, 0.0, scale);
        if rows * fan_in * out == 1 {
            // As for `linear`: numbers whose products and sums bf16 holds.
            x = vec![1.5];
            weight = vec![-0.5, 0.25, 1.0, -0.75, 0.5, 2.0, -1.0, 0.125];
        }
        let shape = [fan_in, out, 2, 2, 2];
        vec![
            Input::new("x", InputKind::Activation, &[rows, fan_in], x),
            Input::new("weight", InputKind::Param, &shape, weight),
        ]
    }

    fn run(&self, tape: &mut Tape<'_>, case: &OpCase, args: &OpArgs) -> Result<Vec<Var>> {
        Ok(vec![tape.conv_transpose(args.var(0)?, grid(case), args.param(1)?)?])
    }

    fn has_kernels(&self) -> bool {
        true
    }

    fn tolerance(&self, case: &OpCase) -> Tolerance {
        let (fan_in, out) = (case.dims[4], case.dims[5]);
        Tolerance::Products { k: fan_in.max(8 * out).max(grid(case).rows()) }
    }

    fn bytes(&self, case: &OpCase, size: usize) -> u64 {
        let (rows, fan_in, out) = (grid(case).rows(), case.dims[4], case.dims[5]);
        ((rows * (fan_in + 8 * out) + 8 * fan_in * out) * size) as u64
    }

    fn flops(&self, case: &OpCase) -> u64 {
        16 * (grid(case).rows() * case.dims[4] * case.dims[5]) as u64
    }
}
