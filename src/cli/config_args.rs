//! Flags that several verbs have: where ops run, how launches are started, in what arithmetic.

use clap::{Args, ValueEnum};
use glmae::Error;
use glmae::device::{DType, Device};
use glmae::train::program::Launches;

/// Where ops run.
#[derive(Args)]
pub struct DeviceArg {
    /// Where to compute: auto (the best there is), cpu, emulated (the CUDA kernels on the CPU,
    /// slow), cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: String,
}

impl DeviceArg {
    pub fn parse(&self) -> glmae::Result<Device> {
        Device::parse(&self.device)
    }

    /// For a plan only: a GPU that is not here (a login node) may be planned for all the same.
    pub fn parse_for_plan(&self) -> glmae::Result<Device> {
        match self.parse() {
            Err(Error::Unsupported(_) | Error::Device(_)) if self.device.starts_with("cuda") => {
                Ok(Device::dry())
            }
            other => other,
        }
    }
}

/// How launches are started.
#[derive(Args)]
pub struct LaunchArg {
    /// Start every kernel by itself instead of the whole step as one CUDA graph (same results)
    #[arg(long)]
    no_graph: bool,
}

impl LaunchArg {
    pub fn launches(&self) -> Launches {
        if self.no_graph { Launches::Single } else { Launches::Graph }
    }
}

/// Arithmetic of a run that is checked or timed.
#[derive(Clone, Copy, ValueEnum)]
pub enum Arithmetic {
    F32,
    F64,
    Bf16,
}

impl From<Arithmetic> for DType {
    fn from(arithmetic: Arithmetic) -> Self {
        match arithmetic {
            Arithmetic::F32 => Self::F32,
            Arithmetic::F64 => Self::F64,
            Arithmetic::Bf16 => Self::Bf16,
        }
    }
}
