//! The choice among the tiles of `kernels/include/gemm.cuh`. It minimises a small model of the time on a GPU of 132 SMs
//! (H200); on other GPUs it is a little less than the best, and the bits are the same.

use crate::device::DType;
use crate::device::launch::LaunchConfig;

/// A block shape of `kernels/include/gemm.cuh`, as kernels carry it in their names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::ops) struct Tile {
    pub variant: &'static str,
    m: usize,
    n: usize,
    /// Depth of a tile; parts of a sum are multiples of it.
    k: usize,
    threads: u32,
    shared_bytes: u32,
    /// Blocks that run on an SM at the same time.
    per_sm: usize,
    /// Share of the best tile's rate with the SM full of blocks. Estimates, not yet measured.
    rate: f64,
}

const fn mma(
    m: usize,
    n: usize,
    threads: u32,
    per_sm: usize,
    rate: f64,
    name: &'static str,
) -> Tile {
    let shared_bytes = (4 * (m + n) * 32 * 2) as u32;
    Tile { variant: name, m, n, k: 32, threads, shared_bytes, per_sm, rate }
}

const fn simt(m: usize, n: usize, per_sm: usize, rate: f64, name: &'static str) -> Tile {
    let shared_bytes = (2 * 16 * (m + n + 8) * 4) as u32;
    Tile { variant: name, m, n, k: 16, threads: 256, shared_bytes, per_sm, rate }
}

/// The tensor-core tiles, for bf16.
static MMA: [Tile; 3] = [
    mma(128, 192, 256, 1, 1.0, "128x192"),
    mma(128, 128, 128, 2, 1.0, "128x128"),
    mma(64, 64, 128, 4, 0.6, "64x64"),
];
static MMA_ANY: Tile = mma(64, 64, 128, 4, 0.2, "any");
/// The f32 tiles.
static SIMT: [Tile; 2] = [simt(128, 128, 2, 1.0, "128x128"), simt(64, 64, 4, 0.7, "64x64")];
static SIMT_ANY: Tile = simt(64, 64, 2, 0.5, "any");

/// A product `[m, k] x [k, n]`, cut into blocks.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct Plan {
    pub tile: Tile,
    /// Into how many parts the sum over k is split.
    pub parts: usize,
    /// Length of each part but the last.
    pub k_part: usize,
    pub launch: LaunchConfig,
}

const SMS: usize = 132;
/// Start and end of a block, in multiply-adds' worth of k.
const FILL: f64 = 96.0;
/// Multiply-adds that an SM could do in the time that the GPU moves a byte, and in 3 us: what a
/// split costs (tensor cores: 790 TFLOP/s and 4.3 TB/s).
const MADS_PER_BYTE: f64 = 0.7;
const MADS_PER_LAUNCH: f64 = 9e6;

/// Chooses among the tiles of `dtype`. `vectors`: both operands allow 16-byte loads.
/// `may_split`: the caller can add up parts.
pub(in crate::ops) fn plan(dtype: DType, size: [usize; 3], vectors: bool, may_split: bool) -> Plan {
    choose(tiles(dtype, vectors), size, may_split, MADS_PER_LAUNCH)
}

/// As [`plan`], for ops that have the smallest tile only, and that add up parts even of one part.
pub(in crate::ops) fn plan_small(
    dtype: DType,
    size: [usize; 3],
    vectors: bool,
    may_split: bool,
) -> Plan {
    let tiles = tiles(dtype, vectors);
    choose(&tiles[tiles.len() - 1..], size, may_split, 0.0)
}

fn tiles(dtype: DType, vectors: bool) -> &'static [Tile] {
    match (dtype, vectors) {
        (DType::Bf16, true) => &MMA,
        (DType::Bf16, false) => std::slice::from_ref(&MMA_ANY),
        (_, true) => &SIMT,
        (_, false) => std::slice::from_ref(&SIMT_ANY),
    }
}

