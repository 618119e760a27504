//! `glmae verify`: parity with the PyTorch reference.

use std::path::{Path, PathBuf};

use anyhow::Result;
use glmae::device::DType;
use glmae::error::exit;
use glmae::lab::case::ReferenceCase;
use glmae::lab::verify::{Bounds, Results, Row, compare, run as repeat};
use glmae::{Error, atomic};
use safetensors::tensor::TensorView;
use serde::Serialize;

use super::config_args::{Arithmetic, DeviceArg};
use super::term::{self, Table};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  glmae verify ../shared/peer/cases/*.safetensors             f32, the bounds of the reference's judge
  glmae verify --dtype f64 mini.safetensors                   agreement to rounding
  glmae verify mini.safetensors --out ours.safetensors        then let the reference judge it:
  python compare_case.py mini.safetensors ours.safetensors

A distance is |ours - reference| / |reference| of a tensor, L2 norms, reference in f64; \"moved\" is
relative to what training changed. docs/verification.md describes the case format.
Exit code 1 when any quantity is out of its bound.")]
pub struct Args {
    /// Case files (`format` = `glmae-case-1` in their metadata)
    #[arg(value_name = "CASE", required = true)]
    cases: Vec<PathBuf>,
    #[command(flatten)]
    device: DeviceArg,
    /// Arithmetic of our run
    #[arg(long, value_enum, default_value_t = Arithmetic::F32)]
    dtype: Arithmetic,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
    /// Write our numbers under the names of the case; with several cases a folder
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Serialize)]
struct CaseReport {
    case: PathBuf,
    device: String,
    dtype: String,
    steps: usize,
    pass: bool,
    quantities: Vec<Row>,
}

pub fn run(args: &Args) -> Result<u8> {
    let device = args.device.parse()?;
    let dtype = DType::from(args.dtype);
    let bounds = Bounds::of(dtype);
    let mut reports = Vec::new();
    for path in &args.cases {
        let case = ReferenceCase::load(path)?;
        let ours = repeat(&case, &device, dtype)?;
        let quantities = compare(&case, &ours, &bounds);
        if quantities.is_empty() {
            return Err(Error::data(path, "the case has no 'fp64.' tensor to compare with").into());
        }
        if let Some(out) = &args.out {
            write_results(&target(out, path, args.cases.len()), &case, &ours)?;
        }
        let report = CaseReport {
            case: path.clone(),
            device: device.name(),
            dtype: dtype.name().into(),
            steps: case.steps,
            pass: quantities.iter().all(|q| q.pass),
            quantities,
        };
        if !args.json {
            term::print(&table(&report))?;
        }
        reports.push(report);
    }
    let failed = reports.iter().flat_map(|r| &r.quantities).filter(|q| !q.pass).count();
    if args.json {
        term::print(&format!("{}\n", serde_json::to_string_pretty(&reports)?))?;
    } else {
        let total: usize = reports.iter().map(|r| r.quantities.len()).sum();
        let passed = total - failed;
        term::print(&format!("{passed} passed, {failed} failed, {} cases\n", reports.len()))?;
    }
    Ok(if failed == 0 { exit::OK } else { exit::FAILURE })
}

fn table(report: &CaseReport) -> String {
    let mut table = Table::new(&["<quantity", ">tensors", ">abs", ">rel", ">bound", "<", "<worst"]);
    for q in &report.quantities {
        table.row([
            q.quantity.clone(),
            q.tensors.to_string(),
            format!("{:.2e}", q.max_abs),
            format!("{:.2e}", q.rel_l2),
            format!("{:.0e}", q.bound),
            if q.pass { "pass" } else { "FAIL" }.to_owned(),
            if q.tensors > 1 { q.worst.clone() } else { String::new() },
        ]);
    }
    format!(
        "{}: {} steps on {} in {}\n{}\n",
        report.case.display(),
        report.steps,
        report.device,
        report.dtype,
        table.render("  ")
    )
}

/// The file for the results of one of `cases` cases.
fn target(out: &Path, case: &Path, cases: usize) -> PathBuf {
    if cases == 1 && !out.is_dir() {
        return out.to_owned();
    }
    out.join(case.file_name().unwrap_or(case.as_os_str()))
}

/// Results as f64 tensors under the names and in the shapes of the case.
fn write_results(path: &Path, case: &ReferenceCase, ours: &Results) -> Result<()> {
    if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(Error::io(folder, "create"))?;
    }
    let mut tensors = Vec::new();
    for (name, values) in ours {
        let known = case.find(&format!("fp64.{name}")).map(|(shape, _)| shape.to_vec());
        let shape = known
            .filter(|s| s.iter().product::<usize>() == values.len())
            .unwrap_or_else(|| vec![values.len()]);
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        tensors.push((name.as_str(), shape, bytes));
    }
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| {
            Ok((*name, TensorView::new(safetensors::Dtype::F64, shape.clone(), bytes)?))
        })
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    atomic::write_bytes(path, &safetensors::serialize(views, None)?)?;
    Ok(())
}
