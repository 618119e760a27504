//! Parity: repeats a reference case and compares every quantity with PyTorch's f64 run.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::case::ReferenceCase;
pub use super::judge::{Results, Row};
use super::tensors::{CaseTensors, format_of};
use super::unetr::network_case::PeerGap;
use crate::checkpoint::State;
use crate::config::{TERMS, TOTAL, ViewKind};
use crate::device::{DType, Device, Tensor};
use crate::glmae::model::{Networks, Weights};
use crate::glmae::objective::{StepPlan, forward};
use crate::glmae::plan::Predict;
use crate::nn::params::Params;
use crate::tape::Tape;
use crate::train::pretrain::program::StepProgram;
use crate::train::pretrain::schedule::schedule;
use crate::train::run::{Launches, value};
use crate::{Error, Result};

/// Largest accepted distances, each relative to the L2 norm of the reference tensor.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Bounds {
    /// Losses, activations, logits, the centre.
    pub values: f64,
    pub gradients: f64,
    /// Final parameters, and the same relative to what training changed in them.
    pub parameters: f64,
    pub moved: f64,
}

impl Bounds {
    /// For the GL-MAE cases. f64: agreement to rounding. f32: the defaults of the reference's own judge
    /// (`compare_case.py`: 1e-5, moved 1e-3). bf16: about twice what PyTorch's own bf16 autocast is
    /// off by in the same cases (docs/numerics.md).
    pub fn of(dtype: DType) -> Self {
        match dtype {
            DType::Bf16 => Self { values: 1e-2, gradients: 5e-2, parameters: 5e-2, moved: 0.4 },
            DType::F64 => Self { values: 1e-9, gradients: 1e-8, parameters: 1e-8, moved: 1e-6 },
            _ => Self { values: 1e-5, gradients: 1e-5, parameters: 1e-5, moved: 1e-3 },
        }
    }
}

impl Bounds {
    /// For the UNETR cases (docs/verification.md has the table).
    pub fn of_unetr(dtype: DType) -> Self {
        match dtype {
            DType::F64 => Self { values: 1e-9, gradients: 1e-9, parameters: 1e-9, moved: 1e-7 },
            DType::F32 => Self { values: 3e-5, gradients: 3e-5, parameters: 3e-5, moved: 1e-2 },
            _ => Self::of(dtype),
        }
    }

    /// For a case in which PyTorch's own f32 run is beyond these bounds, too: rounding put an input of a
    /// LeakyReLU on the other side of zero, which changes gradients by up to 1 %, and everything after it
    /// (docs/verification.md). What that can change is then judged by that 1 %, the rest as before.
    pub fn beyond_kinks(self, peer: &PeerGap) -> Self {
        let with = |bound: f64, peer: f64, most: f64| if peer > bound { most } else { bound };
        Self {
            values: self.values,
            gradients: with(self.gradients, peer.grad, 1e-2),
            parameters: with(self.parameters, peer.parameters, 1e-2),
            moved: with(self.moved, peer.moved, 0.1),
        }
    }

    /// For results that were stored in f32: what that rounding alone does (docs/verification.md).
    pub fn of_stored(self, is_f32: bool) -> Self {
        if !is_f32 {
            return self;
        }
        let least = Self { values: 1e-6, gradients: 1e-6, parameters: 1e-6, moved: 1e-4 };
        Self {
            values: self.values.max(least.values),
            gradients: self.gradients.max(least.gradients),
            parameters: self.parameters.max(least.parameters),
            moved: self.moved.max(least.moved),
        }
    }
}

/// A case that was repeated and judged.
pub struct Verified {
    pub case: CaseTensors,
    /// What kind of case it is: `pretraining`, or the part of the segmentation side.
    pub part: String,
    /// Training steps of the case; 0 where it has none.
    pub steps: usize,
    pub ours: Results,
    pub rows: Vec<Row>,
    /// Tensors that no line of the report is about.
    pub unread: Vec<String>,
}

impl Verified {
    /// Whether every quantity is within its bound.
    pub fn passes(&self) -> bool {
        self.rows.iter().all(|row| row.pass)
    }
}

