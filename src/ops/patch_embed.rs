//! Patch embedding: patches through a linear layer, into sequences with their learnable token and positions.
//!
//! `y[i] = (source[i] >= 0 ? (x W^T + b)[source[i]] : token) + table[position[i]]`
//!
//! A product and [`super::row_assemble`] in one, because Hopper's kernel writes every row where it belongs
//! (`kernels/hopper/patch_embed.cu`). Elsewhere the rows go through memory once more.

#[cfg(all(test, feature = "cuda"))]
mod hopper_tests;

use super::gemm::hopper::{self, Follows};
use super::gemm::{self, Choice, Wanted};
use super::linear::{Activation, Layer};
use super::row_assemble::{AssemblePlan, Assembly, case_rows};
use super::{Input, InputKind, OpArgs, OpCase, OpSpec, Tolerance, needs_grad};
use crate::Result;
use crate::device::{KernelCall, Tensor};
use crate::tape::{Backward, GradMode, Grads, Param, Tape, Var};

const OP: &str = "patch_embed";

impl<'a> Tape<'a> {
    /// Embeds the rows of `x` and assembles sequences of them; see the module.
    ///
    /// Shapes: `x` `[inputs, in]`, weight `[c, ...]` of `c * in` elements, bias `[c]`, what is assembled as in
    /// [`Tape::row_assemble`], result `[plan.rows(), c]`.
    /// Numerics: as [`Tape::linear`] and [`Tape::row_assemble`], on the CPU bit by bit; Hopper's kernel rounds to
    /// bf16 once instead of twice.
    /// Errors: `Shape` when sizes do not match.
    /// Source: docs/method.md, 3.1 and 3.4.
    ///
    /// ```
    /// use glmae::device::{Device, Tensor};
    /// use glmae::ops::linear::Layer;
    /// use glmae::ops::row_assemble::{AssemblePlan, Assembly, RowSource};
    /// use glmae::tape::{Param, Tape, Var};
    /// let cpu = Device::Cpu;
    /// let x = Var::constant(Tensor::from_slice(&cpu, &[1.0, 2.0], &[1, 2])?);
    /// let weight = Param::constant(Tensor::from_slice(&cpu, &[10.0, 1.0], &[1, 2])?);
    /// let token = Param::constant(Tensor::from_slice(&cpu, &[7.0], &[1, 1, 1])?);
    /// let table = Tensor::from_slice(&cpu, &[100.0, 200.0], &[2, 1])?;
    /// let rows = [RowSource { row: None, position: 0 }, RowSource { row: Some(0), position: 1 }];
    /// let plan = AssemblePlan::new(&cpu, 1, 2, &rows)?;
    /// let with = Assembly { token: &token, table: &table, plan: &plan };
    /// let y = Tape::new(&cpu).patch_embed(&x, &Layer { weight, bias: None }, &with)?;
    /// // The token at position 0, then 10 + 2 at position 1.
    /// assert_eq!(y.value().to_f64_vec()?, [107.0, 212.0]);
    /// # Ok::<(), glmae::Error>(())
    /// ```
    pub fn patch_embed(&mut self, x: &Var, layer: &Layer, with: &Assembly<'_>) -> Result<Var> {
        let (inputs, fan_in) = x.value().matrix(OP)?;
        let c = layer.out(OP, fan_in)?;
        with.check(OP, [inputs, c])?;
        let embedding = Embedding { choice: None, x: x.value(), layer, with };
        let y = if embedding.is_fused() {
            let mut y = Tensor::empty(self.device(), x.value().dtype(), &[with.plan.rows(), c])?;
            embedding.run(&mut y)?;
            y
        } else {
            let (tokens, _) = layer.apply(x.value(), Activation::None, None)?;
            with.apply(&tokens)?
        };
        let params = [layer.params(), vec![with.token]].concat();
        Ok(self.record(OP, y, needs_grad(&[x], &params), || PatchEmbedBwd {
            x: x.clone(),
            layer: layer.clone(),
            token: with.token.clone(),
            plan: with.plan.clone(),
        }))
    }
}

/// The product whose rows go to their places.
pub(super) struct Embedding<'t> {
    /// In place of what the model would choose, for tests.
    pub choice: Option<Choice>,
    pub x: &'t Tensor,
    pub layer: &'t Layer,
    pub with: &'t Assembly<'t>,
}

impl Embedding<'_> {
    fn sizes(&self) -> Result<[usize; 3]> {
        let (inputs, fan_in) = self.x.matrix(OP)?;
        Ok([inputs, self.layer.out(OP, fan_in)?, fan_in])
    }

    /// Whether a kernel of Hopper does all of it.
    fn is_fused(&self) -> bool {
        let Ok([inputs, c, fan_in]) = self.sizes() else { return false };
        let (weight, bias) = (self.layer.weight.operand(), self.layer.bias.as_ref());
        let Assembly { token, table, .. } = self.with;
        inputs > 0
            && hopper::takes(&[(self.x, fan_in), (weight, fan_in)])
            && hopper::takes_bias(bias.map(|b| &b.value))
            && gemm::vectors(&[(&token.value, c), (table, c)])
            && c.is_multiple_of(8)
    }

    pub fn run(&self, y: &mut Tensor) -> Result<()> {
        let size @ [inputs, c, fan_in] = self.sizes()?;
        let (weight, bias) = (self.layer.weight.operand(), self.layer.bias.as_ref());
        let wanted = Wanted {
            stem: "patch_embed_fwd",
            size,
            operands: [(self.x, fan_in), (weight, fan_in)],
            others: Vec::new(),
            bias: bias.map(|b| &b.value),
            follows: Some(Follows::Place),
            may_split: false,
            is_small: false,
        };
        let Choice::Hopper(plan) = self.choice.unwrap_or_else(|| wanted.choose()) else {
            return Err(hopper::unsupported(OP, "on a portable kernel"));
        };
        let Assembly { token, table, plan: places } = self.with;
        let call = KernelCall::new(self.x.device(), &plan.kernel("patch_embed_fwd"))
            .output(y)?
            .boxes(self.x, &[inputs, fan_in], &plan.tile.a_box(true))?
            .boxes(weight, &[c, fan_in], &plan.tile.b_box(true))?
            .optional(bias.map(|b| &b.value))?
            .input(&token.value)?
            .input(table)?;
        let call = places.append(call)?;
        gemm::sizes(OP, size)?.into_iter().fold(call, KernelCall::value).launch(plan.launch)
    }
}

