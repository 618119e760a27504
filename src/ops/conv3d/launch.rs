//! Launches of the kernels of `conv3d.cu`, and those of `linear.cu` that a 1 x 1 x 1 convolution is.

use std::ops::Range;

use super::{Conv, ConvBwd, OP, hopper};
use crate::Result;
use crate::device::launch::{DevicePtr, LaunchConfig};
use crate::device::{DType, KernelCall, Tensor, TensorMut};
use crate::ops::gemm::{self, size};
use crate::ops::grid::VoxelGrid;
use crate::ops::linear::launch as linear;
use crate::tape::{GradMode, Grads, Param, Var};

/// Of `kernels/include/conv_brick.cuh`: voxels of a brick, bytes of a halo in shared memory.
const BRICK: [usize; 3] = [4, 4, 8];
const HALO_BYTES: usize = 6 * 6 * 10 * 48;
/// Output channels of a block of the weight gradient.
const GRADIENT_N: usize = 32;
/// Blocks that keep an H200 busy, and the most bytes of partial weight gradients.
const BLOCKS: usize = 3 * 132;
pub(super) const PART_BYTES: usize = 64 << 20;
/// Least bricks of a part: its sums, written, read and added, cost as many bytes as two bricks.
const LEAST_BRICKS: usize = 4;

/// Bricks of these sides that cover the volumes.
pub(super) fn bricks_of(sides: [usize; 3], grid: VoxelGrid) -> usize {
    let along = grid.dims.iter().zip(sides).map(|(n, b)| n.div_ceil(b));
    grid.batch * along.product::<usize>()
}

fn bricks(grid: VoxelGrid) -> usize {
    bricks_of(BRICK, grid)
}

/// Chunks of 32 bytes that the channels of each input are cut into.
pub(super) fn chunks(channels: &[usize], dtype: DType) -> usize {
    channels.iter().map(|c| c.div_ceil(32 / dtype.size())).sum()
}

/// Whether the three taps along w of a voxel fit one chunk (`_few`).
fn is_few(channels: &[usize], dtype: DType) -> bool {
    matches!(channels, &[c] if 3 * c * dtype.size() <= 32)
}

/// Output channels per block: as many as there are, up to 64; fewer where blocks would be few.
pub(super) fn tile(out: usize, grid: VoxelGrid) -> usize {
    match out {
        0..=16 => 16,
        17..=32 => 32,
        _ if bricks(grid) * out.div_ceil(64) < 132 => 32,
        _ => 64,
    }
}

/// The bricks of a part of the weight gradient.
fn bricks_of_a_part(conv: &Conv, blocks: usize) -> usize {
    let bricks = bricks(conv.grid).max(1);
    let weight_bytes = 27 * 4 * conv.out * conv.all_channels();
    let most = (PART_BYTES / weight_bytes).clamp(1, bricks.min(65_535));
    bricks.div_ceil((BLOCKS / blocks).clamp(1, most)).max(LEAST_BRICKS)
}

/// The part of a weight that a convolution multiplies by: (n, c, tap) is at `first + n * strides[0] + c * strides[1] + tap`,
/// with the taps mirrored or not.
pub(super) struct Filter<'p> {
    pub weight: &'p Param,
    /// Of the sum (of one or two matrices), and of the result.
    pub channels: Vec<usize>,
    pub out: usize,
    pub first: usize,
    pub strides: [usize; 2],
    pub mirrored: bool,
}

impl<'p> Filter<'p> {
    pub fn forward(conv: &Conv, weight: &'p Param) -> Self {
        let Conv { out, ref channels, .. } = *conv;
        let strides = [conv.all_channels() * 27, 27];
        Self { weight, channels: channels.clone(), out, first: 0, strides, mirrored: false }
    }

    /// Of the gradient of the input that has these channels among all.
    pub fn backward(conv: &Conv, weight: &'p Param, range: &Range<usize>) -> Self {
        let (first, strides) = (range.start * 27, [27, conv.all_channels() * 27]);
        let channels = vec![conv.out];
        Self { weight, channels, out: range.len(), first, strides, mirrored: true }
    }

