//! `glmae demo`: the whole way on synthetic scans.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use glmae::Error;
use glmae::config::finetune::FinetuneConfig;
use glmae::config::{Config, Settings as _};
use glmae::data::synthetic::generate;
use glmae::device::Device;
use glmae::error::exit;
use glmae::infer::judge::judge;
use glmae::infer::predict::{PredictOptions, Progress};
use glmae::report::progress::WorkProgress;
use glmae::seg::evaluate::Settings;
use glmae::seg::{LabelRules, Task};
use glmae::train::finetune::cases::Cases;
use glmae::train::finetune::{FinetuneOptions, finetune};
use glmae::train::pretrain::pretrain;
use glmae::train::run::{RunOptions, value};

use super::config_args::DeviceArg;
use super::key_flags::{Demo, KeyFlags};
use super::{summary, term};

/// Fewest scans: the task `synthetic` holds out the last of every six.
const LEAST: usize = 6;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  glmae demo                                      into ./demo, about four minutes on two cores
  glmae demo --out /tmp/d --steps 20 --epochs 2   a quick look
  glmae inspect demo/run                          what it left behind

Draws labelled CT-like scans, pre-trains on them, fine-tunes the encoder to label organs, labels a scan
that nothing has seen, and judges the result. A demo that was stopped continues when it is called again.")]
pub struct Args {
    /// Folder for scans/, the runs run/ and seg/, and predictions/
    #[arg(long, value_name = "DIR", default_value = "demo")]
    out: PathBuf,
    /// Scans to draw, at least 6
    #[arg(long, value_name = "N", default_value_t = LEAST)]
    scans: usize,
    /// Passes of the fine-tuning over the labelled scans
    #[arg(long, value_name = "N")]
    epochs: Option<u64>,
    #[command(flatten)]
    device: DeviceArg,
    #[command(flatten)]
    keys: KeyFlags<Demo>,
}

pub fn run(args: &Args) -> Result<u8> {
    let begin = Instant::now();
    let mut config = Config::load_with("demo", &args.keys.changes()?)?.config;
    let device = args.device.parse()?;
    if args.scans < LEAST {
        let reason = format!("--scans {}: at least {LEAST}, one is held out", args.scans);
        return Err(Error::Config(reason).into());
    }
    let (scans, run) = (args.out.join("scans"), args.out.join("run"));
    config.data.path = scans.display().to_string();
    if !scans.join("dataset.json").is_file() {
        term::say(&format!("drawing {} CT-like scans into {}", args.scans, scans.display()));
        generate(&scans, args.scans, config.train.seed)?;
    }
    term::say(&format!(
        "1 of 3: pre-training for {} steps on {}",
        config.train.steps,
        device.name()
    ));
    let options = RunOptions::new(&run, device.clone());
    let done = pretrain(&config, &options)?;
    term::print(&summary::text(&done, &run))?;
    let mut segmentation = FinetuneConfig::load("demo", &[])?;
    segmentation.data.path.clone_from(&config.data.path);
    segmentation.train.threads = config.train.threads;
    segmentation.train.epochs = args.epochs.unwrap_or(segmentation.train.epochs);
    segmentation.validate()?;
    let stage = Stage { out: &args.out, scans: &scans, config: segmentation, device };
    stage.finetune()?;
    stage.judge()?;
    let seconds = begin.elapsed().as_secs();
    term::say(&format!("the whole way took {} min {} s", seconds / 60, seconds % 60));
    term::print(&next(&args.out))?;
    Ok(exit::OK)
}

/// What follows the pre-training.
struct Stage<'a> {
    out: &'a Path,
    scans: &'a Path,
    config: FinetuneConfig,
    device: Device,
}

impl Stage<'_> {
    fn finetune(&self) -> Result<()> {
        let epochs = self.config.train.epochs;
        term::say(&format!("\n2 of 3: fine-tuning for {epochs} passes over the labelled scans"));
        let options = FinetuneOptions::new(self.out.join("seg"), self.device.clone())
            .with_encoder(self.out.join("run"));
        let done = finetune(&self.config, &options)?;
        let loss = |values| value(values, "loss");
        if let (Some(first), Some(last)) = (loss(&done.first), loss(&done.last)) {
            let text = format!("{} updates, loss {first:.3} to {last:.3}", done.steps);
            term::print(&(text + "\n"))?;
        }
        Ok(())
    }

    /// Labels the held-out scans on their own grids, and judges them.
    fn judge(&self) -> Result<()> {
        let task = Task::load(&self.config.data.task)?;
        let held = Cases::find(&task, &self.config.data, 0)?.validation;
        term::say(&format!("\n3 of 3: labelling {} held-out scan(s)", held.len()));
        let options = PredictOptions::new(
            self.out.join("seg"),
            self.scans,
            self.out.join("predictions"),
            self.device.clone(),
        );
        let settings = Settings {
            regions: task.regions(false),
            rules: LabelRules::classes(task.classes()),
            reference_rules: task.label_rules(),
            tolerances_mm: vec![4.0],
            ..Settings::default()
        };
        let mut bar: Option<WorkProgress> = None;
        let mut before = 0;
        let evaluation = judge(&options, &held, &settings, &mut |step| {
            if let Progress::Windows { done, of } = step {
                let bar = bar.get_or_insert_with(|| WorkProgress::stderr("predict", of as u64));
                bar.advance(done.saturating_sub(before) as u64, "windows");
                before = if done == of { 0 } else { done };
            }
        })?;
        if let Some(bar) = bar {
            bar.finish();
        }
        term::print(&evaluation.to_text())?;
        Ok(())
    }
}

/// What the numbers mean and what to do next.
fn next(out: &Path) -> String {
    format!(
        "
Pre-training: the model saw a quarter of each view and had to paint the rest. A picture shows, in three
planes, the scan, what the model was shown, what it painted, and both together:
  {out}/run/recon
Fine-tuning: the scan, its labels, and what the network labels, of a scan that nothing was trained on:
  {out}/seg/pictures

Next:
  glmae inspect {out}/run
  glmae predict --checkpoint {out}/seg --input {out}/scans/imagesTr/synthetic_005.nii.gz --out labels
  glmae pretrain --config ct-small --data YOUR_SCANS --out runs/first
",
        out = out.display(),
    )
}
