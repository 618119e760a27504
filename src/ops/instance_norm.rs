//! Instance norm of channels-last activations, fused with what follows it in a UNETR block:
//!
//! `xhat = (x - mean) / sqrt(var + eps)` over the voxels of each sample and channel, then
//! `y = leaky(xhat)` or, closing a residual block, `y = leaky(xhat + shortcut)`, where the shortcut may
//! be normalised too. Non-affine. The backward decides the side of the kink from the pre-activation,
//! computed again with the roundings of the forward: nothing but the inputs and the statistics is kept.

mod launch;
mod reference;

use self::launch::{Inputs, Shares};
use self::reference::{Before, Side, Stats};
use super::{Input, InputKind, OpArgs, OpCase, OpSpec, Tolerance, VoxelGrid, needs_grad};
use crate::device::{DType, Device, Real, Tensor, with_real};
use crate::tape::{Backward, Grads, Tape, Var};
use crate::{Error, Result};

const OP: &str = "instance_norm";

/// Added to the variance (PyTorch's and MONAI's default).
pub const EPS: f64 = 1e-5;
/// Slope of the leaky ReLU for z <= 0, so that the gradient at 0 and -0 is 0.01 dy.
pub const LEAKY_SLOPE: f64 = 0.01;

/// What a residual block adds to its normalised branch.
#[derive(Clone, Copy)]
pub enum Shortcut<'v> {
    /// The value as it is.
    Plain(&'v Var),
    /// The value, normalised with its own statistics (`norm(conv3(x))` of a UNETR block).
    Normed(&'v Var),
}

impl<'v> Shortcut<'v> {
    fn var(self) -> &'v Var {
        match self {
            Self::Plain(v) | Self::Normed(v) => v,
        }
    }
}

impl<'a> Tape<'a> {
    /// Instance norm without an activation.
    ///
    /// Shapes: `x` and result `[batch * d * h * w, c]`, rows as `grid` says.
    /// Numerics: biased variance around the mean, robust at mean 1000; `EPS` is added to it. Statistics
    /// f32 for bf16 activations. A volume of one voxel gives 0.
    /// Errors: `Shape`.
    /// Source: Ulyanov et al., arXiv 1607.08022; MONAI's `InstanceNorm3d` (non-affine).
    ///
    /// ```
    /// use glmae::device::{Device, Tensor};
    /// use glmae::ops::VoxelGrid;
    /// use glmae::tape::{Tape, Var};
    /// let cpu = Device::Cpu;
    /// let grid = VoxelGrid { batch: 1, dims: [1, 1, 2] };
    /// let x = Var::constant(Tensor::from_slice(&cpu, &[1.0, 3.0], &[2, 1])?);
    /// let y = Tape::new(&cpu).instance_norm(&x, &grid)?.value().to_f64_vec()?;
    /// // Mean 2, variance 1: -1 and 1 over sqrt(1 + 1e-5).
    /// assert!((y[0] + 0.999_995).abs() < 1e-9 && (y[1] - 0.999_995).abs() < 1e-9);
    /// # Ok::<(), glmae::Error>(())
    /// ```
    pub fn instance_norm(&mut self, x: &Var, grid: &VoxelGrid) -> Result<Var> {
        self.norm_and(x, None, grid, 1.0)
    }

    /// `leaky(norm(x))` with slope [`LEAKY_SLOPE`]; otherwise as [`Tape::instance_norm`].
    pub fn instance_norm_leaky(&mut self, x: &Var, grid: &VoxelGrid) -> Result<Var> {
        self.norm_and(x, None, grid, LEAKY_SLOPE)
    }

    /// `leaky(norm(x) + shortcut)`, the end of a residual block, in one pass over both.
    ///
    /// Shapes: as [`Tape::instance_norm`]; the shortcut like `x`.
    /// Errors: `Shape`.
    /// Source: MONAI's `UnetResBlock`.
    pub fn instance_norm_residual(
        &mut self,
        x: &Var,
        shortcut: Shortcut<'_>,
        grid: &VoxelGrid,
    ) -> Result<Var> {
        self.norm_and(x, Some(shortcut), grid, LEAKY_SLOPE)
    }

