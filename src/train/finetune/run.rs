//! The fine-tuning run: labelled cases in, checkpoints, logs and pictures out.

mod validate;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use rayon::prelude::*;
use serde_json::json;

use self::validate::AUC;
use super::cases::{self, PreparedCase, label_table, loaded};
use super::checkpoint::{self, SegSnapshot};
use super::crops::{Crop, CropKey, TrainingCase, draw};
use super::encoder;
use super::memory;
pub use super::options::{FinetuneOptions, FinetuneSummary};
use super::program::{SegLoss, SegProgram, SegReport, SegSettings};
use super::state::SegState;
use crate::config::cores;
use crate::config::finetune::FinetuneConfig;
use crate::data::PrepareConfig;
use crate::data::loader::{Loader, LoaderConfig};
use crate::device::{DType, Device};
use crate::report::progress::TrainProgress;
use crate::seg::task::TaskCase;
use crate::seg::{Region, Task};
use crate::train::checkpoint::{DataFingerprint, list, remove_strays};
use crate::train::lock::RunLock;
use crate::train::options::Resume;
use crate::train::order::CaseOrder;
use crate::train::run_folder::{Logs, describe};
use crate::train::signals::StopSignals;
use crate::train::state::activation_dtype_of;
use crate::{Error, Result, atomic};

/// Columns of `metrics.csv`.
fn columns(loss: SegLoss) -> Vec<&'static str> {
    let (terms, score): (&[_], &[_]) = match loss {
        SegLoss::CrossEntropy => (&["loss"], &["val_accuracy", "val_auc"]),
        _ => (&["loss", "dice_loss", "cross_entropy"], &["val_dice"]),
    };
    [terms, &["lr", "grad_norm"], score, &["val_best", "steps_per_s"]].concat()
}

/// Fine-tunes on the task and set of `config.data`.
///
/// Errors: as [`crate::train::pretrain::pretrain`]; [`Error::Data`] for label maps that do not fit.
pub fn finetune(config: &FinetuneConfig, options: &FinetuneOptions) -> Result<FinetuneSummary> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(cores::threads(config.train.threads))
        .thread_name(|i| format!("cpu {i}"))
        .build()
        .map_err(|e| Error::Config(format!("train.threads = {}: {e}", config.train.threads)))?;
    pool.install(|| match Run::start(config, options)? {
        Started::Run(run) => run.train(),
        Started::Plan(summary) => Ok(summary),
    })
}

/// What [`Run::start`] comes to; the plan is that of a dry run.
#[allow(clippy::large_enum_variant)] // there is one
enum Started<'a> {
    Run(Run<'a>),
    Plan(FinetuneSummary),
}

struct Run<'a> {
    config: &'a FinetuneConfig,
    options: &'a FinetuneOptions,
    task: Task,
    task_text: String,
    loss: SegLoss,
    regions: Vec<Region>,
    table: [u8; 256],
    prepare: PrepareConfig,
    validation: Vec<TaskCase>,
    /// Prepared validation cases, as long as they fit the cache.
    prepared: Vec<Option<Arc<PreparedCase>>>,
    state: SegState,
    program: SegProgram,
    loader: Loader<TrainingCase>,
    data: DataFingerprint,
    steps_per_epoch: u64,
    logs: Logs,
    signals: StopSignals,
    progress: TrainProgress,
    mark: (Instant, u64),
    saved: Option<u64>,
    summary: FinetuneSummary,
    /// Cases that are known to be smaller than a window.
    padded: BTreeSet<String>,
    /// A step whose first crops are in place already, or why they are not.
    ahead: Option<(u64, Result<()>)>,
    _lock: RunLock,
}

