//! The pre-training run: data in, checkpoints, logs and pictures out.

mod trouble;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use super::checkpoint::{self, DataFingerprint, Resumed, Snapshot};
use super::heldout;
use super::inputs::check_view_sizes;
pub use super::inputs::prepare_config;
use super::lock::RunLock;
use super::memory::MemoryPlan;
pub use super::options::{Resume, RunOptions, Summary};
use super::order::CaseOrder;
use super::pictures;
use super::program::StepProgram;
use super::report::StepReport;
use super::run_folder::{COLUMNS, Logs, describe};
use super::signals::StopSignals;
use super::state::{State, activation_dtype};
use super::volumes::DeviceVolumes;
use super::watch::{CollapseWatch, Observation};
use crate::config::{Config, cores};
use crate::data::layout::{Case, DiscoverOptions};
use crate::data::loader::{Loader, LoaderConfig};
use crate::data::{Prepared, discover, exclude, hold_out, prepare};
use crate::device::nvtx;
use crate::glmae::batch::BatchShape;
use crate::glmae::model::Networks;
use crate::glmae::views::cut_batch;
use crate::infer::tiles::{Masking, reconstruct_volume};
use crate::report::progress::TrainProgress;
use crate::{Error, Result, atomic};

/// Held-out cases that are measured; a larger set would take longer than it tells.
const MEASURED_CASES: usize = 32;

/// Pre-trains `config` on the cases at `config.data.path`.
///
/// The run uses a thread pool of its own with `train.threads` threads (0: all cores); its results do
/// not depend on how many there are.
///
/// Errors: [`Error::Config`] and [`Error::Data`] before anything is written when configuration,
/// data or the checkpoint to resume from cannot be used; [`Error::Stopped`] after a signal, with
/// the checkpoint written; [`Error::NotFinite`] after `train.max_bad_steps` bad steps in a row;
/// [`Error::Io`].
pub fn pretrain(config: &Config, options: &RunOptions) -> Result<Summary> {
    config.validate()?;
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(cores::threads(config.train.threads))
        .thread_name(|i| format!("cpu {i}"))
        .build()
        .map_err(|e| Error::Config(format!("train.threads = {}: {e}", config.train.threads)))?;
    pool.install(|| {
        let Some(mut run) = Run::start(config, options)? else {
            return Ok(Summary::of_plan(MemoryPlan::new(config, &options.device)?));
        };
        run.train()
    })
}

/// A run in progress. Fields are dropped in order: the lock goes last.
struct Run<'a> {
    config: &'a Config,
    options: &'a RunOptions,
    nets: Networks,
    state: State,
    program: StepProgram,
    volumes: DeviceVolumes,
    /// What came of preparing the next step while the device was busy with the last one.
    ahead: Option<(u64, Result<()>)>,
    loader: Loader,
    order: Arc<CaseOrder>,
    held: Vec<Case>,
    data: DataFingerprint,
    shown: Option<Arc<Prepared>>,
    logs: Logs,
    watch: CollapseWatch,
    signals: StopSignals,
    progress: TrainProgress,
    saved: Option<u64>,
    is_first: bool,
    /// When the last line was logged, the step, and the loader's waiting time then.
    mark: (Instant, u64, Duration),
    summary: Summary,
    _lock: RunLock,
}

