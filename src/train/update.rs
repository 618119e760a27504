//! One step: forward and backward over the micro-batches, then the updates in the order of the
//! method (centre, clip, AdamW, teacher).

use super::schedule::{Scheduled, schedule};
use super::state::State;
use crate::Result;
use crate::config::Config;
use crate::device::Tensor;
use crate::glmae::batch::Batch;
use crate::glmae::model::Networks;
use crate::glmae::objective::{Consistency, Losses, StepPlan, forward};
use crate::glmae::plan::Predict;
use crate::nn::head::LAST_LAYER;
use crate::ops::adamw_ema::{AdamW, Buffers, Segment, adamw_ema};
use crate::ops::center_update::center_update;
use crate::ops::grad_norm::{clip_factor, grad_norm};
use crate::tape::{ParamGrads, Tape};

/// What a step did.
pub struct StepReport {
    /// Number of the step.
    pub step: u64,
    /// Means over the micro-batches.
    pub losses: Losses,
    /// Global gradient norm before clipping.
    pub grad_norm: f64,
    pub scheduled: Scheduled,
    /// Projection-head outputs of the last micro-batch, for the watch on collapse.
    pub consistency: Option<Consistency>,
    /// Why no update was made: the first tensor that is not finite.
    pub not_finite: Option<String>,
}

/// Runs one step on its micro-batches; `grads` is reused from step to step.
pub fn step(
    config: &Config,
    nets: &Networks,
    state: &mut State,
    grads: &mut ParamGrads,
    micro_batches: &[Batch],
) -> Result<StepReport> {
    let t = state.counters.step;
    let scheduled = schedule(config, t);
    grads.clear();
    let mut losses = Vec::new();
    let mut teacher_logits = Vec::new();
    let mut consistency = None;
    for batch in micro_batches {
        let pass = accumulate(config, nets, state, grads, batch, scheduled.tau_t)?;
        losses.push(pass.0);
        teacher_logits.extend(pass.1.as_ref().map(|c| c.teacher_logits.clone()));
        consistency = pass.1;
    }
    let losses = mean_losses(&losses);
    let scale = 1.0 / micro_batches.len().max(1) as f64;
    let grad_norm = scale * grad_norm(grads.finish(state.weights.student.layout())?)?;
    let not_finite = first_not_finite(state, grads, &losses, grad_norm)?;
    let report = StepReport { step: t, losses, grad_norm, scheduled, consistency, not_finite };
    state.counters.step += 1;
    if report.not_finite.is_some() {
        state.counters.bad_steps += 1;
        state.counters.bad_in_a_row += 1;
        return Ok(report);
    }
    state.counters.bad_in_a_row = 0;
    update(config, state, grads, &teacher_logits, &report, scale)?;
    Ok(report)
}

/// Adds the gradients of one micro-batch.
fn accumulate(
    config: &Config,
    nets: &Networks,
    state: &State,
    grads: &mut ParamGrads,
    batch: &Batch,
    tau_t: f64,
) -> Result<(Losses, Option<Consistency>)> {
    let device = batch.voxels.device();
    let plan = StepPlan::new(device, config, nets, batch, Predict::Masked)?;
    let mut tape = Tape::new(device);
    let pass = forward(&mut tape, config, nets, &state.weights, batch, &plan, tau_t)?;
    let (total, losses, consistency) = (pass.total, pass.losses, pass.consistency);
    // What backward does not need must not live through it.
    drop((pass.latent, pass.predictions));
    tape.backward(&total, grads)?;
    Ok((losses, consistency))
}

fn mean_losses(all: &[Losses]) -> Losses {
    let n = all.len().max(1) as f64;
    let mean = |term: fn(&Losses) -> Option<f64>| -> Option<f64> {
        let values: Option<Vec<f64>> = all.iter().map(term).collect();
        values.filter(|v| !v.is_empty()).map(|v| v.iter().sum::<f64>() / n)
    };
    Losses {
        rec_global: mean(|l| l.rec_global),
        rec_local: mean(|l| l.rec_local),
        g2g: mean(|l| l.g2g),
        l2g: mean(|l| l.l2g),
        total: mean(|l| Some(l.total)).unwrap_or(f64::NAN),
    }
}

/// Centre, AdamW and teacher, after the losses have used the old ones.
fn update(
    config: &Config,
    state: &mut State,
    grads: &ParamGrads,
    teacher_logits: &[Tensor],
    report: &StepReport,
    scale: f64,
) -> Result<()> {
    if let (Some(center), false) = (&mut state.weights.center, teacher_logits.is_empty()) {
        center_update(center, teacher_logits, config.loss.center_momentum)?;
    }
    let counters = &mut state.counters;
    counters.updates += 1;
    counters.last_layer_updates += u64::from(report.step >= config.optim.freeze_last_layer);
    let last_layer = match report.step >= config.optim.freeze_last_layer {
        true => counters.last_layer_updates,
        false => 0,
    };
    let updates = counters.updates;
    let student = &mut state.weights.student;
    let segments = Segment::of_layout(student.layout(), |name| {
        if name.starts_with(LAST_LAYER) { last_layer } else { updates }
    });
    let o = &config.optim;
    let settings = AdamW {
        lr: report.scheduled.lr,
        weight_decay: report.scheduled.weight_decay,
        beta1: o.beta1,
        beta2: o.beta2,
        eps: o.eps,
        grad_scale: scale * clip_factor(report.grad_norm, o.clip_grad),
        ema: report.scheduled.ema,
    };
    let (params, half) = student.buffers_mut();
    let (teacher, teacher_half) = match &mut state.weights.teacher {
        Some(teacher) => {
            let (flat, half) = teacher.buffers_mut();
            (Some(flat), half)
        }
        None => (None, None),
    };
    let (m, v) = (&mut state.m, &mut state.v);
    let grads = grads.flat();
    let buffers = Buffers { params, grads, m, v, teacher, half, teacher_half };
    adamw_ema(&settings, &segments, buffers)
}

/// Names what is not finite: a loss term, else the first parameter whose gradient is not.
fn first_not_finite(
    state: &State,
    grads: &ParamGrads,
    losses: &Losses,
    grad_norm: f64,
) -> Result<Option<String>> {
    if let Some((name, value)) = losses.terms().into_iter().find(|(_, v)| !v.is_finite()) {
        return Ok(Some(format!("{name} = {value}")));
    }
    if grad_norm.is_finite() {
        return Ok(None);
    }
    for entry in state.weights.student.layout().entries() {
        let values = grads.flat().view(entry.offset, &entry.shape)?.to_f64_vec()?;
        if let Some(bad) = values.iter().find(|v| !v.is_finite()) {
            return Ok(Some(format!("gradient of {} = {bad}", entry.name)));
        }
    }
    Ok(Some(format!("gradient norm = {grad_norm}")))
}
