//! The flags that make a configuration: a preset or a file, then flags, each of which is a key.

use std::ops::Range;

use clap::{Args, ValueEnum};
use glmae::Error;
use glmae::config::Config;
use glmae::device::{DType, Device};
use glmae::train::run::Launches;

/// Shared by the verbs that train.
#[derive(Args, Default)]
#[command(next_help_heading = "Configuration (every flag is also a key of the file)")]
pub struct ConfigArgs {
    /// Set any key: `--set optim.lr=1e-4`; may be repeated. Flags below win over --set
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Which losses: mae3d, +global, +g2g, +l2g, gl-mae `[key: loss.objective]`
    #[arg(long, value_name = "NAME")]
    pub objective: Option<String>,
    /// Updates of the run `[key: train.steps]`
    #[arg(long, value_name = "N")]
    pub steps: Option<u64>,
    /// Volumes per micro-batch `[key: train.batch]`
    #[arg(long, value_name = "N")]
    pub batch: Option<usize>,
    /// Micro-batches per update `[key: train.accumulation]`
    #[arg(long, value_name = "N")]
    pub accumulation: Option<usize>,
    /// Learning rate after warm-up `[key: optim.lr]`
    #[arg(long, value_name = "RATE")]
    pub lr: Option<f64>,
    /// Share of masked tokens `[key: views.mask_ratio]`
    #[arg(long, value_name = "SHARE")]
    pub mask_ratio: Option<f64>,
    /// Everything random follows from it `[key: train.seed]`
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Threads of the CPU device, 0: all cores; results do not depend on it `[key: train.threads]`
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Threads that read volumes ahead `[key: data.workers]`
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
    /// Steps between two log lines `[key: train.log_every]`
    #[arg(long, value_name = "STEPS")]
    pub log_every: Option<u64>,
    /// Steps between two checkpoints `[key: train.save_every]`
    #[arg(long, value_name = "STEPS")]
    pub save_every: Option<u64>,
    /// Steps between two pictures, 0: none `[key: train.picture_every]`
    #[arg(long, value_name = "STEPS")]
    pub picture_every: Option<u64>,
}

impl ConfigArgs {
    /// The flags as overrides `section.key=value`, after those of `--set`.
    pub fn overrides(&self) -> Vec<String> {
        fn item<T: ToString>(key: &str, value: &Option<T>) -> Option<String> {
            let text = value.as_ref()?.to_string();
            // TOML writes it in lower case.
            let text = if text == "NaN" { "nan".to_owned() } else { text };
            Some(format!("{key}={text}"))
        }
        let flags = [
            item("loss.objective", &self.objective),
            item("train.steps", &self.steps),
            item("train.batch", &self.batch),
            item("train.accumulation", &self.accumulation),
            item("optim.lr", &self.lr),
            item("views.mask_ratio", &self.mask_ratio),
            item("train.seed", &self.seed),
            item("train.threads", &self.threads),
            item("data.workers", &self.workers),
            item("train.log_every", &self.log_every),
            item("train.save_every", &self.save_every),
            item("train.picture_every", &self.picture_every),
        ];
        self.set.iter().cloned().chain(flags.into_iter().flatten()).collect()
    }

    /// The configuration: `source` is a preset or a TOML file.
    pub fn load(&self, source: &str) -> glmae::Result<Config> {
        Config::load(source, &self.overrides())
    }
}

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

/// A string as TOML writes it, so that a path that looks like a number stays one.
pub fn toml_string(text: &str) -> String {
    format!("{text:?}")
}
