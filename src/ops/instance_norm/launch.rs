//! The kernels: statistics in shares of rows, their merge, one pass that applies them.

use super::super::VoxelGrid;
use super::{EPS, OP};
use crate::device::launch::{DevicePtr, LaunchConfig};
use crate::device::{DType, KernelCall, Tensor, TensorMut};
use crate::tape::{GradMode, Grads, Var};
use crate::{Error, Result};

/// Threads of a block (`NORM_THREADS`).
const THREADS: usize = 256;
/// Blocks that keep a GPU of 132 multiprocessors busy at four each.
const ENOUGH: usize = 528;

/// How the rows of a sample are shared out. Depends on sizes alone: it fixes the order of the sums.
#[derive(Clone, Copy)]
pub(super) struct Shares {
    c: usize,
    voxels: usize,
    batch: usize,
    /// Rows of a share, and shares of a sample.
    rows: usize,
    count: usize,
}

impl Shares {
    pub fn new(grid: &VoxelGrid, c: usize, dtype: DType) -> Result<Self> {
        let (voxels, batch) = (grid.voxels(), grid.batch);
        if batch > 65_535 || c > i32::MAX as usize / 4 {
            let got = format!("{batch} samples, {c} channels");
            return Err(Error::shape(OP, "at most 65535 samples and 2^29 channels", got));
        }
        let vector = 16 / dtype.size();
        let columns = if c.is_multiple_of(vector) { c / vector } else { c };
        // Rows that a block takes at a time, and how often: 64 at most (see the kernel's numerics).
        let at_once = THREADS / columns.min(THREADS);
        let blocks = |each: usize| batch * voxels.div_ceil(each * at_once);
        let each = [64, 32, 16, 8].into_iter().find(|&n| blocks(n) >= ENOUGH).unwrap_or(4);
        let rows = each * at_once;
        let count = voxels.div_ceil(rows);
        i32::try_from(count)
            .map_err(|_| Error::shape(OP, "fewer voxels", format!("{:?}", grid.dims)))?;
        Ok(Self { c, voxels, batch, rows, count })
    }

    fn launch(&self) -> LaunchConfig {
        let grid = [self.count as u32, self.batch as u32, 1];
        LaunchConfig { grid, block: [THREADS as u32, 1, 1], shared_bytes: 0 }
    }

    fn merge(&self, sums: usize) -> LaunchConfig {
        let grid = [self.c.div_ceil(8) as u32, self.batch as u32, sums as u32];
        LaunchConfig { grid, block: [8, 32, 1], shared_bytes: 0 }
    }

    fn sizes<'d>(&self, call: KernelCall<'d>) -> KernelCall<'d> {
        call.value(self.voxels as i64).value(self.c as i32).value(self.rows as i32)
    }
}

/// `stats` `[3, batch, c]` of `x`.
pub(super) fn statistics(stats: &mut Tensor, x: &Tensor, shares: &Shares) -> Result<()> {
    let device = x.device();
    let (batch, c) = (shares.batch, shares.c);
    let mut partial = Tensor::empty(device, DType::F32, &[batch, shares.count, 2, c])?;
    let call = KernelCall::new(device, &format!("instance_norm_fwd_{}_stats", x.dtype()))
        .output(&mut partial)?
        .output_mut(&mut TensorMut::new(stats, 0, &[batch, c])?)?
        .input(x)?;
    shares.sizes(call).launch(shares.launch())?;
    let call =
        KernelCall::new(device, "instance_norm_fwd_f32_merge").output(stats)?.input(&partial)?;
    shares.sizes(call).value(shares.count as i32).value(EPS as f32).launch(shares.merge(1))
}

/// The tensors of a call.
pub(super) struct Inputs<'a> {
    pub x: &'a Tensor,
    pub stats: &'a Tensor,
    /// The shortcut, and its statistics when it is normalised.
    pub shortcut: Option<(&'a Tensor, Option<&'a Tensor>)>,
    pub slope: f32,
}

impl Inputs<'_> {
    fn name(&self, pass: &str, after: &str) -> String {
        let residual = if self.shortcut.is_some() { "_residual" } else { "" };
        format!("instance_norm_{pass}_{}{residual}{after}", self.x.dtype())
    }
}