    /// Adds what every kernel that packs weights for `tile` output channels a block is told of them.
    pub fn describe<'d>(&self, call: KernelCall<'d>, tile: usize) -> Result<KernelCall<'d>> {
        size(OP, self.weight.value.len())?;
        Ok(call
            .value(size(OP, tile)?)
            .value(size(OP, self.out)?)
            .value(size(OP, self.channels[0])?)
            .value(size(OP, self.channels.get(1).copied().unwrap_or(0))?)
            .value(self.first as i64)
            .value(self.strides[0] as i64)
            .value(self.strides[1] as i64)
            .value(i32::from(self.mirrored)))
    }

    /// `y (+)= conv(inputs) + bias`.
    fn convolve(
        &self,
        y: &mut TensorMut<'_>,
        inputs: &[&Tensor],
        bias: Option<&Tensor>,
        grid: VoxelGrid,
        mode: GradMode,
    ) -> Result<()> {
        if y.is_empty() {
            return Ok(());
        }
        if hopper::can(inputs, &self.channels) && hopper::can_write(y, self.out, bias) {
            let tile = hopper::Forward::choose(grid, self.out);
            return tile.convolve(self, y, inputs, bias, grid, mode);
        }
        Packed::new(self, inputs[0].dtype(), tile(self.out, grid))?
            .convolve(y, inputs, bias, grid, mode)
    }
}

/// Weights as `conv3d_fwd` reads them.
pub(super) struct Packed {
    weights: Tensor,
    tile: usize,
    is_few: bool,
    channels: Vec<usize>,
    out: usize,
}

impl Packed {
    pub fn new(filter: &Filter<'_>, dtype: DType, tile: usize) -> Result<Self> {
        let Filter { weight, ref channels, out, .. } = *filter;
        let device = weight.value.device();
        let is_few = is_few(channels, dtype);
        let tile = if is_few { tile.min(32) } else { tile };
        let rows = if is_few { 9 } else { 27 * chunks(channels, dtype) };
        let count = out.next_multiple_of(tile) * rows * (32 / dtype.size());
        let mut weights = Tensor::empty(device, dtype, &[count])?;
        let call = KernelCall::typed(device, "conv3d_init", dtype)
            .output(&mut weights)?
            .input(&weight.value)?
            .value(count as i64);
        filter
            .describe(call, tile)?
            .value(i32::from(is_few))
            .launch(LaunchConfig::linear(count.div_ceil(256) as u32, 256))?;
        Ok(Self { weights, tile, is_few, channels: channels.to_vec(), out })
    }

    /// `y (+)= conv(inputs) + bias`.
    pub fn convolve(
        &self,
        y: &mut TensorMut<'_>,
        inputs: &[&Tensor],
        bias: Option<&Tensor>,
        grid: VoxelGrid,
        mode: GradMode,
    ) -> Result<()> {
        let dtype = inputs[0].dtype();
        let few = if self.is_few { "_few" } else { "" };
        let name = format!("conv3d_fwd_{dtype}{few}_n{}", self.tile);
        let [halos, taps] = if self.is_few { [1, 3] } else { [2, 9] };
        size(OP, grid.rows())?;
        let call = KernelCall::new(inputs[0].device(), &name).output_mut(y)?;
        let call = input_pair(call, inputs)?.input(&self.weights)?.optional(bias)?;
        let call = sizes(call, grid, &self.channels)?;
        call.value(size(OP, self.out)?).value(mode.as_arg()).launch(LaunchConfig {
            grid: [bricks(grid) as u32, self.out.div_ceil(self.tile) as u32, 1],
            block: [128, 1, 1],
            shared_bytes: (halos * HALO_BYTES + 3 * taps * 32 * self.tile) as u32,
        })
    }
}

fn input_pair<'d>(call: KernelCall<'d>, inputs: &[&Tensor]) -> Result<KernelCall<'d>> {
    call.input(inputs[0])?.optional(inputs.get(1).copied())
}

