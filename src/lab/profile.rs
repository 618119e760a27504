//! What the compiled kernels of an op would ask of a GPU: counted by executing their PTX, line by line of the source,
//! and what follows for the time that they need at least.

use glmae_simt::bound::{Gpu, Unit, binding, bounds};
use glmae_simt::occupancy::Occupancy;
use glmae_simt::profile::{Profile, Sums};
use serde::Serialize;

use super::bench_kernels::{Target, chosen, passes};
use crate::device::launch::REGISTERS;
use crate::device::ptx::{Ptx, Recorded};
use crate::device::{DType, Device};
use crate::{Error, Result};

/// One kernel of one pass of an op.
#[derive(Clone, Debug, Serialize)]
pub struct KernelProfile {
    pub op: String,
    pub case: String,
    /// `fwd` or `bwd`.
    pub pass: &'static str,
    pub kernel: String,
    pub target: String,
    pub launches: u64,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared_bytes: u32,
    /// Of a thread of the machine code; none if ptxas did not say.
    pub registers: Option<u32>,
    /// Blocks and warps that a multiprocessor of the GPU holds at once, and what there would have to be more of.
    pub blocks_per_multiprocessor: u32,
    pub warps_per_multiprocessor: u32,
    pub occupancy_limit: &'static str,
    /// Sums over all launches.
    pub total: Counted,
    /// Microseconds that each unit of the GPU needs at least.
    pub at_least_us: Vec<(&'static str, f64)>,
    /// The unit that needs longest.
    pub binding: &'static str,
    pub lines: Vec<LineProfile>,
}

/// A line of the source.
#[derive(Clone, Debug, Serialize)]
pub struct LineProfile {
    pub file: String,
    pub line: u32,
    #[serde(flatten)]
    pub counted: Counted,
}

/// [`Sums`] as they are written into files, with the ratios that people look at.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Counted {
    pub instructions: u64,
    /// Of 32.
    pub lanes_per_instruction: f64,
    pub integer: u64,
    pub fma: u64,
    pub convert: u64,
    pub special: u64,
    pub load_store: u64,
    pub tensor: u64,
    pub control: u64,
    pub barriers: u64,
    pub global_requests: u64,
    pub global_bytes: u64,
    pub sectors: u64,
    /// Sectors over those that are needed: 1 is coalesced.
    pub sectors_over_least: f64,
    pub shared_requests: u64,
    pub shared_passes: u64,
    /// Passes over those that are needed: 1 is free of bank conflicts.
    pub passes_over_least: f64,
    /// Bytes of `cp.async` and of bulk copies.
    pub async_bytes: u64,
    /// Bytes that go to the second cache whatever the first one holds.
    pub l2_bytes: u64,
    /// Bytes of shared memory that `wgmma` reads.
    pub operand_bytes: u64,
    pub tensor_flops: u64,
}

impl From<&Sums> for Counted {
    fn from(s: &Sums) -> Self {
        let ratio = |a: u64, b: u64| if b == 0 { 1.0 } else { a as f64 / b as f64 };
        Self {
            instructions: s.issued,
            lanes_per_instruction: ratio(s.lanes, s.issued),
            integer: s.integer,
            fma: s.fma,
            convert: s.convert,
            special: s.special,
            load_store: s.load_store,
            tensor: s.tensor,
            control: s.control,
            barriers: s.barriers,
            global_requests: s.global_requests,
            global_bytes: s.global_bytes,
            sectors: s.sectors,
            sectors_over_least: ratio(s.sectors, s.least_sectors),
            shared_requests: s.shared_requests,
            shared_passes: s.passes,
            passes_over_least: ratio(s.passes, s.least_passes),
            async_bytes: s.async_bytes,
            l2_bytes: 32 * s.l2_sectors,
            operand_bytes: s.operand_bytes,
            tensor_flops: s.tensor_flops,
        }
    }
}

/// One pass of an op: what it has to move and compute once, and its kernels.
#[derive(Clone, Debug, Serialize)]
pub struct PassProfile {
    pub op: String,
    pub case: String,
    pub pass: &'static str,
    pub bytes: u64,
    pub flops: u64,
    /// Microseconds that these bytes need at the GPU's bandwidth, and that the whole pass needs at least: these, or its
    /// FLOP at the rate of dense bf16 products.
    pub memory_us: f64,
    pub floor_us: f64,
    pub kernels: Vec<KernelProfile>,
}

