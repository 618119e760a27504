//! `glmae demo`: the whole way on synthetic scans.

use std::path::{Path, PathBuf};

use anyhow::Result;
use glmae::data::synthetic::generate;
use glmae::error::exit;

use super::config_args::{ConfigArgs, DeviceArg};
use super::engine::{self, RunOptions};
use super::{summary, term};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  glmae demo                          into ./demo, one to two minutes on two cores
  glmae demo --out /tmp/d --steps 20  a quick look
  glmae inspect demo/run              what it left behind

A demo that was stopped continues when it is called again.")]
pub struct Args {
    /// Folder for the scans (scans/) and the run (run/)
    #[arg(long, value_name = "DIR", default_value = "demo")]
    out: PathBuf,
    /// Scans to draw
    #[arg(long, value_name = "N", default_value_t = 6)]
    scans: usize,
    #[command(flatten)]
    device: DeviceArg,
    #[command(flatten)]
    overrides: ConfigArgs,
}

pub fn run(args: &Args) -> Result<u8> {
    let mut config = args.overrides.load("demo")?;
    let device = args.device.parse()?;
    let (scans, run) = (args.out.join("scans"), args.out.join("run"));
    config.data.path = scans.display().to_string();
    if !scans.join("dataset.json").is_file() {
        eprintln!("drawing {} CT-like scans into {}", args.scans, scans.display());
        generate(&scans, args.scans, config.train.seed)?;
    }
    eprintln!("pre-training for {} steps on {}", config.train.steps, device.name());
    let options = RunOptions::new(&run, device);
    let done = engine::pretrain(&config, &options)?;
    term::print(&summary::text(&done, &run))?;
    term::print(&next(&scans, &run, done.checkpoint.as_deref()))?;
    Ok(exit::OK)
}

/// What the numbers mean and what to do next.
fn next(scans: &Path, run: &Path, checkpoint: Option<&Path>) -> String {
    let checkpoint = checkpoint.unwrap_or(run).display();
    format!(
        "
The model saw a quarter of each view and had to paint the rest. A picture shows, in three planes, the
scan, what the model was shown, what it painted, and both together: look at the pictures in
  {run}/recon
The loss must fall; g2g and l2g compare what student and teacher make of a view, in nats.

Next:
  glmae inspect {run}
  glmae reconstruct --checkpoint {checkpoint} --input {scans}/imagesTr/synthetic_000.nii.gz --out look
  glmae pretrain --config ct-small --data YOUR_SCANS --out runs/first
",
        run = run.display(),
        scans = scans.display(),
    )
}
