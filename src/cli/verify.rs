//! `glmae verify`: parity with the PyTorch reference and with MONAI.

use std::path::{Path, PathBuf};

use anyhow::Result;
use glmae::device::{DType, Device};
use glmae::error::exit;
use glmae::lab::tensors::CaseTensors;
use glmae::lab::verify::{Results, Row, Verified, verify};
use glmae::{Error, atomic};
use safetensors::tensor::TensorView;
use serde::Serialize;

use super::config_args::{Arithmetic, DeviceArg};
use super::failure;
use super::term::{self, Table};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  glmae verify ../shared/peer/cases/*.safetensors             f32, the bounds of the reference's judge
  glmae verify --dtype f64 mini.safetensors                   agreement to rounding
  glmae verify mini.safetensors --out ours.safetensors        then let the reference judge it:
  python compare_case.py mini.safetensors ours.safetensors

Cases of pre-training (glmae-case-1) and of segmentation (glmae-unetr-1): network, layers, window, metrics
and prep. Metrics and most of prep do not compute on a device: --device and --dtype do not change them.

A distance is |ours - reference| / |reference| of a tensor, L2 norms, reference in f64; \"moved\" is
relative to what training changed; whole numbers must not differ at all. docs/verification.md describes
the formats. Exit code 1 when any quantity is out of its bound, 3 for a file that is no sound case; the
others are judged all the same.")]
pub struct Args {
    /// Case files (`format` = `glmae-case-1` or `glmae-unetr-1` in their metadata)
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
    /// `pretraining`, or the part of the segmentation side.
    part: String,
    steps: usize,
    pass: bool,
    quantities: Vec<Row>,
    /// Tensors of the case that no quantity is about.
    unread: Vec<String>,
    /// Why the case could not be judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

pub fn run(args: &Args) -> Result<u8> {
    let device = args.device.parse()?;
    let dtype = DType::from(args.dtype);
    let mut reports = Vec::new();
    // Of the first case that could not be judged.
    let mut refused = None;
    for path in &args.cases {
        let mut report = CaseReport {
            case: path.clone(),
            device: device.name(),
            dtype: dtype.name().into(),
            part: String::new(),
            steps: 0,
            pass: false,
            quantities: Vec::new(),
            unread: Vec::new(),
            error: None,
        };
        match judge(args, path, &device, dtype) {
            Ok(verified) => {
                report.pass = verified.passes();
                report.part = verified.part;
                report.steps = verified.steps;
                report.quantities = verified.rows;
                report.unread = verified.unread;
                if !args.json {
                    term::print(&table(&report))?;
                }
            }
            // The other cases can still be judged.
            Err(error) => {
                report.error = Some(format!("{error:#}"));
                let code = failure::report(&error);
                refused.get_or_insert(code.max(exit::FAILURE));
            }
        }
        reports.push(report);
    }
    let failed = reports.iter().flat_map(|r| &r.quantities).filter(|q| !q.pass).count();
    if args.json {
        term::print(&format!("{}\n", serde_json::to_string_pretty(&reports)?))?;
    } else if reports.iter().any(|r| r.error.is_none()) {
        let total: usize = reports.iter().map(|r| r.quantities.len()).sum();
        let (passed, cases) = (total - failed, reports.len());
        let bad = reports.iter().filter(|r| r.error.is_some()).count();
        let bad = if bad > 0 { format!(", {bad} not judged") } else { String::new() };
        term::print(&format!("{passed} passed, {failed} failed, {cases} cases{bad}\n"))?;
    }
    Ok(refused.unwrap_or(if failed == 0 { exit::OK } else { exit::FAILURE }))
}

fn judge(args: &Args, path: &Path, device: &Device, dtype: DType) -> Result<Verified> {
    let verified = verify(path, device, dtype)?;
    if let Some(out) = &args.out {
        let target = target(out, path, args.cases.len());
        write_results(&target, &verified.case, &verified.ours)?;
    }
    Ok(verified)
}

fn table(report: &CaseReport) -> String {
    let mut table = Table::new(&["<quantity", ">tensors", ">abs", ">rel", ">bound", "<", "<worst"]);
    for q in &report.quantities {
        let exact = q.bound == 0.0;
        table.row([
            q.quantity.clone(),
            q.tensors.to_string(),
            format!("{:.2e}", q.max_abs),
            if exact { format!("{} differ", q.rel_l2) } else { format!("{:.2e}", q.rel_l2) },
            if exact { "0".to_owned() } else { format!("{:.0e}", q.bound) },
            if q.pass { "pass" } else { "FAIL" }.to_owned(),
            if q.tensors > 1 { q.worst.clone() } else { String::new() },
        ]);
    }
    let what = match report.steps {
        0 => report.part.clone(),
        n => format!("{}, {n} steps", report.part),
    };
    let mut text = format!(
        "{}: {what} on {} in {}\n{}\n",
        report.case.display(),
        report.device,
        report.dtype,
        table.render("  ")
    );
    if let Some(first) = report.unread.first() {
        let n = report.unread.len();
        text += &format!("  not compared: {n} tensors of the file, such as '{first}'\n\n");
    }
    text
}

/// The file for the results of one of `cases` cases.
fn target(out: &Path, case: &Path, cases: usize) -> PathBuf {
    if cases == 1 && !out.is_dir() {
        return out.to_owned();
    }
    out.join(case.file_name().unwrap_or(case.as_os_str()))
}

/// Results as f64 tensors under the names and in the shapes of the case.
fn write_results(path: &Path, case: &CaseTensors, ours: &Results) -> Result<()> {
    if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(Error::io(folder, "create"))?;
    }
    let mut tensors = Vec::new();
    for (name, values) in ours {
        let found = case.find(&format!("fp64.{name}")).or_else(|| case.find(name));
        let known = found.map(|(shape, _)| shape.to_vec());
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
