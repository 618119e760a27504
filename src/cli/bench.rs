//! `glmae bench`: how fast the engine is.

use anyhow::Result;
use clap::Subcommand;
use glmae::error::exit;
use glmae::lab::bench_step::{StepBench, StepBenchOptions, bench_step};
use glmae::lab::bench_unetr::{UnetrBenchOptions, bench_unetr};
use glmae::lab::products;
use serde_json::json;

use super::bench_kernels;
use super::config_args::{Arithmetic, DeviceArg, LaunchArg};
use super::term::{self, Table};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Time whole training steps on random data: forward, backward, optimiser, teacher
    Step(StepArgs),
    /// Time whole fine-tuning steps of MONAI's UNETR (ViT-B, 14 classes) on random crops
    Unetr(UnetrArgs),
    /// List the matrix products of a training step, the kernel of each, and why it was chosen; runs nothing
    Products(ProductsArgs),
    /// Time single ops, forward and backward apart, against copy and GEMM rates of the same run
    Kernels(bench_kernels::Args),
}

/// Where and how steps run.
#[derive(clap::Args)]
struct How {
    #[command(flatten)]
    device: DeviceArg,
    /// Arithmetic of activations; bf16 on the CUDA kernels, f64 on the CPU
    #[arg(long, value_enum, default_value_t = Arithmetic::F32)]
    dtype: Arithmetic,
    #[command(flatten)]
    launches: LaunchArg,
}

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  glmae bench step --preset small --device cpu --threads 2
  glmae bench step --preset tiny --json
  glmae bench step --preset vit-b --set train.batch=1 --repeats 3
  glmae bench step --preset vit-b --device cuda --dtype bf16 --set train.batch=4   [--no-graph]
  scripts/bench-cpu-vs-torch.sh                               side by side with PyTorch

GFLOP is the work that the method needs (visible patches embedded, masked rows predicted), counted as
the PyTorch reference counts it; tokens are the patch tokens of all views, masked ones included.")]
struct StepArgs {
    /// A preset (`glmae presets` lists them) or a TOML file
    #[arg(long, value_name = "PRESET|FILE", default_value = "small")]
    preset: String,
    /// Set any configuration key; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    how: How,
    /// Threads of the CPU device, 0: all cores
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// Steps before the clock starts
    #[arg(long, value_name = "N", default_value_t = 2)]
    warmup: usize,
    /// Steps that are timed
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = at_least_one)]
    repeats: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  glmae bench unetr --device cuda --dtype bf16 --batch 4
  python bench_torch.py --parts unetr                         MONAI's, in the same minutes")]
struct UnetrArgs {
    #[command(flatten)]
    how: How,
    /// Crops per step
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = at_least_one)]
    batch: usize,
    /// Edge of a crop in voxels
    #[arg(long, value_name = "N", default_value_t = 96, value_parser = at_least_one)]
    roi: usize,
    /// Channels at full resolution (MONAI's default is 16, the papers use 48)
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = at_least_one)]
    feature_size: usize,
    /// Steps before the clock starts
    #[arg(long, value_name = "N", default_value_t = 3)]
    warmup: usize,
    /// Steps that are timed
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = at_least_one)]
    repeats: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn run_unetr(args: &UnetrArgs) -> Result<u8> {
    let bench = bench_unetr(&UnetrBenchOptions {
        device: args.how.device.parse()?,
        dtype: args.how.dtype.into(),
        launches: args.how.launches.launches(),
        batch: args.batch,
        roi: args.roi,
        feature_size: args.feature_size,
        warmup: args.warmup,
        repeats: args.repeats,
    })?;
    let value = serde_json::to_value(&bench)?;
    if args.json {
        term::print(&format!("{}\n", serde_json::to_string_pretty(&value)?))?;
        return Ok(exit::OK);
    }
    let mut table = Table::new(&["<", "<"]);
    for (name, value) in value.as_object().into_iter().flatten() {
        table.row([name.clone(), value.to_string()]);
    }
    term::print(&table.render(""))?;
    Ok(exit::OK)
}

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  glmae bench products --preset vit-b --set train.batch=4
  glmae bench products --preset tiny --json

