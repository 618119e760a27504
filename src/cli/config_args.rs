//! Flags that several verbs have: where ops run, how launches are started, in what arithmetic.

use std::ops::Range;

use clap::{Args, ValueEnum};
use glmae::Error;
use glmae::device::{DType, Device};
use glmae::train::run::Launches;

/// Where ops run.
#[derive(Args)]
pub struct DeviceArg {
    /// Where to compute: auto (the best there is), cpu, emulated (the CUDA kernels on the CPU,
    /// slow), ptx:80 or ptx:90a (their PTX on the CPU), cuda:N
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

/// Which steps a profiler sees.
#[derive(Args)]
pub struct ProfileArg {
    /// Let a profiler collect steps A to B - 1 only: `nsys profile -c cudaProfilerApi`, `ncu
    /// --profile-from-start off`
    #[arg(long, value_name = "A..B", value_parser = steps)]
    profile_steps: Option<Range<u64>>,
}

impl ProfileArg {
    pub fn steps(&self) -> Option<Range<u64>> {
        self.profile_steps.clone()
    }
}

fn steps(text: &str) -> Result<Range<u64>, String> {
    let parsed = text.split_once("..").and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    match parsed {
        Some((begin, end)) if begin < end => Ok(begin..end),
        _ => Err("two numbers A..B with A < B, such as 20..23".into()),
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
