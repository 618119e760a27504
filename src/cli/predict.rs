//! `glmae predict`.

use std::path::PathBuf;

use anyhow::Result;
use glmae::Error;
use glmae::config::finetune::Infer;
use glmae::data::LeftOut;
use glmae::error::exit;
use glmae::infer::classify::{classify, is_classifier};
use glmae::infer::predict::{InferChanges, PredictOptions, Predictions, Progress, predict};
use glmae::report::progress::WorkProgress;

use super::config_args::DeviceArg;
use super::term::{self, Table};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  glmae predict --checkpoint runs/seg --input scan.nii.gz --out predictions
  glmae predict --checkpoint runs/seg --input Task04_Hippocampus --out predictions --gaussian
  glmae evaluate --pred predictions --ref labelsTr --task hippocampus

Writes one label map per case on the case's own grid, with its affine and codes; a label map of the same
name is replaced. A case that cannot be read is named and the others are done (exit code 3). A run folder means
its best checkpoint. A classifier of images writes predictions.csv instead: the case's id, the most probable
class, and a probability per class.

Memory beside the network: 8 bytes per voxel while a volume is prepared, 5 afterwards, and --memory-mib,
whatever the number of classes. --probabilities needs 4 bytes per voxel and class on the disk of --out while
a case is under way.")]
pub struct Args {
    /// A checkpoint of `glmae finetune`, or a run folder
    #[arg(long, value_name = "PATH")]
    checkpoint: PathBuf,
    /// A volume, a folder of volumes, or a set
    #[arg(long, value_name = "PATH")]
    input: PathBuf,
    /// Folder for the label maps, or for predictions.csv
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Share of a window that neighbours have in common; default: that of the run `[key: infer.overlap]`
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    overlap: Option<f64>,
    /// Weight voxels by a Gaussian around the middle of their window
    #[arg(long)]
    gaussian: bool,
    /// Windows that go through the network at once
    #[arg(long, value_name = "N")]
    windows: Option<usize>,
    /// What the sums of overlapping windows may take, in MiB: less needs more windows and gives the
    /// same bits; default: that of the run `[key: infer.memory_mib]`
    #[arg(long, value_name = "MIB")]
    memory_mib: Option<usize>,
    /// Also write ID_prob.nii.gz with a channel per class
    #[arg(long)]
    probabilities: bool,
    #[command(flatten)]
    device: DeviceArg,
}

pub fn run(args: &Args) -> Result<u8> {
    let changes = InferChanges {
        overlap: args.overlap,
        gaussian: args.gaussian.then_some(true),
        windows: args.windows,
        memory_mib: args.memory_mib,
    };
    let options = PredictOptions {
        checkpoint: args.checkpoint.clone(),
        input: args.input.clone(),
        out: args.out.clone(),
        device: args.device.parse()?,
        changes,
        probabilities: args.probabilities,
    };
    if is_classifier(&options.checkpoint)? {
        return run_classifier(args, &options);
    }
    let mut bar: Option<WorkProgress> = None;
    let mut before = 0;
    let mut label = String::new();
    let predictions = predict(&options, &mut |step| match step {
        Progress::Case { id, number, of } => {
            if let Some(bar) = bar.take() {
                bar.finish();
            }
            label = format!("{id} ({} of {of})", number + 1);
            before = 0;
        }
        Progress::Padded { id, how } => {
            term::say(&format!("{}: smaller than the window: {how}", term::clean(id)));
        }
        Progress::Cost { id, windows, usual } => {
            if windows >= 2 * usual {
                let factor = windows as f64 / usual.max(1) as f64;
                let overlap = Infer::default().overlap;
                term::say(&format!(
                    "{}: {windows} windows, {factor:.1} times those of an overlap of {overlap}",
                    term::clean(id)
                ));
            }
        }
        Progress::Windows { done, of } => {
            let bar = bar.get_or_insert_with(|| WorkProgress::stderr(&label, of as u64));
            bar.advance((done - before) as u64, "windows");
            before = done;
        }
    })?;
    if let Some(bar) = bar {
        bar.finish();
    }
    let mut table = Table::new(&["<case", "<file", "<voxels"]);
    for case in &predictions.done {
        let voxels: Vec<String> = case.voxels.iter().map(|(r, n)| format!("{r}: {n}")).collect();
        let file = case.file.display().to_string();
        table.row([term::clean(&case.id), term::clean(&file), voxels.join(", ")]);
    }
    term::print(&table.render("  "))?;
    tell_left_out(&predictions.left_out);
    let Predictions { done, failed, .. } = &predictions;
    for (_, error) in failed {
        term::say(&format!("error: {}", term::clean(&error.to_string())));
    }
    let Some((_, first)) = failed.first() else { return Ok(exit::OK) };
    term::say(&format!("{} of {} cases are done", done.len(), done.len() + failed.len()));
    Ok(first.exit_code())
}

fn tell_left_out(left_out: &LeftOut) {
    left_out.lines().iter().for_each(|line| term::say(&term::clean(line)));
}

/// A table for all cases.
fn run_classifier(args: &Args, options: &PredictOptions) -> Result<u8> {
    let of_maps = [
        ("--overlap", args.overlap.is_some()),
        ("--gaussian", args.gaussian),
        ("--memory-mib", args.memory_mib.is_some()),
        ("--probabilities", args.probabilities),
    ];
    if let Some((flag, _)) = of_maps.iter().find(|(_, given)| *given) {
        let reason = format!("{flag}: is for label maps; a classifier's table has probabilities");
        return Err(Error::Config(reason).into());
    }
    let mut bar: Option<WorkProgress> = None;
    let done = classify(options, &mut |step| match step {
        Progress::Case { id, of, .. } => {
            let bar = bar.get_or_insert_with(|| WorkProgress::stderr("predict", of as u64));
            bar.advance(1, &term::clean(id));
        }
        Progress::Padded { id, how } => {
            term::say(&format!("{}: smaller than the window: {how}", term::clean(id)));
        }
        Progress::Cost { .. } | Progress::Windows { .. } => {}
    })?;
    if let Some(bar) = bar {
        bar.finish();
    }
    let mut table = Table::new(&["<class", ">cases"]);
    for (class, name) in done.names.iter().enumerate() {
        let count = done.cases.iter().filter(|case| case.predicted == class).count();
        table.row([term::clean(name), count.to_string()]);
    }
    tell_left_out(&done.left_out);
    let file = term::clean(&done.file.display().to_string());
    term::print(&format!("{}\n{} cases in {file}\n", table.render("  "), done.cases.len()))?;
    Ok(exit::OK)
}
