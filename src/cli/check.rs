//! `glmae check`: does a device compute what it should.

mod workers;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Subcommand;
use glmae::atomic;
use glmae::config::Config;
use glmae::error::exit;
use glmae::lab::check::{Finding, device, ops, step};
use serde::Serialize;
use serde_json::json;

use self::workers::{Budget, Checked};
use super::config_args::{Arithmetic, DeviceArg};
use super::term::{self, Table};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  glmae check device --device cuda:0                 seconds: memory, uploads, one kernel, one graph
  glmae check ops --device cuda:0                    every case of every op against the f64 reference
  glmae check ops --device emulated --op layer_norm  the same kernels, executed on the CPU
  glmae check step --device cuda:0                   20 training steps against the CPU's

On a new GPU, in this order. Exit code 1 when anything did not pass.")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// The device by itself: memory, uploads, one kernel, one graph, the clock
    Device(DeviceArgs),
    /// Every case of every op, f32 and bf16, against the f64 reference; each kernel twice, same bits
    Ops(OpsArgs),
    /// Training steps of a small model against the CPU's, as a graph and by single launches
    Step(StepArgs),
}

#[derive(clap::Args)]
struct DeviceArgs {
    #[command(flatten)]
    device: DeviceArg,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
#[command(after_help = "\
The cases run in processes of their own (--jobs): a kernel that faults or never ends costs its case, and
the next one starts with a fresh context. A case that faulted runs once more with every launch waited
for, so that the report names the kernel. An op that has faulted three times is left alone.")]
struct OpsArgs {
    #[command(flatten)]
    device: DeviceArg,
    /// Only this op; may be repeated (`glmae ops` lists them)
    #[arg(long = "op", value_name = "OP")]
    ops: Vec<String>,
    /// Only this precision (f32 or bf16); both otherwise
    #[arg(long, value_enum)]
    dtype: Option<Arithmetic>,
    /// Only the first N cases of every op in every precision: a quick look, or a slow tool around it
    #[arg(long, value_name = "N")]
    first: Option<usize>,
    /// Processes; 0: as many as there are cores, at most 8. One on a GPU in exclusive mode
    #[arg(long, value_name = "N", default_value_t = 0)]
    jobs: usize,
    /// Seconds that one case may take
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    limit: u64,
    /// Seconds for all of it; what has not been started by then is reported as not run
    #[arg(long, value_name = "SECONDS")]
    within: Option<u64>,
    /// In this process, one case after the other: for compute-sanitizer and debuggers
    #[arg(long)]
    in_process: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Write the JSON here, and what there is of it about once a second meanwhile
    #[arg(long, value_name = "FILE", conflicts_with = "in_process")]
    out: Option<PathBuf>,
    /// Answers requests on stdin; what the processes of --jobs are started with
    #[arg(long, hide = true)]
    worker: bool,
}

#[derive(clap::Args)]
struct StepArgs {
    #[command(flatten)]
    device: DeviceArg,
    /// A preset or a TOML file
    #[arg(long, value_name = "PRESET|FILE", default_value = "tiny")]
    preset: String,
    /// Set any configuration key; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..))]
    steps: u16,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<u8> {
    match &args.what {
        What::Device(args) => {
            let device = args.device.parse()?;
            report(&device.name(), &device::check(&device), args.json)
        }
        What::Step(args) => {
            let device = args.device.parse()?;
            let config = Config::load(&args.preset, &args.set)?;
            let findings = step::check(&config, &device, args.steps.into())?;
            report(&device.name(), &findings, args.json)
        }
        What::Ops(args) => check_ops(args),
    }
}

fn report(device: &str, findings: &[Finding], as_json: bool) -> Result<u8> {
    let failed = findings.iter().filter(|f| !f.passed).count();
    if as_json {
        let all = json!({ "device": device, "findings": findings });
        term::print(&format!("{}\n", serde_json::to_string_pretty(&all)?))?;
    } else {
        let mut table = Table::new(&["<", "<", ">s", "<"]);
        for f in findings {
            let verdict = if f.passed { "pass" } else { "FAIL" };
            table.row([
                f.what.clone(),
                verdict.into(),
                format!("{:.2}", f.seconds),
                f.seen.clone(),
            ]);
        }
        term::print(&format!("{device}\n{}", table.render("  ")))?;
        term::print(&format!("{} passed, {failed} failed\n", findings.len() - failed))?;
    }
    Ok(if failed == 0 { exit::OK } else { exit::FAILURE })
}

/// A case that did not pass, with what is needed to look at it.
#[derive(Serialize)]
struct Failure<'a> {
    op: &'a str,
    case: &'a str,
    dtype: String,
    /// `wrong`, `fault`, `hang`, or `error` of the program itself.
    kind: &'a str,
    message: &'a str,
}

fn check_ops(args: &OpsArgs) -> Result<u8> {
    let (mut units, without) = ops::units(&args.ops, args.dtype.map(Into::into))?;
    if let Some(first) = args.first {
        let mut seen = std::collections::HashMap::new();
        units.retain(|unit| {
            let count = seen.entry((unit.op.name(), unit.dtype.name())).or_insert(0);
            *count += 1;
            *count <= first
        });
    }
    if args.worker {
        workers::answer(&units, &args.device.parse()?)?;
        return Ok(exit::OK);
    }
    let begin = Instant::now();
    let (device, checked) = if args.in_process {
        let device = args.device.parse()?;
        (device.name(), workers::in_process(&units, &device))
    } else {
        // Opened once here, so that a missing device is one error, not an error of every case.
        let device = args.device.parse()?;
        let name = device.name();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let jobs = match args.jobs {
            _ if device.is_exclusive() => 1,
            0 => cores.min(8),
            jobs => jobs,
        };
        drop(device);
        let budget = Budget {
            jobs: jobs.min(units.len().max(1)),
            unit: Duration::from_secs(args.limit),
            until: args.within.map(|s| begin + Duration::from_secs(s)),
        };
        let arguments = worker_arguments(args);
        let so_far = |checked: &[Checked]| {
            let Some(path) = &args.out else { return };
            let result = Outcome::new(&name, &units, checked, &without, begin);
            if let Err(error) = atomic::write_json(path, &result) {
                tracing::warn!(%error, "the results so far");
            }
        };
        let checked = workers::in_children(&units, &arguments, &budget, &so_far)?;
        (name, checked)
    };
    let result = Outcome::new(&device, &units, &checked, &without, begin);
    if let Some(path) = &args.out {
        atomic::write_json(path, &result)?;
    }
    if args.json {
        term::print(&result.json()?)?;
    } else {
        for f in &result.failures {
            let line = format!("{} {} {} {}: {}", f.kind, f.op, f.case, f.dtype, f.message);
            term::print(&format!("{}\n", term::clean(&line)))?;
        }
        let (passed, failed, not_run) = (result.passed, result.failures.len(), result.not_run);
        let seconds = result.seconds;
        let line = format!("{passed} passed, {failed} failed, {not_run} not run, {seconds:.1} s");
        term::print(&format!("{device}: {line}\n"))?;
    }
    let is_good = result.failures.is_empty() && result.not_run == 0;
    Ok(if is_good { exit::OK } else { exit::FAILURE })
}

/// All cases, or what there is of them so far.
#[derive(Serialize)]
struct Outcome<'a> {
    device: &'a str,
    cases: usize,
    passed: usize,
    not_run: usize,
    seconds: f64,
    failures: Vec<Failure<'a>>,
    worst: Vec<Worst<'a>>,
    ops_without_kernels: &'a [&'static str],
}