    fn norm_and(
        &mut self,
        x: &Var,
        shortcut: Option<Shortcut<'_>>,
        grid: &VoxelGrid,
        slope: f64,
    ) -> Result<Var> {
        let (rows, c) = x.value().matrix(OP)?;
        if rows != grid.rows() || rows == 0 || c == 0 {
            let expected = format!("[{}, c], neither 0", grid.rows());
            return Err(Error::shape(OP, expected, format!("{:?}", x.shape())));
        }
        let dtype = x.value().dtype();
        if let Some(s) = shortcut.map(Shortcut::var) {
            s.value().expect_shape(OP, x.shape())?;
            if s.value().dtype() != dtype {
                return Err(Error::shape(OP, dtype.name(), s.value().dtype().name()));
            }
        }
        let stats = statistics(x.value(), grid)?;
        let shortcut_stats = match shortcut {
            Some(Shortcut::Normed(s)) => Some(statistics(s.value(), grid)?),
            _ => None,
        };
        let saved = Saved {
            x: x.clone(),
            stats,
            shortcut: shortcut.map(|s| (s.var().clone(), shortcut_stats)),
            grid: *grid,
            slope,
        };
        let mut y = Tensor::empty(self.device(), dtype, &[rows, c])?;
        match self.device() {
            Device::Cpu => with_real!(OP, dtype, T => {
                reference::forward::<T>(y.host_mut()?, &saved.before()?, grid, c);
                Ok(())
            })?,
            _ => launch::forward(&mut y, &saved.inputs(), &Shares::new(grid, c, dtype)?)?,
        }
        let mut vars = vec![x];
        vars.extend(shortcut.map(Shortcut::var));
        Ok(self.record(OP, y, needs_grad(&vars, &[]), || saved))
    }
}

/// `[3, batch, c]`: mean, what its rounding left, `1 / sqrt(var + eps)`.
fn statistics(x: &Tensor, grid: &VoxelGrid) -> Result<Tensor> {
    let (_, c) = x.matrix(OP)?;
    let wide = if x.dtype() == DType::Bf16 { DType::F32 } else { x.dtype() };
    let mut stats = Tensor::empty(x.device(), wide, &[3, grid.batch, c])?;
    match x.device() {
        Device::Cpu => with_real!(OP, x.dtype(), T => {
            reference::statistics::<T>(stats.host_mut()?, x.host()?, grid, c, T::of(EPS));
            Ok(())
        })?,
        _ => launch::statistics(&mut stats, x, &Shares::new(grid, c, x.dtype())?)?,
    }
    Ok(stats)
}

struct Saved {
    x: Var,
    stats: Tensor,
    /// The shortcut, and its statistics when it is normalised.
    shortcut: Option<(Var, Option<Tensor>)>,
    grid: VoxelGrid,
    slope: f64,
}

impl Saved {
    fn before<T: Real>(&self) -> Result<Before<'_, T>> {
        let (_, c) = self.x.value().matrix(OP)?;
        let shortcut = match &self.shortcut {
            Some((s, None)) => Some((s.value().host()?, None)),
            Some((s, Some(t))) => {
                Some((s.value().host()?, Some(Stats::new(t.host()?, self.grid.batch, c))))
            }
            None => None,
        };
        Ok(Before {
            x: self.x.value().host()?,
            stats: Stats::new(self.stats.host()?, self.grid.batch, c),
            shortcut,
            slope: T::of(self.slope),
        })
    }

    fn inputs(&self) -> Inputs<'_> {
        let shortcut = self.shortcut.as_ref().map(|(s, stats)| (s.value(), stats.as_ref()));
        Inputs { x: self.x.value(), stats: &self.stats, shortcut, slope: self.slope as f32 }
    }
}

impl Backward for Saved {
    fn run(self: Box<Self>, dy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let (_, c) = dy.matrix(OP)?;
        if *dy.device() != Device::Cpu {
            let shares = Shares::new(&self.grid, c, dy.dtype())?;
            let inputs = self.inputs();
            let means = launch::means(&dy, &inputs, &shares)?;
            let shortcut = self.shortcut.as_ref().map_or(&self.x, |(s, _)| s);
            return launch::backward(grads, [&self.x, shortcut], &means, &dy, &inputs, &shares);
        }
        with_real!(OP, dy.dtype(), T => {
            let before = self.before::<T>()?;
            let dy = dy.host::<T>()?;
            let means = reference::means(&before, dy, &self.grid, c);
            let sides = [(Side::X, Some(&self.x)), (Side::Shortcut, self.shortcut.as_ref().map(|s| &s.0))];
            for (side, var) in sides {
                let Some(var) = var else { continue };
                if let Some((mut dx, mode)) = grads.slot(var)? {
                    let dx = dx.host_mut::<T>()?;
                    reference::backward(dx, mode, side, &before, &means, dy, &self.grid, c);
                }
            }
            Ok(())
        })
    }
}

/// The op in the registry. Dims of a case: batch, d, h, w, c, form (0 norm, 1 with the activation, 2 with
/// a plain shortcut, 3 with a normalised one), and the kind of data: 0 normal, 1 so quiet that eps counts,
/// 2 apart from the kink of the activation, where differences of finite steps would not be the derivative.
pub struct Spec;

