//! Runs of ops that are made from the registry, and finite differences against their backward passes. Tests
//! and benchmarks call the same code; how close results must be is [`crate::ops::tolerance`].

use std::sync::Arc;

use crate::device::{DType, Device, Tensor};
use crate::nn::params::Params;
use crate::ops::{Input, InputKind, OpArg, OpArgs, OpCase, OpSpec};
use crate::param_layout::{ParamId, ParamLayout};
use crate::rng::{Purpose, Rng};
use crate::tape::{ParamGrads, Tape, Var};
use crate::{Error, Result, parallel};

/// Outputs and gradients of one run of a case.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub outputs: Vec<Vec<f64>>,
    /// Gradient of `sum_i w_i y_i` (fixed random `w`) with respect to every input that has one,
    /// by the input's name.
    pub gradients: Vec<(&'static str, Vec<f64>)>,
}

/// What is in the gradient buffers before a backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// NaN, in the gaps between parameters, too: everything must be overwritten, and nothing else.
    Nothing,
    /// Random numbers that the gradients must be added to, as when a value is used twice.
    Gradients,
}

/// Runs a case: forward, and backward when the op has a gradient.
pub fn run(
    op: &dyn OpSpec,
    case: &OpCase,
    inputs: &[Input],
    device: &Device,
    dtype: DType,
) -> Result<Outcome> {
    run_onto(op, case, inputs, device, dtype, Before::Nothing)
}

/// The outputs alone.
fn forward(
    op: &dyn OpSpec,
    case: &OpCase,
    inputs: &[Input],
    device: &Device,
    dtype: DType,
) -> Result<Vec<Vec<f64>>> {
    let placed = Placed::new(inputs, device, dtype)?;
    let mut tape = Tape::new(device);
    let args = placed.args(&mut tape)?;
    let outputs = op.run(&mut tape, case, &args)?;
    outputs.iter().map(|y| y.value().to_f64_vec()).collect()
}

/// As [`run`], onto what is there already.
pub fn run_onto(
    op: &dyn OpSpec,
    case: &OpCase,
    inputs: &[Input],
    device: &Device,
    dtype: DType,
    before: Before,
) -> Result<Outcome> {
    let placed = Placed::new(inputs, device, dtype)?;
    let mut tape = Tape::new(device);
    let args = placed.args(&mut tape)?;
    let outputs = op.run(&mut tape, case, &args)?;
    let mut outcome = Outcome { outputs: Vec::new(), gradients: Vec::new() };
    for y in &outputs {
        outcome.outputs.push(y.value().to_f64_vec()?);
    }
    if !op.differentiable() {
        return Ok(outcome);
    }
    let mut seeds = Vec::new();
    for (i, y) in outputs.iter().enumerate().filter(|(_, y)| y.id().is_some()) {
        let w = output_weights(case, i, y.value().len());
        seeds.push((y.clone(), Tensor::from_f64(device, y.value().dtype(), &w, y.shape())?));
    }
    if before == Before::Gradients {
        for (i, arg) in args.0.iter().enumerate() {
            if let OpArg::Var(v) = arg
                && v.id().is_some()
            {
                let w = weights(case, 3, i, v.value().len());
                let seed = Tensor::from_f64(device, v.value().dtype(), &w, v.shape())?;
                seeds.push((v.clone(), seed));
            }
        }
    }
    let mut grads = placed.grads_onto(case, before)?;
    let mut values = tape.backward_from(&seeds, &mut grads)?;
    let layout = placed.params.layout();
    let flat = grads.finish(layout)?.to_f64_vec()?;
    let is_entry = |i: usize| layout.entries().iter().any(|e| e.range().contains(&i));
    if let Some(at) = (0..flat.len()).find(|&i| !flat[i].is_nan() && !is_entry(i)) {
        let got = format!("{} at element {at}, between two parameters", flat[at]);
        return Err(Error::shape("op case", "a write into parameter gradients only", got));
    }
    for ((input, place), arg) in inputs.iter().zip(&placed.inputs).zip(&args.0) {
        let gradient = match (place, arg) {
            (Place::Param(id), _) => flat[layout.entry(*id).range()].to_vec(),
            (_, OpArg::Var(v)) if v.id().is_some() => match values.take(v) {
                Some(g) => g.to_f64_vec()?,
                None => vec![0.0; input.data.len()],
            },
            _ => continue,
        };
        outcome.gradients.push((input.name, gradient));
    }
    Ok(outcome)
}

