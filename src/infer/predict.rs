//! `glmae predict`: label maps, and probabilities if asked for, on the grids of the inputs.

use std::path::{Path, PathBuf};

use super::probabilities::{Probabilities, to_probabilities};
use super::segment::{Decision, Predictor, Slab, channels_first, decide, place};
use crate::checkpoint::segmenter::{load_predictor, resolve};
use crate::config::finetune::Infer;
use crate::data::layout::{DiscoverOptions, Source};
use crate::data::nifti::{Frame, Stored, read_header, write_channels, write_labels};
use crate::data::{Case, LeftOut, PrepareConfig, discover, prepare};
use crate::device::{Device, Tensor};
use crate::seg::task::TaskKind;
use crate::seg::{Region, Task};
use crate::{Error, Result, atomic};

/// What to predict, with what, and where to.
#[derive(Clone, Debug)]
pub struct PredictOptions {
    /// A checkpoint folder, or a run folder (its best checkpoint).
    pub checkpoint: PathBuf,
    /// A volume, a folder of volumes, or a set (`dataset.json`, nnU-Net raw).
    pub input: PathBuf,
    pub out: PathBuf,
    pub device: Device,
    /// What is done otherwise than the run validated.
    pub changes: InferChanges,
    /// Also write `ID_prob.nii.gz` with a channel per class or region.
    pub probabilities: bool,
}

/// Settings of [`Infer`] that replace those of the run; absent: as the run validated.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct InferChanges {
    pub overlap: Option<f64>,
    pub gaussian: Option<bool>,
    pub windows: Option<usize>,
    pub memory_mib: Option<usize>,
}

impl InferChanges {
    /// Errors: [`Error::Config`] for an overlap that is none, no window or no memory.
    pub(super) fn apply(&self, run: Infer) -> Result<Infer> {
        let infer = Infer {
            overlap: self.overlap.unwrap_or(run.overlap),
            gaussian: self.gaussian.unwrap_or(run.gaussian),
            windows: self.windows.unwrap_or(run.windows),
            memory_mib: self.memory_mib.unwrap_or(run.memory_mib),
        };
        infer.validate()?;
        Ok(infer)
    }
}

impl PredictOptions {
    /// Labels only, as the run validated.
    pub fn new(
        checkpoint: impl Into<PathBuf>,
        input: impl Into<PathBuf>,
        out: impl Into<PathBuf>,
        device: Device,
    ) -> Self {
        Self {
            checkpoint: checkpoint.into(),
            input: input.into(),
            out: out.into(),
            device,
            changes: InferChanges::default(),
            probabilities: false,
        }
    }
}

/// A predicted case.
#[derive(Clone, Debug)]
pub struct Predicted {
    pub id: String,
    pub file: PathBuf,
    /// Voxels of every region, in the grid of the input.
    pub voxels: Vec<(String, u64)>,
}

/// What [`predict`] came to.
#[derive(Debug, Default)]
pub struct Predictions {
    pub done: Vec<Predicted>,
    /// Cases that could not be read or written, and why.
    pub failed: Vec<(String, Error)>,
    /// What the input holds beside the cases.
    pub left_out: LeftOut,
}

