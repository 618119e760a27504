//! `glmae evaluate`: predicted label maps, or classes of images, against references.

mod classes;

use std::path::{Path, PathBuf};

use anyhow::Result;
use glmae::Error;
use glmae::atomic;
use glmae::data::ReadLimits;
use glmae::data::label::Rounding;
use glmae::error::exit;
use glmae::report::progress::WorkProgress;
use glmae::seg::dataset::DatasetInfo;
use glmae::seg::evaluate::{MissedDistance, Settings, evaluate};
use glmae::seg::match_files::{Matching, match_files};
use glmae::seg::task::TaskKind;
use glmae::seg::{LabelRules, Region, Task};

use super::term;

/// Unpaired files that are named.
const SHOWN: usize = 10;
/// From so many cases on there is a progress bar.
const MANY: usize = 4;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  glmae evaluate --pred out/ --ref Task09_Spleen/labelsTr --labels Task09_Spleen/dataset.json
  glmae evaluate --pred case.nii.gz --ref label.nii.gz --classes 14
  glmae evaluate --pred out/ --ref labelsTr --task brats
  glmae evaluate --pred out/ --ref labelsTr --tolerance 2 --json summary.json --csv cases.csv
  glmae evaluate --pred out/ --ref labelsTr --ignore-label 255 --missed-distance diagonal
  glmae evaluate --pred out/predictions.csv --ref CC-CCII --task cc-ccii --validation

Per case and class: Dice, IoU, 95th percentile and maximum Hausdorff distance in mm, surface Dice
(NSD) at each tolerance. Surfaces are those of MONAI (six neighbours, voxel counts). The JSON file
has the form of nnU-Net's summary.json; null stands for undefined, which is what the metrics of a
class are that is in neither map. Files are paired by name: case.nii.gz with case_0000.nii.gz,
img0035 with label0035, x_ct with x_seg.

With a task of image classes (cc-ccii): accuracy, balanced accuracy, areas under ROC curves and the
confusion matrix of the table that `glmae predict` writes. --ref is the set, or a table id,class.")]
pub struct Args {
    /// Predicted label maps: a NIfTI file, or a folder of them; of image classes the table
    #[arg(long, value_name = "PATH")]
    pred: PathBuf,
    /// Reference label maps: a NIfTI file, or a folder of them; of image classes the set, or a table
    #[arg(long = "ref", value_name = "PATH")]
    reference: PathBuf,
    /// Number of classes with the background: labels are 0 to N-1. Default: those that occur
    #[arg(long, value_name = "N", conflicts_with_all = ["labels", "task"])]
    classes: Option<usize>,
    /// A dataset.json (MSD or nnU-Net) with the names of the classes, or of regions
    #[arg(long, value_name = "FILE", conflicts_with = "task")]
    labels: Option<PathBuf>,
    /// Classes or regions of a task (btcv, mm-whs, spleen, amos22, word, covid-19-20, brats,
    /// hippocampus, or a file of that form); its label map applies to the references
    #[arg(long, value_name = "TASK")]
    task: Option<String>,
    /// With --task brats: enhancing tumour as the paper's code reads it
    #[arg(long, requires = "task")]
    as_published: bool,
    /// With a task of image classes: judge the validation cases of its split, and no others
    #[arg(long, requires = "task")]
    validation: bool,
    /// Tolerance of the surface Dice in mm; may be given several times
    #[arg(long, value_name = "MM", default_values_t = [1.0, 2.0])]
    tolerance: Vec<f64>,
    /// Value of references whose voxels are not judged, such as 255; default: labels.ignore of
    /// --labels
    #[arg(long, value_name = "VALUE")]
    ignore_label: Option<u16>,
    /// Round labels that are up to this far from whole numbers, as interpolation leaves them;
    /// below 0.5
    #[arg(long, value_name = "DISTANCE")]
    round_labels: Option<f32>,
    /// HD95 and HD of a structure that the prediction misses: in no mean (MONAI), or the diagonal
    /// of the volume
    #[arg(long, value_name = "RULE", value_parser = ["left-out", "diagonal"],
        default_value = "left-out")]
    missed_distance: String,
    /// Judge what has a partner even if other files have none
    #[arg(long)]
    allow_missing: bool,
    /// Write all cases and the means as nnU-Net's summary.json
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write one line per case and class
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
}

pub fn run(args: &Args) -> Result<u8> {
    let task = args.task.as_deref().map(Task::load).transpose()?;
    if let Some(task) = task.as_ref().filter(|task| task.kind == TaskKind::ImageClasses) {
        return classes::run(args, task);
    }
    if args.validation {
        let reason = "--validation: is for tasks with one class per image";
        return Err(Error::Config(reason.into()).into());
    }
    let Judged { regions, rules, reference_rules, ignore } = judged(args, task)?;
    let settings = Settings {
        regions,
        rules,
        reference_rules,
        tolerances_mm: tolerances(&args.tolerance)?,
        ignore: args.ignore_label.or(ignore),
        rounding: rounding(args.round_labels)?,
        missed: match args.missed_distance.as_str() {
            "diagonal" => MissedDistance::Diagonal,
            _ => MissedDistance::LeftOut,
        },
        limits: ReadLimits::default(),
    };
    for path in [&args.json, &args.csv].into_iter().flatten() {
        check_folder(path)?;
    }
    let found = match_files(&args.pred, &args.reference)?;
    settle_unpaired(args, &found)?;
    spare_inputs(args, &found)?;
    let total = found.pairs.len();
    let mut progress = (total >= MANY).then(|| WorkProgress::stderr("evaluate", total as u64));
    let done = evaluate(&found.pairs, &settings, &mut |id| {
        if let Some(progress) = &mut progress {
            progress.advance(1, &term::clean(id));
        }
    })?;
    if let Some(progress) = progress {
        progress.finish();
    }
    if let Some(path) = &args.json {
        atomic::write_json(path, &done.to_json())?;
    }
    if let Some(path) = &args.csv {
        atomic::write_bytes(path, &done.to_csv()?)?;
    }
    term::print(&done.to_text())?;
    Ok(exit::OK)
}

