//! The choice among the tiles of `kernels/include/hopper/gemm.cuh`, by a model of the time of a product on an SM of an H100
//! or H200. What is counted is exact (tiles, waves, bytes, instructions of the epilogues); rates are those of the data
//! sheet. Not yet measured on a GPU.

use serde::{Deserialize, Serialize};

use super::tuning;
use crate::Error;
use crate::device::launch::LaunchConfig;
use crate::device::{DType, KernelSet, Tensor};

/// What a layer makes of its sums; numbers of `kernels/include/hopper/gemm_epilogue.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(i32)]
pub enum Follows {
    Nothing = 0,
    Gelu = 1,
    /// And its input is kept.
    GeluKeep = 2,
    /// A matrix is added.
    Add = 3,
    /// Times the derivative of the GELU at a matrix.
    GeluGrad = 4,
    /// Sums in f32 go out as they are, in parts or whole.
    Parts = 5,
    /// The comparison of the pixel head, which may keep what it compares.
    Compare = 6,
    CompareKeep = 7,
    /// Rows get positions and go to places of their own.
    Place = 8,
}

impl Follows {
    /// Whether it reads a matrix as large as the result.
    fn reads(self) -> bool {
        matches!(self, Self::Add | Self::GeluGrad | Self::Compare | Self::CompareKeep)
    }

    /// Columns of a panel on the way out.
    fn panel_columns(self) -> usize {
        if self == Self::Parts { 32 } else { 64 }
    }

    /// Instructions that a warp issues for 64 of a thread's sums, counted in the machine code.
    fn instructions(self) -> f64 {
        match self {
            Self::Nothing => 250.0,
            Self::Add => 350.0,
            Self::Gelu => 1200.0,
            Self::GeluKeep => 1300.0,
            Self::GeluGrad => 1350.0,
            Self::Parts => 350.0,
            Self::Compare => 840.0,
            Self::CompareKeep => 950.0,
            Self::Place => 510.0,
        }
    }
}

/// A shape of `WgmmaTile`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::ops) struct Tile {
    pub variant: &'static str,
    /// Rows of the tile of a warpgroup, and columns.
    group_m: usize,
    n: usize,
    stages: usize,
    /// Whether each of the two warpgroups has a tile of its own.
    ping_pong: bool,
    /// Blocks of a cluster, which share the columns of B.
    cluster: usize,
    /// Buffers of a warpgroup for panels on the way out.
    slots: usize,
}

/// The depth of a stage.
const K: usize = 64;
/// Bytes of a row of a stage or panel.
const ROW: usize = 128;

pub(in crate::ops) const TILES: [Tile; 5] = [
    Tile::new("hopper_128x256", 64, 256, 4, false, 2, 2),
    Tile::new("hopper_128x192", 64, 192, 4, false, 2, 3),
    Tile::new("hopper_64x256", 64, 256, 4, true, 2, 4),
    Tile::new("hopper_128x128", 128, 128, 5, true, 2, 2),
    Tile::new("hopper_64x64", 64, 64, 8, true, 1, 2),
];

impl Tile {
    const fn new(
        variant: &'static str,
        group_m: usize,
        n: usize,
        stages: usize,
        ping_pong: bool,
        cluster: usize,
        slots: usize,
    ) -> Self {
        Self { variant, group_m, n, stages, ping_pong, cluster, slots }
    }

    /// As users write it, e.g. `128x256`.
    pub fn name(&self) -> &'static str {
        self.variant.trim_start_matches("hopper_")
    }

    /// Rows of a block's tile.
    pub fn m(&self) -> usize {
        if self.ping_pong { self.group_m } else { 2 * self.group_m }
    }

    fn shared_bytes(&self) -> u32 {
        let stage = (self.m() + self.n) * ROW;
        let panels = 2 * self.slots * self.group_m * ROW;
        (self.stages * stage + panels + (2 * self.stages + 4) * 8) as u32
    }

    /// Whether the kernel can do what follows: what is read has a buffer for every panel, and what the comparison keeps
    /// has another one.
    pub fn can(&self, follows: Follows) -> bool {
        let panels = self.n / follows.panel_columns();
        let needed = match follows {
            Follows::CompareKeep => 2 * panels,
            _ if follows.reads() => panels,
            _ => 1,
        };
        self.slots >= needed
    }

    /// Strips of 16 rows in the tiles of `m` rows, those below the matrix included.
    pub fn strips(&self, m: usize) -> usize {
        m.next_multiple_of(self.m() * self.cluster) / 16
    }

    pub fn columns(&self) -> usize {
        self.n
    }

    /// Bytes of a stage that L2 gives to a block.
    fn loaded(&self) -> usize {
        (self.m() + self.n / self.cluster) * ROW
    }

    /// Bytes of a stage that products read: every one of 64 rows its part of A and all of B.
    fn read(&self) -> usize {
        self.m() / 64 * (64 + self.n) * ROW
    }

    /// The boxes that the copy engine takes of an operand, outermost dimension first.
    pub fn a_box(&self, is_k_major: bool) -> [usize; 2] {
        if is_k_major { [self.m(), K] } else { [K, 64] }
    }

    pub fn b_box(&self, is_k_major: bool) -> [usize; 2] {
        if is_k_major { [self.n / self.cluster, K] } else { [K / self.cluster, 64] }
    }

    /// And of what goes out or is combined with the sums.
    pub fn panel_box(&self, follows: Follows) -> [usize; 2] {
        [self.group_m, follows.panel_columns()]
    }
}