impl OpSpec for Spec {
    fn name(&self) -> &'static str {
        OP
    }

    fn summary(&self) -> &'static str {
        "instance norm over voxels, with leaky ReLU and shortcut"
    }

    fn cases(&self) -> Vec<OpCase> {
        let case = |d: &[usize]| OpCase::new(&["batch", "d", "h", "w", "c", "form", "data"], d);
        vec![
            case(&[1, 1, 1, 1, 1, 0]),
            case(&[2, 3, 5, 7, 3, 1]),
            case(&[1, 2, 3, 4, 8, 2]),
            case(&[2, 4, 5, 6, 16, 3, 2]),
            case(&[1, 3, 3, 5, 40, 0, 1]),
            case(&[1, 3, 3, 5, 40, 1, 2]),
            case(&[2, 2, 3, 3, 48, 2, 2]),
            case(&[1, 2, 3, 5, 6, 3]),
            // Shares of several rounds, the last ragged, more of them than lanes that merge them.
            case(&[1, 13, 11, 1, 257, 3, 2]),
            case(&[1, 17, 17, 17, 1, 0]),
            // More channels than a block takes at once, by vectors and by elements.
            case(&[1, 1, 2, 3, 2056, 2, 2]),
            case(&[2, 2, 2, 3, 514, 1, 2]),
            case(&[2, 5, 6, 7, 12, 0]).with_offset(1000.0),
            case(&[1, 3, 4, 5, 6, 3, 2]).with_offset(1000.0),
        ]
    }

    fn bench_case(&self) -> OpCase {
        OpCase::new(&["batch", "d", "h", "w", "c", "form"], &[1, 96, 96, 96, 16, 3])
    }

    fn inputs(&self, case: &OpCase) -> Vec<Input> {
        let [batch, d, h, w, c, form] = [0, 1, 2, 3, 4, 5].map(|i| case.dims[i]);
        let shape = [batch * d * h * w, c];
        let data = case.dims.get(6).copied().unwrap_or(0);
        let draw = |i: u32, mean: f64| match data {
            0 => case.normal(i, shape[0] * c, mean, 1.0),
            1 => case.normal(i, shape[0] * c, mean, 0.05),
            _ => apart(case, i, shape[0], c).into_iter().map(|x| x + mean).collect(),
        };
        let mut inputs = vec![Input::new("x", InputKind::Activation, &shape, draw(0, case.offset))];
        if form > 1 {
            let mean = if form == 3 { case.offset } else { 0.0 };
            inputs.push(Input::new("shortcut", InputKind::Activation, &shape, draw(1, mean)));
        }
        inputs
    }

    fn run(&self, tape: &mut Tape<'_>, case: &OpCase, args: &OpArgs) -> Result<Vec<Var>> {
        let grid =
            VoxelGrid { batch: case.dims[0], dims: [case.dims[1], case.dims[2], case.dims[3]] };
        let x = args.var(0)?;
        Ok(vec![match case.dims[5] {
            0 => tape.instance_norm(x, &grid)?,
            1 => tape.instance_norm_leaky(x, &grid)?,
            2 => tape.instance_norm_residual(x, Shortcut::Plain(args.var(1)?), &grid)?,
            _ => tape.instance_norm_residual(x, Shortcut::Normed(args.var(1)?), &grid)?,
        }])
    }

    fn tolerance(&self, _: &OpCase) -> Tolerance {
        Tolerance::Reduction
    }

    fn has_kernels(&self) -> bool {
        true
    }

    fn bytes(&self, case: &OpCase, size: usize) -> u64 {
        // Statistics, then read and write; a shortcut is read once, or twice when it is normalised.
        let passes = [3, 3, 4, 5][case.dims[5].min(3)];
        (passes * case.dims[..5].iter().product::<usize>() * size) as u64
    }

    fn flops(&self, case: &OpCase) -> u64 {
        let each = [8, 9, 10, 18][case.dims[5].min(3)];
        (each * case.dims[..5].iter().product::<usize>()) as u64
    }
}

/// Values with mean about 0 and deviation about 1: near +-1 for input 0, near +-0.5 and +-1.8 for input 1,
/// so that neither they nor their sums come near 0.
fn apart(case: &OpCase, input: u32, rows: usize, c: usize) -> Vec<f64> {
    let mut rng = case.rng(input);
    let value = |i: usize| {
        let (row, noise) = (i / c, rng.range(-0.1, 0.1));
        let (size, turn) = match (input, row % 8 < 6) {
            (0, _) => (1.0, row + i % c),
            (_, true) => (0.5, row / 2),
            (_, false) => (1.8, row),
        };
        if turn % 2 == 0 { size + noise } else { -size + noise }
    };
    (0..rows * c).map(value).collect()
}
