//! The eager tape: a differentiable call runs now and leaves a record of what its backward needs.
//!
//! [`Tape::backward`] walks the records in reverse, which is a topological order because a call
//! can only use values that exist. A record owns its saved tensors and dies after its use, so
//! memory falls as backward proceeds. Parameter gradients go straight into the flat gradient
//! buffer ([`ParamGrads`]); gradients of values live only until the record that made the value
//! has used them.
//!
//! There are no second derivatives, no views of recorded values and no in-place ops. A tape that
//! does not record ([`Tape::inference`]) serves the teacher and evaluation: stop-gradient is that
//! tape, not a flag.

mod accumulate;

pub use self::accumulate::accumulate;

use std::collections::BTreeMap;

use crate::device::abi::{GRAD_ACCUMULATE, GRAD_OVERWRITE};
use crate::device::{DType, Device, Tensor, TensorMut, nvtx};
use crate::param_layout::{ParamLayout, ParamSlot};
use crate::{Error, Result};

/// A value on the tape: a tensor, and the identity under which its gradient is collected.
#[derive(Clone, Debug)]
pub struct Var {
    id: Option<VarId>,
    value: Tensor,
}

/// Identity of a value that a gradient flows to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VarId(u32);

impl Var {
    /// A value that no gradient flows to: voxels, position tables, teacher outputs.
    pub fn constant(value: Tensor) -> Self {
        Self { id: None, value }
    }

    pub fn value(&self) -> &Tensor {
        &self.value
    }

    pub fn shape(&self) -> &[usize] {
        self.value.shape()
    }

    /// Where the gradient of this value is collected; `None` for constants.
    pub fn id(&self) -> Option<VarId> {
        self.id
    }
}

/// A parameter as an op sees it: its value, and where its gradient goes (`None`: not trained).
#[derive(Clone, Debug)]
pub struct Param {
    /// The master value: f32, or f64 in checks.
    pub value: Tensor,
    /// A bf16 copy for matrix products, when activations are bf16.
    pub half: Option<Tensor>,
    pub slot: Option<ParamSlot>,
}

impl Param {
    /// A parameter that is not trained.
    pub fn constant(value: Tensor) -> Self {
        Self { value, half: None, slot: None }
    }

    /// The value in the dtype of the activations, for matrix products.
    pub fn operand(&self) -> &Tensor {
        self.half.as_ref().unwrap_or(&self.value)
    }
}

/// Whether a gradient is the first that arrives at its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GradMode {
    /// `dst = g`: the destination holds nothing yet and need not be cleared.
    Overwrite,
    /// `dst += g`.
    Accumulate,
}

impl GradMode {
    pub fn accumulates(self) -> bool {
        self == Self::Accumulate
    }

    /// As kernels take it (`GLMAE_GRAD_*` of `abi.h`).
    pub(crate) fn as_arg(self) -> i32 {
        match self {
            Self::Overwrite => GRAD_OVERWRITE,
            Self::Accumulate => GRAD_ACCUMULATE,
        }
    }
}

/// The backward half of a differentiable call. It owns exactly the tensors it needs.
pub trait Backward {
    /// Turns the gradient of the output into gradients of the inputs.
    fn run(self: Box<Self>, dy: Tensor, grads: &mut Grads<'_>) -> Result<()>;
}

struct Node<'a> {
    op: &'static str,
    output: VarId,
    backward: Box<dyn Backward + 'a>,
}

/// The record of one forward pass. `'a` is how long recompute sections may borrow what they rerun.
pub struct Tape<'a> {
    device: Device,
    nodes: Vec<Node<'a>>,
    next: u32,
    records: bool,
}

impl<'a> Tape<'a> {
    /// A tape that records.
    pub fn new(device: &Device) -> Self {
        Self { device: device.clone(), nodes: Vec::new(), next: 0, records: true }
    }