For each product [m, n] = [m, k] x [k, n] in bf16 on a GPU with Hopper's instructions: how often a micro-batch has
it, what is done with the sums, the kernel (its tile, and how many of these a block takes one after the other), the
bytes of the operands that L2 gives and that pass through shared memory, the cycles that the model of the choice
expects, what binds it (tensor cores, shared memory, L2), the share of the tensor cores' rate, and the second best
tile. docs/hopper.md describes the model. Nothing here is measured.")]
struct ProductsArgs {
    /// A preset (`glmae presets` lists them) or a TOML file
    #[arg(long, value_name = "PRESET|FILE", default_value = "vit-b")]
    preset: String,
    /// Set any configuration key; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn run_products(args: &ProductsArgs) -> Result<u8> {
    let config = glmae::config::Config::load(&args.preset, &args.set)?;
    let rows = products::products(&config)?;
    if args.json {
        term::print(&format!("{}\n", serde_json::to_string_pretty(&rows)?))?;
        return Ok(exit::OK);
    }
    let mut table =
        Table::new(&[">", ">", ">", ">", "<", "<", ">", ">", ">", ">", "<", ">", "<", ">"]);
    let head = "times m n k then kernel turns L2-MB shared-MB cycles bound share second +%";
    table.row(head.split(' ').map(str::to_owned).collect::<Vec<_>>());
    for row in &rows {
        let p = &row.product;
        let mut cells = [row.times, p.m, p.n, p.k].map(|n| n.to_string()).to_vec();
        cells.push(p.follows.map_or_else(String::new, |follows| format!("{follows:?}")));
        let parts = if p.parts > 1 { format!(" in {} parts", p.parts) } else { String::new() };
        cells.push(format!("{}{parts}", p.kernel));
        cells.push(p.turns.map_or_else(String::new, |turns| turns.to_string()));
        match &p.model {
            Some(m) => cells.extend([
                format!("{:.0}", m.l2_bytes as f64 / 1e6),
                format!("{:.0}", m.shared_bytes as f64 / 1e6),
                format!("{:.0}", m.cycles),
                m.bound.to_owned(),
                format!("{:.0} %", 100.0 * m.share),
                m.second.clone(),
                format!("{:.0}", 100.0 * (m.second_cycles / m.cycles - 1.0)),
            ]),
            None => cells.extend([""; 7].map(String::from)),
        }
        table.row(cells);
    }
    term::print(&table.render(""))?;
    Ok(exit::OK)
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".into()),
        Ok(n) => Ok(n),
        Err(e) => Err(format!("{e}")),
    }
}

pub fn run(args: &Args) -> Result<u8> {
    let args = match &args.what {
        What::Step(args) => args,
        What::Kernels(args) => return bench_kernels::run(args),
        What::Unetr(args) => return run_unetr(args),
        What::Products(args) => return run_products(args),
    };
    let config = glmae::config::Config::load(&args.preset, &args.set)?;
    let options = StepBenchOptions {
        device: args.how.device.parse()?,
        dtype: args.how.dtype.into(),
        launches: args.how.launches.launches(),
        threads: args.threads,
        warmup: args.warmup,
        repeats: args.repeats,
    };
    if cfg!(debug_assertions) {
        term::say("warning: a build with debug assertions; time `cargo build --release`");
    }
    let bench = bench_step(&config, &options)?;
    if args.json {
        let mut row = serde_json::to_value(&bench)?;
        if let Some(fields) = row.as_object_mut() {
            fields.insert("preset".into(), json!(args.preset));
            fields.insert("batch".into(), json!(config.train.batch));
            fields.insert("glmae".into(), json!(env!("CARGO_PKG_VERSION")));
        }
        term::print(&format!("{}\n", serde_json::to_string_pretty(&row)?))?;
    } else {
        term::print(&text(&args.preset, &bench))?;
    }
    Ok(exit::OK)
}

fn text(preset: &str, b: &StepBench) -> String {
    let mut table = Table::new(&["<", ">", "<"]);
    let mut row = |name: &str, value: String, more: String| {
        table.row([name.to_owned(), value, more]);
    };
    row(
        "step",
        format!("{:.1} ms", b.ms),
        format!("median of {}, {:.1} to {:.1}", b.n, b.ms_min, b.ms_max),
    );
    row("work", format!("{:.3} GFLOP", b.gflop), format!("{:.1} GFLOP/s", b.gflop_per_s));
    row(
        "speed",
        format!("{} tokens/s", term::count(b.tokens_per_s as usize)),
        format!("{:.2} volumes/s", b.volumes_per_s),
    );
    let rss = b.peak_rss_mb.map_or("unknown".to_owned(), |mb| format!("{mb:.0} MiB"));
    row("memory", rss, format!("peak of the process; {:.0} MiB of tensors", b.peak_tensor_mb));
    row("loss", format!("{:.5}", b.loss), format!("ready after {:.2} s", b.ready_s));
    format!(
        "{preset}: {} parameters on {} in {}, {} threads\n{}",
        term::count(b.parameters),
        b.device,
        b.dtype,
        b.threads,
        table.render("  ")
    )
}