/// d, h, w and the channels of both inputs.
pub(super) fn sizes<'d>(
    call: KernelCall<'d>,
    grid: VoxelGrid,
    channels: &[usize],
) -> Result<KernelCall<'d>> {
    let mut call = call;
    for n in grid.dims {
        call = call.value(size(OP, n)?);
    }
    let second = channels.get(1).copied().unwrap_or(0);
    Ok(call.value(size(OP, channels[0])?).value(size(OP, second)?))
}

pub(super) fn forward(
    conv: &Conv,
    y: &mut Tensor,
    inputs: &[&Tensor],
    weight: &Param,
    bias: Option<&Tensor>,
) -> Result<()> {
    if y.is_empty() {
        return Ok(());
    }
    let Conv { grid, is_wide, .. } = *conv;
    let dtype = inputs[0].dtype();
    if y.dtype() != dtype {
        return scores(conv, y, inputs[0], weight, bias);
    }
    if is_wide {
        let filter = Filter::forward(conv, weight);
        return filter.convolve(&mut y.as_mut(), inputs, bias, grid, GradMode::Overwrite);
    }
    // The product of the first input, then that of the second with the first as residual.
    let mut first = None;
    for (i, x) in inputs.iter().enumerate() {
        let columns = columns(conv, weight, dtype, i)?;
        let product = linear::Forward::new(x, &columns)?;
        let bias = bias.filter(|_| i == 0);
        if i + 1 < inputs.len() {
            let held = first.insert(Tensor::empty(y.device(), dtype, y.shape())?);
            product.run(held, None, bias, None, false)?;
        } else {
            product.run(y, None, bias, first.as_ref(), false)?;
        }
    }
    Ok(())
}

/// The product of bf16 matrices in f32.
fn scores(
    conv: &Conv,
    y: &mut Tensor,
    x: &Tensor,
    weight: &Param,
    bias: Option<&Tensor>,
) -> Result<()> {
    let (rows, fan_in) = x.matrix(OP)?;
    let columns = columns(conv, weight, x.dtype(), 0)?;
    let vectors = gemm::vectors(&[(x, fan_in), (&columns, fan_in)]);
    let plan = gemm::plan_small(x.dtype(), [rows, conv.out, fan_in], vectors, false);
    KernelCall::new(x.device(), &plan.kernel("conv3d_scores", x.dtype()))
        .output(y)?
        .input(x)?
        .input(&columns)?
        .optional(bias)?
        .value(size(OP, rows)?)
        .value(size(OP, conv.out)?)
        .value(size(OP, fan_in)?)
        .launch(plan.launch)
}

/// `dy` of scores in the dtype of the products.
fn rounded(dy: &Tensor) -> Result<Tensor> {
    let mut rounded = Tensor::empty(dy.device(), DType::Bf16, dy.shape())?;
    if !dy.is_empty() {
        KernelCall::new(dy.device(), "conv3d_bwd_round_bf16")
            .output(&mut rounded)?
            .input(dy)?
            .value(dy.len() as i64)
            .launch(LaunchConfig::linear(dy.len().div_ceil(8 * 256) as u32, 256))?;
    }
    Ok(rounded)
}

/// The columns of a `[out, all channels]` weight that belong to input `i`, in `dtype`.
fn columns(conv: &Conv, weight: &Param, dtype: DType, i: usize) -> Result<Tensor> {
    let width = conv.channels[i];
    let mut packed = Tensor::empty(weight.value.device(), dtype, &[conv.out, width])?;
    let call = KernelCall::typed(weight.value.device(), "conv3d_init_columns", dtype);
    launch_columns(call.output(&mut packed)?.input(&weight.value)?, conv, i, None)?;
    Ok(packed)
}

