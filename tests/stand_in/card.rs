//! The GPU that is played: what it says of itself, and what executes its kernels. Those for every GPU are the
//! emulated ones. Those for Hopper exist as PTX only, which is executed instruction by instruction.
//!
//! `GLMAE_STAND_IN_CAPABILITY` is its compute capability, `9.0` (the default) or `8.0`, which has no kernels for Hopper.
//! `GLMAE_STAND_IN_PROCESSORS` is its number of multiprocessors, those of an H100 by default. With few of them the blocks
//! of persistent kernels take several tiles each, as those of real sizes do.

use std::env;

use glmae::device::KernelSet;
use glmae::device::emulated::{self, Fibres, Mode, Schedule};
use glmae::device::launch::{DeviceLimits, Kernel};
use glmae::device::on_host::{Engine, Launch};
use glmae::device::ptx::{self, Arch, Executor};
use glmae::error::{Error, Result};
use glmae_simt::memory;

/// Multiprocessors of an H100.
const PROCESSORS: u32 = 132;

pub struct Card {
    pub capability: [u32; 2],
    pub processors: u32,
    portable: Fibres,
    hopper: Option<Executor>,
}

impl Card {
    /// Errors: `Config` for a value that is not known, `Unsupported` without the PTX for Hopper.
    pub fn from_environment() -> Result<Self> {
        let has_hopper = match variable("GLMAE_STAND_IN_CAPABILITY").as_deref() {
            None | Some("9.0") => true,
            Some("8.0") => false,
            Some(other) => {
                return Err(Error::Config(format!(
                    "GLMAE_STAND_IN_CAPABILITY is '{other}'; it can be '9.0' or '8.0'"
                )));
            }
        };
        let processors = match variable("GLMAE_STAND_IN_PROCESSORS") {
            None => PROCESSORS,
            Some(text) => text.parse().ok().filter(|&n| n > 0).ok_or_else(|| {
                Error::Config(format!(
                    "GLMAE_STAND_IN_PROCESSORS is '{text}', which is no number of any"
                ))
            })?,
        };
        let checked = env::var_os("GLMAE_STAND_IN_CHECKED").is_some();
        let mode = if checked { Mode::Checked } else { Mode::Plain };
        let (capability, limits) = match has_hopper {
            true => ([9, 0], DeviceLimits::SM_90),
            false => ([8, 0], DeviceLimits::SM_80),
        };
        let options = ptx::Options { checked, kernels: KernelSet::Hopper, ..Default::default() };
        Ok(Self {
            capability,
            processors,
            portable: Fibres::new(emulated::Options {
                mode,
                schedule: Schedule::Ascending,
                limits,
            }),
            hopper: has_hopper.then(|| Executor::new(Arch::Sm90a, options)).transpose()?,
        })
    }

    /// What a driver says at once of a launch of kernels for Hopper. `may_start_early` is whether the kernel before it
    /// in the stream may still run, which is wrong for kernels that do not wait for that one by themselves; a driver
    /// does not say so.
    ///
    /// Errors: `Device`.
    pub fn check(
        &self,
        kernel: &'static Kernel,
        grid: [u32; 3],
        may_start_early: bool,
    ) -> Result<()> {
        let program = match self.executor(kernel)? {
            Some(executor) => Some(executor.program(kernel)?),
            None => None,
        };
        let cluster = program.as_ref().and_then(|program| program.cluster).unwrap_or([1; 3]);
        let wrong = if (0..3).any(|i| !grid[i].is_multiple_of(cluster[i])) {
            format!("a grid of {grid:?} blocks in clusters of {cluster:?}")
        } else if may_start_early && !program.is_some_and(|program| program.awaits_grids) {
            "it may start before the kernel before it has ended, but never waits for it".into()
        } else {
            return Ok(());
        };
        Err(Error::Device(format!("kernel {}: {wrong}", kernel.name)))
    }

    /// What executes the PTX of a kernel, if it is not one of the emulated ones.
    fn executor(&self, kernel: &Kernel) -> Result<Option<&Executor>> {
        match (kernel.needs_hopper(), &self.hopper) {
            (false, _) => Ok(None),
            (true, Some(executor)) => Ok(Some(executor)),
            (true, None) => Err(Error::Unsupported(format!("kernel {} needs Hopper", kernel.name))),
        }
    }
}

impl Engine for Card {
    fn limits(&self) -> &DeviceLimits {
        self.portable.limits()
    }

    /// Both work in memory of the same kind.
    fn memory(&self) -> memory::Options {
        memory::Options { device: "stand-in", ..self.portable.memory() }
    }

    fn static_bytes(&self, kernel: &'static Kernel) -> Result<u32> {
        match self.executor(kernel)? {
            Some(executor) => executor.static_bytes(kernel),
            None => self.portable.static_bytes(kernel),
        }
    }

    fn run(&self, launch: &Launch) -> Result<()> {
        match self.executor(launch.kernel)? {
            Some(executor) => executor.run(launch),
            None => self.portable.run(launch),
        }
    }
}

fn variable(name: &str) -> Option<String> {
    env::var_os(name)
        .map(|text| text.to_string_lossy().into_owned())
        .filter(|text| !text.is_empty())
}
