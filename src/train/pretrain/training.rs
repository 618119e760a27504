//! Pre-training as the engine runs it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::Pretrained;
use super::program::StepProgram;
use super::volumes::DeviceVolumes;
use super::watch::{CollapseWatch, Observation};
use crate::Result;
use crate::checkpoint::{self, Counters, DataFingerprint, Snapshot, State};
use crate::config::{Config, TERMS, TOTAL};
use crate::data::layout::Case;
use crate::data::loader::Loader;
use crate::data::{Prepared, prepare};
use crate::device::Tensor;
use crate::glmae::batch::BatchShape;
use crate::glmae::inputs::prepare_config;
use crate::glmae::model::Networks;
use crate::glmae::views::cut_batch;
use crate::infer::heldout::{self, HeldOut};
use crate::infer::reconstruct_files;
use crate::infer::tiles::{Masking, reconstruct_volume};
use crate::train::run::order::CaseOrder;
use crate::train::run::{Journal, Pace, RunOptions, StepReport, Training, Values};

/// Held-out cases that are measured; a larger set would take longer than it tells.
const MEASURED_CASES: usize = 32;

/// When a run of `config` does what.
pub fn pace(config: &Config) -> Pace {
    let t = &config.train;
    Pace {
        steps: t.steps,
        micro_batches: t.accumulation,
        log_every: t.log_every,
        save_every: t.save_every,
        // Without pictures on the way the end is judged all the same.
        judge_every: if t.picture_every == 0 { t.steps.max(1) } else { t.picture_every },
        keep_last: t.keep_last,
        keep_every: t.keep_every,
        max_bad_steps: t.max_bad_steps,
    }
}

/// Columns of `metrics.csv`. A run without some terms leaves theirs empty.
pub fn columns() -> Vec<&'static str> {
    let scheduled = ["lr", "weight_decay", "ema", "tau_t"];
    let judged = ["heldout_explained", "heldout_mean_guess"];
    let seen = Observation::default().terms().map(|(name, _)| name);
    let terms = TERMS.each_ref().map(|row| row.name);
    [&[TOTAL][..], &terms, &scheduled, &seen, &judged].concat()
}

/// A pre-training in progress: state, loader, held-out cases and what was found.
pub struct PretrainRun<'a> {
    config: &'a Config,
    options: &'a RunOptions,
    nets: Networks,
    state: State,
    program: StepProgram,
    volumes: DeviceVolumes,
    loader: Loader,
    order: Arc<CaseOrder>,
    held: Vec<Case>,
    data: DataFingerprint,
    /// The name of the run.
    run: String,
    /// The case that all pictures show.
    shown: Option<Arc<Prepared>>,
    watch: CollapseWatch,
    heldout: Option<HeldOut>,
}

impl<'a> PretrainRun<'a> {
    #[allow(clippy::too_many_arguments)] // what the start of a run has gathered
    pub fn new(
        config: &'a Config,
        options: &'a RunOptions,
        nets: Networks,
        state: State,
        loader: Loader,
        order: &Arc<CaseOrder>,
        mut held: Vec<Case>,
        data: DataFingerprint,
        run: String,
    ) -> Result<Self> {
        let shape = BatchShape::new(config, config.train.batch);
        let program =
            StepProgram::new(config, &state, &shape, config.train.accumulation, options.launches)?;
        held.truncate(MEASURED_CASES);
        Ok(Self {
            config,
            options,
            nets,
            state,
            program,
            volumes: DeviceVolumes::new(&options.device, config.data.device_cache_mib << 20),
            loader,
            order: Arc::clone(order),
            held,
            data,
            run,
            shown: None,
            watch: CollapseWatch::new(config),
            heldout: None,
        })
    }

    /// What a finished run found.
    pub fn found(self) -> Pretrained {
        let quarantined = self.loader.quarantined().to_vec();
        Pretrained { heldout: self.heldout, quarantined }
    }
}

