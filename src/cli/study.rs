//! `glmae study`.

use std::path::PathBuf;

use anyhow::Result;
use glmae::error::exit;
use glmae::study::{StudyConfig, StudyOptions, study};

use super::config_args::{DeviceArg, LaunchArg};
use super::key_flags::{KeyFlags, Study};
use super::term;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  glmae study --config hippocampus --data Task04_Hippocampus --out studies/hippocampus
  glmae study --config mine.toml --data BTCV --task btcv --out studies/btcv
  glmae study --config hippocampus --data Task04_Hippocampus --out studies/masks \\
    --set grid.objectives=[\"gl-mae\"] --set grid.mask_ratios=[0.5,0.75,0.9]
  glmae study --config hippocampus --data Task04_Hippocampus --out studies/hippocampus --report

A study pre-trains with every objective, fine-tunes each on every share of the labels with every seed,
predicts the cases that the task's split holds out of all of it, and judges them. One folder holds it
all; a signal stops it with exit code 75 and the same command goes on. Lists of the grid may grow later.

table.md has means, standard deviations, paired differences and the cost of a step; results.csv and
results.json every number; dice_by_labels.png the picture.")]
pub struct Args {
    /// A preset (hippocampus, demo) or a TOML file with [data], [grid], [pretrain], [finetune], [cross]
    #[arg(long, value_name = "PRESET|FILE")]
    config: String,
    #[command(flatten)]
    keys: KeyFlags<Study>,
    /// The study's folder
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Write the tables of what is done, run nothing
    #[arg(long)]
    report: bool,
    /// Threads of the CPU device, 0: all cores; results do not depend on it
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    #[command(flatten)]
    launches: LaunchArg,
    #[command(flatten)]
    device: DeviceArg,
}

pub fn run(args: &Args) -> Result<u8> {
    let config = StudyConfig::load_with(&args.config, &args.keys.changes()?)?.config;
    let options = StudyOptions {
        out: args.out.clone(),
        device: args.device.parse()?,
        launches: args.launches.launches(),
        threads: args.threads,
        report_only: args.report,
    };
    let done = study(&config, &options)?;
    let mut text = done.table;
    text += &format!("\n{} of {} cells\n", done.done, done.cells);
    for file in &done.files {
        text += &format!("  {}\n", file.display());
    }
    term::print(&text)?;
    Ok(exit::OK)
}
