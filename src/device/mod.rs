//! Where tensors live and where ops run.

pub mod abi;
mod arena;
mod call;
mod capturing;
pub mod class;
#[cfg(feature = "cuda")]
pub mod cuda;
mod dry;
mod dtype;
pub mod emulated;
pub mod fatbin;
mod graph;
pub mod launch;
pub mod memory;
pub mod nvtx;
pub mod on_host;
mod storage;
mod tensor;
#[cfg(any(feature = "cuda", test))]
mod upload;

use std::sync::Arc;

pub use arena::Usage;
pub(crate) use call::KernelCall;
pub use dry::Dry;
pub(crate) use dtype::with_real;
pub use dtype::{DType, Element, Real, SameAsF32};
pub use graph::Graph;
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
    /// No arithmetic: only the books of memory, for plans.
    Dry(Arc<Dry>),
    /// The CUDA kernels on a GPU.
    #[cfg(feature = "cuda")]
    Cuda(Arc<cuda::Cuda>),
}

impl Device {
    /// Parses `auto`, `cpu`, `emulated`, `cuda:0`, ... as given on the command line. `auto` picks
    /// the best there is.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "auto" => Self::best(),
            "cpu" => Ok(Self::Cpu),
            "emulated" => Ok(Self::emulated(Mode::Plain, Schedule::Ascending)),
            "emulated-checked" => Ok(Self::emulated(Mode::Checked, Schedule::Ascending)),
            other => match other.strip_prefix("cuda").map(|n| n.strip_prefix(':').unwrap_or(n)) {
                Some(n) => Self::cuda(if n.is_empty() { Some(0) } else { n.parse().ok() }, other),
                None => Err(unknown(other)),
            },
        }
    }

    #[cfg(feature = "cuda")]
    fn best() -> Result<Self> {
        if cuda::count() > 0 {
            Ok(Self::Cuda(Arc::new(cuda::Cuda::new(0)?)))
        } else {
            Ok(Self::Cpu)
        }
    }

    #[cfg(not(feature = "cuda"))]
    fn best() -> Result<Self> {
        Ok(Self::Cpu)
    }

    #[cfg(feature = "cuda")]
    fn cuda(ordinal: Option<usize>, text: &str) -> Result<Self> {
        let ordinal = ordinal.ok_or_else(|| unknown(text))?;
        Ok(Self::Cuda(Arc::new(cuda::Cuda::new(ordinal)?)))
    }

    #[cfg(not(feature = "cuda"))]
    fn cuda(ordinal: Option<usize>, text: &str) -> Result<Self> {
        ordinal.ok_or_else(|| unknown(text))?;
        Err(Error::Unsupported(format!(
            "device '{text}': this binary was built without the feature 'cuda'; build with \
             --features cuda, or use --device cpu, or --device emulated to execute the kernels on \
             the host"
        )))
    }

    /// An emulated device; see [`emulated`].
    pub fn emulated(mode: Mode, schedule: Schedule) -> Self {
        Self::Emulated(Arc::new(Emulated::new(Options { mode, schedule, ..Options::default() })))
    }

    /// A device that only keeps the books of memory; see [`Dry`].
    pub fn dry() -> Self {
        Self::Dry(Arc::default())
    }

    /// Name as a user writes it.
    pub fn name(&self) -> String {
        match self {
            Self::Cpu => "cpu".into(),
            Self::Emulated(_) => "emulated".into(),
            Self::Dry(_) => "dry".into(),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => format!("cuda ({})", cuda.name()),
        }
    }

    /// Whether only one process at a time can use the device.
    pub fn is_exclusive(&self) -> bool {
        match self {
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => cuda.is_exclusive(),
            Self::Cpu | Self::Emulated(_) | Self::Dry(_) => false,
        }
    }

    /// Gives memory that no tensor uses back to the driver, so that other processes can have it.
    pub fn release_unused(&self) -> Result<()> {
        match self {
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => cuda.release_unused(),
            Self::Dry(dry) => {
                dry.release_unused();
                Ok(())
            }
            Self::Cpu | Self::Emulated(_) => Ok(()),
        }
    }

    /// Starts (or stops) collection by a profiler that waits for the program to say so: `nsys profile
    /// -c cudaProfilerApi`, `ncu --profile-from-start off`. Only GPUs have such profilers.
    pub fn profile(&self, on: bool) -> Result<()> {
        match self {
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => cuda.profile(on),
            _ => {
                tracing::debug!(on, "no profiler on {}", self.name());
                Ok(())
            }
        }
    }

    /// Runs a kernel. The CPU has none.
    fn launch(&self, name: &str, config: &LaunchConfig, args: &[Arg<'_>]) -> Result<()> {
        match self {
            Self::Cpu => Err(Error::Unsupported(format!("kernel {name} on the CPU"))),
            Self::Emulated(emulated) => {
                if config.shared_bytes > 0 {
                    emulated.allow_shared(name, config.shared_bytes)?;
                }
                emulated.launch(name, config, args)
            }
            Self::Dry(dry) => dry.launch(name, config, args),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => {
                if config.shared_bytes > 0 {
                    cuda.allow_shared(name, config.shared_bytes)?;
                }
                cuda.launch(name, config, args)
            }
        }
    }

    fn upload(&self, to: DevicePtr, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Cpu => Err(Error::Unsupported("upload to the CPU".into())),
            Self::Emulated(emulated) => emulated.upload(to, bytes),
            Self::Dry(_) => Ok(()),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => cuda.upload(to, bytes),
        }
    }

    fn download(&self, from: DevicePtr, bytes: &mut [u8]) -> Result<()> {
        match self {
            Self::Cpu => Err(Error::Unsupported("download from the CPU".into())),
            Self::Emulated(emulated) => emulated.download(from, bytes),
            Self::Dry(_) => {
                bytes.fill(0);
                Ok(())
            }
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => cuda.download(from, bytes),
        }
    }

    fn copy(&self, to: DevicePtr, from: DevicePtr, bytes: usize) -> Result<()> {
        match self {
            Self::Cpu => Err(Error::Unsupported("device copy on the CPU".into())),
            Self::Emulated(emulated) => emulated.copy(to, from, bytes),
            Self::Dry(_) => Ok(()),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => cuda.copy(to, from, bytes),
        }
    }

    fn fill_zero(&self, to: DevicePtr, bytes: usize) -> Result<()> {
        match self {
            Self::Cpu => Err(Error::Unsupported("device fill on the CPU".into())),
            Self::Emulated(emulated) => emulated.fill(to, 0, bytes),
            Self::Dry(_) => Ok(()),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => cuda.fill(to, 0, bytes),
        }
    }
}

fn unknown(text: &str) -> Error {
    Error::Config(format!(
        "unknown device '{text}'; known: auto, cpu, emulated, emulated-checked, cuda, cuda:N"
    ))
}

impl PartialEq for Device {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Cpu, Self::Cpu) => true,
            (Self::Emulated(a), Self::Emulated(b)) => Arc::ptr_eq(a, b),
            (Self::Dry(a), Self::Dry(b)) => Arc::ptr_eq(a, b),
            #[cfg(feature = "cuda")]
            (Self::Cuda(a), Self::Cuda(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name())
    }
}
