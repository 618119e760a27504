//! `glmae reconstruct`.

use std::path::PathBuf;

use anyhow::Result;
use glmae::Error;
use glmae::error::exit;
use glmae::infer::reconstruct::{ReconstructOptions, ReconstructReport, reconstruct};

use super::config_args::DeviceArg;
use super::term::{self, Table};

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
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
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
    let report = reconstruct(&options)?;
    term::print(&text(&report))?;
    Ok(exit::OK)
}

fn text(report: &ReconstructReport) -> String {
    let percent = |x: f64| format!("{:.1} %", 100.0 * x);
    let mut table = Table::new(&["<", ">", "<"]);
    let mut row = |name: &str, value: String, note: &str| {
        table.row([name.to_owned(), value, note.to_owned()]);
    };
    let given = match report.uses_target_statistics {
        true => "of the variance of hidden voxels; mean and deviation of hidden patches were given",
        false => "of the variance of hidden voxels",
    };
    row("explained", percent(report.explained), given);
    if let Some(share) = report.patch_normalised {
        row("normalised", percent(share), "of the variance of patch-normalised hidden voxels");
    }
    row("for comparison", percent(report.mean_guess), "by copying the mean of the visible voxels");
    let mut text = format!(
        "step {}, {} of the patches hidden (seed {}), {} {} views\n\n{}\n",
        report.step,
        percent(report.mask_ratio),
        report.seed,
        report.tiles,
        report.kind,
        table.render("  ")
    );
    for file in &report.files {
        text += &format!("{}\n", file.display());
    }
    text
}