/// What is judged, and what stored values mean.
struct Judged {
    regions: Vec<Region>,
    rules: LabelRules,
    reference_rules: LabelRules,
    ignore: Option<u16>,
}

/// From `--classes`, `--labels`, `--task`, or none of them.
fn judged(args: &Args, task: Option<Task>) -> Result<Judged> {
    let same = |regions, rules: LabelRules| Judged {
        regions,
        rules: rules.clone(),
        reference_rules: rules,
        ignore: None,
    };
    if let Some(path) = &args.labels {
        let path = if path.is_dir() { path.join("dataset.json") } else { path.clone() };
        let info = DatasetInfo::read(&path)?;
        if info.regions.is_empty() {
            return Err(Error::data(&path, "declares no label but the background").into());
        }
        let ignore = info.ignore.map(u16::from);
        return Ok(Judged { ignore, ..same(info.regions.clone(), info.rules()) });
    }
    if let Some(task) = task {
        return Ok(Judged {
            regions: task.regions(args.as_published),
            rules: LabelRules::classes(task.classes()),
            reference_rules: task.label_rules(),
            ignore: None,
        });
    }
    match args.classes {
        None => Ok(same(vec![], LabelRules::default())),
        Some(n @ 2..=256) => Ok(same(Region::foreground(n), LabelRules::classes(n))),
        Some(n) => {
            let reason = format!("--classes {n}: 2 to 256, the background is one of them");
            Err(Error::Config(reason).into())
        }
    }
}

/// Errors: [`Error::Config`] for a distance that would make a half of anything.
fn rounding(within: Option<f32>) -> Result<Rounding> {
    let mut rounding = Rounding { flag: Some("--round-labels"), ..Rounding::default() };
    match within {
        Some(d) if !(d > 0.0 && d < 0.5) => {
            let reason = format!("--round-labels {d}: above 0 and below 0.5");
            return Err(Error::Config(reason).into());
        }
        Some(d) => rounding.within = d,
        None => {}
    }
    Ok(rounding)
}

/// In the order given, each once.
fn tolerances(given: &[f64]) -> Result<Vec<f64>> {
    let mut kept: Vec<f64> = Vec::new();
    for &mm in given {
        if !(mm.is_finite() && mm >= 0.0) {
            let reason = format!("--tolerance {mm}: a length in mm, 0 or more");
            return Err(Error::Config(reason).into());
        }
        if !kept.contains(&mm) {
            kept.push(mm);
        }
    }
    Ok(kept)
}

/// Errors: a table that would replace a file that is judged, or the other table.
fn spare_inputs(args: &Args, found: &Matching) -> Result<()> {
    let tables = [&args.json, &args.csv].into_iter().flatten();
    let read = found.pairs.iter().flat_map(|p| [&p.prediction, &p.reference]);
    if let Some(path) = atomic::replaced(tables, read) {
        let reason = format!("{} is a file that is judged; name another", path.display());
        return Err(Error::Config(reason).into());
    }
    match args.json.is_some() && args.json == args.csv {
        true => Err(Error::Config("--json and --csv name the same file".into()).into()),
        false => Ok(()),
    }
}

/// A result that cannot be written is known before the work, not after it.
fn check_folder(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let why = match (folder.is_dir(), path.is_dir()) {
        (true, false) => return Ok(()),
        (false, _) => "its folder does not exist",
        (_, true) => "is a folder; name a file",
    };
    Err(Error::Config(format!("{}: {why}", path.display())).into())
}

/// Files without a partner are an error, or a warning with `--allow-missing`.
fn settle_unpaired(args: &Args, found: &Matching) -> Result<()> {
    let mut text = String::new();
    for (what, files) in [
        ("predictions without a reference", &found.only_predicted),
        ("references without a prediction", &found.only_reference),
    ] {
        if files.is_empty() {
            continue;
        }
        text += &format!("\n  {} {what}:", files.len());
        for path in files.iter().take(SHOWN) {
            text += &format!("\n    {}", term::clean(&path.display().to_string()));
        }
        if files.len() > SHOWN {
            text += &format!("\n    and {} more", files.len() - SHOWN);
        }
    }
    for hint in &found.hints {
        text += &format!("\n  {}", term::clean(hint));
    }
    if found.pairs.is_empty() {
        let reason = format!("no prediction has the name of a reference{text}");
        return Err(Error::data(&args.pred, reason).into());
    }
    if !text.is_empty() && !args.allow_missing {
        let reason =
            format!("not every file has a partner{text}\n  --allow-missing judges the others");
        return Err(Error::data(&args.pred, reason).into());
    }
    if !text.is_empty() {
        term::say(&format!("warning: not every file has a partner{text}"));
    }
    Ok(())
}