/// A product `[m, k] x [k, n]`, cut into tiles and parts of the sum.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct Plan {
    pub tile: Tile,
    pub parts: usize,
    /// Length of each part but the last, a multiple of 64.
    pub k_part: usize,
    pub launch: LaunchConfig,
    /// Tiles, or parts of them, that the busiest cluster takes one after the other.
    pub turns: usize,
}

/// Multiprocessors of an H100 SXM or H200; the grid is as large. On a GPU with fewer, blocks wait for others to end.
pub(in crate::ops) const SMS: usize = 132;
/// Multiply-adds in bf16 of an SM in a cycle (989 TFLOP/s at 132 SMs and 1.83 GHz).
pub(super) const MADS: f64 = 2048.0;
/// Bytes of shared memory of an SM in a cycle.
const SHARED_BYTES: f64 = 128.0;
/// Bytes that L2 gives an SM in a cycle: 6.7 TB/s, of all. Products have been seen at 808 TFLOP/s with tiles of 128 x 256 in
/// clusters of two (fast.cu on an H100, pranjalssh), which takes 6.3.
const L2_BYTES: f64 = 28.0;
/// What an SM can take from L2 in a cycle.
const L2_BYTES_ALONE: f64 = 64.0;
/// Bytes of DRAM for an SM in a cycle: 4.3 TB/s.
pub(in crate::ops) const DRAM_BYTES: f64 = 17.8;
/// From the start of a block to its first product, and from the last one to the end of the kernel.
const LATENCY: f64 = 1500.0;
/// Between one kernel of a graph and the next, the one that adds up the parts: 1.6 us.
const LAUNCH: f64 = 3000.0;
/// Instructions a cycle of a warp that has a scheduler to itself.
const ALONE: f64 = 0.6;
/// Barriers of a panel, and copies that it waits for.
const PANEL: f64 = 200.0;

impl Plan {
    /// `tile`, with the sum in at most `parts` parts.
    pub fn new(tile: Tile, [m, n, k]: [usize; 3], parts: usize) -> Self {
        let k_part = k.div_ceil(parts.max(1)).next_multiple_of(K).max(K);
        let parts = k.div_ceil(k_part).max(1);
        let items = m.div_ceil(tile.m() * tile.cluster) * n.div_ceil(tile.n) * parts;
        let clusters = items.min(SMS / tile.cluster);
        let launch = LaunchConfig {
            grid: [(clusters * tile.cluster) as u32, 1, 1],
            block: [384, 1, 1],
            shared_bytes: tile.shared_bytes(),
        };
        Self { tile, parts, k_part, launch, turns: items.div_ceil(clusters) }
    }

    /// The same tiles by at most so many clusters, one after the other: what a grid is must not show in any sum.
    #[cfg(all(test, feature = "cuda"))]
    pub fn on(mut self, clusters: usize) -> Self {
        let tile = self.tile;
        let before = self.launch.grid[0] as usize / tile.cluster;
        let clusters = clusters.min(before);
        self.turns = (self.turns * before).div_ceil(clusters);
        self.launch.grid[0] = (clusters * tile.cluster) as u32;
        self
    }

    /// The kernel of a pass, e.g. `linear_fwd_bf16_hopper_128x192`.
    pub fn kernel(&self, stem: &str) -> String {
        format!("{stem}_bf16_{}", self.tile.variant)
    }

    /// Cycles of the products of a tile.
    fn products(&self) -> f64 {
        self.bounds().into_iter().map(|(_, cycles)| cycles).fold(0.0, f64::max)
    }

    /// Bytes that L2 gives to the blocks, and that pass through shared memory: those of the operands alone, each stage
    /// written once and read by every product of 64 rows.
    pub fn traffic(&self, [m, n, k]: [usize; 3]) -> [u64; 2] {
        let (tile, rows) = (self.tile, self.tile.m());
        let tiles = m.div_ceil(rows * tile.cluster) * tile.cluster * n.div_ceil(tile.n);
        let stages = (tiles * k.div_ceil(K)) as u64;
        let shared = (rows + tile.n) * ROW + tile.read();
        [stages * tile.loaded() as u64, stages * shared as u64]
    }

