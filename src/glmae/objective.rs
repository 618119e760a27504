//! The objective: one forward pass over a batch, from voxels to the total loss.

use super::batch::Batch;
use super::losses::LossTensors;
use super::mask::Mask;
use super::model::{Networks, Weights};
use super::plan::{DecodePlan, EncodePlan, Predict, decode_plan, encode_plan, pair_plan};
use crate::config::{Config, LossConfig, Target, Term, ViewKind};
use crate::device::{Device, Tensor};
use crate::ops::masked_mse::Comparison;
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
        let (shape, order, tables) = (batch.shape(), batch.order(), &nets.tables);
        let views: Vec<(usize, &Mask)> = batch.masks().iter().enumerate().collect();
        let student = encode_plan(device, shape, tables, order, order.student(), &views)?;
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
                decode_plan(device, shape, tables, order, views, starts, rows, predict)
            })
            .collect::<Result<_>>()?;
        let mut plan = Self { student, teacher: None, decode, pairs: None, predict };
        if config.loss.objective.has_teacher() {
            let intact = Mask::none(shape.tokens(ViewKind::Global));
            let views: Vec<(usize, &Mask)> = (0..globals).map(|v| (v, &intact)).collect();
            plan.teacher =
                Some(encode_plan(device, shape, tables, order, order.teacher(), &views)?);
        }
        if config.loss.objective.has_head() {
            plan.pairs = Some(pair_plan(device, config, shape)?);
        }
        Ok(plan)
    }

    /// Takes over the masks of another plan of the same sizes; what does not depend on masks, and
    /// where the tables stand, stays.
    pub fn refill(&mut self, other: &Self) -> Result<()> {
        self.student.refill(&other.student)?;
        // The teacher sees every patch, but masks say where it lies.
        if let (Some(mine), Some(other)) = (&mut self.teacher, &other.teacher) {
            mine.refill(other)?;
        }
        for (mine, other) in self.decode.iter_mut().zip(&other.decode) {
            mine.refill(other)?;
        }
        Ok(())
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
    let patches = batch.patches();
    let teacher = match (&plan.teacher, &weights.teacher, &nets.head) {
        (Some(plan), Some(params), Some(head)) => {
            let mut quiet = Tape::inference(tape.device());
            let out = nets.encode(&mut quiet, params, patches, plan)?;
            let cls = quiet.row_gather(&out, &plan.cls)?;
            let logits = head.forward(&mut quiet, params, &cls)?;
            Some((cls.value().clone(), logits.value().clone()))
        }
        _ => None,
    };

    let params = &weights.student;
    let latent = nets.encode(tape, params, patches, &plan.student)?;

    let mut parts: Vec<Part> = Vec::new();
    let mut predictions = Vec::new();
    for (decoder, decode) in nets.decoders.iter().zip(&plan.decode) {
        let features = decoder.features(
            tape,
            params,
            &latent,
            &nets.tables.decoder,
            &decode.assemble,
            &decode.packing,
            &decode.wanted,
        )?;
        let target = decode.targets.of(patches)?;
        let rows_of = |term: &Term| decode.kind_rows[term.row().views as usize];
        let terms = config.loss.objective.terms(Target::Voxels);
        let terms: Vec<Term> = terms.filter(|term| rows_of(term) > 0).collect();
        let rows: Vec<usize> = terms.iter().map(rows_of).collect();
        let with = Comparison {
            target: &target,
            group_rows: &rows,
            norm_pix: config.loss.norm_pix,
            wants_prediction: plan.predict == Predict::All,
        };
        let (values, pred) = tape.masked_mse(&features, &decoder.pixel_head(params)?, &with)?;
        parts.push(Part::new(&config.loss, terms, values));
        predictions.extend(pred);
    }

    let mut consistency = None;
    if let (Some((teacher_cls, teacher_logits)), Some(pairs)) = (teacher, &plan.pairs) {
        let (Some(head), Some(running)) = (&nets.head, &weights.center) else {
            return Err(Error::Config("a consistency term needs a projection head".into()));
        };
        let cls = tape.row_gather(&latent, &plan.student.cls)?;
        let logits = head.forward(tape, params, &cls)?;
        let loss = &config.loss;
        let (center, inv_tau) =
            teacher_targets(loss.teacher_targets.into(), &teacher_logits, running, inv_tau)?;
        let targets = Targets { logits: &teacher_logits, center: &center, inv_tau: &inv_tau };
        let values = tape.soft_cross_entropy(&logits, &targets, loss.tau_s, pairs)?;
        let terms = loss.objective.terms(Target::Teacher).collect();
        parts.push(Part::new(loss, terms, values));
        let student_logits = logits.value().clone();
        consistency =
            Some(Consistency { student_logits, teacher_cls, teacher_logits, center, inv_tau });
    }
    let weighted: Vec<(&Var, &[f64])> = parts.iter().map(|p| (&p.values, &p.weights[..])).collect();
    let total = tape.weighted_sum(&weighted)?;
    let parts = parts.into_iter().map(|p| (p.terms, p.values.value().clone())).collect();
    let losses = LossTensors { total: total.value().clone(), parts };
    Ok(Pass { total, losses, latent, predictions, consistency })
}

/// Terms that one op computes, with their weights in the total.
struct Part {
    terms: Vec<Term>,
    weights: Vec<f64>,
    values: Var,
}

impl Part {
    fn new(loss: &LossConfig, terms: Vec<Term>, values: Var) -> Self {
        let weights = terms.iter().map(|term| (term.row().weight)(loss)).collect();
        Self { terms, weights, values }
    }
}
