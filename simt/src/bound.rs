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
    /// Bytes per second of its memory, as its maker says.
    pub bandwidth: f64,
}

/// GPUs by name. Sources: NVIDIA's architecture white papers and data sheets; the CUDA C++ programming guide's table
/// of arithmetic throughput for what is per clock and multiprocessor.
pub const GPUS: [Gpu; 3] = [
    Gpu { name: "h100", multiprocessors: 132, clock: 1.98, tensor: 4096, bandwidth: 3.35e12 },
    Gpu { name: "h200", multiprocessors: 132, clock: 1.98, tensor: 4096, bandwidth: 4.8e12 },
    Gpu { name: "a100", multiprocessors: 108, clock: 1.41, tensor: 2048, bandwidth: 2.039e12 },
];

impl Gpu {
    pub fn find(name: &str) -> Option<&'static Self> {
        GPUS.iter().find(|gpu| gpu.name == name)
    }
}

/// What limits a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unit {
    /// Four instructions per clock and multiprocessor.
    Issue,
    /// f32 arithmetic: 128 lanes per clock and multiprocessor.
    Fma,
    /// Special functions: 16 lanes.
    Special,
    /// Shared memory and the first cache, which are one: 128 bytes, that is a pass or four sectors.
    Shared,
    Tensor,
    /// Bytes that have to be moved once.
    Memory,
}

impl Unit {
    pub const ALL: [Self; 6] =
        [Self::Issue, Self::Fma, Self::Special, Self::Shared, Self::Tensor, Self::Memory];

    pub fn name(self) -> &'static str {
        match self {
            Self::Issue => "issue",
            Self::Fma => "fma",
            Self::Special => "special",
            Self::Shared => "shared",
            Self::Tensor => "tensor",
            Self::Memory => "memory",
        }
    }
}

/// Seconds that each unit needs at least for this work, `bytes` of which have to be moved from or to memory.
pub fn bounds(sums: &Sums, gpu: &Gpu, bytes: u64) -> [(Unit, f64); 6] {
    let clocks = f64::from(gpu.multiprocessors) * gpu.clock * 1e9;
    let per = |work: f64, per_clock: f64| work / per_clock / clocks;
    Unit::ALL.map(|unit| {
        let seconds = match unit {
            Unit::Issue => per(sums.lasting as f64, 4.0),
            Unit::Fma => per(sums.fma as f64, 4.0),
            Unit::Special => per(sums.special as f64, 0.5),
            Unit::Shared => per(sums.passes as f64 + sums.sectors as f64 / 4.0, 1.0),
            Unit::Tensor => per(sums.tensor_flops as f64, gpu.tensor.into()),
            Unit::Memory => bytes as f64 / gpu.bandwidth,
        };
        (unit, seconds)
    })
}

/// The unit that takes longest.
pub fn binding(bounds: &[(Unit, f64); 6]) -> (Unit, f64) {
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
            special: 1_000_000,
            passes: 500_000,
            sectors: 400_000,
            tensor_flops: 4096 * 3_000_000,
            ..Sums::default()
        };
        let all = bounds(&sums, gpu, 33_500_000_000);
        let clocks = [1e6, 0.5e6, 2e6, 0.6e6, 3e6];
        for ((unit, seconds), clocks) in all.iter().zip(clocks) {
            assert!((seconds * per_clock / clocks - 1.0).abs() < 1e-12, "{unit:?}");
        }
        assert!((all[5].1 - 0.01).abs() < 1e-12);
        assert_eq!(binding(&all).0, Unit::Memory);
        assert_eq!(binding(&bounds(&sums, gpu, 0)).0, Unit::Tensor);
        assert!(Gpu::find("b100").is_none());
    }
}
