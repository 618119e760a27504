//! The MLP of a transformer block: `y = gelu(x W1^T + b1) W2^T + b2`, perhaps plus a residual.
//!
//! One op and not two linear layers, because of the backward pass: nothing but the second layer reads
//! the GELU, so the product that makes the gradient of its output multiplies by `gelu'` and writes the
//! gradient of its *input* at once (`linear_bwd_x_*` with the saved input). The gradient of the GELU's
//! output never exists: of a `[rows, hidden]` matrix one write, two reads, one write become one read and
//! one write, and one kernel is saved.

use super::linear::{Activation, Layer};
use super::{Input, InputKind, OpArgs, OpCase, OpSpec, Tolerance, needs_grad};
use crate::Result;
use crate::device::Tensor;
use crate::tape::{Backward, Grads, Tape, Var};

const OP: &str = "mlp";

impl<'a> Tape<'a> {
    /// `y = second(gelu(first(x))) + residual`, with the exact (erf) GELU.
    ///
    /// Shapes: `x` `[rows, in]`, weights `[hidden, in]` and `[out, hidden]`, biases `[hidden]` and
    /// `[out]`, residual and result `[rows, out]`.
    /// Numerics: as two calls of [`Tape::linear`], on the CPU bit by bit; in bf16 the gradient of the
    /// hidden layer is rounded once instead of twice.
    /// Errors: `Shape` when sizes do not match.
    /// Source: timm 0.3.2 `Mlp`.
    ///
    /// ```
    /// use glmae::device::{Device, Tensor};
    /// use glmae::ops::linear::Layer;
    /// use glmae::tape::{Param, Tape, Var};
    /// let cpu = Device::Cpu;
    /// let x = Var::constant(Tensor::from_slice(&cpu, &[1.0, 2.0], &[1, 2])?);
    /// let weight = Param::constant(Tensor::from_slice(&cpu, &[10.0, 10.0], &[1, 2])?);
    /// let first = Layer { weight, bias: None };
    /// let weight = Param::constant(Tensor::from_slice(&cpu, &[2.0], &[1, 1])?);
    /// let bias = Param::constant(Tensor::from_slice(&cpu, &[1.0], &[1])?);
    /// let second = Layer { weight, bias: Some(bias) };
    /// let y = Tape::new(&cpu).mlp(&x, &first, &second, None)?;
    /// // gelu(10 + 20) is 30 to the last bit; 2 * 30 + 1.
    /// assert_eq!(y.value().to_f64_vec()?, [61.0]);
    /// # Ok::<(), glmae::Error>(())
    /// ```
    pub fn mlp(
        &mut self,
        x: &Var,
        first: &Layer,
        second: &Layer,
        residual: Option<&Var>,
    ) -> Result<Var> {
        let (rows, fan_in) = x.value().matrix(OP)?;
        let out = second.out(OP, first.out(OP, fan_in)?)?;
        if let Some(residual) = residual {
            residual.value().expect_shape(OP, &[rows, out])?;
        }
        let vars: Vec<&Var> = std::iter::once(x).chain(residual).collect();
        let params = [first.params(), second.params()].concat();
        let keeps = self.records() && needs_grad(&vars, &params);
        let gelu = if keeps { Activation::GeluKeepingInput } else { Activation::Gelu };
        let (hidden, pre) = first.apply(x.value(), gelu, None)?;
        let pre = pre.filter(|_| keeps);
        let (y, _) = second.apply(&hidden, Activation::None, residual.map(Var::value))?;
        Ok(self.record(OP, y, keeps, || MlpBwd {
            x: x.clone(),
            first: first.clone(),
            second: second.clone(),
            hidden,
            pre,
            residual: residual.cloned(),
        }))
    }
}

struct MlpBwd {
    x: Var,
    first: Layer,
    second: Layer,
    /// The GELU's output, and its input.
    hidden: Tensor,
    pre: Option<Tensor>,
    residual: Option<Var>,
}

impl Backward for MlpBwd {
    fn run(self: Box<Self>, dy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let Self { x, first, second, hidden, pre, residual } = *self;
        second.param_gradients(&dy, &hidden, grads)?;
        // Its memory can hold the gradient that comes next.
        drop(hidden);
        if let Some(pre) = pre {
            let du = second.gradient_through_gelu(&dy, &pre)?;
            drop(pre);
            first.param_gradients(&du, x.value(), grads)?;
            if let Some((mut dx, mode)) = grads.slot(&x)? {
                first.input_gradient(&mut dx, &du, mode)?;
            }
        }
        match &residual {
            Some(residual) => grads.add(residual, dy),
            None => Ok(()),
        }
    }
}

