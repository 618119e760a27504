//! Launches of the kernels of `conv_transpose.cu`.

use super::{ConvTransposeBwd, OP};
use crate::Result;
use crate::device::launch::LaunchConfig;
use crate::device::{DType, KernelCall, Tensor};
use crate::ops::gemm::{self, size};
use crate::ops::grid::VoxelGrid;
use crate::tape::{Grads, Param};

/// The weight `[in, out, 8]` as `[8 out, in]` in the dtype of the activations.
fn pack(weight: &Param, dtype: DType, [fan_in, out]: [usize; 2]) -> Result<Tensor> {
    let device = weight.value.device();
    let mut packed = Tensor::empty(device, dtype, &[8 * out, fan_in])?;
    let blocks = packed.len().div_ceil(256) as u32;
    KernelCall::typed(device, "conv_transpose_init", dtype)
        .output(&mut packed)?
        .input(&weight.value)?
        .value(size(OP, fan_in)?)
        .value(size(OP, out)?)
        .launch(LaunchConfig::linear(blocks, 256))?;
    Ok(packed)
}

/// rows, in, h, w, out, as every kernel takes them. Voxels of the doubled grid are counted in i32, too.
fn sizes<'d>(call: KernelCall<'d>, grid: VoxelGrid, sides: [usize; 2]) -> Result<KernelCall<'d>> {
    let [fan_in, out] = sides;
    size(OP, grid.doubled().rows())?;
    let sizes = [grid.rows(), fan_in, grid.dims[1], grid.dims[2], out];
    sizes.into_iter().try_fold(call, |call, n| Ok(call.value(size(OP, n)?)))
}

pub(super) fn forward(y: &mut Tensor, x: &Tensor, weight: &Param, grid: VoxelGrid) -> Result<()> {
    if y.is_empty() {
        return Ok(());
    }
    let (rows, fan_in) = x.matrix(OP)?;
    let (_, out) = y.matrix(OP)?;
    let packed = pack(weight, x.dtype(), [fan_in, out])?;
    let vectors = gemm::vectors(&[(x, fan_in)]);
    let plan = gemm::plan_small(x.dtype(), [rows, 8 * out, fan_in], vectors, false);
    let call = KernelCall::new(x.device(), &plan.kernel("conv_transpose_fwd", x.dtype()));
    let call = call.output(y)?.input(x)?.input(&packed)?;
    sizes(call, grid, [fan_in, out])?.launch(plan.launch)
}

impl ConvTransposeBwd {
    pub(super) fn run_kernels(&self, dy: &Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let x = self.x.value();
        let (device, dtype) = (dy.device(), dy.dtype());
        let ((rows, fan_in), (_, out)) = (x.matrix(OP)?, dy.matrix(OP)?);
        let sides = [fan_in, out];
        let vectors = gemm::vectors(&[(dy, out), (x, fan_in)]);
        if let Some((mut dx, mode)) = grads.slot(&self.x)?
            && !dx.is_empty()
        {
            let packed = pack(&self.weight, dtype, sides)?;
            let plan = gemm::plan_small(dtype, [rows, fan_in, 8 * out], vectors, false);
            let call = KernelCall::new(device, &plan.kernel("conv_transpose_bwd_x", dtype));
            let call = call.output_mut(&mut dx)?.input(dy)?.input(&packed)?;
            sizes(call, self.grid, sides)?.value(mode.as_arg()).launch(plan.launch)?;
        }
        let Some((mut dw, mode)) = grads.param(&self.weight)? else { return Ok(()) };
        let plan = gemm::plan_small(dtype, [8 * out, fan_in, rows], vectors, true);
        let mut parts = Tensor::empty(device, DType::F32, &[plan.parts, 8 * out, fan_in])?;
        let call = KernelCall::new(device, &plan.kernel("conv_transpose_bwd_params", dtype));
        let call = call.output(&mut parts)?.input(dy)?.input(x)?;
        let call = sizes(call, self.grid, sides)?.value(size(OP, plan.k_part)?);
        call.launch(plan.launch)?;
        let blocks = (8 * out * fan_in).div_ceil(32) as u32;
        KernelCall::new(device, "conv_transpose_bwd_reduce_f32")
            .output_mut(&mut dw)?
            .input(&parts)?
            .value(size(OP, plan.parts)?)
            .value(size(OP, fan_in)?)
            .value(size(OP, out)?)
            .value(mode.as_arg())
            .launch(LaunchConfig::linear(blocks, 256))
    }
}