    /// A tape that only computes; no gradient flows through it.
    pub fn inference(device: &Device) -> Self {
        Self { records: false, ..Self::new(device) }
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Whether a call with such an input must keep what its backward needs.
    pub fn records(&self) -> bool {
        self.records
    }

    /// Number of records, for tests and the memory report.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// A value whose gradient is wanted (gradient checks, inputs of a recompute section).
    pub fn leaf(&mut self, value: Tensor) -> Var {
        Var { id: self.records.then(|| self.new_id()), value }
    }

    fn new_id(&mut self) -> VarId {
        self.next += 1;
        VarId(self.next - 1)
    }

    /// Ends a differentiable call: `needs_grad` says whether any input or parameter of it does,
    /// `backward` builds the record and is only called when it is kept.
    pub(crate) fn record<B: Backward + 'a>(
        &mut self,
        op: &'static str,
        value: Tensor,
        needs_grad: bool,
        backward: impl FnOnce() -> B,
    ) -> Var {
        if !self.records || !needs_grad {
            return Var::constant(value);
        }
        let output = self.new_id();
        self.nodes.push(Node { op, output, backward: Box::new(backward()) });
        Var { id: Some(output), value }
    }

    /// Gradients of a scalar with respect to the parameters (into `params`) and to the leaves
    /// (returned). The tape is used up.
    pub fn backward(self, loss: &Var, params: &mut ParamGrads) -> Result<Grads<'static>> {
        if loss.value.len() != 1 {
            return Err(Error::shape("backward", "a scalar", format!("{:?}", loss.shape())));
        }
        let seed = Tensor::from_f64(&self.device, loss.value.dtype(), &[1.0], loss.shape())?;
        self.backward_from(&[(loss.clone(), seed)], params)
    }

    /// As [`Tape::backward`], from given gradients of several values.
    pub fn backward_from(
        self,
        seeds: &[(Var, Tensor)],
        params: &mut ParamGrads,
    ) -> Result<Grads<'static>> {
        let mut grads = Grads { values: BTreeMap::new(), params: Some(params) };
        for (var, seed) in seeds {
            seed.expect_shape("backward", var.shape())?;
            grads.add(var, seed.clone())?;
        }
        for node in self.nodes.into_iter().rev() {
            // No gradient arrives where a value was computed but not used.
            if let Some(dy) = grads.values.remove(&node.output) {
                let _range = nvtx::range(|| format!("{}.bwd", node.op));
                node.backward.run(dy, &mut grads).map_err(|e| in_backward(node.op, e))?;
            }
        }
        Ok(Grads { values: grads.values, params: None })
    }

    /// A recompute section: runs `f` without keeping what its backward needs, and runs it again
    /// when the gradient arrives. `f` must be a pure function of its inputs and of parameters
    /// (all randomness here is counter-based, so every op is).
    pub fn checkpoint<F>(&mut self, inputs: &[&Var], f: F) -> Result<Var>
    where
        F: Fn(&mut Tape<'a>, &[Var]) -> Result<Var> + 'a,
    {
        let constants: Vec<Var> = inputs.iter().map(|v| Var::constant(v.value.clone())).collect();
        let value = f(&mut Tape::inference(&self.device), &constants)?.value;
        let inputs: Vec<Var> = inputs.iter().map(|&v| v.clone()).collect();
        let device = self.device.clone();
        Ok(self.record("checkpoint", value, true, || Checkpoint { device, inputs, f }))
    }
}

fn in_backward(op: &'static str, error: Error) -> Error {
    match error {
        Error::Shape { op: inner, expected, got } if inner != op => {
            Error::Shape { op, expected: format!("{expected} (in {inner})"), got }
        }
        other => other,
    }
}

struct Checkpoint<F> {
    device: Device,
    inputs: Vec<Var>,
    f: F,
}

impl<'a, F> Backward for Checkpoint<F>
where
    F: Fn(&mut Tape<'a>, &[Var]) -> Result<Var> + 'a,
{
    fn run(self: Box<Self>, dy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let mut tape = Tape::new(&self.device);
        let leaves: Vec<Var> = self
            .inputs
            .iter()
            .map(|v| match v.id {
                Some(_) => tape.leaf(v.value.clone()),
                None => v.clone(),
            })
            .collect();
        let output = (self.f)(&mut tape, &leaves)?;
        let Some(params) = grads.params.as_deref_mut() else { return Ok(()) };
        let mut inner = tape.backward_from(&[(output, dy)], params)?;
        for (leaf, input) in leaves.iter().zip(&self.inputs) {
            if let Some(g) = inner.take(leaf) {
                grads.add(input, g)?;
            }
        }
        Ok(())
    }
}

/// Gradients on their way through [`Tape::backward`].
pub struct Grads<'p> {
    values: BTreeMap<VarId, Tensor>,
    params: Option<&'p mut ParamGrads>,
}

