//! The objective: one forward pass over a batch, from voxels to the total loss.

use super::batch::{Batch, ViewKind};
use super::mask::Mask;
use super::model::{Networks, Weights};
use super::plan::{DecodePlan, EncodePlan, Predict, decode_plan, encode_plan, pair_plan};
use crate::config::Config;
use crate::device::{Device, Tensor, TensorMut};
use crate::ops::masked_mse::Comparison;
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
    predict: Predict,
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
        let mut plan = Self { student, teacher: None, decode, pairs: None, predict };
        if config.loss.objective.has_teacher() {
            let intact = Mask::none(shape.tokens(ViewKind::Global));
            let views: Vec<(usize, &Mask)> = (0..globals).map(|v| (v, &intact)).collect();
            plan.teacher = Some(encode_plan(device, shape, &nets.tables, &views)?);
            plan.pairs = Some(pair_plan(device, config, shape)?);
        }
        Ok(plan)
    }

    /// Takes over the masks of another plan of the same sizes; what does not depend on masks, and
    /// where the tables stand, stays.
    pub fn refill(&mut self, other: &Self) -> Result<()> {
        self.student.refill(&other.student)?;
        for (mine, other) in self.decode.iter_mut().zip(&other.decode) {
            mine.refill(other)?;
        }
        Ok(())
    }
}

/// A term of the loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Term {
    RecGlobal,
    RecLocal,
    /// Global-to-global and local-to-global consistency.
    G2g,
    L2g,
}

impl Term {
    /// As logs and reports call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::RecGlobal => "rec_global",
            Self::RecLocal => "rec_local",
            Self::G2g => "g2g",
            Self::L2g => "l2g",
        }
    }
}

/// Names and values of the terms, the total (`loss`) first.
pub struct Losses;

impl Losses {
    /// Of every term there is.
    pub const NAMES: [&'static str; 5] = ["loss", "rec_global", "rec_local", "g2g", "l2g"];

    /// Means over micro-batches, from what [`LossTensors::write`] left of each: the total, then the values
    /// of `terms`.
    pub fn means(terms: &[Term], values: &[f64]) -> Vec<(&'static str, f64)> {
        let per_batch = 1 + terms.len();
        let n = (values.len() / per_batch) as f64;
        let mean = |i: usize| values.iter().skip(i).step_by(per_batch).sum::<f64>() / n;
        let names = std::iter::once("loss").chain(terms.iter().map(|term| term.name()));
        names.enumerate().map(|(i, name)| (name, mean(i))).collect()
    }
}

/// The loss of a pass where it was computed, so that no host has to wait for it.
pub struct LossTensors {
    /// `[1]`.
    pub total: Tensor,
    parts: Vec<(Vec<Term>, Tensor)>,
}

impl LossTensors {
    /// The terms in the order of [`LossTensors::write`].
    pub fn terms(&self) -> Vec<Term> {
        self.parts.iter().flat_map(|(terms, _)| terms.iter().copied()).collect()
    }

    /// Writes the total and every term to `to` from element `at` on; returns how many.
    pub fn write(&self, to: &mut Tensor, at: usize) -> Result<usize> {
        let mut end = at;
        for tensor in std::iter::once(&self.total).chain(self.parts.iter().map(|(_, t)| t)) {
            TensorMut::new(to, end, tensor.shape())?.assign(tensor)?;
            end += tensor.len();
        }
        Ok(end - at)
    }

    /// The values, once they are there.
    pub fn read(&self) -> Result<Vec<(&'static str, f64)>> {
        let mut values = self.total.to_f64_vec()?;
        for (_, tensor) in &self.parts {
            values.extend(tensor.to_f64_vec()?);
        }
        Ok(Losses::means(&self.terms(), &values))
    }
}

/// What a forward pass leaves behind.
pub struct Pass {
    /// The scalar to differentiate.
    pub total: Var,
    pub losses: LossTensors,
    /// Encoder output of the student, packed.
    pub latent: Var,
    /// The predictions of each decoder, where the plan is for all tokens: training never writes them.
    pub predictions: Vec<Tensor>,
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
/// `inv_tau` `[1]` is one over the teacher's temperature. Nothing is downloaded, so that the pass can
/// be captured.
///
/// Source: docs/method.md, 4.1 to 4.5.
pub fn forward<'a>(
    tape: &mut Tape<'a>,
    config: &Config,
    nets: &'a Networks,
    weights: &'a Weights,
    batch: &Batch,
    plan: &'a StepPlan,
    inv_tau: &Tensor,
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
    let mut parts: Vec<(Var, Vec<Term>, Vec<f64>)> = Vec::new();
    let mut predictions = Vec::new();
    let predict = plan.predict;
    for (decoder, plan) in nets.decoders.iter().zip(&plan.decode) {
        let features = decoder.features(
            tape,
            params,
            &latent,
            &nets.tables.decoder,
            &plan.assemble,
            &plan.packing,
            &plan.wanted,
        )?;
        let (order, dtype) = (VoxelOrder::ChannelsLast, params.activation_dtype());
        let target = tape.patch_gather(&voxels, &plan.targets, order, dtype)?;
        let kinds = [(Term::RecGlobal, loss.rec_global), (Term::RecLocal, loss.rec_local)];
        let (mut rows, mut terms, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        for ((term, weight), &n) in kinds.into_iter().zip(&plan.kind_rows).filter(|k| *k.1 > 0) {
            rows.push(n);
            terms.push(term);
            weights.push(weight);
        }
        let with = Comparison {
            target: target.value(),
            group_rows: &rows,
            norm_pix: loss.norm_pix,
            wants_prediction: predict == Predict::All,
        };
        let (rec, pred) = tape.masked_mse(&features, &decoder.pixel_head(params)?, &with)?;
        parts.push((rec, terms, weights));
        predictions.extend(pred);
    }

    let mut consistency = None;
    if let (Some((teacher_cls, teacher_logits)), Some(pairs)) = (teacher, &plan.pairs) {
        let (Some(head), Some(running)) = (&nets.head, &weights.center) else {
            return Err(Error::Config("a consistency term needs a projection head".into()));
        };
        let cls = tape.row_gather(&latent, &plan.student.cls)?;
        let logits = head.forward(tape, params, &cls)?;
        let (center, inv_tau) =
            teacher_targets(loss.teacher_targets.into(), &teacher_logits, running, inv_tau)?;
        let targets = Targets { logits: &teacher_logits, center: &center, inv_tau: &inv_tau };
        let values = tape.soft_cross_entropy(&logits, &targets, loss.tau_s, pairs)?;
        let (mut terms, mut weights) = (Vec::new(), Vec::new());
        if loss.objective.has_g2g() {
            terms.push(Term::G2g);
            weights.push(loss.beta1);
        }
        if loss.objective.has_l2g() {
            terms.push(Term::L2g);
            weights.push(loss.beta2);
        }
        parts.push((values, terms, weights));
        let student_logits = logits.value().clone();
        consistency =
            Some(Consistency { student_logits, teacher_cls, teacher_logits, center, inv_tau });
    }
    let weighted: Vec<(&Var, &[f64])> = parts.iter().map(|(v, _, w)| (v, &w[..])).collect();
    let total = tape.weighted_sum(&weighted)?;
    let parts = parts.into_iter().map(|(v, terms, _)| (terms, v.value().clone())).collect();
    let losses = LossTensors { total: total.value().clone(), parts };
    Ok(Pass { total, losses, latent, predictions, consistency })
}
