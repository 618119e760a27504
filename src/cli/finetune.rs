//! `glmae finetune`.

use std::path::PathBuf;

use anyhow::Result;
use glmae::config::finetune::FinetuneConfig;
use glmae::error::exit;
use glmae::train::finetune::run::{FinetuneOptions, FinetuneSummary, finetune};
use glmae::train::pretrain::Resume;

use super::config_args::{DeviceArg, LaunchArg};
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

TERM, INT (Ctrl-C) and USR1 finish the step, write a checkpoint and exit with code 75; the same command
continues bit by bit where it stopped.")]
pub struct Args {
    /// A run, a checkpoint or a safetensors file whose encoder is fine-tuned
    #[arg(
        long,
        value_name = "PATH",
        conflicts_with = "scratch",
        required_unless_present = "scratch"
    )]
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
    launches: LaunchArg,
    #[command(flatten)]
    device: DeviceArg,
}

pub fn run(args: &Args) -> Result<u8> {
    let config = FinetuneConfig::load_with(&args.config, &args.keys.changes()?)?.config;
    let device = if args.dry_run { args.device.parse_for_plan()? } else { args.device.parse()? };
    let options = FinetuneOptions {
        encoder: args.encoder.clone(),
        partial: args.partial,
        resume: args.resume.parse::<Resume>()?,
        launches: args.launches.launches(),
        dry_run: args.dry_run,
        ..FinetuneOptions::new(&args.out, device)
    };
    let done = finetune(&config, &options)?;
    match args.dry_run {
        true => term::print(&plan(&done, &config))?,
        false => term::print(&summary(&done, args))?,
    }
    Ok(exit::OK)
}

/// What a dry run found.
fn plan(done: &FinetuneSummary, config: &FinetuneConfig) -> String {
    let (d, cases) = (&config.data, [done.training_cases, done.validation_cases]);
    let mut text = format!(
        "configuration and data ({}: {} training, {} validation cases) are usable, as far as headers and the \
         first case of each show; nothing was written\n\n",
        d.path, cases[0], cases[1]
    );
    if let Some(report) = &done.encoder {
        let lines: Vec<String> = report.lines().iter().map(|line| term::clean(line)).collect();
        text += &format!("encoder: {}\n\n", lines.join("\n  "));
    }
    text += &format!("{} parameters\n\n", term::count(done.parameters));
    text + &super::summary::plan(&done.plan)
}

fn summary(done: &FinetuneSummary, args: &Args) -> String {
    let mut text = format!(
        "{} steps done on {} training cases, {} parameters, run folder {}\n\n",
        done.steps,
        done.training_cases,
        term::count(done.parameters),
        args.out.display()
    );
    if let Some(report) = &done.encoder {
        let lines: Vec<String> = report.lines().iter().map(|line| term::clean(line)).collect();
        text += &format!("encoder: {}\n\n", lines.join("\n  "));
    }
    if let (Some(first), Some(last)) = (done.first, done.last) {
        let mut table = Table::new(&["<loss", ">first", ">last"]);
        let mut terms = vec![("cross-entropy", first.ce, last.ce)];
        if !done.classifies {
            let dice = ("Dice", first.dice, last.dice);
            terms.splice(0..0, [("total", first.total, last.total), dice]);
        }
        for (name, a, b) in terms {
            table.row([name.to_owned(), format!("{a:.4}"), format!("{b:.4}")]);
        }
        text += &table.render("  ");
    }
    if let Some((mean, regions)) = &done.validation {
        let (head, mean_of) = match done.classifies {
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
        text += &format!("  {} validation cases", done.validation_cases);
        if let Some(best) = done.best {
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
    for warning in &done.warnings {
        text += &format!("\nwarning: {}\n", term::clean(warning));
    }
    text
}