impl<'a> Outcome<'a> {
    fn new(
        device: &'a str,
        units: &'a [ops::Unit],
        checked: &'a [Checked],
        without: &'a [&'static str],
        begin: Instant,
    ) -> Self {
        let failure = |(unit, checked): (&'a ops::Unit, &'a Checked)| {
            let (kind, message) = checked.failure()?;
            let dtype = unit.dtype.to_string();
            let (op, case) = (unit.op.name(), unit.case.label.as_str());
            Some(Failure { op, case, dtype, kind, message })
        };
        let count = |is: fn(&Checked) -> bool| checked.iter().filter(|c| is(c)).count();
        Self {
            device,
            cases: units.len(),
            passed: count(|c| matches!(c, Checked::Passed(_))),
            not_run: count(|c| matches!(c, Checked::NotRun(_))),
            seconds: begin.elapsed().as_secs_f64(),
            failures: units.iter().zip(checked).filter_map(failure).collect(),
            worst: worst(units, checked),
            ops_without_kernels: without,
        }
    }

    fn json(&self) -> Result<String> {
        Ok(format!("{}\n", serde_json::to_string_pretty(self)?))
    }
}

fn worker_arguments(args: &OpsArgs) -> Vec<String> {
    let mut arguments: Vec<String> =
        ["check", "ops", "--worker", "--device"].map(Into::into).into();
    arguments.push(args.device.device.clone());
    for op in &args.ops {
        arguments.extend(["--op".into(), op.clone()]);
    }
    if let Some(dtype) = args.dtype {
        let name = glmae::device::DType::from(dtype).name();
        arguments.extend(["--dtype".into(), name.into()]);
    }
    if let Some(first) = args.first {
        arguments.extend(["--first".into(), first.to_string()]);
    }
    arguments
}

/// Of an op in a precision: how many cases passed, and the largest share of what is allowed.
#[derive(Serialize)]
struct Worst<'a> {
    op: &'a str,
    dtype: &'a str,
    passed: usize,
    share_of_bound: f64,
    worst: String,
}

fn worst<'a>(units: &'a [ops::Unit], checked: &[Checked]) -> Vec<Worst<'a>> {
    let mut rows: Vec<Worst<'_>> = Vec::new();
    for (unit, checked) in units.iter().zip(checked) {
        let Checked::Passed(verdict) = checked else { continue };
        let (op, dtype) = (unit.op.name(), unit.dtype.name());
        let at = rows.iter().position(|r| (r.op, r.dtype) == (op, dtype)).unwrap_or_else(|| {
            rows.push(Worst { op, dtype, passed: 0, share_of_bound: -1.0, worst: String::new() });
            rows.len() - 1
        });
        let row = &mut rows[at];
        row.passed += 1;
        if verdict.share > row.share_of_bound {
            row.share_of_bound = verdict.share;
            row.worst = format!("{}: {}", unit.case.label, verdict.worst);
        }
    }
    rows
}