impl<'a> Run<'a> {
    /// Everything before the first step. `None` for a dry run.
    fn start(config: &'a Config, options: &'a RunOptions) -> Result<Option<Self>> {
        let (out, device) = (&options.out, &options.device);
        if config.data.path.is_empty() {
            return Err(Error::Config("data.path is empty: pass --data PATH".into()));
        }
        let mut source = discover(Path::new(&config.data.path), &DiscoverOptions::default())?;
        source.cases = exclude(source.cases, &config.data.exclude)?;
        let (cases, held) = hold_out(&source.cases, config.data.holdout_every)?;
        check_view_sizes(config, &source.cases)?;
        if out.exists() && !out.is_dir() {
            return Err(Error::data(out, "is a file; --out must be a folder"));
        }
        let present = checkpoint::list(out)?;
        if options.resume == Resume::Never && !present.is_empty() {
            return Err(Error::Config(format!(
                "{} holds checkpoints of an earlier run; go on with --resume auto, or choose \
                 another --out",
                out.display()
            )));
        }
        let plan = MemoryPlan::new(config, &options.device)?;
        if options.dry_run {
            return Ok(None);
        }
        let dtype = activation_dtype(config, device)?;
        let nets = Networks::new(device, dtype, config)?;
        let lock = out.is_dir().then(|| RunLock::acquire(out)).transpose()?;
        let resumed = match &options.resume {
            Resume::Never => None,
            Resume::Auto => checkpoint::resume_latest(out, device, config, &nets)?,
            Resume::From(path) => Some(checkpoint::load_state(path, device, config, &nets)?),
        };
        let data = DataFingerprint::new(&cases);
        let (state, mut warnings, from) = match resumed {
            None => (State::init(device, dtype, config, &nets)?, Vec::new(), None),
            Some(resumed) => Self::adopt(resumed, out, &present, data)?,
        };
        let step = state.counters.step;
        let per_step = config.train.batch * config.train.accumulation;
        let order = Arc::new(CaseOrder::new(config.train.seed, cases.len(), per_step));
        let plan_of = Arc::clone(&order);
        let loader_config = LoaderConfig {
            threads: cores::workers(config.data.workers, cases.len()),
            cache_bytes: config.data.cache_mib << 20,
            max_bad_share: config.data.bad_case_limit,
            ..LoaderConfig::default()
        };
        let prepare = prepare_config(config);
        let mut loader =
            Loader::new(cases, prepare, move |step| plan_of.step(step), loader_config)?;
        // Bad data shows here, before a new folder is made.
        if step < config.train.steps {
            loader.get(step)?;
        }
        let lock = match lock {
            Some(lock) => lock,
            None => {
                std::fs::create_dir_all(out).map_err(Error::io(out, "create"))?;
                RunLock::acquire(out)?
            }
        };
        checkpoint::remove_strays(out)?;
        atomic::remove_stale(out)?;
        describe(out, &config.to_toml()?, device, rayon::current_num_threads())?;
        let mut logs = Logs::open(out, from.is_some().then_some(step), &COLUMNS)?;
        let held: Vec<Case> = held.into_iter().take(MEASURED_CASES).collect();
        logs.event(
            step,
            "start",
            json!({
                "cases": data.cases,
                "held_out": held.len(),
                "threads": rayon::current_num_threads(),
                "device": device.name(),
                "resumed": from.is_some(),
                "parameters": plan.student_parameters,
                "warnings": warnings,
            }),
        )?;
        let mut progress = TrainProgress::stderr(config.train.steps, step);
        for warning in &warnings {
            progress.message(&format!("warning: {warning}"));
        }
        if let Some(path) = &from {
            progress.message(&format!("resumed from {} at step {step}", path.display()));
        }
        if step >= config.train.steps {
            warnings.push(format!(
                "nothing to do: {step} steps are done and train.steps = {}",
                config.train.steps
            ));
        }
        let shape = BatchShape::new(config, config.train.batch);
        let program =
            StepProgram::new(config, &state, &shape, config.train.accumulation, options.launches)?;
        let mark = (Instant::now(), step, loader.stats().wait);
        let mut summary = Summary::of_plan(plan);
        (summary.steps, summary.warnings, summary.checkpoint) = (step, warnings, from);
        Ok(Some(Self {
            config,
            options,
            nets,
            state,
            program,
            volumes: DeviceVolumes::new(device, config.data.device_cache_mib << 20),
            ahead: None,
            loader,
            order,
            held,
            data,
            shown: None,
            logs,
            watch: CollapseWatch::new(config),
            signals: StopSignals::listen()?,
            progress,
            saved: summary.checkpoint.is_some().then_some(step),
            is_first: true,
            mark,
            summary,
            _lock: lock,
        }))
    }

    /// Takes over a loaded state.
    fn adopt(
        resumed: Resumed,
        out: &Path,
        present: &[(u64, PathBuf)],
        data: DataFingerprint,
    ) -> Result<(State, Vec<String>, Option<PathBuf>)> {
        let Resumed { path, info, state, mut warnings } = resumed;
        let later = present.iter().rev().find(|(step, path)| {
            *step > info.step && checkpoint::read_info(path).is_ok_and(|i| i.step == *step)
        });
        if let Some((step, _)) = later.filter(|_| !warnings.iter().any(|w| w.contains("not used")))
        {
            return Err(Error::Config(format!(
                "{} holds a checkpoint of step {step}, later than step {} that is resumed from; \
                 choose another --out or delete the later ones",
                out.display(),
                info.step
            )));
        }
        if info.data != data {
            warnings.push(data.changed_since(&info.data));
        }
        Ok((state, warnings, Some(path)))
    }