/// `y = leaky(norm(x) + shortcut)`.
pub(super) fn forward(y: &mut Tensor, inputs: &Inputs<'_>, shares: &Shares) -> Result<()> {
    let device = inputs.x.device();
    let call = KernelCall::new(device, &inputs.name("fwd", "")).output(y)?.input(inputs.stats)?;
    let call = match inputs.shortcut {
        Some((shortcut, stats)) => call.optional(stats)?.input(inputs.x)?.input(shortcut)?,
        None => call.input(inputs.x)?,
    };
    shares.sizes(call).value(inputs.slope).launch(shares.launch())
}

/// `means` `[2 or 3, batch, c]` of `d`, `d xhat` and `d shat` over the voxels.
pub(super) fn means(dy: &Tensor, inputs: &Inputs<'_>, shares: &Shares) -> Result<Tensor> {
    let device = dy.device();
    let sums = if inputs.shortcut.is_some() { 3 } else { 2 };
    let (batch, c) = (shares.batch, shares.c);
    let mut partial = Tensor::empty(device, DType::F32, &[batch, shares.count, sums, c])?;
    let call = KernelCall::new(device, &inputs.name("bwd", "_sums"))
        .output(&mut partial)?
        .input(inputs.stats)?;
    let call = match inputs.shortcut {
        Some((shortcut, stats)) => {
            call.optional(stats)?.input(dy)?.input(inputs.x)?.input(shortcut)?
        }
        None => call.input(dy)?.input(inputs.x)?,
    };
    shares.sizes(call).value(inputs.slope).launch(shares.launch())?;
    let mut means = Tensor::empty(device, DType::F32, &[sums, batch, c])?;
    KernelCall::new(device, "instance_norm_bwd_f32_merge")
        .output(&mut means)?
        .input(&partial)?
        .value(c as i32)
        .value(shares.count as i32)
        .value((1.0 / shares.voxels as f64) as f32)
        .launch(shares.merge(sums))?;
    Ok(means)
}

/// Gradients of `x` and of the shortcut in one pass.
pub(super) fn backward(
    grads: &mut Grads<'_>,
    [x, shortcut]: [&Var; 2],
    means: &Tensor,
    dy: &Tensor,
    inputs: &Inputs<'_>,
    shares: &Shares,
) -> Result<()> {
    // Both gradients of one value cannot be written at once.
    let mut spare = match (x.id(), shortcut.id()) {
        (Some(a), Some(b)) if a == b && inputs.shortcut.is_some() => {
            Some(Tensor::empty(dy.device(), dy.dtype(), dy.shape())?)
        }
        _ => None,
    };
    let call = KernelCall::new(dy.device(), &inputs.name("bwd", ""));
    let (call, dx_mode) = slot(call, grads, x)?;
    let Some((value, stats)) = inputs.shortcut else {
        let call = call.input(inputs.stats)?.input(means)?.input(dy)?.input(inputs.x)?;
        let call = shares.sizes(call).value(inputs.slope).value(dx_mode.as_arg());
        return call.launch(shares.launch());
    };
    let (call, mode) = match &mut spare {
        Some(spare) => (call.output(spare)?, GradMode::Overwrite),
        None => slot(call, grads, shortcut)?,
    };
    let call = call.input(inputs.stats)?.optional(stats)?.input(means)?;
    let call = call.input(dy)?.input(inputs.x)?.input(value)?;
    let call = shares.sizes(call).value(inputs.slope).value(dx_mode.as_arg()).value(mode.as_arg());
    call.launch(shares.launch())?;
    match spare {
        Some(spare) => grads.add(shortcut, spare),
        None => Ok(()),
    }
}

/// The place of a gradient as the next argument; null when none is needed.
fn slot<'d>(
    call: KernelCall<'d>,
    grads: &mut Grads<'_>,
    var: &Var,
) -> Result<(KernelCall<'d>, GradMode)> {
    Ok(match grads.slot(var)? {
        Some((mut slot, mode)) => (call.output_mut(&mut slot)?, mode),
        None => (call.value(DevicePtr::NULL), GradMode::Overwrite),
    })
}