fn launch_columns(
    call: KernelCall<'_>,
    conv: &Conv,
    i: usize,
    mode: Option<GradMode>,
) -> Result<()> {
    let (width, first) = (conv.channels[i], conv.channels[..i].iter().sum());
    let count = conv.out * width;
    let call = call
        .value(size(OP, count)?)
        .value(size(OP, width)?)
        .value(size(OP, conv.all_channels())?)
        .value(size(OP, first)?);
    let call = match mode {
        Some(mode) => call.value(mode.as_arg()),
        None => call,
    };
    call.launch(LaunchConfig::linear(count.div_ceil(256) as u32, 256))
}

impl ConvBwd {
    pub(super) fn run_kernels(&self, dy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let conv = &self.conv;
        let dy = &match dy.dtype() == self.inputs[0].value().dtype() {
            true => dy,
            false => rounded(&dy)?,
        };
        let dtype = dy.dtype();
        for (i, (range, x)) in conv.ranges().zip(&self.inputs).enumerate() {
            let Some((mut dx, mode)) = grads.slot(x)? else { continue };
            if conv.is_wide {
                let filter = Filter::backward(conv, &self.weight, &range);
                filter.convolve(&mut dx, &[dy], None, conv.grid, mode)?;
            } else {
                let columns = columns(conv, &self.weight, dtype, i)?;
                linear::InputGradient::new(dy, &columns)?.run(&mut dx, None, mode)?;
            }
        }
        let bias = self.bias.as_ref().filter(|b| b.slot.is_some());
        if self.weight.slot.is_none() && bias.is_none() {
            return Ok(());
        }
        match conv.is_wide {
            true => self.wide_gradients(dy, bias, grads),
            false => self.product_gradients(dy, bias, grads),
        }
    }

    fn wide_gradients(
        &self,
        dy: &Tensor,
        bias: Option<&Param>,
        grads: &mut Grads<'_>,
    ) -> Result<()> {
        let Conv { out, ref channels, .. } = self.conv;
        let (device, dtype, all) = (dy.device(), dy.dtype(), self.conv.all_channels());
        let inputs: Vec<&Tensor> = self.inputs.iter().map(Var::value).collect();
        // No network of ours has a bias here.
        let (weights, biases) =
            if bias.is_none() && hopper::can(&inputs, channels) && hopper::can(&[dy], &[out]) {
                let tile = hopper::Backward::choose(out);
                let each = tile.bricks_of_a_part(&self.conv);
                (tile.partial_gradients(&self.conv, dy, &inputs, each)?, None)
            } else {
                let blocks = out.div_ceil(GRADIENT_N) * chunks(channels, dtype);
                let each = bricks_of_a_part(&self.conv, blocks);
                partial_gradients(&self.conv, dy, &inputs, each, bias.is_some())?
            };

        let call = KernelCall::new(device, "conv3d_bwd_reduce_f32");
        let mut spare = None;
        let shape = [out, all, 27];
        let place = &linear::Place::Pointer;
        let (call, modes) = destinations(self, (call, place), bias, grads, &shape, &mut spare)?;
        let elements = (27 * out * all).div_ceil(32) + bias.map_or(0, |_| out.div_ceil(32));
        call.input(&weights)?
            .optional(biases.as_ref())?
            .value(size(OP, weights.shape()[0])?)
            .value(size(OP, out)?)
            .value(size(OP, all)?)
            .value(modes[0].as_arg())
            .value(modes[1].as_arg())
            .launch(LaunchConfig::linear(elements as u32, 256))
    }