fn choose(tiles: &[Tile], [m, n, k]: [usize; 3], may_split: bool, launch: f64) -> Plan {
    // A long sum over few outputs (the gradient of a 1x1x1 convolution) needs all SMs.
    let most = if may_split { (k / 256).clamp(1, 128).max((k / 8192).min(512)) } else { 1 };
    let mut best = Plan::new(tiles[0], [m, n, k], 1);
    for &tile in tiles {
        for parts in 1..=most {
            let plan = Plan::new(tile, [m, n, k], parts);
            if plan.time([m, n], launch) < best.time([m, n], launch) {
                best = plan;
            }
        }
    }
    best
}

impl Plan {
    /// `tile`, with the sum in at most `parts` parts.
    pub fn new(tile: Tile, [m, n, k]: [usize; 3], parts: usize) -> Self {
        let k_part = k.div_ceil(parts.max(1)).next_multiple_of(tile.k).max(tile.k);
        let parts = k.div_ceil(k_part).max(1);
        let blocks = m.div_ceil(tile.m) * n.div_ceil(tile.n);
        let launch = LaunchConfig {
            grid: [blocks as u32, parts as u32, 1],
            block: [tile.threads, 1, 1],
            shared_bytes: tile.shared_bytes,
        };
        Self { tile, parts, k_part, launch }
    }

    /// The kernel of a pass, e.g. `linear_fwd_bf16_128x128`.
    pub fn kernel(&self, stem: &str, dtype: DType) -> String {
        format!("{stem}_{dtype}_{}", self.tile.variant)
    }

    /// Predicted time in multiply-adds of one SM at its best rate; `launch`: of the kernel that adds
    /// up the parts.
    fn time(&self, [m, n]: [usize; 2], launch: f64) -> f64 {
        let Tile { per_sm, rate, .. } = self.tile;
        let blocks = self.launch.blocks() as usize;
        let (full, rest) = (blocks / (SMS * per_sm), blocks % (SMS * per_sm));
        let block = (self.tile.m * self.tile.n) as f64 * (self.k_part as f64 + FILL) / rate;
        // A last wave that leaves room on the SMs is slower per block: less latency is hidden.
        let last = rest.div_ceil(SMS) as f64;
        let tail = if rest == 0 { 0.0 } else { block * (last + 0.25 * (per_sm as f64 - last)) };
        let split = match self.parts {
            1 => 0.0,
            parts => (8 * parts * m * n) as f64 * MADS_PER_BYTE + launch,
        };
        full as f64 * block * per_sm as f64 + tail + split
    }

    /// Every tile there is for `dtype`, for tests.
    #[cfg(test)]
    pub fn tiles(dtype: DType) -> Vec<Tile> {
        match dtype {
            DType::Bf16 => MMA.into_iter().chain([MMA_ANY]).collect(),
            _ => SIMT.into_iter().chain([SIMT_ANY]).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_the_sum() {
        for k in [1, 31, 32, 33, 255, 256, 3768, 65_536] {
            for parts in 1..40 {
                let plan = Plan::new(MMA[1], [130, 70, k], parts);
                assert!(plan.parts * plan.k_part >= k, "{k} {parts}");
                assert!((plan.parts - 1) * plan.k_part < k, "{k} {parts}: an empty part");
                assert_eq!(plan.k_part % 32, 0);
                assert_eq!(plan.launch.grid[1] as usize, plan.parts);
            }
        }
    }

    /// The choices at the model's shapes (ViT-B at four volumes, decoder 512).
    #[test]
    fn large_products_get_large_tiles_and_tall_sums_are_split() {
        let name = |shape, split| {
            let p = plan(DType::Bf16, shape, true, split);
            (p.tile.variant, p.parts)
        };
        assert_eq!(name([3768, 3072, 768], false).0, "128x192");
        assert_eq!(name([40, 2048, 768], false).0, "64x64");
        let (_, parts) = name([512, 512, 14_952], true);
        assert!(parts >= 4, "16 large tiles do not fill 132 SMs: {parts}");
        let head = plan_small(DType::Bf16, [40, 256, 65_536], true, true);
        assert!(head.parts >= 32, "four tiles do not fill 132 SMs: {head:?}");
        assert_eq!(plan(DType::Bf16, [40, 30, 20], false, false).tile.variant, "any");
        assert_eq!(plan(DType::F32, [3768, 3072, 768], true, false).tile.variant, "128x128");
    }
}
