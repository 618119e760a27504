//! A step as a fixed program: forward and backward over the micro-batches, then the updates in the
//! order of the method (centre, clip, AdamW, teacher). What changes from step to step stands in
//! device memory at fixed places (voxels, index tables, scalars), so that on a GPU the program is
//! captured once as a graph and then replayed; the host reads a handful of numbers afterwards.

use super::schedule::{Scheduled, schedule};
use crate::checkpoint::{Counters, State};
use crate::config::{Config, Term};
use crate::device::{Device, Tensor, class, nvtx};
use crate::glmae::batch::{Batch, BatchShape};
use crate::glmae::losses::Losses;
use crate::glmae::model::Networks;
use crate::glmae::objective::{Consistency, StepPlan, forward};
use crate::glmae::plan::Predict;
use crate::nn::head::LAST_LAYER;
use crate::ops::adamw_ema::{AdamW, Segment, UpdateTable};
use crate::ops::center_update::center_update;
use crate::tape::{ParamGrads, Tape};
use crate::train::run::{Accumulation, Captured, Launches, StepReport, run_piece};
use crate::{Error, Result};

/// The step of student and teacher. A step is [`StepProgram::micro_batch`] for every micro-batch, then
/// [`StepProgram::update`], then [`StepProgram::finish`].
pub struct StepProgram {
    sums: Accumulation,
    /// Views and masks of the micro-batch to come; one after the other uses the same memory.
    batch: Batch,
    /// Made with the first masks, refilled with later ones.
    plan: Option<StepPlan>,
    masks_are_loaded: bool,
    /// One over the teacher's temperature, `[1]`.
    inv_tau: Tensor,
    pass: Captured<PassOutputs>,
    update: Captured<()>,
    /// Teacher logits of every micro-batch, for the centre.
    teacher_logits: Vec<Tensor>,
}

/// Where a micro-batch leaves its results.
struct PassOutputs {
    /// Total and terms.
    values: Tensor,
    terms: Vec<Term>,
    consistency: Option<Consistency>,
}

impl StepProgram {
    /// A program for steps of `micro_batches` micro-batches of `shape`, on the device of `state`.
    pub fn new(
        config: &Config,
        state: &State,
        shape: &BatchShape,
        micro_batches: usize,
        launches: Launches,
    ) -> Result<Self> {
        let flat = state.weights.student.flat();
        let (device, dtype) = (flat.device(), flat.dtype());
        let batch = {
            let _class = class::scope("views");
            Batch::empty(device, state.weights.student.activation_dtype(), shape)?
        };
        let _class = class::scope("tables");
        let scheduled = schedule(config, state.counters.step);
        let settings = settings(config, &scheduled);
        let teacher = state.weights.teacher.as_ref().map_or(0, |t| t.flat().len());
        let segments = segments(state, &state.counters);
        let table = UpdateTable::new(device, &settings, &segments, flat.len(), teacher)?;
        Ok(Self {
            sums: Accumulation::new(
                &state.weights.student,
                0..flat.len(),
                table,
                micro_batches,
                launches,
            )?,
            batch,
            plan: None,
            masks_are_loaded: false,
            inv_tau: Tensor::from_f64(device, dtype, &[1.0 / scheduled.tau_t], &[1])?,
            pass: Captured::default(),
            update: Captured::default(),
            teacher_logits: Vec::new(),
        })
    }

    /// Views and masks of the micro-batch to come.
    pub fn batch_mut(&mut self) -> &mut Batch {
        self.masks_are_loaded = false;
        &mut self.batch
    }

    /// Puts the index tables of the masks in [`StepProgram::batch_mut`] in place, behind the work under
    /// way: what [`StepProgram::micro_batch`] otherwise does first.
    pub fn prepare_masks(&mut self, config: &Config, nets: &Networks) -> Result<()> {
        self.load_masks(config, nets)?;
        self.masks_are_loaded = true;
        Ok(())
    }

    /// Starts forward and backward on what [`StepProgram::batch_mut`] holds; on a GPU they are under
    /// way when this returns.
    pub fn micro_batch(&mut self, config: &Config, nets: &Networks, state: &State) -> Result<()> {
        let _range = nvtx::range(|| "micro-batch");
        if !std::mem::take(&mut self.masks_are_loaded) {
            self.load_masks(config, nets)?;
        }
        if self.sums.done() == 0 {
            let scheduled = schedule(config, state.counters.step);
            self.inv_tau.as_mut().upload_f64(&[1.0 / scheduled.tau_t])?;
        }
        self.sums.begin()?;
        let starter = self.sums.starter();
        run_piece(self, &starter, |p| &mut p.pass, |p| p.pass(config, nets, state))?;
        self.collect()
    }

    /// Starts centre, clip, AdamW and teacher.
    pub fn update(&mut self, config: &Config, state: &mut State) -> Result<()> {
        let _range = nvtx::range(|| "update");
        let scheduled = schedule(config, state.counters.step);
        // The numbers of an update that succeeds; one that does not leaves everything as it is.
        let counters = counted(config, &state.counters, true);
        self.sums.schedule(&settings(config, &scheduled), &segments(state, &counters))?;
        let starter = self.sums.starter();
        run_piece(self, &starter, |p| &mut p.update, |p| p.apply(config, state))?;
        self.sums.end();
        Ok(())
    }