impl Grads<'_> {
    /// Where the gradient of `var` is to be written, with the mode; `None` when it is not needed.
    pub fn slot(&mut self, var: &Var) -> Result<Option<(TensorMut<'_>, GradMode)>> {
        let Some(id) = var.id else { return Ok(None) };
        let mode = match self.values.get_mut(&id) {
            Some(held) => {
                if !held.is_unique() {
                    *held = held.duplicate()?;
                }
                GradMode::Accumulate
            }
            None => {
                let v = &var.value;
                self.values.insert(id, Tensor::empty(v.device(), v.dtype(), v.shape())?);
                GradMode::Overwrite
            }
        };
        Ok(self.values.get_mut(&id).map(|t| (t.as_mut(), mode)))
    }

    /// Hands over a finished gradient of `var` without a copy where none is held yet.
    pub fn add(&mut self, var: &Var, gradient: Tensor) -> Result<()> {
        let Some(id) = var.id else { return Ok(()) };
        if let std::collections::btree_map::Entry::Vacant(entry) = self.values.entry(id) {
            entry.insert(gradient.reshape(var.shape())?);
            return Ok(());
        }
        match self.slot(var)? {
            Some((mut held, _)) => accumulate(&mut held, &gradient),
            None => Ok(()),
        }
    }

    /// Where the gradient of a parameter is to be written; `None` when it is not trained.
    pub fn param(&mut self, param: &Param) -> Result<Option<(TensorMut<'_>, GradMode)>> {
        match (&mut self.params, param.slot) {
            (Some(grads), Some(slot)) => grads.slot(slot, param.value.shape()).map(Some),
            _ => Ok(None),
        }
    }

    /// The gradient of a leaf after backward; `None` when none arrived.
    pub fn take(&mut self, leaf: &Var) -> Option<Tensor> {
        self.values.remove(&leaf.id?)
    }
}

/// The flat gradient buffer of a branch. Gradients of several backward passes (micro-batches)
/// add up until [`ParamGrads::clear`].
pub struct ParamGrads {
    flat: Tensor,
    touched: Vec<bool>,
}

impl ParamGrads {
    /// A buffer for the parameters of `layout`.
    pub fn new(device: &Device, dtype: DType, layout: &ParamLayout) -> Result<Self> {
        Ok(Self {
            flat: Tensor::zeros(device, dtype, &[layout.len()])?,
            touched: vec![false; layout.entries().len()],
        })
    }

    fn slot(&mut self, slot: ParamSlot, shape: &[usize]) -> Result<(TensorMut<'_>, GradMode)> {
        let touched = self.touched.get_mut(slot.index).ok_or_else(|| {
            Error::shape("parameter gradient", "a parameter of this branch", "another branch's")
        })?;
        let mode = if *touched { GradMode::Accumulate } else { GradMode::Overwrite };
        *touched = true;
        Ok((TensorMut::new(&mut self.flat, slot.offset, shape)?, mode))
    }

    /// Ends the accumulation: parameters that no gradient reached get zeros. Returns the buffer.
    pub fn finish(&mut self, layout: &ParamLayout) -> Result<&mut Tensor> {
        for (entry, touched) in layout.entries().iter().zip(&mut self.touched) {
            if !std::mem::replace(touched, true) {
                TensorMut::new(&mut self.flat, entry.offset, &entry.shape)?.fill_zero()?;
            }
        }
        Ok(&mut self.flat)
    }

    /// Sets all gradients to zero; the next ones that arrive add.
    pub fn zero(&mut self) -> Result<()> {
        self.touched.fill(true);
        self.flat.as_mut().fill_zero()
    }

    /// Forgets the gradients; the next one that arrives overwrites.
    pub fn clear(&mut self) {
        self.touched.fill(false);
    }

    pub fn flat(&self) -> &Tensor {
        &self.flat
    }
}