/// The inputs of a case on a device.
pub(super) struct Placed {
    params: Params,
    inputs: Vec<Place>,
}

enum Place {
    Param(ParamId),
    Leaf(Tensor),
    Constant(Tensor),
}

impl Placed {
    pub fn new(inputs: &[Input], device: &Device, dtype: DType) -> Result<Self> {
        let mut layout = ParamLayout::default();
        let is_param = |input: &&Input| input.kind == InputKind::Param;
        let ids: Vec<ParamId> =
            inputs.iter().filter(is_param).map(|i| layout.add(i.name, &i.shape)).collect();
        let mut flat = vec![0.0; layout.len()];
        for (input, &id) in inputs.iter().filter(is_param).zip(&ids) {
            flat[layout.entry(id).range()].copy_from_slice(&input.data);
        }
        // Parameters, statistics and logits stay f32 when activations are bf16.
        let master = dtype.master();
        let mut params = Params::zeros(device, dtype, Arc::new(layout), true)?;
        params.flat_mut().as_mut().upload_f64(&flat)?;
        params.refresh_half()?;
        let mut ids = ids.into_iter();
        let mut places = Vec::new();
        for input in inputs {
            let dtype = if input.wide { master } else { dtype };
            let tensor = || Tensor::from_f64(device, dtype, &input.data, &input.shape);
            places.push(match (input.kind, &mut ids) {
                (InputKind::Param, ids) => {
                    let missing = || Error::shape("op case", "a parameter", input.name);
                    Place::Param(ids.next().ok_or_else(missing)?)
                }
                (InputKind::Constant, _) => Place::Constant(tensor()?),
                (InputKind::Activation, _) => Place::Leaf(tensor()?),
            });
        }
        Ok(Self { params, inputs: places })
    }

    /// A copy in memory of its own.
    pub fn duplicate(&self) -> Result<Self> {
        let device = self.params.flat().device();
        let layout = Arc::new(self.params.layout().clone());
        let mut params = Params::zeros(device, self.params.activation_dtype(), layout, true)?;
        params.flat_mut().as_mut().assign(self.params.flat())?;
        params.refresh_half()?;
        let copy = |place: &Place| {
            Ok(match place {
                Place::Param(id) => Place::Param(*id),
                Place::Leaf(tensor) => Place::Leaf(tensor.duplicate()?),
                Place::Constant(tensor) => Place::Constant(tensor.duplicate()?),
            })
        };
        Ok(Self { params, inputs: self.inputs.iter().map(copy).collect::<Result<_>>()? })
    }

    /// The inputs as the op takes them, in their order.
    pub fn args(&self, tape: &mut Tape<'_>) -> Result<OpArgs> {
        let arg = |place: &Place| {
            Ok(match place {
                Place::Param(id) => OpArg::Param(self.params.get(*id)?),
                Place::Leaf(tensor) => OpArg::Var(tape.leaf(tensor.clone())),
                Place::Constant(tensor) => OpArg::Var(Var::constant(tensor.clone())),
            })
        };
        Ok(OpArgs(self.inputs.iter().map(arg).collect::<Result<_>>()?))
    }

    /// A buffer for the gradients of the parameters.
    pub fn grads(&self) -> Result<ParamGrads> {
        let flat = self.params.flat();
        ParamGrads::new(flat.device(), flat.dtype(), self.params.layout())
    }

    /// The same, filled for a check, the gaps with NaN.
    fn grads_onto(&self, case: &OpCase, before: Before) -> Result<ParamGrads> {
        let layout = self.params.layout();
        let mut data = vec![f64::NAN; layout.len()];
        if before == Before::Gradients {
            for (i, entry) in layout.entries().iter().enumerate() {
                data[entry.range()].copy_from_slice(&weights(case, 4, i, entry.len()));
            }
        }
        let mut grads = self.grads()?;
        grads.finish(layout)?.as_mut().upload_f64(&data)?;
        if before == Before::Nothing {
            grads.clear();
        }
        Ok(grads)
    }

    /// Bytes of all inputs.
    pub fn bytes(&self) -> usize {
        let of = |tensor: &Tensor| tensor.len() * tensor.dtype().size();
        let inputs = self.inputs.iter().map(|place| match place {
            Place::Param(_) => 0,
            Place::Leaf(tensor) | Place::Constant(tensor) => of(tensor),
        });
        of(self.params.flat()) + self.params.half().map_or(0, of) + inputs.sum::<usize>()
    }
}

