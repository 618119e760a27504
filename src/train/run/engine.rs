//! The loop over the steps, and everything that happens around a step.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::describe::describe;
use super::folder::RunFolder;
use super::journal::Journal;
use super::logs::Logs;
use super::memory::MemoryPlan;
use super::options::{RunOptions, Summary};
use super::order::CaseOrder;
use super::retention::Retention;
use super::signals::StopSignals;
use super::training::{Pace, StepReport, Training, Values};
use crate::checkpoint::{folder_name, write_tensors};
use crate::device::nvtx;
use crate::report::progress::TrainProgress;
use crate::{Error, Result, atomic};

/// What a run has found out before its first step.
pub struct Opening<'a> {
    pub options: &'a RunOptions,
    pub folder: RunFolder,
    pub pace: Pace,
    pub order: Arc<CaseOrder>,
    /// The configuration, for `config.toml`.
    pub config: String,
    /// Columns of `metrics.csv` beside those that every run has.
    pub columns: Vec<&'static str>,
    pub plan: MemoryPlan,
    /// The checkpoint that the run goes on from.
    pub resumed: Option<PathBuf>,
    pub warnings: Vec<String>,
    /// What the log says of the start, beside what every run says: a JSON object.
    pub start: Value,
}

/// Columns of `metrics.csv` that every run has, after its own.
const COLUMNS: [&str; 4] = ["grad_norm", "bad_steps", "steps_per_s", "data_wait"];

/// A run in progress.
pub struct Engine<'a, T> {
    training: T,
    options: &'a RunOptions,
    pace: Pace,
    order: Arc<CaseOrder>,
    journal: Journal,
    retention: Retention,
    signals: StopSignals,
    /// What came of preparing the next step while the device was busy with the last one.
    ahead: Option<(u64, Result<()>)>,
    /// The step whose checkpoint is there.
    saved: Option<u64>,
    /// When the last line was logged, the step, and the time waited for data until then.
    mark: (Instant, u64, Duration),
    first: Values,
    last: Values,
    checkpoint: Option<PathBuf>,
    plan: MemoryPlan,
    /// Holds the lock until everything else is gone.
    folder: RunFolder,
}

impl<'a, T: Training> Engine<'a, T> {
    /// Claims the folder, opens the logs and says how the run starts.
    pub fn open(mut training: T, opening: Opening<'a>) -> Result<Self> {
        let Opening { options, mut folder, pace, order, config, columns, plan, .. } = opening;
        let (resumed, warnings) = (opening.resumed, opening.warnings);
        let (out, device, step) = (&options.out, &options.device, training.counters().step);
        folder.claim()?;
        describe(out, &config, device, rayon::current_num_threads())?;
        let columns = [columns, COLUMNS.to_vec()].concat();
        let logs = Logs::open(out, resumed.is_some().then_some(step), &columns)?;
        let mut journal = Journal::new(out, logs, TrainProgress::stderr(pace.steps, step));
        let mut start = json!({
            "device": device.name(),
            "threads": rayon::current_num_threads(),
            "resumed": resumed.is_some(),
            "parameters": plan.student_parameters,
            "warnings": warnings,
        });
        if let (Value::Object(start), Value::Object(more)) = (&mut start, opening.start) {
            start.extend(more);
        }
        journal.event(step, "start", start)?;
        for warning in &warnings {
            journal.say(&format!("warning: {warning}"));
        }
        journal.warnings = warnings;
        if let Some(path) = &resumed {
            journal.say(&format!("resumed from {} at step {step}", path.display()));
        }
        if step >= pace.steps {
            let all = pace.steps;
            journal.warnings.push(format!("nothing to do: {step} of {all} steps are done"));
        }
        training.begin(&mut journal)?;
        Ok(Self {
            options,
            pace,
            order,
            journal,
            retention: Retention::new(&pace, resumed.is_some().then_some(step)),
            signals: StopSignals::listen()?,
            ahead: None,
            saved: resumed.is_some().then_some(step),
            mark: (Instant::now(), step, training.data_wait()),
            first: Values::new(),
            last: Values::new(),
            checkpoint: resumed,
            plan,
            folder,
            training,
        })
    }

