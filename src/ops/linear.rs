//! Linear layer: `y = x W^T + b`, optionally followed by the exact (erf) GELU or by the addition
//! of a residual. The patch embedding is this op with the kernel `[dim, C, p, p, p]` read as a
//! `[dim, C p^3]` matrix.

#[cfg(all(test, feature = "cuda"))]
mod hopper_fault_tests;
#[cfg(all(test, feature = "cuda"))]
pub(super) mod hopper_tests;
pub(super) mod launch;
mod layer;
mod product;
#[cfg(test)]
pub(super) mod tests;

pub(super) use self::layer::Activation;
pub use self::layer::Layer;
pub(super) use self::product::{product, sum_rows};

use super::{Input, InputKind, OpArgs, OpCase, OpSpec, Tolerance, needs_grad};
use crate::Result;
use crate::device::Tensor;
use crate::tape::{Backward, Grads, Param, Tape, Var};

const OP: &str = "linear";

/// What follows the product and the bias.
#[derive(Clone, Copy, Debug, Default)]
pub enum PostOp<'v> {
    #[default]
    None,
    /// `y = gelu(x W^T + b)`, `gelu(u) = u Phi(u)` with the exact normal distribution function.
    Gelu,
    /// `y = x W^T + b + residual`.
    Add(&'v Var),
}

impl<'a> Tape<'a> {
    /// `y = post_op(x W^T + b)`.
    ///
    /// Shapes: `x` `[rows, in]`, `weight` `[out, ...]` of `out * in` elements, `bias` `[out]`,
    /// residual and result `[rows, out]`.
    /// Numerics: products are summed in the arithmetic of the tensors, those of bf16 in f32. What
    /// the backward of a GELU needs, its input, is kept in the dtype of the activations.
    /// Errors: `Shape` when sizes do not match.
    ///
    /// ```
    /// use glmae::device::{Device, Tensor};
    /// use glmae::ops::linear::PostOp;
    /// use glmae::tape::{Param, Tape, Var};
    /// let cpu = Device::Cpu;
    /// let x = Var::constant(Tensor::from_slice(&cpu, &[1.0, 2.0], &[1, 2])?);
    /// let weight = Param::constant(Tensor::from_slice(&cpu, &[3.0, 4.0, 5.0, 6.0], &[2, 2])?);
    /// let bias = Param::constant(Tensor::from_slice(&cpu, &[0.5, 0.0], &[2])?);
    /// let y = Tape::new(&cpu).linear(&x, &weight, Some(&bias), PostOp::None)?;
    /// // 1 * 3 + 2 * 4 + 0.5 and 1 * 5 + 2 * 6.
    /// assert_eq!(y.value().to_f64_vec()?, [11.5, 17.0]);
    /// # Ok::<(), glmae::Error>(())
    /// ```
    pub fn linear(
        &mut self,
        x: &Var,
        weight: &Param,
        bias: Option<&Param>,
        post_op: PostOp<'_>,
    ) -> Result<Var> {
        let layer = Layer { weight: weight.clone(), bias: bias.cloned() };
        let (rows, fan_in) = x.value().matrix(OP)?;
        let out = layer.out(OP, fan_in)?;
        let residual = match post_op {
            PostOp::Add(r) => Some(r),
            _ => None,
        };
        if let Some(r) = residual {
            r.value().expect_shape(OP, &[rows, out])?;
        }
        let mut vars = vec![x];
        vars.extend(residual);
        let keeps = self.records() && needs_grad(&vars, &layer.params());
        let applies = match (post_op, keeps) {
            (PostOp::Gelu, true) => Activation::GeluKeepingInput,
            (PostOp::Gelu, false) => Activation::Gelu,
            _ => Activation::None,
        };
        let (y, pre) = layer.apply(x.value(), applies, residual.map(Var::value))?;
        Ok(self.record(OP, y, keeps, || LinearBwd {
            x: x.clone(),
            layer,
            pre,
            residual: residual.cloned(),
        }))
    }
}

struct LinearBwd {
    x: Var,
    layer: Layer,
    /// Pre-activation, when a GELU follows.
    pre: Option<Tensor>,
    residual: Option<Var>,
}

