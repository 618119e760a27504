//! `glmae pretrain`.

use std::path::PathBuf;

use anyhow::Result;
use glmae::Error;
use glmae::config::Config;
use glmae::error::exit;
use glmae::train::pretrain::pretrain;
use glmae::train::run::{Resume, RunOptions};

use super::config_args::{DeviceArg, LaunchArg, ProfileArg};
use super::key_flags::{KeyFlags, Pretrain};
use super::{summary, term};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  glmae pretrain --config hippocampus --data Task04_Hippocampus --out runs/hippo
  glmae pretrain --config ct-small --data scans/ --out runs/ct --steps 5000 --batch 4
  glmae pretrain --config mine.toml --out runs/a --set loss.beta1=0.2 --dry-run
  glmae pretrain --config vit-b --data scans/ --out runs/b --device cuda --batch 16 --dry-run
  glmae pretrain --config ct-small --data scans/ --out runs/ct          the same again: resumes

DATA is a folder of .nii/.nii.gz files (searched, label maps left out), an MSD dataset.json or its
folder, an nnU-Net raw folder, a text file with one path per line, or one volume.

TERM, INT (Ctrl-C), HUP, USR1, USR2, XCPU finish the step, write a checkpoint and exit with code 75; the same
command continues bit by bit where it stopped. A second INT exits at once.")]
pub struct Args {
    /// A preset (`glmae presets` lists them) or a TOML file
    #[arg(long, value_name = "PRESET|FILE")]
    config: String,
    #[command(flatten)]
    keys: KeyFlags<Pretrain>,
    /// Run folder: configuration, logs, pictures, checkpoints
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// auto: from the newest good checkpoint in --out; never: start anew; or a checkpoint
    #[arg(long, value_name = "auto|never|PATH", default_value = "auto")]
    resume: String,
    /// Check configuration and data, print the memory plan, write nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    profile: ProfileArg,
    #[command(flatten)]
    launches: LaunchArg,
    #[command(flatten)]
    device: DeviceArg,
}

pub fn run(args: &Args) -> Result<u8> {
    let config = Config::load_with(&args.config, &args.keys.changes()?)?.config;
    if config.data.path.is_empty() {
        let reason =
            "no data: give --data PATH (or set data.path); `glmae demo` makes synthetic scans";
        return Err(Error::Config(reason.into()).into());
    }
    let device = if args.dry_run { args.device.parse_for_plan()? } else { args.device.parse()? };
    let options = RunOptions {
        resume: args.resume.parse::<Resume>()?,
        launches: args.launches.launches(),
        profile: args.profile.steps(),
        dry_run: args.dry_run,
        ..RunOptions::new(&args.out, device)
    };
    let done = pretrain(&config, &options)?;
    if args.dry_run {
        let data = &config.data.path;
        let text = format!("configuration and data ({data}) are usable; nothing was written\n\n");
        term::print(&(text + &summary::plan(&done.plan)))?;
    } else {
        term::print(&summary::text(&done, &args.out))?;
    }
    Ok(exit::OK)
}
