//! Launches of `kernels/hopper/conv3d.cu`, and the choice among its variants by counted cycles.

use super::launch::{self, Filter, PART_BYTES, bricks_of};
use super::{Conv, OP};
use crate::Result;
use crate::device::launch::LaunchConfig;
use crate::device::tensor_map::allows_boxes;
use crate::device::{DType, KernelCall, Tensor, TensorMut};
use crate::ops::gemm::hopper::{DRAM_BYTES, SMS, takes, takes_bias};
use crate::ops::gemm::size;
use crate::ops::grid::VoxelGrid;
use crate::tape::GradMode;

/// Of `kernels/include/hopper/conv.cuh`: voxels of a brick along h and w, channels of a chunk.
const SIDE: usize = 8;
const CHUNK: usize = 16;
const TAPS: usize = 27;

/// Of `ConvFwdTile`: output channels, planes that each of two warpgroups multiplies, stages of weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Forward {
    pub n: usize,
    pub products: usize,
    pub stages: usize,
    /// Blocks of a grid, which take items until none is left.
    pub most_blocks: usize,
}

pub(super) const FORWARD: [Forward; 5] = [
    Forward::new(16, 4, 6),
    Forward::new(32, 4, 6),
    Forward::new(48, 4, 5),
    Forward::new(64, 4, 4),
    Forward::new(96, 2, 4),
];

/// Of `ConvBwdTile`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Backward {
    pub n: usize,
    /// Whether the warpgroups share the taps; otherwise each has half of the voxels, and sums of its own.
    splits_taps: bool,
    stages: usize,
}

pub(super) const BACKWARD: [Backward; 4] = [
    Backward { n: 16, splits_taps: false, stages: 6 },
    Backward { n: 32, splits_taps: false, stages: 5 },
    Backward { n: 48, splits_taps: false, stages: 4 },
    Backward { n: 64, splits_taps: true, stages: 4 },
];
const BACKWARD_PLANES: usize = 4;

fn bricks(grid: VoxelGrid, planes: usize) -> usize {
    bricks_of([planes, SIDE, SIDE], grid)
}

fn chunks(channels: &[usize]) -> usize {
    launch::chunks(channels, DType::Bf16)
}

/// Bytes of a chunk of a brick and its halo in shared memory.
fn halo_bytes(planes: usize) -> usize {
    (planes + 2) * (SIDE + 2) * (SIDE + 2) * CHUNK * 2
}

/// Cycles of a product of 64 x n x 16: of the tensor cores, or of shared memory, which delivers both operands at 128 bytes
/// a cycle.
fn product_cycles(n: usize) -> usize {
    (n / 2).max(16 + n / 4)
}

/// Whether the kernels take these inputs.
pub(super) fn can(inputs: &[&Tensor], channels: &[usize]) -> bool {
    let inputs: Vec<_> = inputs.iter().copied().zip(channels.iter().copied()).collect();
    // Nothing is no tensor for the copy engine.
    takes(&inputs) && inputs.iter().all(|(x, _)| !x.is_empty())
}

/// Whether the forward pass takes this result and this bias.
pub(super) fn can_write(y: &TensorMut<'_>, out: usize, bias: Option<&Tensor>) -> bool {
    allows_boxes(out, y.dtype()) && y.is_aligned(16) && takes_bias(bias)
}

impl Forward {
    const fn new(n: usize, products: usize, stages: usize) -> Self {
        Self { n, products, stages, most_blocks: SMS }
    }

    fn planes(self) -> usize {
        2 * self.products
    }

    fn items(self, grid: VoxelGrid, out: usize) -> usize {
        bricks(grid, self.planes()) * out.div_ceil(self.n)
    }

    /// Cycles for each chunk and tap: turns of the grid, times products of a block.
    fn cycles(self, grid: VoxelGrid, out: usize) -> usize {
        self.items(grid, out).div_ceil(SMS) * self.planes() * product_cycles(self.n)
    }

    fn shared_bytes(self) -> u32 {
        let stages = self.stages * 9 * self.n * CHUNK * 2;
        let rows = 8 * 16 * 2 * self.n;
        (3 * halo_bytes(self.planes()) + stages + rows + 16 * (3 + self.stages)) as u32
    }

    /// The fastest by count, the narrower of equals.
    pub fn choose(grid: VoxelGrid, out: usize) -> Self {
        let mut tiles = FORWARD;
        tiles.sort_by_key(|tile| tile.cycles(grid, out));
        tiles[0]
    }

    /// `y (+)= conv(inputs) + bias`.
    pub fn convolve(
        self,
        filter: &Filter<'_>,
        y: &mut TensorMut<'_>,
        inputs: &[&Tensor],
        bias: Option<&Tensor>,
        grid: VoxelGrid,
        mode: GradMode,
    ) -> Result<()> {
        let weights = self.packed(filter)?;
        let name = format!("conv3d_fwd_bf16_hopper_n{}", self.n);
        size(OP, grid.rows())?;
        let call = KernelCall::new(inputs[0].device(), &name).output_mut(y)?;
        let call = halos(call, inputs, &filter.channels, grid, self.planes())?;
        let call = call.input(&weights)?.optional(bias)?;
        sizes(call, grid, &filter.channels)?
            .value(size(OP, filter.out)?)
            .value(mode.as_arg())
            .launch(LaunchConfig {
                grid: [self.items(grid, filter.out).min(self.most_blocks) as u32, 1, 1],
                block: [384, 1, 1],
                shared_bytes: self.shared_bytes(),
            })
    }

