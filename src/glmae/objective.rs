//! The objective: one forward pass over a batch, from voxels to the total loss.

use super::batch::{Batch, ViewKind};
use super::mask::Mask;
use super::model::{Networks, Weights};
use super::plan::{DecodePlan, EncodePlan, Predict, decode_plan, encode_plan, pair_plan};
use crate::config::Config;
use crate::device::{Device, Tensor};
use crate::ops::patch_gather::VoxelOrder;
use crate::ops::soft_cross_entropy::{PairPlan, Targets};
use crate::ops::teacher_targets::teacher_targets;
use crate::tape::{Tape, Var};
use crate::{Error, Result};

/// Plans of everything a pass over a batch does.
#[derive(Debug)]
pub struct StepPlan {
    pub student: EncodePlan,
    pub teacher: Option<EncodePlan>,
    /// One per decoder.
    pub decode: Vec<DecodePlan>,
    pub pairs: Option<PairPlan>,
}

impl StepPlan {
    /// Plans for the masks of `batch`; `predict` says which patches the decoder predicts.
    pub fn new(
        device: &Device,
        config: &Config,
        nets: &Networks,
        batch: &Batch,
        predict: Predict,
    ) -> Result<Self> {
        let shape = &batch.shape;
        let views: Vec<(usize, &Mask)> = batch.masks.iter().enumerate().collect();
        let student = encode_plan(device, shape, &nets.tables, &views)?;
        let starts = student.packing.starts();
        let rows = student.packing.total();
        // With one decoder all views go through it; with two, each kind through its own.
        let globals = shape.count(ViewKind::Global);
        let parts = match nets.decoders.len() {
            1 => std::iter::once(0..views.len()).collect(),
            _ => Vec::from([0..globals, globals..views.len()]),
        };
        let decode = parts
            .into_iter()
            .map(|part| {
                let (views, starts) = (&views[part.clone()], &starts[part]);
                decode_plan(device, shape, &nets.tables, views, starts, rows, predict)
            })
            .collect::<Result<_>>()?;
        let mut plan = Self { student, teacher: None, decode, pairs: None };
        if config.loss.objective.has_teacher() {
            let intact = Mask::none(shape.tokens(ViewKind::Global));
            let views: Vec<(usize, &Mask)> = (0..globals).map(|v| (v, &intact)).collect();
            plan.teacher = Some(encode_plan(device, shape, &nets.tables, &views)?);
            plan.pairs = Some(pair_plan(device, config, shape)?);
        }
        Ok(plan)
    }
}

/// The terms of the loss; absent ones do not belong to the objective.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Losses {
    pub rec_global: Option<f64>,
    pub rec_local: Option<f64>,
    /// Global-to-global and local-to-global consistency.
    pub g2g: Option<f64>,
    pub l2g: Option<f64>,
    pub total: f64,
}

