//! `glmae predict`: label maps, and probabilities if asked for, on the grids of the inputs.

use std::path::{Path, PathBuf};

use super::segment::{Decision, Predictor, decide};
use crate::config::finetune::Infer;
use crate::data::layout::DiscoverOptions;
use crate::data::nifti::{Stored, write_volume};
use crate::data::volume::Volume;
use crate::data::{Case, PrepareConfig, Prepared, discover, prepare};
use crate::device::{DType, Device};
use crate::seg::task::TaskKind;
use crate::seg::{Region, Task};
use crate::train::finetune::checkpoint::{load_segmenter, resolve};
use crate::{Error, Result};

/// What to predict, with what, and where to.
#[derive(Clone, Debug)]
pub struct PredictOptions {
    /// A checkpoint folder, or a run folder (its best checkpoint).
    pub checkpoint: PathBuf,
    /// A volume, a folder of volumes, or a set (`dataset.json`, nnU-Net raw).
    pub input: PathBuf,
    pub out: PathBuf,
    pub device: Device,
    /// Absent: as the run validated.
    pub infer: Option<Infer>,
    /// Also write `ID_prob.nii.gz` with a channel per class or region.
    pub probabilities: bool,
}

/// A predicted case.
#[derive(Clone, Debug)]
pub struct Predicted {
    pub id: String,
    pub file: PathBuf,
    /// Voxels of every region, in the grid of the input.
    pub voxels: Vec<(String, u64)>,
}

/// Predicts every case of the input and writes `ID.nii.gz` into `out`, on the input's own grid with its
/// affine and codes. `progress` hears of windows of the case under way, and of cases that are done.
///
/// Errors: [`Error::Data`] for an unusable checkpoint or volume; [`Error::Io`]. Results are written case
/// by case, each whole or not at all.
pub fn predict(
    options: &PredictOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Vec<Predicted>> {
    predict_cases(options, &cases(&options.input)?, progress)
}

/// As [`predict`], for cases that were found otherwise.
pub fn predict_cases(
    options: &PredictOptions,
    cases: &[Case],
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Vec<Predicted>> {
    let folder = resolve(&options.checkpoint)?;
    let (info, segmenter) = load_segmenter(&folder, &options.device, DType::F32)?;
    let (task, config) = (info.task()?, info.config()?);
    let predictor = Predictor::new(&segmenter, options.infer.unwrap_or(config.infer))?;
    let roi = segmenter.net.config.roi;
    let how = PrepareConfig { min_size: roi, ..task.prepare_config() };
    let regions = task.regions(false);
    std::fs::create_dir_all(&options.out).map_err(Error::io(&options.out, "create"))?;
    let mut done = Vec::new();
    for (i, case) in cases.iter().enumerate() {
        progress(Progress::Case { id: &case.id, number: i, of: cases.len() });
        let prepared = prepare(case, &how)?;
        let file = options.out.join(format!("{}.nii.gz", case.id));
        if let Some(parent) = file.parent() {
            std::fs::create_dir_all(parent).map_err(Error::io(parent, "create"))?;
        }
        let [_, h, w] = prepared.dims();
        let n: usize = prepared.dims().iter().product();
        let decision = decision(&task);
        let mut labels = Vec::with_capacity(n);
        let outputs = segmenter.net.config.outputs;
        let mut kept = if options.probabilities { vec![0.0f32; outputs * n] } else { Vec::new() };
        predictor.scores(
            &prepared,
            &mut |d, scores| {
                labels.extend(decide(scores, h * w, decision));
                for (channel, slab) in kept.chunks_exact_mut(n).zip(scores.chunks_exact(h * w)) {
                    channel[d * h * w..][..h * w].copy_from_slice(slab);
                }
                Ok(())
            },
            &mut |windows, of| progress(Progress::Windows { done: windows, of }),
        )?;
        let labels = label_values(&task, &regions, labels);
        let restored = prepared.record().restore_labels(&labels)?;
        let voxels = regions
            .iter()
            .map(|r| {
                let members = r.members();
                let count = restored.iter().filter(|l| members[usize::from(**l)]).count();
                (r.to_string(), count as u64)
            })
            .collect();
        let values = restored.into_iter().map(f32::from).collect();
        write_volume(&file, &volume(&prepared, values, 1)?, Stored::U8)?;
        if options.probabilities {
            probabilities(&mut kept, n, decision);
            let values = prepared.record().restore_channels(&kept, 0.0)?;
            let path = options.out.join(format!("{}_prob.nii.gz", case.id));
            write_volume(&path, &volume(&prepared, values, outputs)?, Stored::F32)?;
        }
        done.push(Predicted { id: case.id.clone(), file, voxels });
    }
    Ok(done)
}

/// What is under way.
pub enum Progress<'a> {
    Case { id: &'a str, number: usize, of: usize },
    Windows { done: usize, of: usize },
}

/// The cases that a user's path means.
fn cases(input: &Path) -> Result<Vec<Case>> {
    if !input.exists() {
        return Err(Error::data(input, "no such file or folder; give a NIfTI volume or a set"));
    }
    let options = DiscoverOptions { include_test: true, ..DiscoverOptions::default() };
    Ok(discover(input, &options)?.cases)
}

fn decision(task: &Task) -> Decision {
    match task.kind {
        TaskKind::Regions => Decision::Regions,
        _ => Decision::Classes,
    }
}

/// Label values of what was decided: classes as they are; of regions, the value that only the smallest
/// region that holds has (BraTS: enhancing tumour before tumour core before whole tumour).
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
    let value = |bits: u8| {
        let smallest = order.iter().find(|&&i| bits >> i & 1 == 1);
        smallest.map_or(0, |&i| values[i])
    };
    let table: [u8; 256] = std::array::from_fn(|bits| value(bits as u8));
    decided.into_iter().map(|bits| table[usize::from(bits)]).collect()
}

/// Scores `[outputs, n]` to probabilities, in place.
fn probabilities(scores: &mut [f32], n: usize, decision: Decision) {
    match decision {
        Decision::Regions => {
            for x in scores {
                *x = 1.0 / (1.0 + libm::expf(-*x));
            }
        }
        Decision::Classes => {
            let outputs = scores.len() / n.max(1);
            for i in 0..n {
                let at = |c: usize| c * n + i;
                let max = (0..outputs).map(|c| scores[at(c)]).fold(f32::NEG_INFINITY, f32::max);
                let mut sum = 0.0;
                for c in 0..outputs {
                    let e = libm::expf(scores[at(c)] - max);
                    scores[at(c)] = e;
                    sum += e;
                }
                for c in 0..outputs {
                    scores[at(c)] /= sum;
                }
            }
        }
    }
}

fn volume(case: &Prepared, values: Vec<f32>, channels: usize) -> Result<Volume> {
    let record = case.record();
    Volume::new(values, channels, record.input_dims, record.input_affine, record.space_code)
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
    fn probabilities_add_up_to_one() {
        let mut scores = vec![1.0, 100.0, -3.0, 0.5, -100.0, -3.0];
        probabilities(&mut scores, 3, Decision::Classes);
        for i in 0..3 {
            assert!((scores[i] + scores[3 + i] - 1.0).abs() < 1e-6);
        }
        assert_eq!((scores[1], scores[4]), (1.0, 0.0));
    }
}