    fn train(&mut self) -> Result<Summary> {
        let (steps, every) = (self.config.train.steps, self.config.train.picture_every);
        while self.state.counters.step < steps {
            self.profile()?;
            let report = self.step().map_err(|e| self.with_checkpoint(e))?;
            let done = self.state.counters.step;
            let shows = done == steps || (every > 0 && done.is_multiple_of(every));
            if shows {
                self.measure()?;
            }
            self.log(&report, shows)?;
            if shows {
                self.picture()?;
            }
            if done == steps || done.is_multiple_of(self.config.train.save_every) {
                self.save()?;
            }
            if let Some(signal) = self.signals.received().filter(|_| done < steps) {
                self.save()?;
                self.logs.event(done, "stopped", json!({ "signal": signal }))?;
                self.logs.sync()?;
                self.progress.finish();
                return Err(Error::Stopped { signal, step: done });
            }
        }
        self.finish()
    }

    /// Opens and closes the bracket of `--profile-steps`.
    fn profile(&self) -> Result<()> {
        let step = self.state.counters.step;
        match &self.options.profile {
            Some(steps) if step == steps.start => self.options.device.profile(true),
            Some(steps) if step == steps.end => self.options.device.profile(false),
            _ => Ok(()),
        }
    }

    /// One update.
    fn step(&mut self) -> Result<StepReport> {
        let step = self.state.counters.step;
        let _range = nvtx::range(|| format!("step {step}"));
        for k in 0..self.config.train.accumulation {
            match self.ahead.take().filter(|(ready, _)| *ready == step && k == 0) {
                Some((_, outcome)) => outcome?,
                None => self.prepare(step, k)?,
            }
            self.program.micro_batch(self.config, &self.nets, &self.state)?;
        }
        self.program.update(self.config, &mut self.state)?;
        // On a GPU the step is under way now; the views of the next one are cut behind it.
        if step + 1 < self.config.train.steps {
            self.ahead = Some((step + 1, self.prepare(step + 1, 0)));
        }
        let report = self.program.finish(self.config, &mut self.state)?;
        if let Some(what) = &report.not_finite {
            self.bad_step(&report, what)?;
        }
        if std::mem::take(&mut self.is_first) {
            self.summary.first = report.losses;
        }
        self.summary.last = report.losses;
        self.summary.steps = self.state.counters.step;
        Ok(report)
    }

    /// Cuts the views of micro-batch `k` of a step and draws its masks. Nothing but their numbers
    /// decides them.
    fn prepare(&mut self, step: u64, k: usize) -> Result<()> {
        let _range = nvtx::range(|| format!("prepare {step}"));
        let t = &self.config.train;
        let cases = self.loader.get(step)?;
        let places = k * t.batch..(k + 1) * t.batch;
        let mut volumes = Vec::with_capacity(t.batch);
        let numbered = self.order.step(step).into_iter().zip(&cases);
        for (index, case) in numbered.skip(places.start).take(t.batch) {
            volumes.push(self.volumes.get(index, case)?);
        }
        let samples: Vec<u32> = places.map(|place| place as u32).collect();
        let batch = self.program.batch_mut();
        cut_batch(&self.config.views, batch, &volumes, &samples, t.seed, step)?;
        self.program.prepare_masks(self.config, &self.nets)
    }

    /// Writes the logs of a step that is due, and asks the watch.
    fn log(&mut self, report: &StepReport, measured: bool) -> Result<()> {
        let done = self.state.counters.step;
        let t = &self.config.train;
        if !done.is_multiple_of(t.log_every) && done != 1 && !measured {
            return Ok(());
        }
        let wait = self.loader.stats().wait;
        let (since, from, waited) = std::mem::replace(&mut self.mark, (Instant::now(), done, wait));
        let seconds = since.elapsed().as_secs_f64().max(1e-9);
        let share = wait.saturating_sub(waited).as_secs_f64() / seconds;
        let s = &report.scheduled;
        let mut values = report.losses.terms();
        values.extend([
            ("lr", s.lr),
            ("weight_decay", s.weight_decay),
            ("ema", s.ema),
            ("tau_t", s.tau_t),
            ("grad_norm", report.grad_norm),
        ]);
        let mut warning = None;
        if let Some(pass) = self.program.consistency() {
            let center = self.state.weights.center.as_ref();
            let seen = Observation::new(pass, center, &self.config.loss)?;
            values.extend(seen.terms());
            warning = self.watch.note(done, &report.losses, &seen);
        }
        values.push(("bad_steps", self.state.counters.bad_steps as f64));
        if let Some(h) = self.summary.heldout.as_ref().filter(|_| measured) {
            values
                .extend([("heldout_explained", h.explained), ("heldout_mean_guess", h.mean_guess)]);
        }
        values.extend([("steps_per_s", (done - from) as f64 / seconds), ("data_wait", share)]);
        let ids = self.order.step(report.step);
        let crc = ids.iter().fold(0, |crc, i| crc32c::crc32c_append(crc, &i.to_le_bytes()));
        let extra = [("epoch", self.order.epochs(done)), ("cases_crc32c", f64::from(crc))];
        self.logs.step(done, &values, &extra)?;
        let mut shown = report.losses.terms();
        shown.extend([("lr", s.lr), ("grad", report.grad_norm), ("data wait%", 100.0 * share)]);
        self.progress.update(done, &shown);
        if let Some(text) = warning {
            self.warn(done, text)?;
        }
        Ok(())
    }

