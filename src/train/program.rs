//! A step as a fixed program: forward and backward over the micro-batches, then the updates in the
//! order of the method (centre, clip, AdamW, teacher). What changes from step to step stands in
//! device memory at fixed places (voxels, index tables, scalars), so that on a GPU the program is
//! captured once as a graph and then replayed; the host reads a handful of numbers afterwards.

use super::report::StepReport;
use super::schedule::{Scheduled, schedule};
use super::state::{Counters, State};
use crate::Result;
use crate::config::Config;
use crate::device::{Device, Graph, Tensor, TensorMut, class, nvtx};
use crate::glmae::batch::{Batch, BatchShape};
use crate::glmae::model::Networks;
use crate::glmae::objective::{Consistency, Losses, StepPlan, Term, forward};
use crate::glmae::plan::Predict;
use crate::nn::head::LAST_LAYER;
use crate::ops::accumulate::accumulate;
use crate::ops::adamw_ema::{AdamW, Buffers, Segment, UpdateTable, adamw_ema};
use crate::ops::center_update::center_update;
use crate::ops::grad_norm::grad_norm;
use crate::tape::{ParamGrads, Tape};

/// How the launches of a step are started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Launches {
    /// One by one: the only way on the CPU; elsewhere to compare with, and for profilers.
    Single,
    /// The first step one by one, later ones as a captured graph where the device can.
    #[default]
    Graph,
}

/// See the module.
pub struct StepProgram {
    inputs: Vec<Inputs>,
    grads: ParamGrads,
    /// The numbers of the update, and one over the teacher's temperature, `[1]`.
    table: UpdateTable,
    inv_tau: Tensor,
    /// The gradient of the loss with respect to itself, `[1]`.
    one: Tensor,
    launches: Launches,
    runs: u64,
    graph: Option<Graph>,
    outputs: Option<Outputs>,
}

/// What a micro-batch is computed from.
struct Inputs {
    batch: Batch,
    /// Made with the first masks, refilled with later ones.
    plan: Option<StepPlan>,
}

/// Where a step leaves its results.
struct Outputs {
    /// `[norm, factor]` of [`grad_norm`], then total and terms of every micro-batch.
    report: Tensor,
    /// Terms of every micro-batch.
    terms: Vec<Vec<Term>>,
    /// Of the last micro-batch.
    consistency: Option<Consistency>,
}

impl StepProgram {
    /// A program for `micro_batches` micro-batches of `shape`, on the device of `state`.
    pub fn new(
        config: &Config,
        state: &State,
        shape: &BatchShape,
        micro_batches: usize,
        launches: Launches,
    ) -> Result<Self> {
        let flat = state.weights.student.flat();
        let (device, dtype) = (flat.device(), flat.dtype());
        let _class = class::scope("views");
        let empty = || Ok(Inputs { batch: Batch::empty(device, dtype, shape)?, plan: None });
        let inputs = (0..micro_batches.max(1)).map(|_| empty()).collect::<Result<_>>()?;
        let _class = class::scope("tables");
        let scheduled = schedule(config, state.counters.step);
        let settings = settings(config, &scheduled);
        let teacher = state.weights.teacher.as_ref().map_or(0, |t| t.flat().len());
        let segments = segments(state, &state.counters);
        Ok(Self {
            inputs,
            grads: state.new_grads()?,
            table: UpdateTable::new(device, &settings, &segments, flat.len(), teacher)?,
            inv_tau: Tensor::from_f64(device, dtype, &[1.0 / scheduled.tau_t], &[1])?,
            one: Tensor::from_f64(device, dtype, &[1.0], &[1])?,
            launches,
            runs: 0,
            graph: None,
            outputs: None,
        })
    }

    /// The micro-batches, for the views and masks of the next step.
    pub fn batches_mut(&mut self) -> impl Iterator<Item = &mut Batch> {
        self.inputs.iter_mut().map(|i| &mut i.batch)
    }

    /// Starts a step on what [`StepProgram::batches_mut`] holds; on a GPU it is under way when this
    /// returns. Every start is followed by [`StepProgram::finish`].
    pub fn start(&mut self, config: &Config, nets: &Networks, state: &mut State) -> Result<()> {
        let _range = nvtx::range(|| "step");
        let scheduled = schedule(config, state.counters.step);
        self.load(config, nets, state, &scheduled)?;
        let device = self.one.device().clone();
        if self.launches == Launches::Graph && device.captures() && self.runs > 0 {
            if self.graph.is_none() {
                // The eager step's tensors go first: the graph gets memory of its own.
                self.outputs = None;
                device.release_unused()?;
                let (graph, outputs) = device.capture(|| self.program(config, nets, state))?;
                (self.graph, self.outputs) = (Some(graph), Some(outputs));
            }
            if let Some(graph) = &mut self.graph {
                graph.replay()?;
            }
        } else {
            self.outputs = None;
            self.outputs = Some(self.program(config, nets, state)?);
        }
        self.runs += 1;
        Ok(())
    }

    /// Waits for the step that was started, and counts it.
    pub fn finish(&mut self, config: &Config, state: &mut State) -> Result<StepReport> {
        let scheduled = schedule(config, state.counters.step);
        let mut losses = Vec::new();
        let mut grad_norm = f64::NAN;
        if let Some(outputs) = &self.outputs {
            let values = outputs.report.to_f64_vec()?;
            let (clip, mut rest) = values.split_at(2.min(values.len()));
            grad_norm = clip.first().copied().unwrap_or(f64::NAN);
            for terms in &outputs.terms {
                let (mine, others) = rest.split_at((1 + terms.len()).min(rest.len()));
                losses.push(Losses::from_values(terms, mine));
                rest = others;
            }
        }
        let losses = Losses::mean(&losses);
        let not_finite = match grad_norm.is_finite() {
            true => None,
            false => Some(super::report::first_not_finite(state, &self.grads, &losses, grad_norm)?),
        };
        let step = state.counters.step;
        state.counters = counted(config, &state.counters, not_finite.is_none());
        Ok(StepReport { step, losses, grad_norm, scheduled, not_finite })
    }

