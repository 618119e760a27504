//! `glmae presets`: the shipped configurations and every key there is.

use anyhow::Result;
use glmae::config::finetune::{self, FinetuneConfig};
use glmae::config::{Config, PRESETS, preset};
use glmae::device::{DType, Device};
use glmae::error::exit;
use glmae::glmae::model::Networks;
use glmae::lab::bench_step::step_gflop;

use super::keys::{self, Verb};
use super::term::{self, Table};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  glmae presets                          what there is
  glmae presets ct-small > mine.toml     a file to edit: glmae pretrain --config mine.toml ...
  glmae presets ct-small --resolved      every key with its value
  glmae presets --keys                   every key, its default and its meaning
  glmae presets --finetune hippocampus   settings of `glmae finetune`; --keys has theirs, too")]
pub struct Args {
    /// Print this preset instead of the list
    name: Option<String>,
    /// Print every key with its value, not only the file of the preset
    #[arg(long, requires = "name")]
    resolved: bool,
    /// List every configuration key
    #[arg(long, conflicts_with = "name")]
    keys: bool,
    /// Settings of `glmae finetune`
    #[arg(long)]
    finetune: bool,
    /// As Markdown: the table of presets, or docs/configuration.md with --keys
    #[arg(long, conflicts_with = "name")]
    markdown: bool,
}

pub fn run(args: &Args) -> Result<u8> {
    let verb = if args.finetune { Verb::Finetune } else { Verb::Pretrain };
    let text = match &args.name {
        Some(name) if args.finetune || is_of_finetuning_only(name) => {
            settings(name, args.resolved)?
        }
        Some(name) => one(name, args.resolved)?,
        None if args.keys && args.markdown => keys::markdown()?,
        None if args.keys => keys::plain(verb),
        None if args.finetune => finetuning(args.markdown)?,
        None if args.markdown => list(true)?,
        None => format!("{}\n{}", list(false)?, finetuning(false)?),
    };
    term::print(&text)?;
    Ok(exit::OK)
}

fn one(name: &str, resolved: bool) -> Result<String> {
    let known = PRESETS.iter().find(|(n, _)| *n == name);
    match known {
        Some((_, text)) if !resolved => Ok((*text).to_owned()),
        // An unknown name gets the error that lists the presets.
        _ => Ok(preset(name)?.to_toml()?),
    }
}

/// Whether a name can only mean settings of `glmae finetune`.
fn is_of_finetuning_only(name: &str) -> bool {
    let is_in = |presets: &[(&str, &str)]| presets.iter().any(|(known, _)| *known == name);
    is_in(finetune::PRESETS) && !is_in(PRESETS)
}

fn settings(name: &str, resolved: bool) -> Result<String> {
    let known = finetune::PRESETS.iter().find(|(n, _)| *n == name);
    match known {
        Some((_, text)) if !resolved => Ok((*text).to_owned()),
        _ => Ok(FinetuneConfig::load(name, &[])?.to_toml()?),
    }
}

/// The settings of `glmae finetune`.
pub fn finetuning(markdown: bool) -> Result<String> {
    const HEADINGS: [&str; 8] = [
        "<settings",
        ">encoder from scratch",
        ">patch",
        ">features",
        ">crops per update",
        ">rate of an update",
        ">epochs",
        "<task",
    ];
    let mut table = Table::new(&HEADINGS);
    let headings = HEADINGS.map(|h| h.trim_start_matches(['<', '>'])).join(" | ");
    let mut lines = format!("| {headings} |\n|{}\n", " --- |".repeat(HEADINGS.len()));
    for (name, _) in finetune::PRESETS {
        let config = FinetuneConfig::load(name, &[])?;
        let (m, crops) = (&config.model, config.crops_per_update());
        let task = if config.data.task.is_empty() { "any" } else { &config.data.task };
        let row = [
            (*name).to_owned(),
            format!("{}/{}/{}", m.dim, m.depth, m.heads),
            m.patch.to_string(),
            m.feature_size.to_string(),
            crops.to_string(),
            format!("{:e}", config.optim.lr * crops as f64 / 16.0),
            config.train.epochs.to_string(),
            task.to_owned(),
        ];
        lines += &format!("| {} |\n", row.join(" | "));
        table.row(row);
    }
    if markdown {
        return Ok(lines);
    }
    Ok(format!(
        "{}\n`glmae presets --finetune NAME` prints the settings; --encoder brings an encoder of its own sizes.\n",
        table.render("")
    ))
}

/// Sizes of a preset, as cells.
fn cells(name: &str, config: &Config) -> Result<[String; 8]> {
    let (m, v) = (&config.model, &config.views);
    let nets = Networks::new(&Device::Cpu, DType::F32, config)?;
    let views = |n: usize, size: [usize; 3]| match size {
        [d, h, w] if d == h && h == w => format!("{n} x {d}^3"),
        [d, h, w] => format!("{n} x {d}x{h}x{w}"),
    };
    Ok([
        name.to_owned(),
        format!("{}/{}/{}", m.dim, m.depth, m.heads),
        format!("{}/{}/{}", m.dec_dim, m.dec_depth, m.dec_heads),
        m.patch.to_string(),
        format!("{} + {}", views(v.n_global, v.global_size), views(v.n_local, v.local_size)),
        config.train.batch.to_string(),
        format!("{:.1} M", nets.student_layout.count() as f64 / 1e6),
        format!("{:.1}", step_gflop(config)),
    ])
}

fn list(markdown: bool) -> Result<String> {
    let mut table = Table::new(&[
        "<preset",
        ">encoder",
        ">decoder",
        ">patch",
        "<global + local views",
        ">batch",
        ">parameters",
        ">GFLOP/step",
    ]);
    let mut lines = String::from(
        "| preset | encoder | decoder | patch | global + local views | batch | parameters | GFLOP per step |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for (name, _) in PRESETS {
        let row = cells(name, &preset(name)?)?;
        lines += &format!("| {} |\n", row.join(" | "));
        table.row(row);
    }
    if markdown {
        return Ok(lines);
    }
    Ok(format!(
        "{}\nencoder, decoder: width/blocks/heads. `glmae presets NAME` prints a preset with its comments.\n",
        table.render("")
    ))
}
