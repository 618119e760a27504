//! `glmae bench kernels`: how fast each op is, forward and backward apart.

use std::path::PathBuf;

use anyhow::Result;
use glmae::atomic;
use glmae::error::exit;
use glmae::lab::bench_kernels::{Ceilings, KernelBenchOptions, Row, bench_kernels};

use super::config_args::{DeviceArg, TargetsArg, activations};
use super::profile;
use super::term::{self, Table};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  glmae bench kernels                                            every op at its own bench shape
  glmae bench kernels --op layer_norm --shape rows=8008,c=768 --device cuda --dtype bf16
  glmae bench kernels --op attention --shape 12,64,1001,1001     heads, head dim, lengths
  glmae bench kernels --op linear --device ptx:90a               counts instead, see `glmae profile`
  ncu -k regex:layer_norm_ glmae bench kernels --op layer_norm --device cuda --warmup 1 --repeats 1

Bytes and FLOP are what the op has to move and compute once, not what an implementation spends; of a
backward pass they are taken as twice the forward's. Updates of state copy the state first.")]
pub struct Args {
    #[command(flatten)]
    which: TargetsArg,
    /// Type of the activations: f32 or bf16 (bf16 only on CUDA devices, emulated ones included)
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    dtype: String,
    #[command(flatten)]
    device: DeviceArg,
    /// Passes over the inputs before the clock starts
    #[arg(long, value_name = "N", default_value_t = 3)]
    warmup: usize,
    /// Passes that are timed
    #[arg(long, value_name = "N", default_value_t = 15)]
    repeats: usize,
    /// Do not measure the rate of a copy and of a large product for comparison
    #[arg(long)]
    no_ceilings: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Also write the JSON here, after every op: what there is when the time is up
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub fn run(args: &Args) -> Result<u8> {
    if args.device.device.starts_with("ptx") {
        // Counted, not timed.
        let device = args.device.device.clone();
        let counted = profile::of_bench(args.which.clone(), args.dtype.clone(), device, args.json);
        return profile::run(&counted);
    }
    let dtype = activations(&args.dtype)?;
    if cfg!(debug_assertions) {
        term::say("warning: a build with debug assertions; time `cargo build --release`");
    }
    let options = KernelBenchOptions {
        device: args.device.parse()?,
        dtype,
        targets: args.which.targets()?,
        warmup: args.warmup,
        repeats: args.repeats.max(1),
        ceilings: !args.no_ceilings,
    };
    let bench = bench_kernels(&options, &mut |so_far| match &args.out {
        Some(path) => atomic::write_json(path, so_far).map(|_| ()),
        None => Ok(()),
    })?;
    if args.json {
        term::print(&format!("{}\n", serde_json::to_string_pretty(&bench)?))?;
        return Ok(exit::OK);
    }
    let mut table = Table::new(&["<", "<", "<", ">", ">", ">", ">", ">", ">", ">"]);
    let heads =
        ["op", "case", "pass", "us", "min", "spread", "GB/s", "% copy", "GFLOP/s", "% GEMM"];
    table.row(heads.map(str::to_owned));
    for row in &bench.rows {
        table.row(cells(row));
    }
    term::print(&format!(
        "{} in {}, {}\n{}",
        bench.device,
        bench.dtype,
        ceilings(&bench.ceilings),
        table.render("  ")
    ))?;
    term::print(&products(&bench.rows))?;
    for skipped in &bench.skipped {
        term::print(&format!("skipped: {skipped}\n"))?;
    }
    Ok(exit::OK)
}

/// Which kernel each matrix product was given, and why.
fn products(rows: &[Row]) -> String {
    let mut table = Table::new(&["<", "<", "<"]);
    for (row, p) in rows.iter().flat_map(|row| row.products.iter().map(move |p| (row, p))) {
        let why = p.model.as_ref().map_or_else(
            || "the device, the sizes or what follows allow no other kind".to_owned(),
            |m| {
                let more = 100.0 * (m.second_cycles / m.cycles - 1.0);
                format!("{:.0} cycles, bound by {}; {} {more:+.0} %", m.cycles, m.bound, m.second)
            },
        );
        let product = format!("{} {} {} x {} x {}", row.op, row.pass, p.m, p.n, p.k);
        table.row([product, p.kernel.clone(), why]);
    }
    if rows.iter().all(|row| row.products.is_empty()) {
        return String::new();
    }
    format!(
        "matrix products, their kernels and what the model of the choice says\n{}",
        table.render("  ")
    )
}

fn ceilings(c: &Ceilings) -> String {
    let part = |value: Option<f64>, unit: &str| match value {
        Some(value) => format!("{value:.1} {unit}"),
        None => "not measured".into(),
    };
    format!("copy {}, GEMM {}", part(c.copy_gb_s, "GB/s"), part(c.gemm_gflop_s, "GFLOP/s"))
}

fn cells(row: &Row) -> [String; 10] {
    let percent = |share: Option<f64>| share.map_or("-".into(), |s| format!("{:.0}", 100.0 * s));
    [
        row.op.clone(),
        row.case.clone(),
        format!("{}{}", row.pass, if row.graph { " (graph)" } else { "" }),
        format!("{:.1}", row.us),
        format!("{:.1}", row.us_min),
        format!("{:.0} %", 100.0 * row.spread),
        format!("{:.1}", row.gb_s),
        percent(row.share_of_copy),
        format!("{:.1}", row.gflop_s),
        percent(row.share_of_gemm),
    ]
}