/// Repeats the case in a file, of whatever format, and compares.
///
/// Errors: [`Error::Data`] for a file that is no case, lacks a tensor, has one of another shape, or
/// has nothing to compare with; those of the run.
pub fn verify(path: &Path, device: &Device, dtype: DType) -> Result<Verified> {
    let (case, part, steps, ours, rows) = match format_of(path)?.as_str() {
        super::unetr::FORMAT => super::unetr::verify(path, device, dtype)?,
        _ => {
            let case = ReferenceCase::load(path)?;
            let ours = run(&case, device, dtype)?;
            let rows = compare(&case.tensors, &ours, &Bounds::of(dtype));
            (case.tensors, "pretraining".to_owned(), case.steps, ours, rows)
        }
    };
    if rows.is_empty() {
        return Err(case.bad("the case has no tensor to compare with: nothing was checked"));
    }
    // What PyTorch makes of the case in f32 is only there for comparison.
    let unread = case.unread().filter(|name| !name.starts_with("fp32.")).map(str::to_owned);
    let unread = unread.collect();
    Ok(Verified { case, part, steps, ours, rows, unread })
}

/// Repeats the case on `device` in `dtype`.
pub fn run(case: &ReferenceCase, device: &Device, dtype: DType) -> Result<Results> {
    let config = &case.config;
    let nets = Networks::new(device, dtype, config)?;
    let mut state = State::from_weights(load_init(case, device, dtype, &nets)?)?;
    let mut program: Option<StepProgram> = None;
    let mut out = Results::new();
    for t in 0..case.steps {
        let batch = case.batch(device, dtype, t)?;
        if t == 0 {
            activations(case, device, &nets, &state, &batch, &mut out)?;
        }
        let program = match &mut program {
            Some(program) => program,
            none => {
                none.insert(StepProgram::new(config, &state, batch.shape(), 1, Launches::Graph)?)
            }
        };
        let report = program.step(config, &nets, &mut state, &[batch])?.checked()?;
        let terms = TERMS.iter().map(|row| (row.name, row.case_name));
        for (name, theirs) in terms.chain([(TOTAL, "total")]) {
            if let Some(loss) = value(&report.losses, name) {
                out.insert(format!("step{t}.loss.{theirs}"), vec![loss]);
            }
        }
        if t == 0 {
            for e in state.weights.student.layout().entries().iter().filter(|e| e.trains) {
                let values = program.grads().flat().view(e.offset, &e.shape)?.to_f64_vec()?;
                out.insert(format!("step0.grad.student.{}", e.name), values);
            }
            if let Some(center) = &state.weights.center {
                out.insert("step0.center".into(), center.to_f64_vec()?);
            }
        }
    }
    let branches =
        [("student", Some(&state.weights.student)), ("teacher", state.weights.teacher.as_ref())];
    for (branch, params) in branches {
        let Some(params) = params else { continue };
        for e in params.layout().entries() {
            out.insert(format!("final.{branch}.{}", e.name), params.value(&e.name)?.to_f64_vec()?);
        }
    }
    if let Some(center) = &state.weights.center {
        out.insert("final.center".into(), center.to_f64_vec()?);
    }
    Ok(out)
}

fn load_init(
    case: &ReferenceCase,
    device: &Device,
    dtype: DType,
    nets: &Networks,
) -> Result<Weights> {
    let mut weights = Weights::zeros(device, dtype, &case.config, nets)?;
    fill(case, "init.student.", &mut weights.student)?;
    if let Some(teacher) = &mut weights.teacher {
        fill(case, "init.teacher.", teacher)?;
    }
    if let Some(center) = &mut weights.center {
        center.as_mut().upload_f64(case.get("init.center")?.1)?;
    }
    weights.refresh_half()?;
    Ok(weights)
}

fn fill(case: &ReferenceCase, prefix: &str, params: &mut Params) -> Result<()> {
    for entry in params.layout().entries().to_vec() {
        let (shape, values) = case.get(&format!("{prefix}{}", entry.name))?;
        if shape != entry.shape {
            let expected = format!("{}: {:?}", entry.name, entry.shape);
            return Err(Error::shape("verify", expected, format!("{shape:?}")));
        }
        params.value_mut(&entry.name)?.upload_f64(values)?;
    }
    Ok(())
}