impl<'a> Run<'a> {
    fn start(config: &'a FinetuneConfig, options: &'a FinetuneOptions) -> Result<Started<'a>> {
        let (out, device) = (&options.out, &options.device);
        let (d, t) = (&config.data, &config.train);
        if d.path.is_empty() || d.task.is_empty() {
            return Err(Error::Config("give the set with --data and its task with --task".into()));
        }
        let task_text = Task::text(&d.task)?;
        let task = Task::parse(&task_text, &d.task)?;
        let [training, validation] = cases::find(&task, d, t.seed)?;
        if out.exists() && !out.is_dir() {
            return Err(Error::data(out, "is a file; --out must be a folder"));
        }
        let present = list(out)?;
        if options.resume == Resume::Never && !present.is_empty() {
            return Err(Error::Config(format!(
                "{} holds checkpoints of an earlier run; go on with --resume auto, or choose \
                 another --out",
                out.display()
            )));
        }
        let dtype = dtype(config, device)?;
        let roi = d.roi.unwrap_or(task.image.roi);
        let prepare = PrepareConfig { min_size: roi, ..task.prepare_config() };
        let regions = task.regions(false);
        let (found, mut warnings) = match &options.resume {
            Resume::Never => (None, Vec::new()),
            Resume::Auto => checkpoint::latest(out)?,
            Resume::From(path) => (Some(checkpoint::resolve(path)?), Vec::new()),
        };
        let path = options.encoder.as_deref();
        let encoder = path.map(|path| encoder::read(path, options.partial)).transpose()?;
        let network = encoder::network_config(config, encoder.as_ref(), &task, roi);
        network.check()?;
        let encoder = encoder.map(|encoder| encoder::fit(encoder, &network.vit())).transpose()?;
        let loss = SegLoss::of(task.kind);
        let found_cases = [training.len(), validation.len()];
        if found_cases != task.cases && d.subset == 0 && d.fraction == 1.0 {
            let ([a, b], [c, e]) = (found_cases, task.cases);
            warnings
                .push(format!("{a} training and {b} validation cases; the task is of {c} and {e}"));
        }
        let mut summary = FinetuneSummary {
            steps: 0,
            classifies: loss == SegLoss::CrossEntropy,
            first: None,
            last: None,
            validation: None,
            best: None,
            checkpoint: None,
            pictures: Vec::new(),
            warnings: Vec::new(),
            training_cases: training.len(),
            validation_cases: validation.len(),
            parameters: 0,
            encoder: encoder.as_ref().map(|e| e.report.clone()),
            plan: memory::plan(config, &network, loss, device)?,
        };
        summary.parameters = summary.plan.student_parameters as usize;
        if options.dry_run {
            cases::look_at([&training, &validation], &prepare, &task.label_rules())?;
            return Ok(Started::Plan(summary));
        }
        let mut trained_on = None;
        let mut state = match &found {
            None => {
                SegState::new(encoder::start(device, dtype, &network, t.seed, encoder.as_ref())?)?
            }
            Some(path) => {
                let (info, state) = checkpoint::load_state(path, device, dtype)?;
                if *state.segmenter.net.sizes() != network {
                    return Err(Error::Config(format!(
                        "{} is of another network ({:?}) than the configuration's ({network:?}); \
                         choose another --out",
                        path.display(),
                        state.segmenter.net.sizes()
                    )));
                }
                if !task.has_networks_of(&info.task()?) {
                    return Err(Error::Config(format!(
                        "{} is of a task with other classes, channels or preparation than {}; choose \
                         another --out",
                        path.display(),
                        d.task
                    )));
                }
                trained_on = Some(info.data);
                summary.best = info.best();
                state
            }
        };
        if config.model.frozen_encoder {
            state.segmenter.freeze_encoder();
        }
        let images: Vec<_> = training.iter().map(loaded).collect();
        let data = DataFingerprint::new(&images);
        if let Some(then) = trained_on.filter(|then| *then != data) {
            warnings.push(data.changed_since(&then));
        }
        let per_step = t.batch * t.accumulation;
        let steps_per_epoch = training.len().div_ceil(per_step) as u64;
        let order = CaseOrder::new(t.seed, training.len(), per_step);
        let loader_config = LoaderConfig {
            threads: cores::workers(d.workers, images.len()),
            cache_bytes: d.cache_mib << 20,
            // A labelled case that cannot be used is a mistake in the set.
            max_bad_share: 0.0,
            ..LoaderConfig::default()
        };
        let (how, rules) = (prepare, task.label_rules());
        let by_id: HashMap<String, TaskCase> =
            training.into_iter().map(|case| (case.id.clone(), case)).collect();
        let mut loader = Loader::with_prepare(
            images,
            move |case| {
                let case = by_id.get(&case.id).ok_or_else(|| {
                    Error::Config(format!("{}: no case of the training set", case.id))
                })?;
                Ok(TrainingCase::new(PreparedCase::read(case, &how, &rules)?))
            },
            move |step| order.step(step),
            loader_config,
        )?;
        // Bad data shows here, before a new folder is made.
        loader.get(state.step)?;
        if let Some(case) = validation.first() {
            PreparedCase::read(case, &prepare, &task.label_rules())?;
        }
        std::fs::create_dir_all(out).map_err(Error::io(out, "create"))?;
        let lock = RunLock::acquire(out)?;
        remove_strays(out)?;
        atomic::remove_stale(out)?;
        describe(out, &config.to_toml()?, device, rayon::current_num_threads())?;
        let mut logs = Logs::open(out, found.is_some().then_some(state.step), &columns(loss))?;
        let crops = t.batch * t.crops;
        let settings = settings(config, 0, steps_per_epoch);
        let program =
            SegProgram::new(&state, &settings, loss, crops, t.accumulation, options.launches)?;
        let total = t.epochs * steps_per_epoch;
        let mut progress = TrainProgress::stderr(total, state.step);
        logs.event(
            state.step,
            "start",
            json!({
                "task": task.title,
                "training": summary.training_cases,
                "validation": summary.validation_cases,
                "encoder": options.encoder,
                "device": device.name(),
                "resumed": found.is_some(),
                "parameters": summary.parameters,
                "warnings": warnings,
            }),
        )?;
        if let Some((path, report)) = options.encoder.as_ref().zip(summary.encoder.as_ref()) {
            progress.message(&format!("encoder {}", path.display()));
            report.lines().iter().for_each(|line| progress.message(&format!("  {line}")));
            let fields = json!({ "path": path, "report": report });
            logs.event(state.step, "encoder", fields)?;
        }
        for warning in &warnings {
            progress.message(&format!("warning: {warning}"));
        }
        if let Some(path) = &found {
            progress.message(&format!("resumed from {} at step {}", path.display(), state.step));
        }
        if state.step >= total {
            warnings.push(format!("nothing to do: {} epochs are done", t.epochs));
        }
        (summary.steps, summary.warnings) = (state.step, warnings);
        summary.checkpoint = found.clone();
        let table = label_table(&task, &regions);
        Ok(Started::Run(Self {
            config,
            options,
            loss,
            table,
            task,
            task_text,
            regions,
            prepare,
            prepared: vec![None; validation.len()],
            validation,
            mark: (Instant::now(), state.step),
            saved: found.is_some().then_some(state.step),
            state,
            program,
            loader,
            data,
            steps_per_epoch,
            logs,
            signals: StopSignals::listen()?,
            progress,
            summary,
            padded: BTreeSet::new(),
            ahead: None,
            _lock: lock,
        }))
    }

    fn train(mut self) -> Result<FinetuneSummary> {
        let t = &self.config.train;
        let total = t.epochs * self.steps_per_epoch;
        while self.state.step < total {
            let report = self.step()?;
            let done = self.state.step;
            let ends_epoch = done.is_multiple_of(self.steps_per_epoch);
            let epoch = done / self.steps_per_epoch;
            let last = done == total;
            let every = t.validate_every;
            let validates = every > 0 && (last || (ends_epoch && epoch.is_multiple_of(every)));
            if validates {
                self.validate(epoch)?;
            }
            self.log(&report, validates || last)?;
            if last || (ends_epoch && epoch.is_multiple_of(t.save_every)) {
                self.save()?;
            }
            if let Some(signal) = self.signals.received().filter(|_| !last) {
                self.save()?;
                self.logs.event(done, "stopped", json!({ "signal": signal }))?;
                self.logs.sync()?;
                self.progress.finish();
                return Err(Error::Stopped { signal, step: done });
            }
        }
        if self.summary.last.is_none() && t.validate_every > 0 {
            // A finished run was resumed: show again what it is worth.
            self.validate(t.epochs)?;
        }
        self.logs.event(self.state.step, "end", json!({}))?;
        self.logs.sync()?;
        self.progress.finish();
        Ok(self.summary)
    }

    fn step(&mut self) -> Result<SegReport> {
        let (step, t) = (self.state.step, &self.config.train);
        let cases = self.loader.get(step)?;
        self.tell_padding(&cases)?;
        let settings = settings(self.config, step, self.steps_per_epoch);
        for (k, group) in cases.chunks(t.batch).enumerate() {
            match self.ahead.take().filter(|(ready, _)| *ready == step && k == 0) {
                Some((_, outcome)) => outcome?,
                None => self.fill(step, k, group)?,
            }
            self.program.micro_batch(&self.state.segmenter)?;
        }
        self.program.update(&mut self.state, &settings)?;
        // On a GPU the step is under way now; the crops of the next one are cut meanwhile.
        if step + 1 < t.epochs * self.steps_per_epoch {
            self.ahead = Some((step + 1, self.fill_first(step + 1)));
        }
        let report = self.program.finish(&mut self.state)?;
        if !report.is_finite() {
            let ids: Vec<&str> = cases.iter().map(|c| c.case.image.id.as_str()).collect();
            let what = self.program.first_not_finite(&self.state.segmenter, &report)?;
            let text =
                format!("step {step} skipped: {what} is not finite (cases {})", ids.join(", "));
            self.progress.message(&format!("warning: {text}"));
            self.logs.event(step, "not_finite", json!({ "what": what, "cases": ids }))?;
            if self.state.bad_in_a_row >= t.max_bad_steps.max(1) {
                self.logs.sync()?;
                return Err(Error::NotFinite(format!(
                    "{text}; {} in a row. Remedies: a lower optim.lr, a longer warm-up",
                    self.state.bad_in_a_row
                )));
            }
        }
        self.summary.first.get_or_insert(report);
        self.summary.last = Some(report);
        self.summary.steps = self.state.step;
        Ok(report)
    }

    /// Says of cases that are smaller than a window that they were padded: the first one on the screen,
    /// all of them in the log.
    fn tell_padding(&mut self, cases: &[Arc<TrainingCase>]) -> Result<()> {
        for image in cases.iter().map(|case| &case.case.image) {
            let Some(how) = image.record().crop.padding() else { continue };
            if !self.padded.insert(image.id.clone()) {
                continue;
            }
            if self.padded.len() == 1 {
                let text = format!(
                    "{} is smaller than the window: {how}; others are in the log",
                    image.id
                );
                self.progress.message(&text);
            }
            self.logs.event(self.state.step, "padded", json!({ "case": image.id, "how": how }))?;
        }
        Ok(())
    }

    /// Puts the crops of a step's first micro-batch in place.
    fn fill_first(&mut self, step: u64) -> Result<()> {
        let cases = self.loader.get(step)?;
        let first = cases.len().min(self.config.train.batch);
        self.fill(step, 0, &cases[..first])
    }

    /// Puts the crops of micro-batch `k` in place.
    fn fill(&mut self, step: u64, k: usize, cases: &[Arc<TrainingCase>]) -> Result<()> {
        let image = self.state.segmenter.net.config.clone();
        let t = &self.config.train;
        let place = |i: usize| {
            let (b, crop) = (i / t.crops, (i % t.crops) as u32);
            let key = CropKey { seed: t.seed, step, sample: (k * t.batch + b) as u32, crop };
            draw(&cases[b], image.roi, &self.config.data, &self.config.augment, key)
        };
        let crops: Vec<Crop> = (0..cases.len() * t.crops).into_par_iter().map(place).collect();
        let (mut voxels, mut labels) = (Vec::new(), Vec::new());
        for crop in &crops {
            voxels.extend_from_slice(&crop.voxels);
            labels.extend(crop.classes.iter().map(|&c| self.table[usize::from(c)]));
        }
        self.program.batch_mut().fill_f32(&image, &voxels, &labels)
    }

    fn log(&mut self, report: &SegReport, validated: bool) -> Result<()> {
        let (done, t) = (self.state.step, &self.config.train);
        if !done.is_multiple_of(t.log_every) && done != 1 && !validated {
            return Ok(());
        }
        let (since, from) = std::mem::replace(&mut self.mark, (Instant::now(), done));
        let seconds = since.elapsed().as_secs_f64().max(1e-9);
        let lr = settings(self.config, done - 1, self.steps_per_epoch).lr;
        let mut values = vec![("loss", report.total)];
        let is_of_images = self.loss == SegLoss::CrossEntropy;
        if !is_of_images {
            values.extend([("dice_loss", report.dice), ("cross_entropy", report.ce)]);
        }
        values.extend([("lr", lr), ("grad_norm", report.grad_norm)]);
        let shown = values.len();
        values.push(("steps_per_s", (done - from) as f64 / seconds));
        if let (Some((score, parts)), true) = (&self.summary.validation, validated) {
            values.push((if is_of_images { "val_accuracy" } else { "val_dice" }, *score));
            let auc = parts.iter().find(|(name, value)| name == AUC && value.is_finite());
            values.extend(auc.filter(|_| is_of_images).map(|(_, auc)| ("val_auc", *auc)));
            values.extend(self.summary.best.map(|b| ("val_best", b.score)));
        }
        self.logs.step(done, &values, &[])?;
        self.progress.update(done, &values[..shown]);
        Ok(())
    }

    fn snapshot(&self) -> SegSnapshot<'_> {
        SegSnapshot {
            config: self.config,
            task: &self.task_text,
            data: self.data,
            best: self.summary.best,
        }
    }

    fn save(&mut self) -> Result<()> {
        let step = self.state.step;
        if self.saved == Some(step) {
            return Ok(());
        }
        self.logs.sync()?;
        let path = checkpoint::save(&self.options.out, &self.state, &self.snapshot(), false)?;
        crate::train::checkpoint::prune(&self.options.out, self.config.train.keep_last, 0)?;
        self.saved = Some(step);
        self.summary.checkpoint = Some(path);
        Ok(())
    }
}

/// The dtype of activations on `device`. Errors: bf16 on the CPU.
pub(super) fn dtype(config: &FinetuneConfig, device: &Device) -> Result<DType> {
    activation_dtype_of(config.train.precision, device)
}

/// The numbers of a step: linear warm-up from 0 by epochs, then half a cosine to 0.
pub(super) fn settings(config: &FinetuneConfig, step: u64, steps_per_epoch: u64) -> SegSettings {
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
    SegSettings {
        lr: base * share,
        weight_decay: o.weight_decay,
        beta1: o.beta1,
        beta2: o.beta2,
        eps: o.eps,
        clip_grad: o.clip_grad,
    }
}
