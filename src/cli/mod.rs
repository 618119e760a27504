//! The command line. One file per verb; parsing, printing, exit codes, no mathematics.
//!
//! stdout carries results only; progress, warnings and errors go to stderr.

#[cfg(test)]
mod advice;
mod bench;
mod bench_kernels;
mod check;
mod config_args;
mod demo;
mod doctor;
mod evaluate;
mod export;
mod failure;
mod finetune;
mod import;
mod inspect;
mod key_flags;
mod keys;
mod ops;
mod predict;
mod presets;
mod pretrain;
mod profile;
#[cfg(feature = "cuda")]
mod profile_page;
mod reconstruct;
mod study;
mod summary;
mod term;
mod tune;
mod verify;

use std::io::IsTerminal;

use anyhow::Result;
use clap::{Parser, Subcommand};
use glmae::error::exit;
use glmae::ops::gemm::tuning;
use glmae::report::stderr::Stderr;
use glmae::{limits, parallel};
use tracing_subscriber::EnvFilter;

/// Pre-trains 3D medical image encoders with GL-MAE (global-local masked autoencoders,
/// arXiv 2306.08913), from NIfTI files to a checkpoint.
#[derive(Parser)]
#[command(
    name = "glmae",
    version,
    long_version = doctor::LONG_VERSION,
    max_term_width = 100,
    after_help = "Start with `glmae demo`. `glmae help VERB` has examples of every verb.",
    after_long_help = AFTER_HELP
)]
struct Cli {
    /// What to log on stderr: error, warn, info, debug, trace, or a filter such as
    /// `glmae=debug`. The environment variable RUST_LOG does the same.
    #[arg(long, global = true, value_name = "FILTER")]
    log: Option<String>,
    #[command(subcommand)]
    verb: Verb,
}

const AFTER_HELP: &str = "\
First steps:
  glmae demo                                   the whole way on synthetic scans, four minutes
  glmae presets                                the shipped configurations
  glmae pretrain --config ct-small --data DIR --out runs/a
  glmae reconstruct --checkpoint runs/a --input scan.nii.gz --out look
  glmae inspect runs/a                         what is in a run, a checkpoint, a scan
  glmae doctor                                 what this machine and this binary can do

Exit codes:
  0  done                            4   out of memory
  1  failed, or a check did not pass 5   device fault
  2  usage or configuration          75  stopped by a signal, checkpoint written: run again
  3  bad data, file or checkpoint";

#[derive(Subcommand)]
enum Verb {
    /// Pre-train, fine-tune, predict and evaluate on synthetic CT-like scans, in about four minutes
    Demo(demo::Args),
    /// Pre-train on volumes, writing checkpoints, logs and pictures into a run folder
    Pretrain(pretrain::Args),
    /// Mask a volume and reconstruct it with a checkpoint
    Reconstruct(reconstruct::Args),
    /// Fine-tune for segmentation: UNETR around a pre-trained encoder, or from scratch
    Finetune(finetune::Args),
    /// Label volumes with a fine-tuned network, each on its own grid
    Predict(predict::Args),
    /// Judge predicted label maps: Dice, Hausdorff distances, surface Dice per case and class
    Evaluate(evaluate::Args),
    /// Ask whether pre-training helps: a grid of pre-trainings and fine-tunings, judged and compared
    Study(study::Args),
    /// Turn an encoder of MONAI, timm or the official code into one for fine-tuning
    Import(import::Args),
    /// Write weights for MONAI, timm or the official code
    Export(export::Args),
    /// Repeat cases of the PyTorch reference and compare every number
    Verify(verify::Args),
    /// Check a device: memory and graphs, every kernel against the f64 reference, training steps
    Check(check::Args),
    /// Show what is in a run folder, a checkpoint, a safetensors file or a NIfTI file
    Inspect(inspect::Args),
    /// Show what this machine and this binary can do, and what is missing
    Doctor(doctor::Args),
    /// Time the engine
    Bench(bench::Args),
    /// Time every kernel that can do a product of a step on a GPU, and write down the fastest
    Tune(tune::Args),
    /// Count what the compiled kernels would ask of a GPU, line by line, without one
    Profile(profile::Args),
    /// List the shipped configurations, print one, or list every configuration key
    Presets(presets::Args),
    /// The ops of the engine
    #[command(hide = true)]
    Ops(ops::Args),
}

/// Runs the program; returns its exit code.
pub fn main() -> u8 {
    limits::note();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version are results, not errors. A closed pipe is not an error either.
            let _ = e.print();
            return if e.use_stderr() { exit::USAGE } else { exit::OK };
        }
    };
    let ready = start_log(cli.log.as_deref()).and_then(|()| match cli.verb {
        // These compute nothing, and `doctor` has to work where nothing else does.
        Verb::Doctor(_) | Verb::Presets(_) | Verb::Ops(_) => Ok(()),
        _ => Ok(parallel::start().and_then(|()| tuning::apply_env())?),
    });
    let done = ready.and_then(|()| match cli.verb {
        Verb::Demo(args) => demo::run(&args),
        Verb::Pretrain(args) => pretrain::run(&args),
        Verb::Reconstruct(args) => reconstruct::run(&args),
        Verb::Finetune(args) => finetune::run(&args),
        Verb::Predict(args) => predict::run(&args),
        Verb::Evaluate(args) => evaluate::run(&args),
        Verb::Study(args) => study::run(&args),
        Verb::Import(args) => import::run(&args),
        Verb::Export(args) => export::run(&args),
        Verb::Verify(args) => verify::run(&args),
        Verb::Check(args) => check::run(&args),
        Verb::Inspect(args) => inspect::run(&args),
        Verb::Doctor(args) => doctor::run(&args),
        Verb::Bench(args) => bench::run(&args),
        Verb::Tune(args) => tune::run(&args),
        Verb::Profile(args) => profile::run(&args),
        Verb::Presets(args) => presets::run(&args),
        Verb::Ops(args) => ops::run(&args),
    });
    done.unwrap_or_else(|error| failure::report(&error))
}

fn start_log(filter: Option<&str>) -> Result<()> {
    let filter = match filter {
        Some(text) => EnvFilter::try_new(text).map_err(|e| {
            let example = "error, warn, info, debug, trace, or glmae=debug";
            glmae::Error::Config(format!("--log {text}: {e}; write {example}"))
        })?,
        None => EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn")),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| Stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    Ok(())
}
