//! `glmae import`: an encoder from another program's file.

use std::path::PathBuf;

use anyhow::Result;
use glmae::Error;
use glmae::error::exit;
use glmae::interchange::{Encoder, ImportOptions, read_encoder_with};

use super::term::{self, Table};

/// The file that is written.
const FILE: &str = "encoder.safetensors";
/// Names of a list that are printed.
const SHOWN: usize = 8;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  glmae import runs/ct --out encoders/ct                a run of glmae pretrain: its student
  glmae import runs/seg --out encoders/seg              a run of glmae finetune: its encoder
  glmae import official.safetensors --out encoders/a    module.backbone.blocks.0... and the like
  glmae import monai_unetr.safetensors --heads 12 --out encoders/b
  glmae import ct.safetensors --in-chans 4 --to-grid 6,6,6 --out encoders/c

  glmae import clip_ct.safetensors --prefix visual.trunk. --heads 12 --out encoders/d

Reads safetensors with the names of timm and the official code or of MONAI's ViT and UNETR, under
prefixes such as module.backbone., student., encoder. or vit., and under any other that --prefix
names. Exports of glmae say their heads, grid and norm eps; of other files the heads must be given.
PyTorch pickles (.pth) are refused: docs/interchange.md has the script that turns them into
safetensors.")]
pub struct Args {
    /// A safetensors file, a checkpoint folder or a run folder
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Folder for encoder.safetensors
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Take what fits, even if parameters are missing or unknown
    #[arg(long)]
    partial: bool,
    /// Attention heads, which the weights of other programs do not tell
    #[arg(long, value_name = "N")]
    heads: Option<usize>,
    /// Edge of a patch of MONAI's "perceptron"; default: the one that leaves at most 7 channels
    #[arg(long, value_name = "N")]
    patch: Option<usize>,
    /// Grid of tokens of the file's table of positions; default: that of a sin-cos table, or a cube
    #[arg(long, value_name = "D,H,W", value_parser = sides)]
    grid: Option<[usize; 3]>,
    /// Epsilon of the layer norms; default: 1e-5 for MONAI's names, 1e-6 for timm's
    #[arg(long, value_name = "EPS")]
    norm_eps: Option<f64>,
    /// Where the encoder is in the file, such as `teacher.backbone.` or `visual.trunk.`
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
    /// Repeat the patch kernel for images of so many channels
    #[arg(long, value_name = "N")]
    in_chans: Option<usize>,
    /// Interpolate the table of positions to this grid of tokens
    #[arg(long, value_name = "D,H,W", value_parser = sides)]
    to_grid: Option<[usize; 3]>,
}

pub fn run(args: &Args) -> Result<u8> {
    let options = ImportOptions {
        partial: args.partial,
        heads: args.heads,
        grid: args.grid,
        patch: args.patch,
        norm_eps: args.norm_eps,
        prefix: args.prefix.clone(),
    };
    let mut encoder = read_encoder_with(&args.file, &options)?;
    if let Some(channels) = args.in_chans {
        encoder.adapt_channels(channels)?;
    }
    if let Some(grid) = args.to_grid {
        encoder.adapt_grid(grid)?;
    }
    std::fs::create_dir_all(&args.out).map_err(Error::io(&args.out, "create"))?;
    let path = args.out.join(FILE);
    encoder.write(&path)?;
    term::print(&format!("{}\n{}\n", text(&encoder), path.display()))?;
    Ok(exit::OK)
}

/// `6,6,6`.
fn sides(text: &str) -> Result<[usize; 3], String> {
    let numbers: Result<Vec<usize>, _> = text.split(',').map(|n| n.trim().parse()).collect();
    let three = numbers.ok().and_then(|n| <[usize; 3]>::try_from(n).ok());
    three.filter(|n| !n.contains(&0)).ok_or_else(|| "three sides, such as 6,6,6".into())
}

fn text(encoder: &Encoder) -> String {
    let (c, report) = (&encoder.config, &encoder.report);
    let mut table = Table::new(&["<", "<"]);
    let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
    row("taken for", term::clean(&report.source));
    row(
        "encoder",
        format!("width {}, {} blocks, {} heads, MLP {}", c.dim, c.depth, c.heads, c.mlp_hidden),
    );
    row("patches", format!("{0} x {0} x {0} voxels, {1} channels", c.patch, c.in_chans));
    row("grid", encoder.grid.map_or("not known".into(), |g| term::dims(&g)));
    row("norm eps", format!("{:e}", c.norm_eps));
    row("loaded", format!("{} tensors", report.loaded.len()));
    for line in &report.assumed {
        row("assumed", term::clean(line));
    }
    for line in &report.adapted {
        row("adapted", term::clean(line));
    }
    for (what, names) in [
        ("missing", &report.missing),
        ("unexpected", &report.unexpected),
        ("left out", &report.ignored),
    ] {
        if !names.is_empty() {
            row(what, listed(names));
        }
    }
    table.render("")
}

fn listed(names: &[String]) -> String {
    let first: Vec<String> = names.iter().take(SHOWN).map(|n| term::clean(n)).collect();
    let more = if names.len() > SHOWN { ", ..." } else { "" };
    format!("{}: {}{more}", names.len(), first.join(", "))
}