impl Training for PretrainRun<'_> {
    fn begin(&mut self, _: &mut Journal) -> Result<()> {
        Ok(())
    }

    fn counters(&self) -> Counters {
        self.state.counters
    }

    /// Cuts the views and draws their masks.
    fn prepare(&mut self, step: u64, k: usize, _: &mut Journal) -> Result<()> {
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

    fn micro_batch(&mut self) -> Result<()> {
        self.program.micro_batch(self.config, &self.nets, &self.state)
    }

    fn update(&mut self) -> Result<()> {
        self.program.update(self.config, &mut self.state)
    }

    fn finish(&mut self) -> Result<StepReport> {
        self.program.finish(self.config, &mut self.state)
    }

    /// Looks at the teacher, and warns of a collapse.
    fn observe(&mut self, report: &StepReport, journal: &mut Journal) -> Result<Values> {
        let Some(pass) = self.program.consistency() else { return Ok(Values::new()) };
        let center = self.state.weights.center.as_ref();
        let seen = Observation::new(pass, center, &self.config.loss)?;
        let done = self.state.counters.step;
        if let Some(text) = self.watch.note(done, &report.losses, &seen) {
            journal.warn(done, text)?;
        }
        Ok(seen.terms().to_vec())
    }

    /// Measures reconstruction on the held-out cases.
    fn judge(&mut self, journal: &mut Journal) -> Result<Values> {
        if self.held.is_empty() {
            return Ok(Values::new());
        }
        let (device, params) = (&self.options.device, &self.state.weights.student);
        let (step, how) = (self.state.counters.step, prepare_config(self.config));
        self.heldout =
            heldout::measure(device, self.config, &self.nets, params, &self.held, &how, step)?;
        let Some(found) = &self.heldout else { return Ok(Values::new()) };
        journal.say(&format!("step {step}: {}", found.text()));
        journal.event(step, "heldout", json!(found))?;
        Ok(vec![("heldout_explained", found.explained), ("heldout_mean_guess", found.mean_guess)])
    }

    /// Reconstructs the case that all pictures of a run show: the first readable held-out one, else
    /// the first of the first step.
    fn picture(&mut self, journal: &mut Journal) -> Result<()> {
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
        let (folder, stem) = (journal.out().join("recon"), checkpoint::folder_name(step));
        let title = format!("{} step {step}", case.id);
        let (files, picture) =
            reconstruct_files::write(&folder, &stem, self.config, case, &result, &title)?;
        journal.picture(step, "reconstruction", picture.size, &picture.png)?;
        journal.pictures.extend(files);
        Ok(())
    }

    fn case_ids(&mut self, step: u64) -> Result<Vec<String>> {
        Ok(self.loader.get(step)?.iter().map(|case| case.id.clone()).collect())
    }

    /// Views, and the tokens of each that the student sees.
    fn prepared(&mut self) -> Result<Vec<(String, Tensor)>> {
        let batch = self.program.batch_mut();
        let mut tensors = vec![("voxels".to_owned(), batch.voxels()?)];
        for (v, mask) in batch.masks().iter().enumerate() {
            let keep: Vec<i32> = mask.keep().iter().map(|&t| t as i32).collect();
            let keep = Tensor::from_slice(&self.options.device, &keep, &[keep.len()])?;
            tensors.push((format!("view.{v}.keep"), keep));
        }
        Ok(tensors)
    }

    fn save(&self, out: &Path) -> Result<PathBuf> {
        let Self { config, nets, state, data, run, .. } = self;
        checkpoint::save(out, &Snapshot { config, nets, state, data: *data, run })
    }

    fn data_wait(&self) -> Duration {
        self.loader.stats().wait
    }

    fn end(&mut self, journal: &mut Journal) -> Result<()> {
        let step = self.state.counters.step;
        for bad in self.loader.quarantined() {
            let fields = json!({ "id": bad.id, "reason": bad.reason });
            journal.event(step, "quarantined", fields)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{OBJECTIVES, Target};
    use crate::glmae::losses::Losses;

    /// A log refuses values without a column.
    #[test]
    fn columns_are_those_of_the_terms_of_every_objective() {
        let columns = columns();
        for objective in OBJECTIVES.iter().map(|row| row.objective) {
            let targets = [Target::Voxels, Target::Teacher];
            let terms: Vec<_> = targets.into_iter().flat_map(|t| objective.terms(t)).collect();
            let losses = Losses::means(&terms, &vec![0.0; 1 + terms.len()]).named();
            let at = |name: &str| columns.iter().position(|column| *column == name);
            let places: Option<Vec<usize>> = losses.iter().map(|(name, _)| at(name)).collect();
            assert!(places.is_some_and(|p| p.is_sorted() && p[0] == 0), "{}", objective.name());
        }
        // Files of older runs go on with these.
        assert_eq!(columns[..6], ["loss", "rec_global", "rec_local", "g2g", "l2g", "lr"]);
        let mut once = columns.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), columns.len(), "a name stands twice in {columns:?}");
    }
}