    /// Of a 1 x 1 x 1 kernel: the products of dy with each input.
    fn product_gradients(
        &self,
        dy: &Tensor,
        bias: Option<&Param>,
        grads: &mut Grads<'_>,
    ) -> Result<()> {
        let conv = &self.conv;
        let (device, out) = (dy.device(), conv.out);
        let mut spare = None;
        if let [x] = &self.inputs[..] {
            let gradient = linear::ParamGradient::new(dy, x.value())?;
            let shape = [out, conv.channels[0]];
            return gradient.run(bias.is_some(), |call, place| {
                destinations(self, (call, place), bias, grads, &shape, &mut spare)
            });
        }
        let mut parts = Vec::new();
        for (i, x) in self.inputs.iter().enumerate() {
            let mut part = Tensor::empty(device, DType::F32, &[out, conv.channels[i]])?;
            let bias = bias.filter(|_| i == 0);
            linear::ParamGradient::new(dy, x.value())?.run(bias.is_some(), |call, place| {
                let call = place.append(call, &mut part.as_mut())?;
                bias_destination(call, bias, grads)
                    .map(|(call, mode)| (call, [GradMode::Overwrite, mode]))
            })?;
            parts.push(part);
        }
        let Some((mut dw, mode)) = grads.param(&self.weight)? else { return Ok(()) };
        for (i, part) in parts.iter().enumerate() {
            let call = KernelCall::new(device, "conv3d_bwd_columns_f32");
            launch_columns(call.output_mut(&mut dw)?.input(part)?, conv, i, Some(mode))?;
        }
        Ok(())
    }
}

/// Sums over parts of `each` bricks: of the weight `[parts, 27, out, all channels]`, and of the bias
/// `[parts, out]` where wanted.
pub(super) fn partial_gradients(
    conv: &Conv,
    dy: &Tensor,
    inputs: &[&Tensor],
    each: usize,
    has_bias: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    let Conv { grid, out, ref channels, .. } = *conv;
    let (device, dtype) = (dy.device(), dy.dtype());
    let parts = bricks(grid).max(1).div_ceil(each);
    let mut weights = Tensor::empty(device, DType::F32, &[parts, 27, out, conv.all_channels()])?;
    let mut biases = match has_bias {
        true => Some(Tensor::empty(device, DType::F32, &[parts, out])?),
        false => None,
    };
    size(OP, grid.rows())?;
    let few = if is_few(channels, dtype) { "_few" } else { "" };
    let call = KernelCall::new(device, &format!("conv3d_bwd_params_{dtype}{few}"));
    let call = call.output(&mut weights)?.optional_output(biases.as_mut())?;
    let call = sizes(input_pair(call.input(dy)?, inputs)?, grid, channels)?;
    let call = call.value(size(OP, out)?).value(size(OP, bricks(grid))?).value(size(OP, each)?);
    let blocks = out.div_ceil(GRADIENT_N) * chunks(channels, dtype);
    let stage = HALO_BYTES + BRICK.iter().product::<usize>() * (GRADIENT_N * dtype.size() + 16);
    call.launch(LaunchConfig {
        grid: [blocks as u32, parts as u32, 1],
        block: [288, 1, 1],
        shared_bytes: 2 * stage as u32,
    })?;
    Ok((weights, biases))
}

/// Appends where the gradients of weight and bias go, and says how each is to be written. Where the
/// bias alone is trained, the weight's goes to `spare`.
fn destinations<'d>(
    op: &ConvBwd,
    (call, place): (KernelCall<'d>, &linear::Place),
    bias: Option<&Param>,
    grads: &mut Grads<'_>,
    shape: &[usize],
    spare: &mut Option<Tensor>,
) -> Result<(KernelCall<'d>, [GradMode; 2])> {
    let (call, weight) = match grads.param(&op.weight)? {
        Some((mut dw, mode)) => (place.append(call, &mut dw)?, mode),
        None => {
            let device = op.weight.value.device();
            let spare = spare.insert(Tensor::empty(device, DType::F32, shape)?);
            (place.append(call, &mut spare.as_mut())?, GradMode::Overwrite)
        }
    };
    let (call, bias) = bias_destination(call, bias, grads)?;
    Ok((call, [weight, bias]))
}

fn bias_destination<'d>(
    call: KernelCall<'d>,
    bias: Option<&Param>,
    grads: &mut Grads<'_>,
) -> Result<(KernelCall<'d>, GradMode)> {
    let slot = match bias {
        Some(bias) => grads.param(bias)?,
        None => None,
    };
    Ok(match slot {
        Some((mut db, mode)) => (call.output_mut(&mut db)?, mode),
        None => (call.value(DevicePtr::NULL), GradMode::Overwrite),
    })
}