struct PatchEmbedBwd {
    x: Var,
    layer: Layer,
    token: Param,
    plan: AssemblePlan,
}

impl Backward for PatchEmbedBwd {
    fn run(self: Box<Self>, dy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let Self { x, layer, token, plan } = *self;
        plan.token_gradient(&token, &dy, grads)?;
        if !needs_grad(&[&x], &layer.params()) {
            return Ok(());
        }
        let ((_, c), (inputs, _)) = (dy.matrix(OP)?, x.value().matrix(OP)?);
        let mut of_rows = Tensor::empty(dy.device(), dy.dtype(), &[inputs, c])?;
        plan.row_gradient(&mut of_rows.as_mut(), &dy, GradMode::Overwrite)?;
        drop(dy);
        layer.param_gradients(&of_rows, x.value(), grads)?;
        match grads.slot(&x)? {
            Some((mut dx, mode)) => layer.input_gradient(&mut dx, &of_rows, mode),
            None => Ok(()),
        }
    }
}

/// The op in the registry. Dims of a case: rows of the result, in, c, every how many-th row is the token, bias
/// (0 or 1).
pub struct Spec;

const NAMES: [&str; 5] = ["rows", "in", "c", "token_every", "bias"];

impl OpSpec for Spec {
    fn name(&self) -> &'static str {
        OP
    }

    fn summary(&self) -> &'static str {
        "patches through a linear layer into sequences, with token and positions"
    }

    fn cases(&self) -> Vec<OpCase> {
        let case = |d: [usize; 5]| OpCase::new(&NAMES, &d);
        vec![
            case([2, 3, 5, 2, 1]),
            case([31, 13, 7, 4, 0]),
            case([55, 64, 96, 3, 1]),
            case([150, 72, 136, 9, 1]),
            // More than one tile of the largest, side by side and one below the other; many tokens.
            case([530, 24, 264, 2, 1]),
            case([70, 520, 8, 50, 0]),
            case([29, 40, 16, 2, 1]).with_offset(1000.0),
        ]
    }

    fn bench_case(&self) -> OpCase {
        OpCase::new(&NAMES, &[564, 4096, 192, 126, 1])
    }

    fn inputs(&self, case: &OpCase) -> Vec<Input> {
        let [rows, fan_in, c] = [case.dims[0], case.dims[1], case.dims[2]];
        let inputs = case_rows(rows, case.dims[3]).1;
        let scale = 1.0 / (fan_in as f64).sqrt();
        let matrix = |stream, rows: usize, columns: usize, offset, scale| {
            case.normal(stream, rows * columns, offset, scale)
        };
        let table = matrix(4, rows, c, 0.0, 1.0);
        vec![
            Input::new(
                "x",
                InputKind::Activation,
                &[inputs, fan_in],
                matrix(0, inputs, fan_in, case.offset, 1.0),
            ),
            Input::new("weight", InputKind::Param, &[c, fan_in], matrix(1, c, fan_in, 0.0, scale)),
            Input::new("bias", InputKind::Param, &[c], case.normal(2, c, 0.0, 0.5)).wide(),
            Input::new("token", InputKind::Param, &[1, 1, c], case.normal(3, c, 0.0, 1.0)),
            Input::new("table", InputKind::Constant, &[rows, c], table).wide(),
        ]
    }

    fn run(&self, tape: &mut Tape<'_>, case: &OpCase, args: &OpArgs) -> Result<Vec<Var>> {
        let (places, inputs) = case_rows(case.dims[0], case.dims[3]);
        let plan = AssemblePlan::new(tape.device(), inputs, case.dims[0], &places)?;
        let bias = if case.dims[4] == 1 { Some(args.param(2)?.clone()) } else { None };
        let layer = Layer { weight: args.param(1)?.clone(), bias };
        let with = Assembly { token: args.param(3)?, table: args.var(4)?.value(), plan: &plan };
        Ok(vec![tape.patch_embed(args.var(0)?, &layer, &with)?])
    }

    fn has_kernels(&self) -> bool {
        true
    }

    fn tolerance(&self, case: &OpCase) -> Tolerance {
        Tolerance::Products { k: case.dims[1].max(case.dims[0]).max(case.dims[2]) }
    }

    fn bytes(&self, case: &OpCase, size: usize) -> u64 {
        let [m, k, n] = [case.dims[0], case.dims[1], case.dims[2]];
        ((m * k + n * k + m * n) * size) as u64
    }

    fn flops(&self, case: &OpCase) -> u64 {
        2 * (case.dims[0] * case.dims[1] * case.dims[2]) as u64
    }
}
