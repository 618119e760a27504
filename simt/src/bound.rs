//! What a kernel cannot be faster than on a GPU, from its counts and from what the units of the GPU can do at most.
//!
//! Each bound is that of one unit alone, kept busy all the time on all multiprocessors. Nothing is said about caches,
//! latencies, or how units get into each other's way: a real kernel takes longer, often much.

use crate::profile::Sums;

/// What the units of a GPU can do at most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gpu {
    pub name: &'static str,
    pub multiprocessors: u32,
    /// The highest clock, in 10^9 per second.
    pub clock: f64,
    /// Floating-point operations of dense bf16 products per clock and multiprocessor.
    pub tensor: u32,
    /// Bytes that the second cache gives per clock. Of an A100 its white paper says so; an H100's is not published,
    /// and what has been measured is less than this.
    pub l2: u32,
    /// Bytes per second of its memory, as its maker says.
    pub bandwidth: f64,
    /// Bytes of shared memory that a multiprocessor has for its blocks.
    pub shared: u32,
}

/// GPUs by name. Sources: NVIDIA's architecture white papers and data sheets; the CUDA C++ programming guide's table
/// of arithmetic throughput for what is per clock and multiprocessor.
pub const GPUS: [Gpu; 3] = [
    Gpu { name: "h100", bandwidth: 3.35e12, ..H200 },
    H200,
    Gpu {
        name: "a100",
        multiprocessors: 108,
        clock: 1.41,
        tensor: 2048,
        l2: 5120,
        bandwidth: 2.039e12,
        shared: 164 * 1024,
    },
];

const H200: Gpu = Gpu {
    name: "h200",
    multiprocessors: 132,
    clock: 1.98,
    tensor: 4096,
    l2: 5120,
    bandwidth: 4.8e12,
    shared: 228 * 1024,
};

impl Gpu {
    pub fn find(name: &str) -> Option<&'static Self> {
        GPUS.iter().find(|gpu| gpu.name == name)
    }

    /// Multiprocessors times clocks per second.
    fn clocks(&self) -> f64 {
        f64::from(self.multiprocessors) * self.clock * 1e9
    }

    /// Floating-point operations of dense bf16 products per second.
    pub fn tensor_rate(&self) -> f64 {
        f64::from(self.tensor) * self.clocks()
    }
}

/// What limits a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unit {
    /// Four instructions per clock and multiprocessor.
    Issue,
    /// f32 arithmetic: 128 lanes per clock and multiprocessor.
    Fma,
    /// Conversions: 64 lanes, the most that the guide has for any.
    Convert,
    /// Special functions: 16 lanes.
    Special,
    /// Shared memory and the first cache, which are one: 128 bytes, that is a pass or four sectors. What asynchronous
    /// copies bring passes it once, on its way into shared memory.
    Shared,
    Tensor,
    /// The second cache: what goes there whatever the first one holds.
    L2,
    /// Bytes that have to be moved once.
    Memory,
}

impl Unit {
    pub const ALL: [Self; 8] = [
        Self::Issue,
        Self::Fma,
        Self::Convert,
        Self::Special,
        Self::Shared,
        Self::Tensor,
        Self::L2,
        Self::Memory,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Issue => "issue",
            Self::Fma => "fma",
            Self::Convert => "convert",
            Self::Special => "special",
            Self::Shared => "shared",
            Self::Tensor => "tensor",
            Self::L2 => "l2",
            Self::Memory => "memory",
        }
    }
}

/// Seconds that each unit needs at least for this work, `bytes` of which have to be moved from or to memory.
pub fn bounds(sums: &Sums, gpu: &Gpu, bytes: u64) -> [(Unit, f64); 8] {
    let per = |work: f64, per_clock: f64| work / per_clock / gpu.clocks();
    Unit::ALL.map(|unit| {
        let seconds = match unit {
            Unit::Issue => per(sums.lasting as f64, 4.0),
            Unit::Fma => per(sums.fma as f64, 4.0),
            Unit::Convert => per(sums.convert as f64, 2.0),
            Unit::Special => per(sums.special as f64, 0.5),
            Unit::Shared => {
                let sectors = sums.sectors - sums.async_sectors;
                let bytes = 128 * sums.passes + 32 * sectors + sums.operand_bytes;
                per(bytes as f64, 128.0)
            }
            Unit::Tensor => per(sums.tensor_flops as f64, gpu.tensor.into()),
            // One for the whole GPU.
            Unit::L2 => 32.0 * sums.l2_sectors as f64 / f64::from(gpu.l2) / gpu.clock / 1e9,
            Unit::Memory => bytes as f64 / gpu.bandwidth,
        };
        (unit, seconds)
    })
}

/// The unit that takes longest.
pub fn binding(bounds: &[(Unit, f64); 8]) -> (Unit, f64) {
    let longest = |a: (Unit, f64), b: (Unit, f64)| if b.1 > a.1 { b } else { a };
    bounds.iter().copied().fold(bounds[0], longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_unit_has_its_rate() {
        let gpu = Gpu::find("h100").unwrap();
        let per_clock = 132.0 * 1.98e9;
        let sums = Sums {
            lasting: 4_000_000,
            fma: 2_000_000,
            convert: 3_000_000,
            special: 1_000_000,
            passes: 500_000,
            sectors: 500_000,
            async_sectors: 200_000,
            operand_bytes: 128 * 25_000,
            l2_sectors: 160 * 10_000,
            tensor_flops: 4096 * 3_000_000,
            ..Sums::default()
        };
        let all = bounds(&sums, gpu, 33_500_000_000);
        let clocks = [1e6, 0.5e6, 1.5e6, 2e6, 0.6e6, 3e6, 132.0 * 1e4];
        for ((unit, seconds), clocks) in all.iter().zip(clocks) {
            assert!((seconds * per_clock / clocks - 1.0).abs() < 1e-12, "{unit:?}");
        }
        assert!((all[7].1 - 0.01).abs() < 1e-12);
        assert_eq!(binding(&all).0, Unit::Memory);
        assert_eq!(binding(&bounds(&sums, gpu, 0)).0, Unit::Tensor);
        assert!(Gpu::find("b100").is_none());
    }
}