/// Executes every target once, forward and backward, and counts.
///
/// Errors: `Config` for an unknown op or a shape that it does not take; those of the device.
pub fn profile(
    ptx: &std::sync::Arc<Ptx>,
    gpu: &Gpu,
    dtype: DType,
    targets: &[Target],
    after: &mut dyn FnMut(&PassProfile) -> Result<()>,
) -> Result<()> {
    let device = Device::Ptx(ptx.clone());
    // All of them first: the last line of a list may be wrong, and executing takes minutes.
    let cases = targets.iter().map(chosen).collect::<Result<Vec<_>>>()?;
    if let Some((op, _)) = cases.iter().find(|(op, _)| !op.has_kernels()) {
        return Err(Error::Config(format!("{} has no kernels", op.name())));
    }
    for (op, case) in cases {
        let (bytes, flops) = (op.bytes(&case, dtype.size()), op.flops(&case));
        ptx.take_counts();
        passes(op, &case, &device, dtype, &mut |pass| {
            let recorded = ptx.take_counts();
            let factor = if pass == "bwd" { 2 } else { 1 };
            let mut kernels: Vec<KernelProfile> = recorded
                .values()
                .map(|of| kernel_profile(of, gpu, (op.name(), &case.label, pass)))
                .collect();
            kernels.sort_by(|a, b| b.longest_us().total_cmp(&a.longest_us()));
            let memory_us = (factor * bytes) as f64 / gpu.bandwidth * 1e6;
            let products_us = (factor * flops) as f64 / gpu.tensor_rate() * 1e6;
            after(&PassProfile {
                op: op.name().into(),
                case: case.label.clone(),
                pass,
                bytes: factor * bytes,
                flops: factor * flops,
                memory_us,
                floor_us: memory_us.max(products_us),
                kernels,
            })
        })?;
    }
    Ok(())
}

impl KernelProfile {
    /// Microseconds of the unit that needs longest.
    pub fn longest_us(&self) -> f64 {
        self.at_least_us.iter().map(|b| b.1).fold(0.0, f64::max)
    }
}

fn kernel_profile(
    recorded: &Recorded,
    gpu: &Gpu,
    (op, case, pass): (&str, &str, &'static str),
) -> KernelProfile {
    let profile = Profile::new(&recorded.program, &recorded.counts);
    // What has to be moved is known of the op, not of its kernels.
    let bounds = bounds(&profile.total, gpu, 0);
    let config = &recorded.config;
    let shared_bytes = config.shared_bytes + recorded.program.static_shared();
    let registers = registers(&profile.kernel, &profile.target);
    let occupancy =
        Occupancy::of(gpu, registers.unwrap_or(0), config.block.iter().product(), shared_bytes);
    let lines = profile.lines.iter().map(|(line, sums)| LineProfile {
        file: line.file.clone(),
        line: line.line,
        counted: sums.into(),
    });
    KernelProfile {
        op: op.into(),
        case: case.into(),
        pass,
        kernel: profile.kernel.clone(),
        target: profile.target.clone(),
        launches: recorded.launches,
        grid: config.grid,
        block: config.block,
        shared_bytes,
        registers,
        blocks_per_multiprocessor: occupancy.blocks,
        warps_per_multiprocessor: occupancy.warps,
        occupancy_limit: occupancy.limit.name(),
        total: (&profile.total).into(),
        at_least_us: bounds
            .iter()
            .filter(|(unit, _)| *unit != Unit::Memory)
            .map(|(unit, seconds)| (unit.name(), seconds * 1e6))
            .collect(),
        binding: binding(&bounds).0.name(),
        lines: lines.collect(),
    }
}

/// What ptxas said of this kernel when the machine code of this binary was made.
fn registers(kernel: &str, target: &str) -> Option<u32> {
    let arch = target.strip_prefix("sm_")?;
    REGISTERS.iter().find(|row| row.0 == kernel && row.1 == arch).map(|row| row.2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::launch::{KERNELS, PTX};

    #[test]
    fn ptxas_said_the_registers_of_every_kernel() {
        for (file, arch, _) in PTX {
            for kernel in KERNELS.iter().filter(|kernel| kernel.file == *file) {
                let n = registers(kernel.name, &format!("sm_{arch}"));
                assert!(n.is_some_and(|n| (1..=255).contains(&n)), "{} {arch}: {n:?}", kernel.name);
            }
        }
    }
}