/// The fixed random weights of output `i`.
pub(super) fn output_weights(case: &OpCase, i: usize, len: usize) -> Vec<f64> {
    weights(case, 1, i, len)
}

fn weights(case: &OpCase, stream: u64, i: usize, len: usize) -> Vec<f64> {
    let mut rng = Rng::new(case.seed, Purpose::Test, stream, i as u32, 0);
    // Representable in every dtype, so that all devices start from the same numbers.
    let mut drawn = rng.normals(len);
    parallel::update(&mut drawn, |x| *x = half::bf16::from_f64(*x).to_f64());
    drawn
}

/// Result of a gradient check.
#[derive(Clone, Copy, Debug, Default)]
pub struct GradCheck {
    /// Entries compared.
    pub entries: usize,
    /// Largest `|analytic - numeric| / (atol + rtol |numeric|)`; at most 1 passes.
    pub worst: f64,
}

/// Gradient-check tolerances (docs/numerics.md).
pub const GRAD_RTOL: f64 = 1e-5;
pub const GRAD_ATOL: f64 = 1e-7;

/// Compares the backward pass in f64 with central differences. Inputs of up to `limit` entries
/// are checked entry by entry, larger ones at `limit` entries spread over them by a fixed stride
/// and along one random direction that touches every entry.
pub fn gradcheck(op: &dyn OpSpec, case: &OpCase, limit: usize) -> Result<GradCheck> {
    let device = Device::Cpu;
    let inputs = op.inputs(case);
    let analytic = run(op, case, &inputs, &device, DType::F64)?;
    // Of the outputs through which a gradient flows.
    let flows = &analytic.outputs[..analytic.outputs.len() - op.detached(case)];
    let weights: Vec<Vec<f64>> =
        flows.iter().enumerate().map(|(i, y)| output_weights(case, i, y.len())).collect();
    let objective = |inputs: &[Input]| -> Result<f64> {
        let outputs = forward(op, case, inputs, &device, DType::F64)?;
        let weighted = weights.iter().zip(&outputs);
        Ok(weighted.map(|(w, y)| w.iter().zip(y).map(|(w, y)| w * y).sum::<f64>()).sum())
    };
    let mut check = GradCheck::default();
    for (name, gradient) in &analytic.gradients {
        let index = inputs.iter().position(|i| i.name == *name);
        let Some(index) = index else { continue };
        let mut moved = inputs.clone();
        let mut difference = |change: &dyn Fn(&mut [f64], f64)| -> Result<f64> {
            // Central differences at two step sizes, extrapolated: error O(h^4).
            let scale = inputs[index].data.iter().fold(1.0f64, |m, x| m.max(x.abs()));
            let mut slope = |h: f64| -> Result<f64> {
                let mut at = |sign: f64| {
                    moved[index].data.copy_from_slice(&inputs[index].data);
                    change(&mut moved[index].data, sign * h);
                    objective(&moved)
                };
                Ok((at(1.0)? - at(-1.0)?) / (2.0 * h))
            };
            let h = 1e-4 * scale.min(10.0);
            Ok((4.0 * slope(h / 2.0)? - slope(h)?) / 3.0)
        };
        let mut judge = |analytic: f64, numeric: f64| {
            let ratio = (analytic - numeric).abs() / (GRAD_ATOL + GRAD_RTOL * numeric.abs());
            check.entries += 1;
            check.worst = check.worst.max(if ratio.is_nan() { f64::INFINITY } else { ratio });
        };
        let stride = gradient.len().div_ceil(limit).max(1);
        for entry in (0..gradient.len()).step_by(stride) {
            let numeric = difference(&|x, h| x[entry] += h)?;
            judge(gradient[entry], numeric);
        }
        if stride > 1 {
            let mut rng = Rng::new(case.seed, Purpose::Test, 2, index as u32, 0);
            let direction: Vec<f64> = gradient.iter().map(|_| rng.range(-1.0, 1.0)).collect();
            let numeric = difference(&|x, h| {
                x.iter_mut().zip(&direction).for_each(|(x, d)| *x += h * d);
            })?;
            judge(gradient.iter().zip(&direction).map(|(g, d)| g * d).sum(), numeric);
        }
    }
    if check.entries == 0 {
        return Err(Error::shape("gradcheck", "a gradient to check", op.name()));
    }
    Ok(check)
}
