//! Fine-tuning as the engine runs it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rayon::prelude::*;
use serde_json::{Value, json};

use super::Finetuned;
use super::cases::{PreparedCase, label_table};
use super::crops::{Crop, CropKey, TrainingCase, draw};
use super::program::{FinetuneLoss, FinetuneProgram, FinetuneSettings};
use super::validate::{AUC, Shown};
use crate::Result;
use crate::checkpoint::segmenter::{self, Best, FinetuneSnapshot, Start};
use crate::checkpoint::{Counters, DataFingerprint, FinetuneState};
use crate::config::finetune::FinetuneConfig;
use crate::data::PrepareConfig;
use crate::data::loader::Loader;
use crate::device::Tensor;
use crate::seg::presence::Presence;
use crate::seg::task::{TaskCase, TaskKind};
use crate::seg::{Region, Task};
use crate::train::run::{Journal, Pace, RunOptions, StepReport, Training, Values};

/// What the start of a run has gathered.
pub struct Parts<'a> {
    pub config: FinetuneConfig,
    pub options: &'a RunOptions,
    pub task: Task,
    pub task_text: String,
    pub loss: FinetuneLoss,
    pub prepare: PrepareConfig,
    pub validation: Vec<TaskCase>,
    pub state: FinetuneState,
    pub loader: Loader<TrainingCase>,
    pub data: DataFingerprint,
    pub steps_per_epoch: u64,
    /// The name of the run, and what its weights were at first.
    pub run: String,
    pub start: Start,
    pub best: Option<Best>,
    pub found: Finetuned,
}

/// A fine-tuning in progress: network, cases, validation and what was found.
pub struct FinetuneRun<'a> {
    pub(super) parts: Parts<'a>,
    pub(super) regions: Vec<Region>,
    /// For every stored class, what the loss sees.
    pub(super) table: [u8; 256],
    /// Prepared validation cases, as long as they fit the cache.
    pub(super) prepared: Vec<Option<Arc<PreparedCase>>>,
    program: FinetuneProgram,
    /// Cases that are known to be smaller than a window.
    padded: BTreeSet<String>,
    /// Which classes the training cases have; `None` for classes of images, which are known at the start.
    presence: Option<Presence>,
    /// What the picture of the last validation shows.
    pub(super) shown: Option<Shown>,
}

impl<'a> FinetuneRun<'a> {
    /// Errors: bad data of the first step, or of the first validation case.
    pub fn new(mut parts: Parts<'a>) -> Result<Self> {
        let (config, state) = (&parts.config, &parts.state);
        parts.loader.get(state.counters.step)?;
        if let Some(case) = parts.validation.first() {
            PreparedCase::read(case, &parts.prepare, &parts.task.label_rules())?;
        }
        let t = &config.train;
        let settings = settings(config, 0, parts.steps_per_epoch);
        let program = FinetuneProgram::new(
            state,
            &settings,
            parts.loss,
            t.batch * t.crops,
            t.accumulation,
            parts.options.launches,
        )?;
        let regions = parts.task.regions(false);
        let presence = (parts.task.kind != TaskKind::ImageClasses)
            .then(|| Presence::new(parts.found.training_cases));
        Ok(Self {
            table: label_table(&parts.task, &regions),
            regions,
            prepared: vec![None; parts.validation.len()],
            program,
            padded: BTreeSet::new(),
            presence,
            shown: None,
            parts,
        })
    }

    /// When the run does what.
    pub fn pace(&self) -> Pace {
        let (t, per_epoch) = (&self.parts.config.train, self.parts.steps_per_epoch);
        Pace {
            steps: t.epochs * per_epoch,
            micro_batches: t.accumulation,
            log_every: t.log_every,
            save_every: t.save_every * per_epoch,
            judge_every: t.validate_every * per_epoch,
            keep_last: t.keep_last,
            keep_every: 0,
            max_bad_steps: t.max_bad_steps,
        }
    }