impl Backward for LinearBwd {
    fn run(self: Box<Self>, mut dy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        if let Some(pre) = &self.pre {
            dy = layer::gelu_backward(dy, pre)?;
        }
        if let Some((mut dx, mode)) = grads.slot(&self.x)? {
            self.layer.input_gradient(&mut dx, &dy, mode)?;
        }
        self.layer.param_gradients(&dy, self.x.value(), grads)?;
        match &self.residual {
            Some(residual) => grads.add(residual, dy),
            None => Ok(()),
        }
    }
}

/// The op in the registry. Dims of a case: rows, in, out, post-op (0 none, 1 GELU, 2 residual),
/// bias (0 or 1).
pub struct Spec;

impl OpSpec for Spec {
    fn name(&self) -> &'static str {
        OP
    }

    fn summary(&self) -> &'static str {
        "y = x W^T + b, with erf-GELU or residual addition"
    }

    fn cases(&self) -> Vec<OpCase> {
        let case = |d: [usize; 5]| OpCase::new(&["rows", "in", "out", "epilogue", "bias"], &d);
        vec![
            case([1, 1, 1, 0, 1]),
            case([7, 13, 5, 0, 0]),
            case([37, 29, 31, 1, 1]),
            case([33, 48, 144, 2, 1]),
            case([130, 50, 70, 1, 1]),
            case([19, 66, 18, 2, 0]),
            // Sides that allow 16-byte loads in bf16, more than one block and depth of a tile.
            case([70, 72, 136, 1, 1]),
            // More than one tile of the largest, side by side and one below the other.
            case([264, 72, 272, 0, 1]),
            // Long sums: tensor cores cut off what they add, see docs/numerics.md.
            case([9, 3072, 24, 1, 1]),
            case([23, 40, 12, 0, 1]).with_offset(1000.0),
        ]
    }

    fn bench_case(&self) -> OpCase {
        OpCase::new(&["rows", "in", "out", "epilogue", "bias"], &[2002, 192, 768, 1, 1])
    }

    fn inputs(&self, case: &OpCase) -> Vec<Input> {
        let [rows, fan_in, out] = [case.dims[0], case.dims[1], case.dims[2]];
        let scale = 1.0 / (fan_in as f64).sqrt();
        let mut x = case.normal(0, rows * fan_in, case.offset, 1.0);
        let mut weight = case.normal(1, out * fan_in, 0.0, scale);
        let mut bias = case.normal(2, out, 0.0, 0.5);
        if rows * fan_in * out == 1 {
            // Rounding a single value to bf16 may alone exceed a bound on the mean error: numbers
            // whose products bf16 holds.
            (x, weight, bias) = (vec![1.5], vec![-0.5], vec![0.25]);
        }
        vec![
            Input::new("x", InputKind::Activation, &[rows, fan_in], x),
            Input::new("weight", InputKind::Param, &[out, fan_in], weight),
            Input::new("bias", InputKind::Param, &[out], bias).wide(),
            Input::new(
                "residual",
                InputKind::Activation,
                &[rows, out],
                case.normal(3, rows * out, 0.0, 1.0),
            ),
        ]
    }

    fn run(&self, tape: &mut Tape<'_>, case: &OpCase, args: &OpArgs) -> Result<Vec<Var>> {
        let post_op = match case.dims[3] {
            0 => PostOp::None,
            1 => PostOp::Gelu,
            _ => PostOp::Add(args.var(3)?),
        };
        let bias = if case.dims[4] == 1 { Some(args.param(2)?) } else { None };
        Ok(vec![tape.linear(args.var(0)?, args.param(1)?, bias, post_op)?])
    }

    fn has_kernels(&self) -> bool {
        true
    }

    fn tolerance(&self, case: &OpCase) -> Tolerance {
        Tolerance::Products { k: case.dims[1].max(case.dims[0]).max(case.dims[2]) }
    }

    fn bytes(&self, case: &OpCase, size: usize) -> u64 {
        let [m, k, n] = [case.dims[0], case.dims[1], case.dims[2]];
        let extra = if case.dims[3] == 0 { 0 } else { m * n };
        ((m * k + n * k + m * n + extra) * size) as u64
    }

    fn flops(&self, case: &OpCase) -> u64 {
        2 * (case.dims[0] * case.dims[1] * case.dims[2]) as u64
    }
}
