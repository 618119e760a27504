//! `glmae reconstruct`.

use std::path::PathBuf;

use anyhow::Result;
use glmae::Error;
use glmae::error::exit;

use super::config_args::DeviceArg;
use super::engine::{self, ReconstructOptions};
use super::term;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  glmae reconstruct --checkpoint runs/ct --input scan.nii.gz --out look
  glmae reconstruct --checkpoint runs/ct/checkpoints/step_00001200 --input scan.nii.gz --out look \\
    --mask-ratio 0.5 --seed 3

Writes a picture (input, masked input, reconstruction, blend in three planes) and the reconstructed
volume as NIfTI on the grid of the input.")]
pub struct Args {
    /// A checkpoint folder, or a run folder (its newest checkpoint)
    #[arg(long, value_name = "PATH")]
    checkpoint: PathBuf,
    /// A NIfTI volume
    #[arg(long, value_name = "VOLUME")]
    input: PathBuf,
    /// Folder for the results
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Share of hidden patches; default: that of the training
    #[arg(long, value_name = "SHARE")]
    mask_ratio: Option<f64>,
    /// Which patches are hidden follows from it
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    device: DeviceArg,
}

pub fn run(args: &Args) -> Result<u8> {
    if let Some(ratio) = args.mask_ratio.filter(|r| !(*r > 0.0 && *r < 1.0)) {
        let reason = format!("--mask-ratio {ratio}: a share between 0 and 1, such as 0.75");
        return Err(Error::Config(reason).into());
    }
    let options = ReconstructOptions {
        checkpoint: args.checkpoint.clone(),
        input: args.input.clone(),
        out: args.out.clone(),
        mask_ratio: args.mask_ratio,
        seed: args.seed,
        device: args.device.parse()?,
    };
    let report = engine::reconstruct(&options)?;
    term::print(&engine::describe(&report))?;
    Ok(exit::OK)
}