    /// Columns of `metrics.csv`.
    pub fn columns(&self) -> Vec<&'static str> {
        let score: &[_] = match self.parts.loss {
            FinetuneLoss::CrossEntropy => &["val_accuracy", "val_auc"],
            _ => &["val_dice"],
        };
        [self.parts.loss.names(), &["lr"], score, &["val_best"]].concat()
    }

    /// What the log says of the start.
    pub fn start_record(&self) -> Value {
        let Parts { task, found, start, .. } = &self.parts;
        json!({
            "task": task.title,
            "training": found.training_cases,
            "validation": found.validation_cases,
            "began_with": start.to_string(),
        })
    }

    /// What a finished run found.
    pub fn found(self) -> Finetuned {
        Finetuned { best: self.parts.best, ..self.parts.found }
    }

    /// Passes over the training cases after the steps that are done.
    pub(super) fn epoch(&self) -> u64 {
        self.parts.state.counters.step / self.parts.steps_per_epoch
    }

    fn snapshot(&self) -> FinetuneSnapshot<'_> {
        let Parts { config, task_text, data, best, run, start, .. } = &self.parts;
        FinetuneSnapshot { config, task: task_text, data: *data, best: *best, run, start }
    }

    /// Keeps the network as the best so far.
    pub(super) fn save_best(&self, out: &Path) -> Result<PathBuf> {
        segmenter::save(out, &self.parts.state, &self.snapshot(), true)
    }

    /// Says of cases that are smaller than a window that they were padded: the first one on the screen,
    /// all of them in the log.
    fn tell_padding(
        &mut self,
        step: u64,
        cases: &[Arc<TrainingCase>],
        journal: &mut Journal,
    ) -> Result<()> {
        for image in cases.iter().map(|case| &case.case.image) {
            let Some(how) = image.record().crop.padding() else { continue };
            if !self.padded.insert(image.id.clone()) {
                continue;
            }
            if self.padded.len() == 1 {
                journal.say(&format!(
                    "{} is smaller than the window: {how}; others are in the log",
                    image.id
                ));
            }
            journal.event(step, "padded", json!({ "case": image.id, "how": how }))?;
        }
        Ok(())
    }

    /// Once every training case came up: says which classes none of them has.
    fn tell_absent(
        &mut self,
        step: u64,
        cases: &[Arc<TrainingCase>],
        journal: &mut Journal,
    ) -> Result<()> {
        let Some(presence) = &mut self.presence else { return Ok(()) };
        cases.iter().for_each(|case| presence.observe(&case.case.image.id, case.classes()));
        match presence.warning(&self.parts.task) {
            Some(text) => journal.warn(step, text),
            None => Ok(()),
        }
    }
}

