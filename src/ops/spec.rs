//! What an op says about itself, so that its tests, gradient check, determinism check and
//! benchmark rows can be made from one place.

use super::Tolerance;
use crate::Result;
use crate::parallel;
use crate::rng::{Purpose, Rng};
use crate::tape::{Param, Tape, Var};

/// An op in the registry.
pub trait OpSpec: Sync {
    /// The one name: file, kernels, tests, benchmark rows and profiler ranges carry it.
    fn name(&self) -> &'static str;
    /// One line for the table in the README.
    fn summary(&self) -> &'static str;
    /// Sizes and settings to test: size 1, a prime, a multiple of neither 4 nor 32, a real model
    /// shape cut down, offset data.
    fn cases(&self) -> Vec<OpCase>;
    /// The shape at which the op is timed (the sizes of the preset `small`).
    fn bench_case(&self) -> OpCase;
    /// The inputs of a case, drawn from the case's own random stream.
    fn inputs(&self, case: &OpCase) -> Vec<Input>;
    /// Runs the op. Outputs of ops that update state are the new state.
    fn run(&self, tape: &mut Tape<'_>, case: &OpCase, args: &OpArgs) -> Result<Vec<Var>>;
    /// How closely f32 must follow the f64 reference.
    fn tolerance(&self, case: &OpCase) -> Tolerance;
    /// Whether CUDA kernels of the op exist (then the emulated device must follow the reference).
    fn has_kernels(&self) -> bool {
        false
    }
    /// Whether the op has a gradient. Updates of state (optimiser, centre) have none.
    fn differentiable(&self) -> bool {
        true
    }
    /// How many of the last outputs no gradient flows through, though the op has one.
    fn detached(&self, _: &OpCase) -> usize {
        0
    }
    /// Bytes that a forward pass has to move once, with elements of `size` bytes.
    fn bytes(&self, case: &OpCase, size: usize) -> u64;
    /// Floating-point operations of a forward pass.
    fn flops(&self, case: &OpCase) -> u64;
}

/// One size of an op.
#[derive(Clone, Debug)]
pub struct OpCase {
    /// Shown in test and benchmark names, e.g. `rows=7,c=13`.
    pub label: String,
    /// What the op reads its sizes and settings from, in an order it fixes itself.
    pub dims: Vec<usize>,
    /// Added to the input values: variance at a large mean is where one-pass formulas fail.
    pub offset: f64,
    /// Seed of the inputs.
    pub seed: u64,
}

impl OpCase {
    /// A case; the label lists `names` with `dims`.
    pub fn new(names: &[&str], dims: &[usize]) -> Self {
        let label: Vec<String> = names.iter().zip(dims).map(|(n, d)| format!("{n}={d}")).collect();
        let seed =
            dims.iter().fold(17u64, |s, &d| s.wrapping_mul(1_000_003).wrapping_add(d as u64));
        Self { label: label.join(","), dims: dims.to_vec(), offset: 0.0, seed }
    }

    /// The same case with inputs around `offset`.
    pub fn with_offset(mut self, offset: f64) -> Self {
        self.offset = offset;
        self.label += &format!(",offset={offset}");
        self
    }

    /// The random stream of input number `index`.
    pub fn rng(&self, index: u32) -> Rng {
        Rng::new(self.seed, Purpose::Test, 0, index, 0)
    }

    /// Normal values around `mean`.
    pub fn normal(&self, index: u32, len: usize, mean: f64, std: f64) -> Vec<f64> {
        let mut drawn = self.rng(index).normals(len);
        parallel::update(&mut drawn, |x| *x = mean + std * *x);
        drawn
    }
}

/// What role an input plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputKind {
    /// A value on the tape; its gradient is checked.
    Activation,
    /// A parameter; its gradient is checked.
    Param,
    /// Data that no gradient flows to.
    Constant,
}

/// One input of a case, in f64; devices and dtypes round it.
#[derive(Clone, Debug)]
pub struct Input {
    pub name: &'static str,
    pub kind: InputKind,
    pub shape: Vec<usize>,
    pub data: Vec<f64>,
    /// Stays f32 when activations are bf16: voxels, targets, statistics, logits.
    pub wide: bool,
}

impl Input {
    pub fn new(name: &'static str, kind: InputKind, shape: &[usize], data: Vec<f64>) -> Self {
        debug_assert_eq!(shape.iter().product::<usize>(), data.len(), "{name}");
        Self { name, kind, shape: shape.to_vec(), data, wide: false }
    }

    /// The same, in f32 whatever the activations are.
    pub fn wide(self) -> Self {
        Self { wide: true, ..self }
    }
}

/// The inputs of a case on a device, in the order of [`OpSpec::inputs`].
pub enum OpArg {
    Var(Var),
    Param(Param),
}

/// The inputs of a case, as [`OpSpec::run`] gets them.
pub struct OpArgs(pub Vec<OpArg>);

impl OpArgs {
    /// Input `i`, which must be an activation or a constant.
    pub fn var(&self, i: usize) -> Result<&Var> {
        match self.0.get(i) {
            Some(OpArg::Var(v)) => Ok(v),
            _ => Err(crate::Error::shape("op case", "a value", format!("input {i}"))),
        }
    }

    /// Input `i`, which must be a parameter.
    pub fn param(&self, i: usize) -> Result<&Param> {
        match self.0.get(i) {
            Some(OpArg::Param(p)) => Ok(p),
            _ => Err(crate::Error::shape("op case", "a parameter", format!("input {i}"))),
        }
    }
}
