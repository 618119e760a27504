//! Kernels against the f64 reference: every case of every op, in f32 and bf16, on any device that runs
//! them. `glmae check ops` and the tests call it.

use serde::{Deserialize, Serialize};

use crate::device::{DType, Device};
use crate::lab::opcheck::{Before, Outcome, run_onto};
use crate::ops::tolerance::{distance, rounded, share_of_bf16, share_of_bound};
use crate::ops::{Input, OPS, OpCase, OpSpec, Tolerance};
use crate::{Error, Result};

/// One case of one op in one precision.
#[derive(Clone)]
pub struct Unit {
    pub op: &'static dyn OpSpec,
    pub case: OpCase,
    pub dtype: DType,
    /// Gradients are written in some units and added to what is there in others.
    before: Before,
}

/// What a unit came to.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Verdict {
    /// Outputs and gradients that were compared.
    pub compared: usize,
    /// The one farthest from the reference, and how far, as a share of what docs/numerics.md allows.
    pub worst: String,
    pub share: f64,
    /// What is wrong, if anything is.
    pub fault: Option<String>,
}

/// All cases of `ops` that have kernels (of every op when there are none), in both precisions or in one.
/// Also the names of the ops without kernels.
///
/// Errors: `Config` for a name that is no op.
pub fn units(ops: &[String], dtype: Option<DType>) -> Result<(Vec<Unit>, Vec<&'static str>)> {
    if let Some(name) = ops.iter().find(|name| OPS.iter().all(|op| op.name() != **name)) {
        let known: Vec<_> = OPS.iter().map(|op| op.name()).collect();
        return Err(Error::Config(format!("no op '{name}'; there are {}", known.join(", "))));
    }
    let is_meant = |op: &dyn OpSpec| ops.is_empty() || ops.iter().any(|name| name == op.name());
    let (mut units, mut without) = (Vec::new(), Vec::new());
    for op in OPS.iter().copied().filter(|op| is_meant(*op)) {
        if !op.has_kernels() {
            without.push(op.name());
            continue;
        }
        for (i, case) in op.cases().into_iter().enumerate() {
            for (j, each) in [DType::F32, DType::Bf16].into_iter().enumerate() {
                let before = match (i + j).is_multiple_of(2) {
                    true => Before::Nothing,
                    false => Before::Gradients,
                };
                if dtype.is_none_or(|only| only == each) {
                    units.push(Unit { op, case: case.clone(), dtype: each, before });
                }
            }
        }
    }
    Ok((units, without))
}

impl Unit {
    /// `layer_norm rows=7,c=13 bf16`.
    pub fn name(&self) -> String {
        format!("{} {} {}", self.op.name(), self.case.label, self.dtype)
    }

    /// Runs the unit once on each of `devices`. The bits must agree between them, the values with the
    /// f64 reference on the same (rounded) inputs.
    ///
    /// Errors: those of a device. Wrong numbers are a [`Verdict::fault`].
    pub fn check(&self, devices: &[Device]) -> Result<Verdict> {
        let inputs = rounded(self.op.inputs(&self.case), self.dtype);
        let run = |device: &Device, dtype| {
            run_onto(self.op, &self.case, &inputs, device, dtype, self.before)
        };
        let mut first: Option<Outcome> = None;
        for (i, device) in devices.iter().enumerate() {
            let outcome = run(device, self.dtype)?;
            let Some(first) = &first else {
                first = Some(outcome);
                continue;
            };
            if let Some(difference) = difference(first, &outcome) {
                let fault = format!("the bits of run {i} differ from the first: {difference}");
                return Ok(Verdict { fault: Some(fault), ..Verdict::default() });
            }
        }
        let ours = first.ok_or_else(|| Error::shape("check", "a device to run on", "none"))?;
        Ok(self.judge(&inputs, &ours, &run(&Device::Cpu, DType::F64)?))
    }

    fn judge(&self, inputs: &[Input], ours: &Outcome, reference: &Outcome) -> Verdict {
        let norm = mean_square(inputs);
        let class = self.op.tolerance(&self.case);
        // A gradient sums over the places where a value is used, also where the op only moves it.
        let sums = if class == Tolerance::Bitwise { Tolerance::Reduction } else { class };
        let outputs = ours.outputs.iter().zip(&reference.outputs).enumerate();
        let outputs = outputs.map(|(i, (a, b))| (format!("output {i}"), a, b, class));
        let gradients = ours.gradients.iter().zip(&reference.gradients);
        let gradients =
            gradients.map(|((input, a), (_, b))| (format!("gradient of {input}"), a, b, sums));
        let mut verdict = Verdict::default();
        for (what, a, b, class) in outputs.chain(gradients) {
            let d = distance(a, b);
            let share = match self.dtype {
                DType::Bf16 => share_of_bf16(&d),
                _ => share_of_bound(&d, class, norm),
            };
            // JSON has no infinity.
            let share = share.min(f64::MAX);
            verdict.compared += 1;
            if verdict.worst.is_empty() || share > verdict.share {
                (verdict.worst, verdict.share) = (what.clone(), share);
            }
            if share > 1.0 && verdict.fault.is_none() {
                let (a, b) = (a.get(d.at), b.get(d.at));
                let allowed = match share < 1e6 {
                    true => format!("{share:.2} times what is allowed"),
                    false => "nowhere near what is allowed".into(),
                };
                verdict.fault = Some(format!(
                    "{what}: {allowed}; element {} is {a:?}, reference {b:?}; NMSE {:.2e}",
                    d.at, d.nmse
                ));
            }
        }
        verdict
    }
}

/// The first place where two runs have different bits.
fn difference(a: &Outcome, b: &Outcome) -> Option<String> {
    let first = |what: &str, a: &[f64], b: &[f64]| {
        let at = a.iter().zip(b).position(|(a, b)| a.to_bits() != b.to_bits())?;
        Some(format!("{what} element {at}: {:e} and {:e}", a[at], b[at]))
    };
    let outputs = a.outputs.iter().zip(&b.outputs).enumerate();
    let gradients = a.gradients.iter().zip(&b.gradients);
    outputs
        .filter_map(|(i, (a, b))| first(&format!("output {i}"), a, b))
        .chain(gradients.filter_map(|(a, b)| first(&format!("gradient of {}", a.0), &a.1, &b.1)))
        .next()
}

/// The largest mean square of an input, at least 1: the scale of products.
pub fn mean_square(inputs: &[Input]) -> f64 {
    let of = |i: &Input| i.data.iter().map(|x| x * x).sum::<f64>() / (i.data.len() as f64);
    inputs.iter().map(of).fold(1.0, f64::max)
}
