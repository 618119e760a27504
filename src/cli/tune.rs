//! `glmae tune`: the fastest kernel of every matrix product, measured.

use std::path::PathBuf;

use anyhow::Result;
use glmae::atomic;
use glmae::config::Config;
use glmae::device::Device;
use glmae::error::exit;
use glmae::lab::products::products;
use glmae::lab::tune::{Measured, measure, tuning};

use super::config_args::DeviceArg;
use super::term::{self, Table};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  glmae tune --preset vit-b --set train.batch=4 --device cuda:0 --out h200.toml
  GLMAE_TUNING=h200.toml glmae pretrain ...            choose by what was measured
  glmae bench products --preset vit-b                  what the model chooses without

Needs a GPU of compute capability 9.0. For each product of a training step every tile that can do it is timed, sums of
weight gradients in several numbers of parts as well. The file holds the fastest of each. Tiles and parts decide the
order of sums: with the file, results differ from those without in their last bits, and are the same from run to run.")]
pub struct Args {
    /// A preset (`glmae presets` lists them) or a TOML file
    #[arg(long, value_name = "PRESET|FILE", default_value = "vit-b")]
    preset: String,
    /// Set any configuration key; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    device: DeviceArg,
    /// Timed passes of each kernel
    #[arg(long, value_name = "N", default_value_t = 5)]
    repeats: usize,
    /// Write the table here
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print all times as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<u8> {
    let config = Config::load(&args.preset, &args.set)?;
    let device = args.device.parse()?;
    let rows = products(&config)?;
    let mut done = 0;
    let measured = measure(&device, &rows, args.repeats, &mut |m: &Measured| {
        done += 1;
        let best = m.best().map_or_else(String::new, |t| format!("{} {:.1} us", t.tile, t.us));
        term::say(&format!("{done} of {}: {} {best}", rows.len(), m.product.kernel));
    })?;
    if let Some(path) = &args.out {
        let text = toml::to_string(&tuning(&card(&device), &measured))?;
        atomic::write_bytes(path, text.as_bytes())?;
        term::say(&format!("written to {}; GLMAE_TUNING={0} uses it", path.display()));
    }
    if args.json {
        term::print(&format!("{}\n", serde_json::to_string_pretty(&measured)?))?;
        return Ok(exit::OK);
    }
    let mut table = Table::new(&[">", ">", ">", ">", "<", "<", ">", "<", ">", ">"]);
    let head = "times m n k pass model us fastest us TFLOP/s";
    table.row(head.split(' ').map(str::to_owned).collect::<Vec<_>>());
    for m in &measured {
        let (p, Some(best), Some(model)) = (&m.product, m.best(), m.timed.first()) else {
            continue;
        };
        let flop = 2.0 * p.m as f64 * p.n as f64 * p.k as f64;
        let name = |t: &glmae::lab::tune::Timed| match t.parts {
            1 => t.tile.to_owned(),
            parts => format!("{} in {parts}", t.tile),
        };
        let mut cells = [m.times, p.m, p.n, p.k].map(|n| n.to_string()).to_vec();
        cells.extend([
            p.stem.to_owned(),
            name(model),
            format!("{:.1}", model.us),
            name(best),
            format!("{:.1}", best.us),
            format!("{:.0}", flop / best.us / 1e6),
        ]);
        table.row(cells);
    }
    term::print(&table.render(""))?;
    Ok(exit::OK)
}

/// The product name of the GPU.
fn card(device: &Device) -> String {
    let name = device.name();
    name.strip_prefix("cuda (").and_then(|n| n.strip_suffix(')')).unwrap_or(&name).to_owned()
}
