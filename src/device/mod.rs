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
mod kernel_set;
pub mod launch;
pub mod memory;
pub mod nvtx;
pub mod on_host;
#[cfg(feature = "cuda")]
pub mod ptx;
mod storage;
mod tensor;
pub(crate) mod tensor_map;
#[cfg(any(feature = "cuda", test))]
mod upload;

use std::sync::Arc;

pub use arena::Usage;
pub(crate) use call::KernelCall;
pub use dry::Dry;
pub(crate) use dtype::with_real;
pub use dtype::{DType, Element, Real, SameAsF32};
pub use graph::Graph;
pub use kernel_set::KernelSet;
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
    /// The PTX of the CUDA kernels, executed on the host.
    #[cfg(feature = "cuda")]
    Ptx(Arc<ptx::Ptx>),
    /// The CUDA kernels on a GPU.
    #[cfg(feature = "cuda")]
    Cuda(Arc<cuda::Cuda>),
}

impl Device {
    /// Parses `auto`, `cpu`, `emulated`, `ptx:80`, `cuda:0`, ... as given on the command line. `auto` picks
    /// the best there is.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "auto" => Self::best(),
            "cpu" => Ok(Self::Cpu),
            "emulated" => Ok(Self::emulated(Mode::Plain, Schedule::Ascending)),
            "emulated-checked" => Ok(Self::emulated(Mode::Checked, Schedule::Ascending)),
            "ptx:80" => Self::ptx("80"),
            "ptx" | "ptx:90a" => Self::ptx("90a"),
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
        Err(without_cuda(text))
    }

    #[cfg(feature = "cuda")]
    fn ptx(arch: &str) -> Result<Self> {
        let text = || unknown(&format!("ptx:{arch}"));
        let arch = ptx::Arch::parse(arch).ok_or_else(text)?;
        Ok(Self::Ptx(Arc::new(ptx::Ptx::new(arch, ptx::Options::of(arch)?)?)))
    }

    #[cfg(not(feature = "cuda"))]
    fn ptx(arch: &str) -> Result<Self> {
        Err(without_cuda(&format!("ptx:{arch}")))
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
            Self::Ptx(ptx) => format!("ptx:{}", ptx.arch().name()),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => format!("cuda ({})", cuda.name()),
        }
    }

    /// Whether the kernels are executed on the host, in its memory, in place of a GPU.
    pub fn is_simulated(&self) -> bool {
        match self {
            Self::Emulated(_) => true,
            #[cfg(feature = "cuda")]
            Self::Ptx(_) => true,
            _ => false,
        }
    }

    /// Whether only one process at a time can use the device.
    pub fn is_exclusive(&self) -> bool {
        match self {
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => cuda.is_exclusive(),
            _ => false,
        }
    }

    /// Gives memory that no tensor uses back to the driver or the system, so that others can have it.
    pub fn release_unused(&self) -> Result<()> {
        match self {
            Self::Cpu => {
                memory::empty_pool();
                Ok(())
            }
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => cuda.release_unused(),
            Self::Dry(dry) => {
                dry.release_unused();
                Ok(())
            }
            _ => Ok(()),
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
            Self::Ptx(ptx) => {
                if config.shared_bytes > 0 {
                    ptx.allow_shared(name, config.shared_bytes)?;
                }
                ptx.launch(name, config, args)
            }
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
            Self::Ptx(ptx) => ptx.upload(to, bytes),
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
            Self::Ptx(ptx) => ptx.download(from, bytes),
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
            Self::Ptx(ptx) => ptx.copy(to, from, bytes),
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
            Self::Ptx(ptx) => ptx.fill(to, 0, bytes),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => cuda.fill(to, 0, bytes),
        }
    }
}

fn unknown(text: &str) -> Error {
    Error::Config(format!(
        "unknown device '{text}'; known: auto, cpu, emulated, emulated-checked, ptx (ptx:90a), ptx:80, cuda, \
         cuda:N"
    ))
}

#[cfg(not(feature = "cuda"))]
fn without_cuda(text: &str) -> Error {
    Error::Unsupported(format!(
        "device '{text}': this binary was built without the feature 'cuda'; build with \
         --features cuda, or use --device cpu, or --device emulated to execute the kernels on \
         the host"
    ))
}

impl PartialEq for Device {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Cpu, Self::Cpu) => true,
            (Self::Emulated(a), Self::Emulated(b)) => Arc::ptr_eq(a, b),
            (Self::Dry(a), Self::Dry(b)) => Arc::ptr_eq(a, b),
            #[cfg(feature = "cuda")]
            (Self::Ptx(a), Self::Ptx(b)) => Arc::ptr_eq(a, b),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> String {
        Device::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn devices_are_parsed_by_the_names_they_have() {
        for name in ["cpu", "emulated"] {
            assert_eq!(Device::parse(name).unwrap().name(), name);
        }
        assert_eq!(Device::parse("emulated-checked").unwrap().name(), "emulated");
    }

    #[test]
    fn unknown_devices_are_errors_that_name_the_known_ones() {
        for name in ["", "gpu", "cuda:x", "cudax", "ptx:70", "ptx:", "ptx80", "ptx:90"] {
            let message = message(name);
            assert!(message.contains(&format!("unknown device '{name}'")), "{message}");
            for known in ["cpu", "emulated-checked", "ptx:80", "ptx:90a", "cuda:N"] {
                assert!(message.contains(known), "{message}");
            }
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn what_needs_the_feature_cuda_says_so() {
        for name in ["cuda", "cuda:1", "ptx", "ptx:80", "ptx:90a"] {
            let message = message(name);
            assert!(message.contains("--features cuda"), "{message}");
        }
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn ptx_stands_for_its_newest_architecture() {
        for (text, name) in [("ptx", "90a"), ("ptx:80", "80"), ("ptx:90a", "90a")] {
            // This binary may have been built for fewer.
            if launch::PTX.iter().any(|row| row.1 == name) {
                let device = Device::parse(text).unwrap();
                assert_eq!(device.name(), format!("ptx:{name}"));
                assert!(device.is_simulated() && device.captures());
            } else {
                let message = message(text);
                assert!(
                    message.contains("GLMAE_CUDA_ARCHS") && message.contains(name),
                    "{message}"
                );
            }
        }
    }
}