impl Losses {
    /// Name and value of every term that is present, the total first.
    pub fn terms(&self) -> Vec<(&'static str, f64)> {
        let terms = [
            ("loss", Some(self.total)),
            ("rec_global", self.rec_global),
            ("rec_local", self.rec_local),
            ("g2g", self.g2g),
            ("l2g", self.l2g),
        ];
        terms.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

/// What a forward pass leaves behind.
pub struct Pass {
    /// The scalar to differentiate.
    pub total: Var,
    pub losses: Losses,
    /// Encoder output of the student, packed, and the predictions of each decoder.
    pub latent: Var,
    pub predictions: Vec<Var>,
    /// Logits of student (all views) and teacher (global views), and what made the teacher's
    /// targets of them.
    pub consistency: Option<Consistency>,
}

/// The projection head's side of a pass.
pub struct Consistency {
    pub student_logits: Tensor,
    /// cls outputs of the teacher's encoder, `[global views, dim]`.
    pub teacher_cls: Tensor,
    pub teacher_logits: Tensor,
    /// See [`teacher_targets`].
    pub center: Tensor,
    pub inv_tau: Tensor,
}

/// One forward pass. The teacher runs on a tape that does not record: no gradient flows to it.
///
/// Source: gl-mae 1.5 and 1.6; peer README, "Losses".
pub fn forward<'a>(
    tape: &mut Tape<'a>,
    config: &Config,
    nets: &'a Networks,
    weights: &'a Weights,
    batch: &Batch,
    plan: &'a StepPlan,
    tau_t: f64,
) -> Result<Pass> {
    let voxels = Var::constant(batch.voxels.clone());
    let teacher = match (&plan.teacher, &weights.teacher, &nets.head) {
        (Some(plan), Some(params), Some(head)) => {
            let mut quiet = Tape::inference(tape.device());
            let out = nets.encode(&mut quiet, params, &voxels, plan)?;
            let cls = quiet.row_gather(&out, &plan.cls)?;
            let logits = head.forward(&mut quiet, params, &cls)?;
            Some((cls.value().clone(), logits.value().clone()))
        }
        _ => None,
    };

    let params = &weights.student;
    let latent = nets.encode(tape, params, &voxels, &plan.student)?;

    let loss = &config.loss;
    let mut losses = Losses::default();
    let mut parts: Vec<(Var, Vec<f64>)> = Vec::new();
    let mut predictions = Vec::new();
    for (decoder, plan) in nets.decoders.iter().zip(&plan.decode) {
        let pred = decoder.forward(
            tape,
            params,
            &latent,
            &nets.tables.decoder,
            &plan.assemble,
            &plan.packing,
            &plan.wanted,
        )?;
        let (order, dtype) = (VoxelOrder::ChannelsLast, batch.voxels.dtype());
        let target = tape.patch_gather(&voxels, &plan.targets, order, dtype)?;
        let kinds = [(0, loss.rec_global), (1, loss.rec_local)];
        let kinds: Vec<(usize, f64)> =
            kinds.into_iter().filter(|&(k, _)| plan.kind_rows[k] > 0).collect();
        let rows: Vec<usize> = kinds.iter().map(|&(k, _)| plan.kind_rows[k]).collect();
        let rec = tape.masked_mse(&pred, &target, &rows, loss.norm_pix)?;
        for (&(kind, _), value) in kinds.iter().zip(rec.value().to_f64_vec()?) {
            let term = if kind == 0 { &mut losses.rec_global } else { &mut losses.rec_local };
            *term = Some(value);
        }
        parts.push((rec, kinds.into_iter().map(|(_, weight)| weight).collect()));
        predictions.push(pred);
    }

    let mut consistency = None;
    if let (Some((teacher_cls, teacher_logits)), Some(pairs)) = (teacher, &plan.pairs) {
        let (Some(head), Some(running)) = (&nets.head, &weights.center) else {
            return Err(Error::Config("a consistency term needs a projection head".into()));
        };
        let cls = tape.row_gather(&latent, &plan.student.cls)?;
        let logits = head.forward(tape, params, &cls)?;
        let inv_tau =
            Tensor::from_f64(tape.device(), teacher_logits.dtype(), &[1.0 / tau_t], &[1])?;
        let (center, inv_tau) =
            teacher_targets(loss.teacher_targets, &teacher_logits, running, &inv_tau)?;
        let targets = Targets { logits: &teacher_logits, center: &center, inv_tau: &inv_tau };
        let terms = tape.soft_cross_entropy(&logits, &targets, loss.tau_s, pairs)?;
        let mut weights = Vec::new();
        let mut values = terms.value().to_f64_vec()?.into_iter();
        if loss.objective.has_g2g() {
            losses.g2g = values.next();
            weights.push(loss.beta1);
        }
        if loss.objective.has_l2g() {
            losses.l2g = values.next();
            weights.push(loss.beta2);
        }
        parts.push((terms, weights));
        let student_logits = logits.value().clone();
        consistency =
            Some(Consistency { student_logits, teacher_cls, teacher_logits, center, inv_tau });
    }
    let parts: Vec<(&Var, &[f64])> = parts.iter().map(|(v, w)| (v, &w[..])).collect();
    let total = tape.weighted_sum(&parts)?;
    losses.total = total.value().to_f64_vec()?.first().copied().unwrap_or(f64::NAN);
    Ok(Pass { total, losses, latent, predictions, consistency })
}
