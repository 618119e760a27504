//! Flags that several verbs have: where ops run, how launches are started, in what arithmetic.

use std::ops::Range;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use glmae::Error;
use glmae::device::{DType, Device};
use glmae::lab::bench_kernels::{Target, parse_shape};
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

/// Which ops, at which sizes.
#[derive(Args, Clone)]
pub struct TargetsArg {
    /// Only this op; may be repeated (`glmae ops` lists them)
    #[arg(long, value_name = "NAME")]
    op: Vec<String>,
    /// The sizes of the case, with or without names; needs exactly one --op
    #[arg(long, value_name = "SIZES")]
    shape: Option<String>,
    /// Instead: a file with a line of OP and SIZES for each row
    #[arg(long, value_name = "FILE", conflicts_with_all = ["op", "shape"])]
    shapes: Option<PathBuf>,
}

impl TargetsArg {
    /// Nothing for all ops at their own sizes.
    pub fn targets(&self) -> glmae::Result<Vec<Target>> {
        if let Some(path) = &self.shapes {
            return Target::list(&glmae::data::text::read_text(path)?);
        }
        let shape = self.shape.as_deref().map(parse_shape).transpose()?;
        if shape.is_some() && self.op.len() != 1 {
            return Err(Error::Config("--shape goes with exactly one --op".into()));
        }
        Ok(self.op.iter().map(|op| Target { op: op.clone(), shape: shape.clone() }).collect())
    }
}

/// The type of activations that kernels have.
pub fn activations(dtype: &str) -> glmae::Result<DType> {
    match dtype {
        "f32" => Ok(DType::F32),
        "bf16" => Ok(DType::Bf16),
        other => Err(Error::Config(format!("--dtype {other}: f32 or bf16"))),
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
