//! `glmae finetune`.

use std::path::PathBuf;

use anyhow::Result;
use glmae::config::Loaded;
use glmae::config::finetune::FinetuneConfig;
use glmae::error::exit;
use glmae::train::finetune::encoder::Origin;
use glmae::train::finetune::{FinetuneOptions, Finetuned, finetune};
use glmae::train::run::{Resume, RunOptions, Summary};

use super::config_args::{DeviceArg, LaunchArg, ProfileArg};
use super::key_flags::{Finetune, KeyFlags};
use super::term::{self, Table};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  glmae finetune --task hippocampus --config hippocampus --data Task04_Hippocampus \\
    --encoder runs/hippo --out runs/seg
  glmae finetune --task btcv --data BTCV --encoder runs/ct --out runs/btcv --set train.epochs=3000
  glmae finetune --task mine.toml --data scans/ --scratch --out runs/scratch
  glmae finetune --task btcv --data BTCV --encoder runs/ct --subset 6 --out runs/btcv6
  glmae finetune --task cc-ccii --config cc-ccii --data CC-CCII --encoder runs/ct --out runs/classes
  glmae finetune --task btcv --data BTCV --encoder vit.safetensors --out runs/b --device cuda --dry-run

A task says spacing, window, classes and split of a set (docs/evaluation.md); the shipped ones are those
of the paper, and hippocampus. One with a class per image (cc-ccii) makes a classifier. Settings are the author's unless --config says otherwise.

PATH of --encoder is a run or checkpoint of pretrain or finetune, encoder.safetensors of `glmae import`, or
safetensors with the names of MONAI, timm or the official code (docs/interchange.md).

TERM, INT (Ctrl-C), HUP, USR1, USR2, XCPU finish the step, write a checkpoint and exit with code 75; the same command
continues bit by bit where it stopped.")]
pub struct Args {
    /// A run, a checkpoint or a safetensors file whose encoder is fine-tuned. Needed to begin a run, as
    /// `--scratch` is otherwise; without either a run goes on as it began
    #[arg(long, value_name = "PATH", conflicts_with = "scratch")]
    encoder: Option<PathBuf>,
    /// Take what fits of the encoder, even if parameters are missing (they stay random) or unknown
    #[arg(long, requires = "encoder")]
    partial: bool,
    /// No encoder: everything from random weights
    #[arg(long)]
    scratch: bool,
    #[command(flatten)]
    keys: KeyFlags<Finetune>,
    /// Run folder: configuration, logs, pictures, checkpoints
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Settings: a preset (author, hippocampus, cc-ccii) or a TOML file
    #[arg(long, value_name = "PRESET|FILE", default_value = "author")]
    config: String,
    /// auto: from the newest good checkpoint in --out; never: start anew; or a checkpoint
    #[arg(long, value_name = "auto|never|PATH", default_value = "auto")]
    resume: String,
    /// Check configuration, data and encoder, print the memory plan, write nothing
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
    let Loaded { config, explicit } =
        FinetuneConfig::load_with(&args.config, &args.keys.changes()?)?;
    let device = if args.dry_run { args.device.parse_for_plan()? } else { args.device.parse()? };
    let options = FinetuneOptions {
        run: RunOptions {
            resume: args.resume.parse::<Resume>()?,
            launches: args.launches.launches(),
            profile: args.profile.steps(),
            dry_run: args.dry_run,
            ..RunOptions::new(&args.out, device)
        },
        origin: match (&args.encoder, args.scratch) {
            (Some(path), _) => Origin::Encoder { path: path.clone(), partial: args.partial },
            (None, true) => Origin::Scratch,
            (None, false) => Origin::AsBegun,
        },
        explicit,
    };
    let done = finetune(&config, &options)?;
    match args.dry_run {
        true => term::print(&plan(&done, &config))?,
        false => term::print(&summary(&done, args))?,
    }
    Ok(exit::OK)
}

/// What a dry run found.
fn plan(done: &Summary<Finetuned>, config: &FinetuneConfig) -> String {
    let (d, found) = (&config.data, &done.found);
    let cases = [found.training_cases, found.validation_cases];
    let mut text = format!(
        "configuration and data ({}: {} training, {} validation cases) are usable, as far as headers and the \
         first case of each show; nothing was written\n\n",
        d.path, cases[0], cases[1]
    );
    if let Some(report) = &found.encoder {
        let lines: Vec<String> = report.lines().iter().map(|line| term::clean(line)).collect();
        text += &format!("encoder: {}\n\n", lines.join("\n  "));
    }
    text += &format!("{} parameters\n\n", term::count(done.found.parameters));
    text + &super::summary::plan(&done.plan)
}

fn summary(done: &Summary<Finetuned>, args: &Args) -> String {
    let found = &done.found;
    let mut text = format!(
        "{} steps done on {} training cases, {} parameters, run folder {}\n\n",
        done.steps,
        found.training_cases,
        term::count(found.parameters),
        args.out.display()
    );
    if let Some(report) = &found.encoder {
        let lines: Vec<String> = report.lines().iter().map(|line| term::clean(line)).collect();
        text += &format!("encoder: {}\n\n", lines.join("\n  "));
    }
    if !done.last.is_empty() {
        text += &super::summary::losses(&done.first, &done.last);
    }
    if let Some((mean, regions)) = &found.validation {
        let (head, mean_of) = match found.classifies {
            true => (["<validation", ">"], "accuracy"),
            false => (["<region", ">Dice"], "mean of cases"),
        };
        let mut table = Table::new(&head);
        for (name, value) in regions {
            let shown = if value.is_nan() { "-".into() } else { format!("{value:.4}") };
            table.row([term::clean(name), shown]);
        }
        table.row([mean_of.to_owned(), format!("{mean:.4}")]);
        text += &format!("\n{}", table.render("  "));
        text += &format!("  {} validation cases", found.validation_cases);
        if let Some(best) = found.best {
            text += &format!("; the best was {:.4} at epoch {}", best.score, best.epoch);
        }
        text += "\n";
    }
    if let Some(picture) = done.pictures.last() {
        text += &format!("\npicture  {}\n", picture.display());
    }
    text += &format!(
        "\nglmae predict --checkpoint {} --input SCANS --out predictions\n",
        args.out.display()
    );
    text + &super::summary::warnings(&done.warnings)
}