    /// One step from its inputs to its report.
    pub fn step(
        &mut self,
        config: &Config,
        nets: &Networks,
        state: &mut State,
        batches: &[Batch],
    ) -> Result<StepReport> {
        for (mine, batch) in self.batches_mut().zip(batches) {
            mine.assign(batch)?;
        }
        self.start(config, nets, state)?;
        self.finish(config, state)
    }

    /// The gradients of the last step.
    pub fn grads(&self) -> &ParamGrads {
        &self.grads
    }

    /// Projection-head outputs of the last step's last micro-batch, for the watch on collapse.
    pub fn consistency(&self) -> Option<&Consistency> {
        self.outputs.as_ref()?.consistency.as_ref()
    }

    /// Puts tables and scalars of the step in place.
    fn load(
        &mut self,
        config: &Config,
        nets: &Networks,
        state: &State,
        scheduled: &Scheduled,
    ) -> Result<()> {
        let _range = nvtx::range(|| "load");
        let _class = class::scope("tables");
        let device = self.one.device().clone();
        for Inputs { batch, plan } in &mut self.inputs {
            match plan {
                None => {
                    *plan = Some(StepPlan::new(&device, config, nets, batch, Predict::Masked)?);
                }
                Some(plan) => {
                    let masks = StepPlan::new(&Device::Cpu, config, nets, batch, Predict::Masked)?;
                    plan.refill(&masks)?;
                }
            }
        }
        self.inv_tau.as_mut().upload_f64(&[1.0 / scheduled.tau_t])?;
        // The numbers of an update that succeeds; one that does not leaves everything as it is.
        let counters = counted(config, &state.counters, true);
        self.table.set(&settings(config, scheduled), &segments(state, &counters))
    }

    /// Everything the device does in a step. Uploads and downloads nothing.
    fn program(&mut self, config: &Config, nets: &Networks, state: &mut State) -> Result<Outputs> {
        let device = self.one.device().clone();
        let (mut losses, mut teacher_logits, mut consistency) = (Vec::new(), Vec::new(), None);
        self.grads.clear();
        for Inputs { batch, plan } in &self.inputs {
            let Some(plan) = plan else { continue };
            let _class = class::scope("activations");
            // Its reader may hold it when the next one is put in place.
            let inv_tau = self.inv_tau.duplicate()?;
            let mut tape = Tape::new(&device);
            let pass = {
                let _range = nvtx::range(|| "forward");
                forward(&mut tape, config, nets, &state.weights, batch, plan, &inv_tau)?
            };
            losses.push(pass.losses);
            teacher_logits.extend(pass.consistency.as_ref().map(|c| c.teacher_logits.clone()));
            consistency = pass.consistency;
            // What backward does not need must not live through it.
            drop((pass.latent, pass.predictions));
            let _range = nvtx::range(|| "backward");
            let _class = class::scope("gradients of activations");
            tape.backward_from(&[(pass.total, self.one.clone())], &mut self.grads)?;
        }
        let _range = nvtx::range(|| "update");
        let _class = class::scope("update");
        let flat = self.grads.finish(state.weights.student.layout())?;
        let scale = 1.0 / self.inputs.len() as f64;
        let mut total = losses.first().map(|l| l.total.duplicate()).transpose()?;
        for other in losses.iter().skip(1) {
            if let Some(total) = &mut total {
                accumulate(&mut total.as_mut(), &other.total)?;
            }
        }
        let clip = grad_norm(flat, total.as_ref(), scale, config.optim.clip_grad)?;
        if let (Some(center), false) = (&mut state.weights.center, teacher_logits.is_empty()) {
            let momentum = config.loss.center_momentum;
            center_update(center, &teacher_logits, momentum, Some(&clip))?;
        }
        let (params, half) = state.weights.student.buffers_mut();
        let (teacher, teacher_half) = match &mut state.weights.teacher {
            Some(teacher) => {
                let (flat, half) = teacher.buffers_mut();
                (Some(flat), half)
            }
            None => (None, None),
        };
        let (m, v, grads) = (&mut state.m, &mut state.v, self.grads.flat());
        let buffers = Buffers { params, grads, m, v, teacher, half, teacher_half };
        adamw_ema(&self.table, Some(&clip), buffers)?;

        let values: usize = losses.iter().map(|l| 1 + l.terms().len()).sum();
        let mut report = Tensor::empty(&device, clip.dtype(), &[2 + values])?;
        TensorMut::new(&mut report, 0, &[2])?.assign(&clip)?;
        let mut at = 2;
        for l in &losses {
            at += l.write(&mut report, at)?;
        }
        let terms = losses.iter().map(|l| l.terms()).collect();
        Ok(Outputs { report, terms, consistency })
    }
}

/// The counters after a step.
fn counted(config: &Config, before: &Counters, is_finite: bool) -> Counters {
    let mut after = Counters { step: before.step + 1, ..*before };
    if !is_finite {
        after.bad_steps += 1;
        after.bad_in_a_row += 1;
        return after;
    }
    after.bad_in_a_row = 0;
    after.updates += 1;
    after.last_layer_updates += u64::from(before.step >= config.optim.freeze_last_layer);
    after
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
