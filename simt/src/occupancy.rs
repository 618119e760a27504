//! How many blocks of a kernel a multiprocessor holds at once, by the rules of the CUDA C++ programming guide (table of
//! technical specifications per compute capability) for 8.0 and 9.0, in which they differ only in shared memory.

use crate::bound::Gpu;

const WARPS: u32 = 64;
const BLOCKS: u32 = 32;
const REGISTERS: u32 = 64 * 1024;
/// Registers are handed out to warps in pieces of this many, and to a quarter of the multiprocessor at a time.
const REGISTER_UNIT: u32 = 256;
const QUARTERS: u32 = 4;
/// Shared memory is handed out in pieces of this many bytes, and the system keeps some of each block's.
const SHARED_UNIT: u32 = 128;
const SHARED_KEPT: u32 = 1024;

/// What a multiprocessor holds of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occupancy {
    pub blocks: u32,
    pub warps: u32,
    /// What there would have to be more of.
    pub limit: Limit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    Warps,
    Blocks,
    Registers,
    Shared,
}

impl Limit {
    pub fn name(self) -> &'static str {
        match self {
            Self::Warps => "warps",
            Self::Blocks => "blocks",
            Self::Registers => "registers",
            Self::Shared => "shared",
        }
    }
}

impl Occupancy {
    /// Of a kernel with these registers a thread, threads a block, and bytes of shared memory a block.
    pub fn of(gpu: &Gpu, registers: u32, threads: u32, shared: u32) -> Self {
        let warps = threads.div_ceil(32).max(1);
        let of_a_warp = (registers.max(1) * 32).next_multiple_of(REGISTER_UNIT);
        let by_registers = REGISTERS / QUARTERS / of_a_warp * QUARTERS / warps;
        let of_a_block = shared.next_multiple_of(SHARED_UNIT) + SHARED_KEPT;
        let limits = [
            (Limit::Warps, WARPS / warps),
            (Limit::Blocks, BLOCKS),
            (Limit::Registers, by_registers),
            (Limit::Shared, gpu.shared / of_a_block),
        ];
        let least = |a: (Limit, u32), b: (Limit, u32)| if b.1 < a.1 { b } else { a };
        let (limit, blocks) = limits.into_iter().fold(limits[0], least);
        Self { blocks, warps: blocks * warps, limit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As NVIDIA's occupancy calculator (of Nsight Compute) has them.
    #[test]
    fn what_limits_a_kernel() {
        let (h100, a100) = (Gpu::find("h100").unwrap(), Gpu::find("a100").unwrap());
        let of = |gpu, registers, threads, shared| {
            let Occupancy { blocks, warps, limit } = Occupancy::of(gpu, registers, threads, shared);
            (blocks, warps, limit)
        };
        assert_eq!(of(h100, 32, 256, 0), (8, 64, Limit::Warps));
        assert_eq!(of(h100, 64, 256, 0), (4, 32, Limit::Registers));
        assert_eq!(of(h100, 65, 256, 0), (3, 24, Limit::Registers));
        assert_eq!(of(h100, 128, 256, 48 * 1024), (2, 16, Limit::Registers));
        assert_eq!(of(h100, 168, 384, 0), (1, 12, Limit::Registers));
        assert_eq!(of(h100, 255, 256, 0), (1, 8, Limit::Registers));
        assert_eq!(of(h100, 32, 32, 0), (32, 32, Limit::Blocks));
        assert_eq!(of(h100, 40, 256, 80 * 1024), (2, 16, Limit::Shared));
        assert_eq!(of(a100, 40, 256, 80 * 1024), (2, 16, Limit::Shared));
        assert_eq!(of(a100, 40, 256, 81 * 1024), (2, 16, Limit::Shared));
        assert_eq!(of(a100, 40, 256, 82 * 1024), (1, 8, Limit::Shared));
        assert_eq!(of(h100, 128, 384, 227 * 1024), (1, 12, Limit::Registers));
        assert_eq!(of(h100, 100, 128, 227 * 1024), (1, 4, Limit::Shared));
    }
}