impl Training for FinetuneRun<'_> {
    fn begin(&mut self, journal: &mut Journal) -> Result<()> {
        let Parts { start, found, state, .. } = &self.parts;
        if let (Start::Encoder { path, .. }, Some(report)) = (start, &found.encoder) {
            journal.say(&format!("encoder {path}"));
            report.lines().iter().for_each(|line| journal.say(&format!("  {line}")));
            let fields = json!({ "path": path, "report": report });
            journal.event(state.counters.step, "encoder", fields)?;
        }
        Ok(())
    }

    fn counters(&self) -> Counters {
        self.parts.state.counters
    }

    /// Draws the crops.
    fn prepare(&mut self, step: u64, k: usize, journal: &mut Journal) -> Result<()> {
        let all = self.parts.loader.get(step)?;
        let batch = self.parts.config.train.batch;
        let cases: Vec<_> = all.into_iter().skip(k * batch).take(batch).collect();
        self.tell_padding(step, &cases, journal)?;
        self.tell_absent(step, &cases, journal)?;
        let (config, t) = (&self.parts.config, &self.parts.config.train);
        let image = self.parts.state.segmenter.net.config.clone();
        let place = |i: usize| {
            let (b, crop) = (i / t.crops, (i % t.crops) as u32);
            let key = CropKey { seed: t.seed, step, sample: (k * t.batch + b) as u32, crop };
            draw(&cases[b], image.roi, &config.data, &config.augment, key)
        };
        let crops: Vec<Crop> = (0..cases.len() * t.crops).into_par_iter().map(place).collect();
        let (mut voxels, mut labels) = (Vec::new(), Vec::new());
        for crop in &crops {
            voxels.extend_from_slice(&crop.voxels);
            labels.extend(crop.classes.iter().map(|&c| self.table[usize::from(c)]));
        }
        self.program.batch_mut().fill_f32(&image, &voxels, &labels)
    }

    fn micro_batch(&mut self) -> Result<()> {
        self.program.micro_batch(&self.parts.state.segmenter)
    }

    fn update(&mut self) -> Result<()> {
        let Parts { config, state, steps_per_epoch, .. } = &mut self.parts;
        let settings = settings(config, state.counters.step, *steps_per_epoch);
        self.program.update(state, &settings)
    }

    fn finish(&mut self) -> Result<StepReport> {
        let Parts { config, state, steps_per_epoch, .. } = &mut self.parts;
        let settings = settings(config, state.counters.step, *steps_per_epoch);
        self.program.finish(state, &settings)
    }

    fn observe(&mut self, _: &StepReport, _: &mut Journal) -> Result<Values> {
        Ok(Values::new())
    }

    /// Predicts the validation cases whole; keeps the network if it is the best so far.
    fn judge(&mut self, journal: &mut Journal) -> Result<Values> {
        self.validate(journal)?;
        let Some((score, parts)) = &self.parts.found.validation else { return Ok(Values::new()) };
        let classifies = self.parts.found.classifies;
        let mut values = vec![(if classifies { "val_accuracy" } else { "val_dice" }, *score)];
        let auc = parts.iter().find(|(name, value)| name == AUC && value.is_finite());
        values.extend(auc.filter(|_| classifies).map(|(_, auc)| ("val_auc", *auc)));
        values.extend(self.parts.best.map(|best| ("val_best", best.score)));
        Ok(values)
    }

    /// Image, label and prediction of the first validation case.
    fn picture(&mut self, journal: &mut Journal) -> Result<()> {
        self.write_picture(journal)
    }

    fn case_ids(&mut self, step: u64) -> Result<Vec<String>> {
        let cases = self.parts.loader.get(step)?;
        Ok(cases.iter().map(|case| case.case.image.id.clone()).collect())
    }

    /// Crops and their labels.
    fn prepared(&mut self) -> Result<Vec<(String, Tensor)>> {
        let batch = self.program.batch_mut();
        let named = [("voxels", &batch.voxels), ("labels", &batch.labels)];
        named.into_iter().map(|(name, t)| Ok((name.to_owned(), t.duplicate()?))).collect()
    }

    fn save(&self, out: &Path) -> Result<PathBuf> {
        segmenter::save(out, &self.parts.state, &self.snapshot(), false)
    }

    fn data_wait(&self) -> Duration {
        self.parts.loader.stats().wait
    }

    fn end(&mut self, _: &mut Journal) -> Result<()> {
        Ok(())
    }
}

/// The numbers of a step: linear warm-up from 0 by epochs, then half a cosine to 0.
pub(super) fn settings(
    config: &FinetuneConfig,
    step: u64,
    steps_per_epoch: u64,
) -> FinetuneSettings {
    let o = &config.optim;
    let epoch = (step / steps_per_epoch.max(1)) as f64;
    let (warmup, epochs) = (o.warmup_epochs as f64, config.train.epochs as f64);
    let base = o.lr * config.crops_per_update() as f64 / 16.0;
    let share = if epoch < warmup {
        // The first epoch of a warm-up from 0 would do nothing at all.
        (epoch + 1.0) / (warmup + 1.0)
    } else {
        let rest = (epochs - warmup).max(1.0);
        0.5 * (1.0 + libm::cos(std::f64::consts::PI * ((epoch - warmup) / rest).min(1.0)))
    };
    FinetuneSettings {
        lr: base * share,
        weight_decay: o.weight_decay,
        beta1: o.beta1,
        beta2: o.beta2,
        eps: o.eps,
        clip_grad: o.clip_grad,
    }
}