    /// What binds the products.
    pub fn bound(&self) -> &'static str {
        let most = self.bounds().into_iter().max_by(|a, b| a.1.total_cmp(&b.1));
        most.map_or("", |(name, _)| name)
    }

    /// The best plan with another tile, and its cycles.
    pub fn second(
        &self,
        size @ [m, n, _]: [usize; 3],
        tiles: &[Tile],
        follows: Follows,
        may_split: bool,
    ) -> (String, f64) {
        let others: Vec<Tile> =
            tiles.iter().copied().filter(|t| *t != self.tile && t.can(follows)).collect();
        let plan = choose(&others, size, follows, may_split);
        (plan.tile.variant.to_owned(), plan.time([m, n], follows))
    }

    /// Cycles that the products of a tile need of the tensor cores, of shared memory that feeds them, and of L2.
    fn bounds(&self) -> [(&'static str, f64); 3] {
        let tile = self.tile;
        let tensor = (tile.m() * tile.n * K) as f64 / MADS;
        let shared = tile.read() as f64 / SHARED_BYTES;
        // L2 gives all it has to the blocks there are, as far as an SM can take it.
        let rate = (L2_BYTES * SMS as f64 / self.launch.blocks() as f64).min(L2_BYTES_ALONE);
        let l2 = tile.loaded() as f64 / rate;
        let blocks = (self.k_part / K) as f64;
        [("tensor", blocks * tensor), ("shared", blocks * shared), ("l2", blocks * l2)]
    }

    /// Cycles from a warpgroup's last product to the last of its panels.
    fn way_out(&self, follows: Follows) -> f64 {
        let Tile { group_m, n, ping_pong, .. } = self.tile;
        let sums = (group_m * n / 128) as f64 / 64.0;
        // A scheduler has a warp of one group, which waits for itself now and then, or of both.
        let cycles = if ping_pong { 1.0 / ALONE } else { 2.0 };
        sums * follows.instructions() * cycles + (n / follows.panel_columns()) as f64 * PANEL
    }

    /// Predicted cycles.
    pub fn time(&self, [m, n]: [usize; 2], follows: Follows) -> f64 {
        let cycles =
            cycles(self.tile.ping_pong, self.turns, self.products(), self.way_out(follows));
        // The sums are written in parts, read, and written once more.
        let split = match self.parts {
            1 => 0.0,
            parts => (8 * parts * m * n + 4 * m * n) as f64 / (SMS as f64 * DRAM_BYTES) + LAUNCH,
        };
        LATENCY + cycles + split
    }
}

/// Cycles of `turns` tiles with these products and this way out. In turns of two warpgroups, either the tensor cores are
/// never idle or each warpgroup is busy with its own tiles, the second one behind the first one's products.
fn cycles(is_ping_pong: bool, turns: usize, products: f64, way_out: f64) -> f64 {
    let all = turns as f64;
    if !is_ping_pong {
        return all * (products + way_out);
    }
    let behind = if turns.is_multiple_of(2) { products } else { 0.0 };
    (all * products + way_out).max(turns.div_ceil(2) as f64 * (products + way_out) + behind)
}

/// The tiles of ops whose results have few rows or columns.
pub(in crate::ops) const SMALL: [Tile; 2] = [TILES[2], TILES[4]];

pub(super) fn tiles(is_small: bool) -> &'static [Tile] {
    if is_small { &SMALL } else { &TILES }
}

/// The best of `tiles` and number of parts, as measured where it was (`tuning`), by the model elsewhere. `may_split`: the
/// caller can add up parts.
pub(in crate::ops) fn plan(
    stem: &str,
    tiles: &[Tile],
    size: [usize; 3],
    follows: Follows,
    may_split: bool,
) -> Plan {
    let tuned =
        tuning::find(stem, size, follows, tiles).filter(|plan| plan.parts == 1 || may_split);
    tuned.unwrap_or_else(|| choose(tiles, size, follows, may_split))
}

pub(super) fn choose(
    tiles: &[Tile],
    size @ [m, n, k]: [usize; 3],
    follows: Follows,
    may_split: bool,
) -> Plan {
    let most = if may_split { k.div_ceil(256).clamp(1, 128) } else { 1 };
    let tiles = tiles.iter().filter(|tile| tile.can(follows));
    let plans = tiles.flat_map(|&tile| (1..=most).map(move |parts| Plan::new(tile, size, parts)));
    let time = |plan: &Plan| plan.time([m, n], follows);
    plans.min_by(|a, b| time(a).total_cmp(&time(b))).expect("a tile can do everything")
}

/// Whether these matrices, each with its number of columns, can be products of Hopper's kernels: bf16 on a device that has
/// them, rows of whole 16-byte pieces.
pub(in crate::ops) fn takes(matrices: &[(&Tensor, usize)]) -> bool {
    let is_ours =
        |t: &Tensor| t.dtype() == DType::Bf16 && t.device().kernel_set() == KernelSet::Hopper;
    matrices.iter().all(|(t, _)| is_ours(t)) && super::vectors(matrices)
}

/// What none of these kernels does.
pub(in crate::ops) fn unsupported(op: &str, what: &str) -> Error {
    Error::Unsupported(format!("{op}: {what} by one of Hopper's kernels"))
}

/// Whether a bias can be read two values at a time.
pub(in crate::ops) fn takes_bias(bias: Option<&Tensor>) -> bool {
    bias.is_none_or(|bias| bias.is_aligned(8))
}

#[cfg(all(test, feature = "cuda"))]
pub(in crate::ops) mod fault_tests;
#[cfg(test)]
pub(in crate::ops) mod tests;
