//! `glmae predict` with a classifier: a table of classes and probabilities.

use std::path::{Path, PathBuf};

use super::predict::{PredictOptions, Progress, source};
use crate::checkpoint::segmenter::{load_predictor, read_info, resolve};
use crate::data::layout::{LeftOut, Source};
use crate::data::window::centre;
use crate::data::{PrepareConfig, Prepared, prepare};
use crate::nn::network::NetworkConfig;
use crate::nn::segmenter::Segmenter;
use crate::nn::vit::VitPlan;
use crate::seg::class_table::{self, ClassPrediction};
use crate::seg::classes::argmax;
use crate::tape::Var;
use crate::{Error, Result};

/// Name of the table in the folder of results.
pub const FILE: &str = "predictions.csv";

/// What a classifier says of images; plans are made once.
pub struct Images<'a> {
    segmenter: &'a Segmenter,
    plan: VitPlan,
    positions: Var,
}

impl<'a> Images<'a> {
    /// For `batch` images at once. Errors: a network that is no classifier.
    pub fn new(segmenter: &'a Segmenter, batch: usize) -> Result<Self> {
        if !segmenter.net.classifies() {
            return Err(Error::Unsupported("classes of images from a segmentation network".into()));
        }
        let device = segmenter.params.flat().device();
        let plan = segmenter.net.plan(device, batch.max(1))?;
        let positions = Var::constant(segmenter.positions_of(plan.batch)?);
        Ok(Self { segmenter, plan, positions })
    }

    /// Holds for a moment, on the device, what [`Images::probabilities`] holds; for plans.
    pub fn rehearse(&self) -> Result<()> {
        let config = &self.segmenter.net.config;
        let size = self.plan.batch * config.in_chans * config.roi.iter().product::<usize>();
        self.segmenter.logits(&self.plan, &self.positions, &vec![0.0; size]).map(drop)
    }

    /// Probabilities of every class, in f64, for the middle of every image.
    pub fn probabilities(&self, images: &[&Prepared]) -> Result<Vec<Vec<f64>>> {
        let (net, batch) = (&self.segmenter.net, self.plan.batch);
        let size = net.config.in_chans * net.config.roi.iter().product::<usize>();
        let mut all = Vec::with_capacity(images.len());
        for group in images.chunks(batch) {
            let mut voxels = Vec::with_capacity(batch * size);
            group.iter().for_each(|image| voxels.extend(centre(image, net.config.roi)));
            voxels.resize(batch * size, 0.0);
            let logits = self.segmenter.logits(&self.plan, &self.positions, &voxels)?;
            let logits = logits.to_f64_vec()?;
            let rows = logits.chunks_exact(net.sizes().outputs()).take(group.len());
            all.extend(rows.map(softmax));
        }
        Ok(all)
    }
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = logits.iter().map(|z| libm::exp(z - max)).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|p| p / sum).collect()
}

/// Whether a checkpoint or run folder holds a classifier.
///
/// Errors: as [`resolve`] and [`read_info`].
pub fn is_classifier(checkpoint: &Path) -> Result<bool> {
    let network = read_info(&resolve(checkpoint)?)?.network()?;
    Ok(matches!(network, NetworkConfig::Classifier(_)))
}

/// What was predicted.
#[derive(Clone, Debug)]
pub struct Classified {
    /// Names of the classes.
    pub names: Vec<String>,
    pub cases: Vec<ClassPrediction>,
    /// The table: see [`class_table::write`].
    pub file: PathBuf,
    /// What the input holds beside the cases.
    pub left_out: LeftOut,
}

/// Predicts the class of every image of the input and writes [`FILE`] into `out`. Images are prepared as in
/// training; what is larger than the network's window is judged by its middle.
///
/// Errors: [`Error::Data`] for an unusable checkpoint or volume; a checkpoint of a segmentation network;
/// [`Error::Io`]. The table is written whole or not at all.
pub fn classify(
    options: &PredictOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Classified> {
    let Source { cases, left_out, .. } = source(&options.input)?;
    let folder = resolve(&options.checkpoint)?;
    let (info, segmenter) = load_predictor(&folder, &options.device)?;
    let (task, config) = (info.task()?, info.config()?);
    let batch = options.changes.apply(config.infer)?.windows;
    let images = Images::new(&segmenter, batch)?;
    let how = PrepareConfig { min_size: segmenter.net.config.roi, ..task.prepare_config() };
    let mut done = Vec::with_capacity(cases.len());
    for (k, group) in cases.chunks(batch).enumerate() {
        let mut prepared = Vec::with_capacity(group.len());
        for (i, case) in group.iter().enumerate() {
            progress(Progress::Case { id: &case.id, number: k * batch + i, of: cases.len() });
            let image = prepare(case, &how)?;
            if let Some(how) = image.record().crop.padding() {
                progress(Progress::Padded { id: &case.id, how: &how });
            }
            prepared.push(image);
        }
        let found = images.probabilities(&prepared.iter().collect::<Vec<_>>())?;
        for (case, probabilities) in group.iter().zip(found) {
            if probabilities.iter().any(|p| !p.is_finite()) {
                let text = format!("{}: its scores are not finite", case.id);
                return Err(Error::NotFinite(text));
            }
            let predicted = argmax(&probabilities);
            done.push(ClassPrediction { id: case.id.clone(), predicted, probabilities });
        }
    }
    std::fs::create_dir_all(&options.out).map_err(Error::io(&options.out, "create"))?;
    let file = options.out.join(FILE);
    let names = task.class_names().to_vec();
    class_table::write(&file, &names, &done)?;
    Ok(Classified { names, cases: done, file, left_out })
}