/// The op in the registry. Dims of a case: rows, in, hidden, out, residual (0 or 1), biases (0 or 1).
pub struct Spec;

const NAMES: [&str; 6] = ["rows", "in", "hidden", "out", "residual", "bias"];

impl OpSpec for Spec {
    fn name(&self) -> &'static str {
        OP
    }

    fn summary(&self) -> &'static str {
        "y = gelu(x W1^T + b1) W2^T + b2, with residual addition"
    }

    fn cases(&self) -> Vec<OpCase> {
        let case = |d: [usize; 6]| OpCase::new(&NAMES, &d);
        vec![
            case([1, 1, 1, 1, 0, 1]),
            case([7, 13, 5, 9, 0, 0]),
            case([37, 29, 31, 29, 1, 1]),
            case([19, 10, 46, 11, 1, 0]),
            // Sides that allow 16-byte loads in bf16, more than one block and depth of a tile.
            case([70, 40, 136, 40, 1, 1]),
            case([66, 24, 72, 32, 0, 1]),
            case([23, 40, 12, 16, 1, 1]).with_offset(1000.0),
        ]
    }

    fn bench_case(&self) -> OpCase {
        OpCase::new(&NAMES, &[2002, 192, 768, 192, 1, 1])
    }

    fn inputs(&self, case: &OpCase) -> Vec<Input> {
        let [rows, fan_in, hidden, out] = [0, 1, 2, 3].map(|i| case.dims[i]);
        let scale = |n: usize| 1.0 / (n as f64).sqrt();
        let mut x = case.normal(0, rows * fan_in, case.offset, 1.0);
        let mut weights = [
            case.normal(1, hidden * fan_in, 0.0, scale(fan_in)),
            case.normal(3, out * hidden, 0.0, scale(hidden)),
        ];
        let mut biases = [case.normal(2, hidden, 0.0, 0.5), case.normal(4, out, 0.0, 0.5)];
        if rows * fan_in * hidden * out == 1 {
            // Rounding one value to bf16 may exceed the bound on the mean error. So these numbers have
            // products that bf16 stores almost exactly, and the GELU is the identity for them.
            (x, weights, biases) =
                (vec![1.5], [vec![1.0 / 1024.0], vec![-0.5]], [vec![8.0], vec![0.25]]);
        }
        let ([w1, w2], [b1, b2]) = (weights, biases);
        let residual = case.normal(5, rows * out, 0.0, 1.0);
        vec![
            Input::new("x", InputKind::Activation, &[rows, fan_in], x),
            Input::new("weight1", InputKind::Param, &[hidden, fan_in], w1),
            Input::new("bias1", InputKind::Param, &[hidden], b1).wide(),
            Input::new("weight2", InputKind::Param, &[out, hidden], w2),
            Input::new("bias2", InputKind::Param, &[out], b2).wide(),
            Input::new("residual", InputKind::Activation, &[rows, out], residual),
        ]
    }

    fn run(&self, tape: &mut Tape<'_>, case: &OpCase, args: &OpArgs) -> Result<Vec<Var>> {
        let layer = |at: usize| -> Result<Layer> {
            let bias = (case.dims[5] == 1).then(|| args.param(at + 1).cloned()).transpose()?;
            Ok(Layer { weight: args.param(at)?.clone(), bias })
        };
        let residual = if case.dims[4] == 1 { Some(args.var(5)?) } else { None };
        Ok(vec![tape.mlp(args.var(0)?, &layer(1)?, &layer(3)?, residual)?])
    }

    fn has_kernels(&self) -> bool {
        true
    }

    fn tolerance(&self, case: &OpCase) -> Tolerance {
        Tolerance::Products { k: case.dims[..4].iter().copied().max().unwrap_or(1) }
    }

    fn bytes(&self, case: &OpCase, size: usize) -> u64 {
        let [m, k, h, n, residual] = [0, 1, 2, 3, 4].map(|i| case.dims[i]);
        // The hidden layer: its input is saved, its output written and read.
        ((m * k + h * k + 3 * m * h + n * h + (1 + residual) * m * n) * size) as u64
    }

    fn flops(&self, case: &OpCase) -> u64 {
        let [m, k, h, n] = [0, 1, 2, 3].map(|i| case.dims[i]);
        2 * (m * h * (k + n)) as u64
    }
}
