//! Floor 1: where tensors live and where ops run.

pub mod abi;
mod call;
mod dtype;
pub mod emulated;
pub mod launch;
pub mod memory;
mod storage;
mod tensor;

use std::sync::Arc;

pub(crate) use call::KernelCall;
pub(crate) use dtype::with_real;
pub use dtype::{DType, Element, Real};
pub use tensor::{Tensor, TensorMut};

use self::emulated::{Emulated, Mode, Options, Schedule};
use self::launch::{Arg, DevicePtr, LaunchConfig};
use crate::{Error, Result};

/// A place that holds tensors and runs ops.
#[derive(Clone)]
pub enum Device {
    /// The Rust references and their fast paths.
    Cpu,
    /// The CUDA kernels, executed on the host.
    Emulated(Arc<Emulated>),
}

impl Device {
    /// Parses `auto`, `cpu`, `emulated`, ... as given on the command line. `auto` picks the best
    /// there is.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "auto" | "cpu" => Ok(Self::Cpu),
            "emulated" => Ok(Self::emulated(Mode::Plain, Schedule::Ascending)),
            "emulated-checked" => Ok(Self::emulated(Mode::Checked, Schedule::Ascending)),
            other if other.starts_with("cuda") => Err(Error::Unsupported(format!(
                "device '{other}': this binary has no CUDA runtime; use --device cpu, or \
                 --device emulated to execute the kernels on the host"
            ))),
            other => Err(Error::Config(format!(
                "unknown device '{other}'; known: auto, cpu, emulated, emulated-checked"
            ))),
        }
    }

    /// An emulated device; see [`emulated`].
    pub fn emulated(mode: Mode, schedule: Schedule) -> Self {
        Self::Emulated(Arc::new(Emulated::new(Options { mode, schedule, ..Options::default() })))
    }

    /// Name as a user writes it.
    pub fn name(&self) -> String {
        match self {
            Self::Cpu => "cpu".into(),
            Self::Emulated(_) => "emulated".into(),
        }
    }

    /// Runs a kernel. The CPU has none.
    fn launch(&self, name: &str, config: &LaunchConfig, args: &[Arg<'_>]) -> Result<()> {
        match self {
            Self::Cpu => Err(Error::Unsupported(format!("kernel {name} on the CPU"))),
            Self::Emulated(emulated) => {
                if config.shared_bytes > 48 << 10 {
                    emulated.allow_shared(name, config.shared_bytes)?;
                }
                emulated.launch(name, config, args)
            }
        }
    }

    fn upload(&self, to: DevicePtr, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Cpu => Err(Error::Unsupported("upload to the CPU".into())),
            Self::Emulated(emulated) => emulated.upload(to, bytes),
        }
    }

    fn download(&self, from: DevicePtr, bytes: &mut [u8]) -> Result<()> {
        match self {
            Self::Cpu => Err(Error::Unsupported("download from the CPU".into())),
            Self::Emulated(emulated) => emulated.download(from, bytes),
        }
    }

    fn copy(&self, to: DevicePtr, from: DevicePtr, bytes: usize) -> Result<()> {
        match self {
            Self::Cpu => Err(Error::Unsupported("device copy on the CPU".into())),
            Self::Emulated(emulated) => emulated.copy(to, from, bytes),
        }
    }

    fn fill_zero(&self, to: DevicePtr, bytes: usize) -> Result<()> {
        match self {
            Self::Cpu => Err(Error::Unsupported("device fill on the CPU".into())),
            Self::Emulated(emulated) => emulated.fill(to, 0, bytes),
        }
    }
}

impl PartialEq for Device {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Cpu, Self::Cpu) => true,
            (Self::Emulated(a), Self::Emulated(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name())
    }
}