    /// The weights as the kernel reads them.
    fn packed(self, filter: &Filter<'_>) -> Result<Tensor> {
        let Filter { weight, ref channels, out, .. } = *filter;
        let device = weight.value.device();
        let count = out.next_multiple_of(self.n) * chunks(channels) * TAPS * CHUNK;
        let mut packed = Tensor::empty(device, DType::Bf16, &[count])?;
        let pieces = count / 8;
        let call = KernelCall::new(device, "conv3d_init_bf16_hopper")
            .output(&mut packed)?
            .input(&weight.value)?
            .value(size(OP, pieces)?);
        filter
            .describe(call, self.n)?
            .launch(LaunchConfig::linear(pieces.div_ceil(256).min(SMS) as u32, 256))?;
        Ok(packed)
    }
}

impl Backward {
    /// Bytes of a row of dy, of which 48 channels come in rows of 64.
    fn span(self) -> usize {
        if self.n == 48 { 128 } else { 2 * self.n }
    }

    /// Sums that a block writes of each part.
    pub fn copies(self) -> usize {
        if self.splits_taps { 1 } else { 2 }
    }

    /// Cycles of a brick.
    fn cycles(self) -> usize {
        let products = if self.splits_taps { 8 } else { 7 };
        BACKWARD_PLANES * SIDE * SIDE / 16 * products * product_cycles(self.n)
    }

    fn shared_bytes(self) -> u32 {
        let dy = BACKWARD_PLANES * SIDE * SIDE * self.span();
        let stage = (dy + halo_bytes(BACKWARD_PLANES)).next_multiple_of(1024);
        (self.stages * (stage + 16)) as u32
    }

    fn tiles(self, conv: &Conv) -> usize {
        chunks(&conv.channels) * conv.out.div_ceil(self.n)
    }

    /// The fastest by count, the narrower of equals.
    pub fn choose(out: usize) -> Self {
        let mut tiles = BACKWARD;
        tiles.sort_by_key(|tile| out.div_ceil(tile.n) * tile.cycles());
        tiles[0]
    }

    /// Bricks of a part: turns of the grid against sums that are written and read again.
    pub fn bricks_of_a_part(self, conv: &Conv) -> usize {
        let (bricks, tiles) = (bricks(conv.grid, BACKWARD_PLANES).max(1), self.tiles(conv));
        let bytes = self.copies() * TAPS * 4 * conv.out * conv.all_channels();
        let most = (PART_BYTES / bytes).clamp(1, bricks.min(2 * SMS));
        let cycles = |parts: &usize| {
            let turns = (parts * tiles).div_ceil(SMS) * bricks.div_ceil(*parts);
            let moved = (2 * parts * bytes) as f64 / (SMS as f64 * DRAM_BYTES);
            turns * self.cycles() + moved as usize
        };
        bricks.div_ceil((1..=most).min_by_key(cycles).unwrap_or(1))
    }

    /// Sums over parts of `each` bricks: `[copies * parts, 27, out, all channels]`.
    pub fn partial_gradients(
        self,
        conv: &Conv,
        dy: &Tensor,
        inputs: &[&Tensor],
        each: usize,
    ) -> Result<Tensor> {
        let Conv { grid, out, ref channels, .. } = *conv;
        let parts = bricks(grid, BACKWARD_PLANES).max(1).div_ceil(each);
        let shape = [self.copies() * parts, TAPS, out, conv.all_channels()];
        let mut sums = Tensor::empty(dy.device(), DType::F32, &shape)?;
        size(OP, grid.rows())?;
        let name = format!("conv3d_bwd_params_bf16_hopper_n{}", self.n);
        let call = KernelCall::new(dy.device(), &name).output(&mut sums)?;
        let brick = [1, BACKWARD_PLANES, SIDE, SIDE, self.span() / 2];
        let call = call.boxes(dy, &volumes(grid, out), &brick)?;
        let call = halos(call, inputs, channels, grid, BACKWARD_PLANES)?;
        sizes(call, grid, channels)?.value(size(OP, out)?).value(size(OP, each)?).launch(
            LaunchConfig {
                grid: [1, self.tiles(conv) as u32, parts as u32],
                block: [384, 1, 1],
                shared_bytes: self.shared_bytes(),
            },
        )?;
        Ok(sums)
    }
}

fn volumes(grid: VoxelGrid, channels: usize) -> [usize; 5] {
    let [d, h, w] = grid.dims;
    [grid.batch, d, h, w, channels]
}

/// Adds the maps of both inputs, in halos of 8 channels.
fn halos<'d>(
    mut call: KernelCall<'d>,
    inputs: &[&Tensor],
    channels: &[usize],
    grid: VoxelGrid,
    planes: usize,
) -> Result<KernelCall<'d>> {
    let halo = [1, planes + 2, SIDE + 2, SIDE + 2, 8];
    for (x, &c) in inputs.iter().zip(channels) {
        call = call.boxes(x, &volumes(grid, c), &halo)?;
    }
    Ok(if inputs.len() < 2 { call.no_boxes() } else { call })
}

/// Volumes, d, h, w and the channels of both inputs.
fn sizes<'d>(call: KernelCall<'d>, grid: VoxelGrid, channels: &[usize]) -> Result<KernelCall<'d>> {
    let call = call.value(size(OP, grid.batch)?);
    launch::sizes(call, grid, channels)
}