    /// Trains to the end. The summary holds the training, which knows what else was found.
    ///
    /// Errors: [`Error::Stopped`] after a signal, with the checkpoint written; [`Error::NotFinite`] after
    /// too many steps in a row without finite numbers; whatever the training or a file meets.
    pub fn run(mut self) -> Result<Summary<T>> {
        while self.done() < self.pace.steps {
            self.profile()?;
            let report = self.step().map_err(|e| self.with_checkpoint(e))?;
            let done = self.done();
            let judged = match self.pace.judges(done) {
                true => Some(self.training.judge(&mut self.journal)?),
                false => None,
            };
            self.log(&report, judged.as_ref())?;
            if judged.is_some() {
                self.training.picture(&mut self.journal)?;
            }
            if self.pace.saves(done) {
                self.save()?;
            }
            if let Some(signal) = self.signals.received().filter(|_| done < self.pace.steps) {
                self.save()?;
                self.journal.event(done, "stopped", json!({ "signal": signal }))?;
                self.journal.sync()?;
                self.journal.close();
                return Err(Error::Stopped { signal, step: done });
            }
        }
        if self.last.is_empty() && self.pace.judge_every > 0 {
            // A finished run was resumed: show again what it is worth.
            self.training.judge(&mut self.journal)?;
            self.training.picture(&mut self.journal)?;
        }
        let steps = self.done();
        self.training.end(&mut self.journal)?;
        self.journal.event(steps, "end", json!({}))?;
        self.journal.sync()?;
        self.journal.close();
        Ok(Summary {
            steps,
            first: self.first,
            last: self.last,
            pictures: self.journal.pictures,
            checkpoint: self.checkpoint,
            warnings: self.journal.warnings,
            plan: self.plan,
            found: self.training,
        })
    }

    fn done(&self) -> u64 {
        self.training.counters().step
    }

    /// Opens and closes the bracket of `--profile-steps`.
    fn profile(&self) -> Result<()> {
        let step = self.done();
        match &self.options.profile {
            Some(steps) if step == steps.start => self.options.device.profile(true),
            Some(steps) if step == steps.end => self.options.device.profile(false),
            _ => Ok(()),
        }
    }

    /// One update.
    fn step(&mut self) -> Result<StepReport> {
        let step = self.done();
        let _range = nvtx::range(|| format!("step {step}"));
        for k in 0..self.pace.micro_batches {
            match self.ahead.take().filter(|(ready, _)| *ready == step && k == 0) {
                Some((_, outcome)) => outcome?,
                None => self.prepare(step, k)?,
            }
            self.training.micro_batch()?;
        }
        self.training.update()?;
        // On a GPU the step is under way now; the next one is prepared behind it.
        if step + 1 < self.pace.steps {
            self.ahead = Some((step + 1, self.prepare(step + 1, 0)));
        }
        let report = self.training.finish()?;
        if let Some(what) = &report.not_finite {
            self.bad_step(&report, what)?;
        }
        if self.first.is_empty() {
            self.first.clone_from(&report.losses);
        }
        self.last.clone_from(&report.losses);
        Ok(report)
    }

    fn prepare(&mut self, step: u64, k: usize) -> Result<()> {
        let _range = nvtx::range(|| format!("prepare {step}"));
        self.training.prepare(step, k, &mut self.journal)
    }

