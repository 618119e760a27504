//! Validation: whole volumes, the best network kept, a picture.

use std::sync::Arc;

use serde_json::json;

use super::cases::{PreparedCase, Truth, dice};
use super::pictures;
use super::training::FinetuneRun;
use crate::Result;
use crate::checkpoint::segmenter::Best;
use crate::config::finetune::FinetuneConfig;
use crate::data::PrepareConfig;
use crate::infer::classify::Images;
use crate::infer::segment::{Decision, Predictor};
use crate::seg::LabelRules;
use crate::seg::classes::{ClassScores, Judgement};
use crate::seg::task::{TaskCase, TaskKind};
use crate::train::run::Journal;

/// Names of a classifier's numbers.
pub(super) const AUC: &str = "AUC (macro)";
const BALANCED: &str = "balanced accuracy";

/// A case to show: the image, labels of reference and prediction.
pub(super) struct Shown {
    case: Arc<PreparedCase>,
    truth: Vec<u8>,
    labels: Vec<u8>,
}

/// What a validation found.
struct Found {
    /// The larger the better: mean Dice, or accuracy.
    score: f64,
    parts: Vec<(String, f64)>,
    shown: Option<Shown>,
}

/// Reads validation cases and keeps them while there is room.
struct Shelf<'a> {
    room: usize,
    prepare: &'a PrepareConfig,
    rules: LabelRules,
}

impl<'a> Shelf<'a> {
    fn new(config: &FinetuneConfig, prepare: &'a PrepareConfig, rules: LabelRules) -> Self {
        Self { room: config.data.cache_mib << 19, prepare, rules }
    }

    fn get(
        &mut self,
        case: &TaskCase,
        kept: &mut Option<Arc<PreparedCase>>,
    ) -> Result<Arc<PreparedCase>> {
        let found = match kept {
            Some(found) => found.clone(),
            None => Arc::new(PreparedCase::read(case, self.prepare, &self.rules)?),
        };
        if self.room >= found.size_bytes() {
            self.room -= found.size_bytes();
            *kept = Some(found.clone());
        }
        Ok(found)
    }
}

impl FinetuneRun<'_> {
    /// Predicts the validation cases whole; keeps the network if it is the best so far.
    pub(super) fn validate(&mut self, journal: &mut Journal) -> Result<()> {
        if self.parts.validation.is_empty() {
            return Ok(());
        }
        let (epoch, step) = (self.epoch(), self.parts.state.counters.step);
        // Tensors of a step and of a validation have other sizes: neither keeps room beside the other.
        let device = self.parts.options.device.clone();
        device.release_unused()?;
        let is_of_images = self.parts.task.kind == TaskKind::ImageClasses;
        let Found { score, parts, shown } =
            if is_of_images { self.judge_images()? } else { self.judge_voxels()? };
        device.release_unused()?;
        let listed: Vec<String> =
            parts.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
        let name = if is_of_images { "accuracy" } else { "Dice" };
        journal.say(&format!(
            "epoch {epoch}: {name} {score:.4} on {} validation cases ({})",
            self.parts.validation.len(),
            listed.join(", ")
        ));
        let event = match is_of_images {
            true => json!({ "epoch": epoch, "accuracy": score, "scores": parts }),
            false => json!({ "epoch": epoch, "dice": score, "regions": parts }),
        };
        journal.event(step, "validation", event)?;
        self.parts.found.validation = Some((score, parts));
        if self.parts.best.is_none_or(|b| score > b.score) {
            self.parts.best = Some(Best { epoch, score });
            self.save_best(journal.out())?;
        }
        self.shown = shown;
        Ok(())
    }

    /// Writes the picture of the last validation.
    pub(super) fn write_picture(&mut self, journal: &mut Journal) -> Result<()> {
        let Some(Shown { case, truth, labels }) = self.shown.take() else { return Ok(()) };
        let epoch = self.epoch();
        let path = journal.out().join("pictures").join(format!("epoch_{epoch:06}.png"));
        let title = format!("{}, epoch {epoch}", case.image.id);
        let (size, png) = pictures::write(&path, &case.image, &truth, &labels, &title)?;
        journal.picture(self.parts.state.counters.step, "segmentation", size, &png)?;
        journal.pictures.push(path);
        Ok(())
    }

    fn judge_voxels(&mut self) -> Result<Found> {
        let decision = match self.parts.task.kind {
            TaskKind::Regions => Decision::Regions,
            _ => Decision::Classes,
        };
        let (mut sums, mut case_means) = (vec![(0.0, 0usize); self.regions.len()], Vec::new());
        let mut shown = None;
        let predictor = Predictor::new(&self.parts.state.segmenter, self.parts.config.infer)?;
        let mut shelf =
            Shelf::new(&self.parts.config, &self.parts.prepare, self.parts.task.label_rules());
        for (case, kept) in self.parts.validation.iter().zip(&mut self.prepared) {
            let case = shelf.get(case, kept)?;
            let Truth::Voxels(classes) = &case.truth else { continue };
            let labels = predictor.labels(&case.image, decision, &mut |_, _| {})?;
            let truth: Vec<u8> = classes.iter().map(|&c| self.table[usize::from(c)]).collect();
            let dice = dice(&self.parts.task, &self.regions, &labels, &truth);
            let finite: Vec<f64> = dice.iter().copied().filter(|d| d.is_finite()).collect();
            if !finite.is_empty() {
                case_means.push(finite.iter().sum::<f64>() / finite.len() as f64);
            }
            for (sum, d) in sums.iter_mut().zip(&dice).filter(|(_, d)| d.is_finite()) {
                *sum = (sum.0 + d, sum.1 + 1);
            }
            if shown.is_none() {
                shown = Some(Shown { case, truth, labels });
            }
        }
        // Mean over the regions of a case, then over cases (docs/method.md, 6.8).
        let score = case_means.iter().sum::<f64>() / case_means.len().max(1) as f64;
        let regions = self.regions.iter().zip(&sums);
        let parts = regions.map(|(r, (sum, n))| (r.to_string(), sum / *n as f64)).collect();
        Ok(Found { score, parts, shown })
    }

    fn judge_images(&mut self) -> Result<Found> {
        let batch = self.parts.config.infer.windows;
        let images = Images::new(&self.parts.state.segmenter, batch)?;
        let mut shelf =
            Shelf::new(&self.parts.config, &self.parts.prepare, self.parts.task.label_rules());
        let mut judged = Vec::new();
        for (cases, kept) in
            self.parts.validation.chunks(batch).zip(self.prepared.chunks_mut(batch))
        {
            let pairs = cases.iter().zip(kept);
            let cases: Vec<Arc<PreparedCase>> =
                pairs.map(|(case, kept)| shelf.get(case, kept)).collect::<Result<_>>()?;
            let prepared: Vec<_> = cases.iter().map(|case| &case.image).collect();
            for (case, probabilities) in cases.iter().zip(images.probabilities(&prepared)?) {
                if let Truth::Image(class) = case.truth {
                    judged.push(Judgement::of(usize::from(class), probabilities));
                }
            }
        }
        let scores = ClassScores::new(self.parts.task.class_names(), &judged)?;
        let undefined = f64::NAN;
        let mut parts = vec![
            (BALANCED.to_owned(), scores.balanced_accuracy),
            (AUC.to_owned(), scores.macro_auc().unwrap_or(undefined)),
        ];
        let names = self.parts.task.class_names().iter().zip(&scores.auc);
        parts.extend(names.map(|(name, auc)| (format!("AUC {name}"), auc.unwrap_or(undefined))));
        Ok(Found { score: scores.accuracy, parts, shown: None })
    }
}