/// Activations of step 0, with predictions for all tokens as the reference has them.
fn activations(
    case: &ReferenceCase,
    device: &Device,
    nets: &Networks,
    state: &State,
    batch: &crate::glmae::batch::Batch,
    out: &mut Results,
) -> Result<()> {
    if case.tensors.names("fp64.step0.act.").next().is_none() {
        return Ok(());
    }
    let config = &case.config;
    let plan = StepPlan::new(device, config, nets, batch, Predict::All)?;
    let inv_tau = [1.0 / schedule(config, 0).tau_t];
    let inv_tau = Tensor::from_f64(device, state.m.dtype(), &inv_tau, &[1])?;
    let mut tape = Tape::inference(device);
    let pass = forward(&mut tape, config, nets, &state.weights, batch, &plan, &inv_tau)?;
    let globals = batch.shape().count(ViewKind::Global);
    let mut split = |name: &str, values: Vec<f64>, first: usize| {
        let local = values[first..].to_vec();
        out.insert(format!("step0.act.{name}_global"), values[..first].to_vec());
        out.insert(format!("step0.act.{name}_local"), local);
    };
    let latent_rows: usize = plan.student.packing.lengths()[..globals].iter().sum();
    split("latent", pass.latent.value().to_f64_vec()?, latent_rows * config.model.dim);
    let predictions: Vec<f64> =
        pass.predictions.iter().map(Tensor::to_f64_vec).collect::<Result<Vec<_>>>()?.concat();
    let voxels = batch.shape().tokens(ViewKind::Global) * config.model.patch_voxels();
    split("pred", predictions, globals * voxels);
    if let Some(c) = &pass.consistency {
        split("student_logits", c.student_logits.to_f64_vec()?, globals * config.head.prototypes);
        out.insert("step0.act.teacher_cls".into(), c.teacher_cls.to_f64_vec()?);
        out.insert("step0.act.teacher_logits".into(), c.teacher_logits.to_f64_vec()?);
    }
    Ok(())
}

/// `|ours - reference| / |reference - start|` in L2 norms, and the largest absolute difference.
/// The key third of every `attn.qkv.bias` is left out: a constant added to all keys leaves the
/// softmax unchanged, so its gradient is zero up to rounding noise, which AdamW amplifies.
fn distance(name: &str, ours: &[f64], reference: &[f64], start: Option<&[f64]>) -> (f64, f64) {
    if ours.len() != reference.len() {
        return (f64::INFINITY, f64::INFINITY);
    }
    let third = reference.len() / 3;
    let skip = if name.ends_with("attn.qkv.bias") { third..2 * third } else { 0..0 };
    let (mut error, mut scale, mut max_abs) = (0.0, 0.0, 0.0f64);
    for i in (0..reference.len()).filter(|i| !skip.contains(i)) {
        let difference = ours[i] - reference[i];
        error += difference * difference;
        scale += (reference[i] - start.map_or(0.0, |s| s[i])).powi(2);
        max_abs = if difference.is_nan() { f64::INFINITY } else { max_abs.max(difference.abs()) };
    }
    let relative = error.sqrt() / scale.sqrt().max(1e-30);
    (if relative.is_finite() { relative } else { f64::INFINITY }, max_abs)
}

/// Compares results with the case. Every f64 tensor of the case must be there.
pub fn compare(case: &CaseTensors, ours: &Results, bounds: &Bounds) -> Vec<Row> {
    let mut rows: BTreeMap<(usize, String), Row> = BTreeMap::new();
    for key in case.names("fp64.") {
        let Some((_, reference)) = case.find(&format!("fp64.{key}")) else { continue };
        let missing = Vec::new();
        let values = ours.get(key).unwrap_or(&missing);
        let start = key.strip_prefix("final.").and_then(|k| case.find(&format!("init.{k}")));
        for (order, quantity, bound, start) in quantities(key, bounds, start.map(|s| s.1)) {
            let (rel, abs) = distance(key, values, reference, start);
            let row = rows.entry((order, quantity.clone()));
            row.or_insert_with(|| Row::new(quantity, key, bound)).add(key, rel, abs);
        }
    }
    rows.into_values().collect()
}

/// The lines of the report that a tensor counts in: order, name, bound, what it is relative to.
fn quantities<'s>(
    key: &str,
    bounds: &Bounds,
    start: Option<&'s [f64]>,
) -> Vec<(usize, String, f64, Option<&'s [f64]>)> {
    let (step, rest) = key.split_once('.').unwrap_or((key, ""));
    if let Some(term) = rest.strip_prefix("loss.") {
        return vec![(0, format!("loss.{term}"), bounds.values, None)];
    }
    if rest.starts_with("act.") {
        return vec![(1, format!("{step}.{rest}"), bounds.values, None)];
    }
    if rest.starts_with("grad.") {
        return vec![(2, format!("{step}.gradients"), bounds.gradients, None)];
    }
    if step == "final" {
        let branch = rest.split('.').next().unwrap_or(rest);
        return vec![
            (4, format!("final.{branch}"), bounds.parameters, None),
            (5, format!("final.{branch} moved"), bounds.moved, start),
        ];
    }
    vec![(3, key.to_owned(), bounds.values, None)]
}
