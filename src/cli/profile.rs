//! `glmae profile`: what the compiled kernels would ask of a GPU, counted without one.

use std::path::PathBuf;

use super::config_args::TargetsArg;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  glmae profile --op layer_norm                                 every kernel of the op at its own shape
  glmae profile --op linear --shape rows=3768,in=768,out=2304,epilogue=0,bias=1 --dtype bf16 --lines 12
  glmae profile --op attention --dtype bf16 --html attention.html        the source with its counters
  glmae profile --op conv3d --device ptx:80 --gpu a100 --json
  glmae profile --shapes scripts/gpu-day/shapes.txt --top 25    what a step of vit-b is made of

The PTX that nvcc made of the kernels is executed on the CPU, and every instruction is counted: by unit of the
hardware, with active lanes, sectors of 32 bytes per request, passes through the banks of shared memory, and
FLOP of the tensor cores. `at least` is what the busiest unit alone would need on the GPU: a bound, never a
time. Caches, latencies and scheduling are not modelled (docs/profiling.md).")]
pub struct Args {
    #[command(flatten)]
    which: TargetsArg,
    /// Type of the activations: f32 or bf16
    #[arg(long, value_name = "TYPE", default_value = "bf16")]
    dtype: String,
    /// The PTX to execute: ptx:80 or ptx:90a
    #[arg(long, value_name = "DEVICE", default_value = "ptx:90a")]
    device: String,
    /// The GPU whose units the bounds are of: h100, h200, a100
    #[arg(long, value_name = "NAME", default_value = "h200")]
    gpu: String,
    /// Print the N lines of the source with the most instructions of each kernel
    #[arg(long, value_name = "N", default_value_t = 0)]
    lines: usize,
    /// Print only a table of the N kernels that need longest at least
    #[arg(long, value_name = "N", conflicts_with_all = ["lines", "json"])]
    top: Option<usize>,
    /// Write a page that shows the source with its counters beside it
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Where the sources are that the page shows
    #[arg(long, value_name = "DIR", default_value = ".")]
    sources: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[cfg(not(feature = "cuda"))]
pub fn run(args: &Args) -> anyhow::Result<u8> {
    // Says how to build a program that has the PTX.
    glmae::device::Device::parse(&args.device)?;
    Err(glmae::Error::Config("glmae profile executes PTX: --device ptx:80 or ptx:90a".into())
        .into())
}

#[cfg(feature = "cuda")]
pub use self::counted::run;

/// The arguments that `glmae bench kernels` has as well: on a device that executes PTX there is nothing to time.
pub fn of_bench(which: TargetsArg, dtype: String, device: String, json: bool) -> Args {
    Args {
        which,
        dtype,
        device,
        gpu: "h200".into(),
        lines: 0,
        top: None,
        html: None,
        sources: ".".into(),
        json,
    }
}

#[cfg(feature = "cuda")]
mod counted {
    use std::sync::Arc;

    use anyhow::Result;
    use glmae::device::Device;
    use glmae::device::ptx::{Arch, Options, Ptx};
    use glmae::error::exit;
    use glmae::lab::bench_kernels::Target;
    use glmae::lab::profile::{KernelProfile, LineProfile, PassProfile, profile};
    use glmae::ops::OPS;
    use glmae::{Error, atomic};
    use glmae_simt::bound::{GPUS, Gpu};

    use super::Args;
    use crate::cli::config_args::activations;
    use crate::cli::profile_page;
    use crate::cli::term::{self, Table};

    fn targets(args: &Args) -> Result<Vec<Target>> {
        let chosen = args.which.targets()?;
        let all = OPS.iter().filter(|op| op.has_kernels()).map(|op| Target::of(op.name()));
        Ok(if chosen.is_empty() { all.collect() } else { chosen })
    }

    pub fn run(args: &Args) -> Result<u8> {
        let dtype = activations(&args.dtype)?;
        let gpu = Gpu::find(&args.gpu).ok_or_else(|| {
            let known: Vec<_> = GPUS.iter().map(|gpu| gpu.name).collect();
            Error::Config(format!("--gpu {}: known are {}", args.gpu, known.join(", ")))
        })?;
        let arch = match Device::parse(&args.device)? {
            Device::Ptx(ptx) => ptx.arch(),
            other => {
                let message = format!("--device {}: ptx:80 or ptx:90a", other.name());
                return Err(Error::Config(message).into());
            }
        };
        // Counts do not depend on the checks, which take most of the time.
        let ptx = Arc::new(Ptx::new(arch, Options { checked: false, ..Options::of(arch)? })?);
        let mut all: Vec<PassProfile> = Vec::new();
        profile(&ptx, gpu, dtype, &targets(args)?, &mut |pass| {
            if !args.json && args.top.is_none() {
                term::print(&text(pass, gpu, args.lines))?;
            }
            all.push(pass.clone());
            Ok(())
        })?;
        if let Some(n) = args.top {
            term::print(&hottest(&all, n))?;
        }
        if args.json {
            term::print(&format!("{}\n", serde_json::to_string_pretty(&all)?))?;
        }
        if let Some(path) = &args.html {
            let page = profile_page::page(&all, gpu, &args.sources);
            atomic::write_bytes(path, page.as_bytes())?;
            term::say(&format!("wrote {}", path.display()));
        }
        Ok(exit::OK)
    }