    fn warn(&mut self, step: u64, text: String) -> Result<()> {
        self.progress.message(&format!("warning: {text}"));
        self.logs.event(step, "warning", json!({ "text": text }))?;
        self.summary.warnings.push(text);
        Ok(())
    }

    /// Measures reconstruction on the held-out cases.
    fn measure(&mut self) -> Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        let (device, params) = (&self.options.device, &self.state.weights.student);
        let (step, how) = (self.state.counters.step, prepare_config(self.config));
        let found =
            heldout::measure(device, self.config, &self.nets, params, &self.held, &how, step)?;
        if let Some(heldout) = &found {
            self.progress.message(&format!("step {step}: {}", heldout.text()));
            self.logs.event(step, "heldout", json!(heldout))?;
        }
        self.summary.heldout = found;
        Ok(())
    }

    /// Reconstructs the case that all pictures of a run show: the first readable held-out one, else
    /// the first of the first step.
    fn picture(&mut self) -> Result<()> {
        let step = self.state.counters.step;
        if self.shown.is_none() {
            let how = prepare_config(self.config);
            let held = self.held.iter().find_map(|case| prepare(case, &how).ok());
            self.shown = match held {
                Some(case) => Some(Arc::new(case)),
                None => self.loader.get(0)?.into_iter().next(),
            };
        }
        let Some(case) = &self.shown else { return Ok(()) };
        let (device, params) = (&self.options.device, &self.state.weights.student);
        let ratio = self.config.views.mask_ratio;
        let masking = Masking { seed: self.config.train.seed, ratio, sample: 0 };
        let result = reconstruct_volume(device, self.config, &self.nets, params, case, &masking)?;
        let (folder, stem) = (self.options.out.join("recon"), checkpoint::folder_name(step));
        let title = format!("{} step {step}", case.id);
        let (files, picture) = pictures::write(&folder, &stem, self.config, case, &result, &title)?;
        self.logs.picture(step, "reconstruction", picture.size, &picture.png)?;
        self.summary.pictures.extend(files);
        Ok(())
    }

    /// Writes the checkpoint of this step, unless it is there already.
    fn save(&mut self) -> Result<()> {
        let (step, t) = (self.state.counters.step, &self.config.train);
        if self.saved == Some(step) {
            return Ok(());
        }
        self.logs.sync()?;
        let snapshot =
            Snapshot { config: self.config, nets: &self.nets, state: &self.state, data: self.data };
        let path = checkpoint::save(&self.options.out, &snapshot)?;
        let removed = checkpoint::prune(&self.options.out, t.keep_last, t.keep_every)?;
        let fields = json!({ "path": checkpoint::folder_name(step), "removed": removed });
        self.logs.event(step, "checkpoint", fields)?;
        self.saved = Some(step);
        self.summary.checkpoint = Some(path);
        Ok(())
    }

    /// After the last step.
    fn finish(&mut self) -> Result<Summary> {
        let step = self.state.counters.step;
        if self.is_first {
            // A finished run was resumed: show again what it is worth.
            self.measure()?;
            self.picture()?;
        }
        self.summary.quarantined = self.loader.quarantined().to_vec();
        for bad in &self.summary.quarantined {
            let fields = json!({ "id": bad.id, "reason": bad.reason });
            self.logs.event(step, "quarantined", fields)?;
        }
        self.logs.event(step, "end", json!({}))?;
        self.logs.sync()?;
        self.progress.finish();
        Ok(self.summary.clone())
    }
}