    /// Waits for the step that was started, and counts it.
    pub fn finish(&mut self, config: &Config, state: &mut State) -> Result<StepReport> {
        let scheduled = schedule(config, state.counters.step);
        let (grad_norm, values) = self.sums.read()?;
        let terms = self.pass.outputs().map_or(&[][..], |pass| &pass.terms);
        let losses = Losses::means(terms, &values).named();
        let not_finite = match grad_norm.is_finite() {
            true => None,
            false => {
                let layout = state.weights.student.layout();
                Some(self.sums.first_not_finite(layout, &losses, grad_norm)?)
            }
        };
        let step = state.counters.step;
        state.counters = counted(config, &state.counters, not_finite.is_none());
        let scheduled = scheduled.values();
        Ok(StepReport { step, losses, grad_norm, scheduled, not_finite })
    }

    /// One step on given batches, one per micro-batch.
    pub fn step(
        &mut self,
        config: &Config,
        nets: &Networks,
        state: &mut State,
        batches: &[Batch],
    ) -> Result<StepReport> {
        for batch in batches {
            self.batch_mut().assign(batch)?;
            self.micro_batch(config, nets, state)?;
        }
        self.update(config, state)?;
        self.finish(config, state)
    }

    /// The gradients of the last step.
    pub fn grads(&self) -> &ParamGrads {
        self.sums.grads()
    }

    /// Projection-head outputs of the last micro-batch, for the watch on collapse.
    pub fn consistency(&self) -> Option<&Consistency> {
        self.pass.outputs()?.consistency.as_ref()
    }

    /// Puts the index tables of the masks in place.
    fn load_masks(&mut self, config: &Config, nets: &Networks) -> Result<()> {
        let _class = class::scope("tables");
        let (device, batch) = (self.sums.device(), &self.batch);
        match &mut self.plan {
            None => {
                self.plan = Some(StepPlan::new(device, config, nets, batch, Predict::Masked)?);
                Ok(())
            }
            Some(plan) => {
                let masks = StepPlan::new(&Device::Cpu, config, nets, batch, Predict::Masked)?;
                plan.refill(&masks)
            }
        }
    }

    /// What the device does in a micro-batch. Uploads and downloads nothing.
    fn pass(&mut self, config: &Config, nets: &Networks, state: &State) -> Result<PassOutputs> {
        let device = self.sums.device().clone();
        let Some(plan) = &self.plan else {
            return Err(Error::shape("step", "masks that were put in place", "none"));
        };
        let _class = class::scope("activations");
        self.sums.open();
        // Its reader may hold it when the next one is put in place.
        let inv_tau = self.inv_tau.duplicate()?;
        let mut tape = Tape::new(&device);
        let pass = {
            let _range = nvtx::range(|| "forward");
            forward(&mut tape, config, nets, &state.weights, &self.batch, plan, &inv_tau)?
        };
        let terms = pass.losses.terms();
        let mut values = Tensor::empty(&device, pass.losses.total.dtype(), &[1 + terms.len()])?;
        pass.losses.write(&mut values, 0)?;
        // What backward does not need must not live through it.
        let (total, consistency) = (pass.total, pass.consistency);
        drop((pass.losses, pass.latent, pass.predictions));
        let _range = nvtx::range(|| "backward");
        self.sums.close(tape, total)?;
        Ok(PassOutputs { values, terms, consistency })
    }

    /// Puts the results of a micro-batch where the next one does not overwrite them.
    fn collect(&mut self) -> Result<()> {
        let Some(pass) = self.pass.outputs() else { return Ok(()) };
        if let Some(consistency) = &pass.consistency {
            let _class = class::scope("tables");
            let logits = &consistency.teacher_logits;
            match self.teacher_logits.get_mut(self.sums.done()) {
                Some(place) => place.as_mut().assign(logits)?,
                None => self.teacher_logits.push(logits.duplicate()?),
            }
        }
        self.sums.keep(&pass.values)
    }

    /// What the device does in an update. Uploads and downloads nothing.
    fn apply(&mut self, config: &Config, state: &mut State) -> Result<()> {
        let _class = class::scope("update");
        let State { weights, m, v, .. } = state;
        let clip = self.sums.clip(weights.student.layout(), config.optim.clip_grad)?;
        if let (Some(center), false) = (&mut weights.center, self.teacher_logits.is_empty()) {
            let momentum = config.loss.center_momentum;
            center_update(center, &self.teacher_logits, momentum, Some(&clip))?;
        }
        self.sums.apply(&clip, &mut weights.student, [m, v], weights.teacher.as_mut())
    }
}

/// The counters after a step.
fn counted(config: &Config, before: &Counters, is_finite: bool) -> Counters {
    before.after_step(is_finite, before.step < config.optim.freeze_last_layer)
}

fn settings(config: &Config, scheduled: &Scheduled) -> AdamW {
    let o = &config.optim;
    AdamW {
        lr: scheduled.lr,
        weight_decay: scheduled.weight_decay,
        beta1: o.beta1,
        beta2: o.beta2,
        eps: o.eps,
        // The factor of the clip stands in for it.
        grad_scale: 1.0,
        ema: scheduled.ema,
    }
}

/// The segments of an update after which the counters are `counters`; the head's last layer is left
/// out until it has updates.
fn segments(state: &State, counters: &Counters) -> Vec<Segment> {
    Segment::of_layout(state.weights.student.layout(), |name| match name.starts_with(LAST_LAYER) {
        true => counters.last_layer_updates,
        false => counters.updates,
    })
}