/// Predicts every case of the input and writes `ID.nii.gz` into `out`, on the input's own grid with its
/// affine and codes. `progress` hears of windows of the case under way, and of cases that are done.
///
/// Memory beside the network: the volume twice in f32 while it is prepared, once afterwards; a byte per
/// voxel for the labels; `infer.memory_mib` on the device for the sums of windows, whatever the number of
/// classes. Of what is summed there only labels are downloaded. Probabilities, if they are asked for, are
/// those of downloaded scores, and go through a file beside the result, class by class.
///
/// Errors: [`Error::Data`] for an unusable checkpoint; [`Error::Config`] when a result would replace an
/// input; of a case that cannot be used only when it is the only one, otherwise the others are predicted.
/// Results are written case by case, each whole or not at all.
pub fn predict(
    options: &PredictOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Predictions> {
    let source = source(&options.input)?;
    let mut failed = Vec::new();
    let mut note = |case: &Case, error| match error {
        Error::Data { .. } | Error::Io { .. } | Error::Unsupported(_) if source.cases.len() > 1 => {
            failed.push((case.id.clone(), error));
            Ok(())
        }
        error => Err(error),
    };
    let done = run(options, &source.cases, progress, &mut note)?;
    Ok(Predictions { done, failed, left_out: source.left_out })
}

/// As [`predict`], for cases that were found otherwise, all of which must be usable.
pub fn predict_cases(
    options: &PredictOptions,
    cases: &[Case],
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Vec<Predicted>> {
    run(options, cases, progress, &mut |_, error| Err(error))
}

/// `failure` decides whether an unusable case ends it all.
fn run(
    options: &PredictOptions,
    cases: &[Case],
    progress: &mut dyn FnMut(Progress<'_>),
    failure: &mut dyn FnMut(&Case, Error) -> Result<()>,
) -> Result<Vec<Predicted>> {
    let folder = resolve(&options.checkpoint)?;
    let (info, segmenter) = load_predictor(&folder, &options.device)?;
    if segmenter.net.classifies() {
        return Err(Error::data(folder, "tells the class of an image; it makes no label maps"));
    }
    let (task, config) = (info.task()?, info.config()?);
    let network = Loaded {
        options,
        predictor: Predictor::new(&segmenter, options.changes.apply(config.infer)?)?,
        how: PrepareConfig { min_size: segmenter.net.config.roi, ..task.prepare_config() },
        regions: task.regions(false),
        decision: decision(&task),
        outputs: segmenter.net.sizes().outputs(),
        task,
    };
    network.spare_inputs(cases)?;
    std::fs::create_dir_all(&options.out).map_err(Error::io(&options.out, "create"))?;
    let mut done = Vec::new();
    for (i, case) in cases.iter().enumerate() {
        progress(Progress::Case { id: &case.id, number: i, of: cases.len() });
        match network.predict(case, progress) {
            Ok(predicted) => done.push(predicted),
            Err(error) => failure(case, error)?,
        }
    }
    Ok(done)
}

/// A network and how it is asked.
struct Loaded<'a> {
    options: &'a PredictOptions,
    predictor: Predictor<'a>,
    task: Task,
    how: PrepareConfig,
    regions: Vec<Region>,
    decision: Decision,
    outputs: usize,
}

impl Loaded<'_> {
    /// Label map and probabilities of a case.
    fn files(&self, case: &Case) -> [PathBuf; 2] {
        ["", "_prob"].map(|end| self.options.out.join(format!("{}{end}.nii.gz", case.id)))
    }

    /// Errors: [`Error::Config`] when a file to be written is one that is read.
    fn spare_inputs(&self, cases: &[Case]) -> Result<()> {
        let files = cases.iter().flat_map(|case| self.files(case));
        match atomic::replaced(files, cases.iter().flat_map(|case| &case.images)) {
            Some(file) => Err(Error::Config(format!(
                "{} is an image to predict, its label map would replace it; choose another --out",
                file.display()
            ))),
            None => Ok(()),
        }
    }

    fn predict(&self, case: &Case, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Predicted> {
        let Self { decision, outputs, .. } = *self;
        let prepared = prepare(case, &self.how)?;
        let (dims, record) = (prepared.dims(), prepared.record().clone());
        if let Some(how) = record.crop.padding() {
            progress(Progress::Padded { id: &case.id, how: &how });
        }
        let (windows, usual) = self.predictor.cost(dims)?;
        progress(Progress::Cost { id: &case.id, windows, usual });
        let [file, probabilities] = self.files(case);
        let folder = file.parent().unwrap_or(&self.options.out);
        std::fs::create_dir_all(folder).map_err(Error::io(folder, "create"))?;
        let mut labels = vec![0; dims.iter().product()];
        let mut kept = match self.options.probabilities {
            true => Some(Probabilities::new(folder, outputs, dims)?),
            false => None,
        };
        let mut keep = |slab: Slab, scores: &Tensor| {
            place(&mut labels, dims, slab, &decide(scores, decision)?);
            let Some(kept) = &mut kept else { return Ok(()) };
            let mut scores = channels_first(scores)?;
            to_probabilities(&mut scores, slab.column.slab(), decision);
            kept.put(slab, &scores)
        };
        let mut windows = |windows, of| progress(Progress::Windows { done: windows, of });
        self.predictor.scores(&prepared, &mut keep, &mut windows)?;
        // What follows needs the room.
        drop(prepared);
        let labels = record.restore_labels(&label_values(&self.task, &self.regions, labels))?;
        let counts = self.regions.iter().map(|r| {
            let members = r.members();
            let count = labels.iter().filter(|l| members[usize::from(**l)]).count();
            (r.to_string(), count as u64)
        });
        let voxels = counts.collect();
        // Its qform and sform, their codes and units, as the image has them.
        let placement = match case.images.first() {
            Some(image) => {
                let header = read_header(image, &self.how.limits)?;
                if let Some(warning) = header.forms_disagree() {
                    tracing::warn!("{}: {warning}", image.display());
                }
                Some(header.placement)
            }
            None => None,
        };
        let frame = Frame { placement, ..record.frame() };
        write_labels(&file, &labels, &frame)?;
        drop(labels);
        if let Some(mut kept) = kept {
            let mut channel = |c| record.restore_channels(&kept.channel(c)?, 0.0);
            write_channels(&probabilities, &frame, outputs, Stored::F32, &mut channel)?;
        }
        Ok(Predicted { id: case.id.clone(), file, voxels })
    }
}

/// What is under way.
pub enum Progress<'a> {
    Case {
        id: &'a str,
        number: usize,
        of: usize,
    },
    /// The case under way is smaller than a window.
    Padded {
        id: &'a str,
        how: &'a str,
    },
    /// Before the first window of a case: how many there are, and how many the default overlap has.
    Cost {
        id: &'a str,
        windows: usize,
        usual: usize,
    },
    Windows {
        done: usize,
        of: usize,
    },
}

/// The cases that a user's path means.
pub(super) fn source(input: &Path) -> Result<Source> {
    if !input.exists() {
        return Err(Error::data(input, "no such file or folder; give a NIfTI volume or a set"));
    }
    let options = DiscoverOptions { include_test: true, ..DiscoverOptions::default() };
    discover(input, &options)
}

fn decision(task: &Task) -> Decision {
    match task.kind {
        TaskKind::Regions => Decision::Regions,
        _ => Decision::Classes,
    }
}

/// Label values of what was decided: classes as they are; of regions, the value that lies in exactly those
/// that hold, and where there is none (enhancing tumour outside of any tumour), the value that only the
/// smallest region that holds has (BraTS: enhancing tumour before tumour core before whole tumour).
fn label_values(task: &Task, regions: &[Region], decided: Vec<u8>) -> Vec<u8> {
    if task.kind != TaskKind::Regions {
        return decided;
    }
    let mut order: Vec<usize> = (0..regions.len().min(8)).collect();
    order.sort_by_key(|&i| regions[i].labels().len());
    let own = |i: usize| {
        let smaller = order.iter().take_while(|&&j| j != i);
        let taken: Vec<u8> = smaller.flat_map(|&j| regions[j].labels().iter().copied()).collect();
        let label = regions[i].labels().iter().find(|l| !taken.contains(l));
        label.or(regions[i].labels().first()).copied().unwrap_or(0)
    };
    let values: Vec<u8> = (0..order.len()).map(own).collect();
    let regions_of = |label: u8| {
        let holds = |&i: &usize| regions[i].labels().contains(&label);
        order.iter().filter(|i| holds(i)).fold(0u8, |bits, i| bits | 1 << i)
    };
    let value = |bits: u8| {
        if let Some(label) = (1..=255).find(|&label| bits != 0 && regions_of(label) == bits) {
            return label;
        }
        let smallest = order.iter().find(|&&i| bits >> i & 1 == 1);
        smallest.map_or(0, |&i| values[i])
    };
    let table: [u8; 256] = std::array::from_fn(|bits| value(bits as u8));
    decided.into_iter().map(|bits| table[usize::from(bits)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_regions_become_label_values() {
        let task = Task::load("brats").unwrap();
        let regions = task.regions(false);
        let names: Vec<String> = regions.iter().map(|r| format!("{:?}", r.labels())).collect();
        let bit = |labels: &[u8]| {
            let at = regions.iter().position(|r| r.labels() == labels);
            1u8 << at.unwrap_or_else(|| panic!("{labels:?} is not in {names:?}"))
        };
        let (core, whole, enhancing) = (bit(&[2, 3]), bit(&[1, 2, 3]), bit(&[3]));
        let decided = vec![0, whole, whole | core, whole | core | enhancing, enhancing];
        assert_eq!(label_values(&task, &regions, decided), [0, 1, 2, 3, 3]);
    }

    #[test]
    fn a_label_in_two_regions_is_found_by_both() {
        let task = Task::load("brats").unwrap();
        let regions = [Region::union(&[1, 2], "a"), Region::union(&[2, 3], "b")];
        assert_eq!(label_values(&task, &regions, vec![0, 1, 2, 3]), [0, 1, 3, 2]);
    }
}