    /// Where code of one architecture is held against the units of another.
    fn arch_note(arch: &str, gpu: &Gpu) -> String {
        let fits = (arch == Arch::Sm80.to_string()) == (gpu.name == "a100");
        if fits { String::new() } else { format!(" (PTX of {arch} on the units of {})", gpu.name) }
    }

    fn text(pass: &PassProfile, gpu: &Gpu, lines: usize) -> String {
        let arch = pass.kernels.first().map_or("", |k| k.target.as_str());
        let mut out = format!(
            "{} {} {}: must move {} and do {:.3} GFLOP once; memory of {}: at least {:.1} us{}\n",
            pass.op,
            pass.case,
            pass.pass,
            term::bytes(pass.bytes),
            pass.flops as f64 * 1e-9,
            gpu.name,
            pass.memory_us,
            arch_note(arch, gpu),
        );
        let heads = [
            "<kernel",
            ">launches",
            ">blocks",
            ">threads",
            ">regs",
            ">warps/SM",
            ">instr.",
            ">lanes",
            ">int %",
            ">fma %",
            ">conv %",
            ">spec %",
            ">ld/st %",
            ">tensor %",
            ">sect/least",
            ">pass/least",
            ">at least us",
            "<bound by",
        ];
        let mut table = Table::new(&heads);
        for kernel in &pass.kernels {
            table.row(cells(kernel));
        }
        out += &table.render("  ");
        for kernel in pass.kernels.iter().filter(|_| lines > 0) {
            let mut hot: Vec<&LineProfile> = kernel.lines.iter().collect();
            hot.sort_by_key(|l| std::cmp::Reverse(l.counted.instructions));
            let mut table = Table::new(&[
                "<line",
                ">instr. %",
                ">lanes",
                ">sect/least",
                ">pass/least",
                ">sectors",
                ">passes",
            ]);
            for line in hot.iter().take(lines) {
                let c = &line.counted;
                let share = 100.0 * c.instructions as f64 / kernel.total.instructions.max(1) as f64;
                table.row([
                    format!("{}:{}", line.file, line.line),
                    format!("{share:.1}"),
                    format!("{:.1}", c.lanes_per_instruction),
                    ratio(c.sectors_over_least, c.sectors),
                    ratio(c.passes_over_least, c.shared_passes),
                    c.sectors.to_string(),
                    c.shared_passes.to_string(),
                ]);
            }
            out += &format!("  {}\n{}", kernel.kernel, table.render("    "));
        }
        out + "\n"
    }

    fn ratio(value: f64, of: u64) -> String {
        if of == 0 { "-".into() } else { format!("{value:.2}") }
    }

    /// The `n` kernels that need longest at least, each unit's share of that in a column of its own.
    fn hottest(passes: &[PassProfile], n: usize) -> String {
        let mut all: Vec<(&PassProfile, &KernelProfile)> =
            passes.iter().flat_map(|pass| pass.kernels.iter().map(move |k| (pass, k))).collect();
        all.sort_by(|a, b| b.1.longest_us().total_cmp(&a.1.longest_us()));
        let units = all.first().map_or(&[][..], |(_, k)| &k.at_least_us);
        let heads: Vec<String> = ["<kernel", "<op", "<case", ">regs", ">warps/SM"]
            .map(str::to_owned)
            .into_iter()
            .chain(units.iter().map(|(unit, _)| format!(">{unit} us")))
            .chain(
                [">sect/least", ">pass/least", "<bound by", ">pass's floor us"].map(str::to_owned),
            )
            .collect();
        let mut table = Table::new(&heads.iter().map(String::as_str).collect::<Vec<_>>());
        for (pass, kernel) in all.into_iter().take(n) {
            let c = &kernel.total;
            let first = [
                kernel.kernel.clone(),
                format!("{} {}", kernel.op, kernel.pass),
                kernel.case.clone(),
                kernel.registers.map_or("-".into(), |n| n.to_string()),
                kernel.warps_per_multiprocessor.to_string(),
            ];
            let bounds = kernel.at_least_us.iter().map(|(_, us)| format!("{us:.1}"));
            let last = [
                ratio(c.sectors_over_least, c.sectors),
                ratio(c.passes_over_least, c.shared_passes),
                kernel.binding.to_owned(),
                format!("{:.1}", pass.floor_us),
            ];
            table.row(first.into_iter().chain(bounds).chain(last));
        }
        table.render("")
    }

    fn cells(kernel: &KernelProfile) -> [String; 18] {
        let c = &kernel.total;
        let percent = |n: u64| format!("{:.0}", 100.0 * n as f64 / c.instructions.max(1) as f64);
        let product = |axes: [u32; 3]| axes.iter().map(|&n| u64::from(n)).product::<u64>();
        [
            kernel.kernel.clone(),
            kernel.launches.to_string(),
            product(kernel.grid).to_string(),
            product(kernel.block).to_string(),
            kernel.registers.map_or("-".into(), |n| n.to_string()),
            kernel.warps_per_multiprocessor.to_string(),
            c.instructions.to_string(),
            format!("{:.1}", c.lanes_per_instruction),
            percent(c.integer),
            percent(c.fma),
            percent(c.convert),
            percent(c.special),
            percent(c.load_store),
            percent(c.tensor),
            ratio(c.sectors_over_least, c.sectors),
            ratio(c.passes_over_least, c.shared_passes),
            format!("{:.2}", kernel.longest_us()),
            kernel.binding.to_owned(),
        ]
    }
}