    /// Writes the logs of a step that is due.
    fn log(&mut self, report: &StepReport, judged: Option<&Values>) -> Result<()> {
        let done = self.done();
        if !done.is_multiple_of(self.pace.log_every) && done != 1 && judged.is_none() {
            return Ok(());
        }
        let wait = self.training.data_wait();
        let (since, from, waited) = std::mem::replace(&mut self.mark, (Instant::now(), done, wait));
        let seconds = since.elapsed().as_secs_f64().max(1e-9);
        let share = wait.saturating_sub(waited).as_secs_f64() / seconds;
        let mut values = [report.losses.clone(), report.scheduled.clone()].concat();
        values.push(("grad_norm", report.grad_norm));
        values.extend(self.training.observe(report, &mut self.journal)?);
        values.extend(judged.into_iter().flatten());
        values.push(("bad_steps", self.training.counters().bad_steps as f64));
        values.extend([("steps_per_s", (done - from) as f64 / seconds), ("data_wait", share)]);
        let ids = self.order.step(report.step);
        let crc = ids.iter().fold(0, |crc, i| crc32c::crc32c_append(crc, &i.to_le_bytes()));
        let asides = vec![("epoch", self.order.epochs(done)), ("cases_crc32c", f64::from(crc))];
        self.journal.step(done, &values, &asides)?;
        let mut shown = report.losses.clone();
        shown.extend(report.scheduled.iter().find(|(name, _)| *name == "lr"));
        shown.extend([("grad", report.grad_norm), ("data wait%", 100.0 * share)]);
        self.journal.show(done, &shown);
        Ok(())
    }

    /// Writes the checkpoint of this step, unless it is there already, and removes what is too old.
    fn save(&mut self) -> Result<()> {
        let step = self.done();
        if self.saved == Some(step) {
            return Ok(());
        }
        self.journal.sync()?;
        let path = self.training.save(&self.options.out)?;
        self.retention.wrote(step);
        let removed = self.retention.prune(&self.folder)?;
        let fields = json!({ "path": folder_name(step), "removed": removed });
        self.journal.event(step, "checkpoint", fields)?;
        self.saved = Some(step);
        self.checkpoint = Some(path);
        Ok(())
    }

    /// A device that has failed takes the state with it: says from where the run can go on.
    fn with_checkpoint(&self, error: Error) -> Error {
        match error {
            Error::Device(text) => Error::Device(match &self.checkpoint {
                Some(path) => {
                    format!("{text}\nthe last checkpoint is {}: resume from it", path.display())
                }
                None => format!("{text}\nno checkpoint was written yet"),
            }),
            other => other,
        }
    }

    /// Reports a step without finite numbers, and ends the run after too many in a row.
    fn bad_step(&mut self, report: &StepReport, what: &str) -> Result<()> {
        let (step, ids) = (report.step, self.training.case_ids(report.step)?);
        let in_a_row = self.training.counters().bad_in_a_row;
        let listed = ids.join(", ");
        self.journal.say(&format!(
            "warning: step {step} skipped, {what} (cases {listed}); {in_a_row} in a row"
        ));
        let fields = json!({ "what": what, "cases": ids, "in_a_row": in_a_row });
        self.journal.event(step, "not_finite", fields)?;
        if in_a_row < self.pace.max_bad_steps.max(1) {
            return Ok(());
        }
        let path = self.options.out.join(format!("bad_step_{step:08}.safetensors"));
        let mut tensors = Vec::new();
        // What is prepared may be the next step's already.
        for k in 0..self.pace.micro_batches {
            self.training.prepare(step, k, &mut self.journal)?;
            let named = self.training.prepared()?.into_iter();
            tensors.extend(named.map(|(name, tensor)| (format!("batch.{k}.{name}"), tensor)));
        }
        let notes = [("cases", ids.join("\n")), ("what", what.to_owned())];
        write_tensors(&atomic::Disk, &path, &tensors, &notes)?;
        self.journal.sync()?;
        Err(Error::NotFinite(format!(
            "{in_a_row} steps in a row had no finite numbers, the last is step {step}: {what} (cases \
             {listed}). What it was trained on is in {}; the weights are those of step {}. Remedies: a lower \
             optim.lr, a longer warm-up, a look at these cases",
            path.display(),
            step + 1 - u64::from(in_a_row)
        )))
    }
}
