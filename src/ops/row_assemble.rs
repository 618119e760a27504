//! Row assembly: puts token rows, a learnable token and positions together.
//!
//! `y[i] = (source[i] >= 0 ? x[source[i]] : token) + table[position[i]]`
//!
//! The decoder's input is made so: the token is the mask token, the rows are the encoder's outputs put back in
//! raster order. [`super::patch_embed`] makes the encoder's of embedded patches and the cls token.

use super::cpu::par::for_each_row;
use super::row_gather::rows_launch;
use super::{Input, InputKind, OpArgs, OpCase, OpSpec, Tolerance, needs_grad};
use crate::device::launch::LaunchConfig;
use crate::device::{Device, KernelCall, Tensor, TensorMut, with_real};
use crate::tape::{Backward, GradMode, Grads, Param, Tape, Var};
use crate::{Error, Result};

const OP: &str = "row_assemble";

/// One row of the result: which input row (`None`: the token), and which row of the table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowSource {
    pub row: Option<usize>,
    pub position: usize,
}

/// The rows of the result in order. Every input row is used at most once.
#[derive(Clone, Debug)]
pub struct AssemblePlan {
    /// `[rows]` i32, -1 for the token.
    source: Tensor,
    /// `[rows]` i32.
    position: Tensor,
    /// `[inputs]` i32: the row of the result that an input row goes to, -1 for none.
    target: Tensor,
    /// `[token rows]` i32: the rows of the result that are the token.
    token_rows: Tensor,
    positions: usize,
}

impl AssemblePlan {
    /// Errors: an input row beyond `inputs` or named twice, a position beyond `positions`.
    pub fn new(
        device: &Device,
        inputs: usize,
        positions: usize,
        rows: &[RowSource],
    ) -> Result<Self> {
        let mut target = vec![-1i32; inputs];
        for (i, row) in rows.iter().enumerate() {
            let fresh = row.row.is_none_or(|r| r < inputs && target[r] < 0);
            if !fresh || row.position >= positions {
                let expected = format!("distinct rows below {inputs}, positions below {positions}");
                return Err(Error::shape(OP, expected, format!("{row:?}")));
            }
            if let Some(r) = row.row {
                target[r] = i as i32;
            }
        }
        let source: Vec<i32> = rows.iter().map(|r| r.row.map_or(-1, |r| r as i32)).collect();
        let position: Vec<i32> = rows.iter().map(|r| r.position as i32).collect();
        let token_rows: Vec<i32> =
            (0i32..).zip(rows).filter(|(_, r)| r.row.is_none()).map(|(i, _)| i).collect();
        let upload = |v: &[i32]| Tensor::from_slice(device, v, &[v.len()]);
        Ok(Self {
            source: upload(&source)?,
            position: upload(&position)?,
            target: upload(&target)?,
            token_rows: upload(&token_rows)?,
            positions,
        })
    }

    /// See [`super::patch_gather::PatchPlan::refill`].
    pub fn refill(&mut self, other: &Self) -> Result<()> {
        self.source.as_mut().assign(&other.source)?;
        self.position.as_mut().assign(&other.position)?;
        self.target.as_mut().assign(&other.target)?;
        self.token_rows.as_mut().assign(&other.token_rows)
    }

    /// Rows of the result.
    pub fn rows(&self) -> usize {
        self.source.len()
    }
}

/// What is put together with rows: the token, the table of positions, and which goes where.
#[derive(Clone, Copy)]
pub struct Assembly<'p> {
    /// Of c elements, stored `[1, 1, c]`.
    pub token: &'p Param,
    /// `[positions, c]`, not trained, of the token's dtype, which stays f32 when the rows are bf16.
    pub table: &'p Tensor,
    pub plan: &'p AssemblePlan,
}

impl Assembly<'_> {
    /// Errors: `Shape` where it does not go with `inputs` rows of `c` elements.
    pub(super) fn check(&self, op: &'static str, [inputs, c]: [usize; 2]) -> Result<()> {
        let (Self { token, table, plan }, len) = (self, self.plan.target.len());
        table.expect_shape(op, &[plan.positions, c])?;
        if inputs != len || token.value.len() != c {
            let expected = format!("{len} rows and a token of {c}");
            return Err(Error::shape(op, expected, format!("{inputs} rows, {:?}", token.value)));
        }
        if table.dtype() != token.value.dtype() {
            let expected = format!("a table of {}", token.value.dtype());
            return Err(Error::shape(op, expected, table.dtype().name()));
        }
        Ok(())
    }

    /// The rows of `x`, the token and positions put together.
    pub(super) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let (Self { token, table, plan }, (_, c)) = (self, x.matrix(OP)?);
        let (device, dtype) = (x.device(), x.dtype());
        let mut y = Tensor::empty(device, dtype, &[plan.rows(), c])?;
        match device {
            Device::Cpu => with_real!(OP, dtype, T => {
                let (x, token) = (x.host::<T>()?, token.value.host::<T>()?);
                let table = table.host::<T>()?;
                let (source, position) = (plan.source.host::<i32>()?, plan.position.host::<i32>()?);
                for_each_row(y.host_mut::<T>()?, c, |i, y| {
                    let row = if source[i] < 0 { token } else { &x[source[i] as usize * c..][..c] };
                    let position = &table[position[i] as usize * c..][..c];
                    for ((y, &a), &b) in y.iter_mut().zip(row).zip(position) {
                        *y = a + b;
                    }
                });
                Ok(())
            })?,
            _ if y.is_empty() => {}
            device => KernelCall::typed(device, "row_assemble_fwd", dtype)
                .output(&mut y)?
                .input(x)?
                .input(&token.value)?
                .input(table)?
                .input(&plan.source)?
                .input(&plan.position)?
                .value(plan.rows() as i64)
                .value(c as i32)
                .launch(rows_launch(plan.rows()))?,
        }
        Ok(y)
    }
}

impl AssemblePlan {
    /// What a kernel reads that knows rows by where they come from: their targets, the positions of the result's
    /// rows, and the token's rows.
    pub(super) fn append<'d>(&self, call: KernelCall<'d>) -> Result<KernelCall<'d>> {
        let call = call.input(&self.target)?.input(&self.position)?.input(&self.token_rows)?;
        Ok(call.value(self.token_rows.len() as i32))
    }

    /// Adds up the gradient of the token, if it is trained.
    pub(super) fn token_gradient(
        &self,
        token: &Param,
        dy: &Tensor,
        grads: &mut Grads<'_>,
    ) -> Result<()> {
        let ((_, c), dtype) = (dy.matrix(OP)?, dy.dtype());
        let Some((mut dtoken, mode)) = grads.param(token)? else { return Ok(()) };
        if *dy.device() == Device::Cpu {
            return with_real!(OP, dtype, T => {
                let (dy, dtoken) = (dy.host::<T>()?, dtoken.host_mut::<T>()?);
                if !mode.accumulates() {
                    dtoken.fill(T::default());
                }
                for (row, &source) in dy.chunks_exact(c.max(1)).zip(self.source.host::<i32>()?) {
                    if source < 0 {
                        for (d, &g) in dtoken.iter_mut().zip(row) {
                            *d += g;
                        }
                    }
                }
                Ok(())
            });
        }
        if c == 0 {
            return Ok(());
        }
        // The number of parts fixes the order of the sum: from the sizes alone.
        let (device, count) = (dy.device(), self.token_rows.len());
        let parts = count.div_ceil(64).clamp(1, 128);
        let columns = 32 * (16 / dtype.size());
        let mut partial = Tensor::empty(device, token.value.dtype(), &[parts, c])?;
        KernelCall::typed(device, "row_assemble_bwd_params", dtype)
            .output(&mut partial)?
            .input(dy)?
            .input(&self.token_rows)?
            .value(count as i32)
            .value(c as i32)
            .launch(LaunchConfig {
                grid: [c.div_ceil(columns) as u32, parts as u32, 1],
                block: [32, 8, 1],
                shared_bytes: 0,
            })?;
        KernelCall::new(device, "row_assemble_bwd_params_f32_sum")
            .output_mut(&mut dtoken)?
            .input(&partial)?
            .value(parts as i32)
            .value(c as i32)
            .value(mode.as_arg())
            .launch(LaunchConfig::linear(c.div_ceil(256) as u32, 256))
    }

    /// `dx[r] (+)= dy[target[r]]`, zero where a row was not used.
    pub(super) fn row_gradient(
        &self,
        dx: &mut TensorMut<'_>,
        dy: &Tensor,
        mode: GradMode,
    ) -> Result<()> {
        let ((_, c), inputs) = (dy.matrix(OP)?, self.target.len());
        if *dy.device() == Device::Cpu {
            return with_real!(OP, dy.dtype(), T => {
                let (dy, rows) = (dy.host::<T>()?, dx.host_mut::<T>()?.chunks_exact_mut(c.max(1)));
                for (dx, &target) in rows.zip(self.target.host::<i32>()?) {
                    if !mode.accumulates() {
                        dx.fill(T::default());
                    }
                    if target >= 0 {
                        for (d, &g) in dx.iter_mut().zip(&dy[target as usize * c..][..c]) {
                            *d += g;
                        }
                    }
                }
                Ok(())
            });
        }
        if inputs == 0 || c == 0 {
            return Ok(());
        }
        KernelCall::typed(dy.device(), "row_assemble_bwd_x", dy.dtype())
            .output_mut(dx)?
            .input(dy)?
            .input(&self.target)?
            .value(inputs as i64)
            .value(c as i32)
            .value(mode.as_arg())
            .launch(rows_launch(inputs))
    }
}

impl<'a> Tape<'a> {
    /// Assembles rows; see the module.
    ///
    /// Shapes: `x` `[inputs, c]`, what it is put together with as [`Assembly`] says, result `[plan.rows(), c]`.
    /// Numerics: one addition per element; the gradient of the token sums rows in order.
    /// Errors: `Shape`.
    /// Source: docs/method.md, 3.4 and 3.5 (positions are added before masked tokens are dropped, which
    /// is the same as adding the kept tokens' positions).
    ///
    /// ```
    /// use glmae::device::{Device, Tensor};
    /// use glmae::ops::row_assemble::{AssemblePlan, Assembly, RowSource};
    /// use glmae::tape::{Param, Tape, Var};
    /// let cpu = Device::Cpu;
    /// let x = Var::constant(Tensor::from_slice(&cpu, &[10.0, 20.0], &[1, 2])?);
    /// let token = Param::constant(Tensor::from_slice(&cpu, &[1.0, 2.0], &[1, 1, 2])?);
    /// let table = Tensor::from_slice(&cpu, &[0.0, 0.0, 5.0, 5.0], &[2, 2])?;
    /// let rows = [RowSource { row: None, position: 0 }, RowSource { row: Some(0), position: 1 }];
    /// let plan = AssemblePlan::new(&cpu, 1, 2, &rows)?;
    /// let with = Assembly { token: &token, table: &table, plan: &plan };
    /// let y = Tape::new(&cpu).row_assemble(&x, &with)?;
    /// // The token with position 0, then the row with position 1.
    /// assert_eq!(y.value().to_f64_vec()?, [1.0, 2.0, 15.0, 25.0]);
    /// # Ok::<(), glmae::Error>(())
    /// ```
    pub fn row_assemble(&mut self, x: &Var, with: &Assembly<'_>) -> Result<Var> {
        let (inputs, c) = x.value().matrix(OP)?;
        with.check(OP, [inputs, c])?;
        let y = with.apply(x.value())?;
        Ok(self.record(OP, y, needs_grad(&[x], &[with.token]), || RowAssembleBwd {
            x: x.clone(),
            token: with.token.clone(),
            plan: with.plan.clone(),
        }))
    }
}

struct RowAssembleBwd {
    x: Var,
    token: Param,
    plan: AssemblePlan,
}

impl Backward for RowAssembleBwd {
    fn run(self: Box<Self>, dy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        self.plan.token_gradient(&self.token, &dy, grads)?;
        match grads.slot(&self.x)? {
            Some((mut dx, mode)) => self.plan.row_gradient(&mut dx, &dy, mode),
            None => Ok(()),
        }
    }
}

/// The rows of a case, every `every`-th of them the token, the others in reverse; and of how many inputs: one more than
/// is used, whose gradient must be zero.
pub(super) fn case_rows(rows: usize, every: usize) -> (Vec<RowSource>, usize) {
    let inputs = rows - rows.div_ceil(every) + 1;
    let mut used = 0;
    let places = (0..rows).map(|i| {
        let row = (i % every != 0).then(|| {
            used += 1;
            inputs - 1 - used
        });
        RowSource { row, position: rows - 1 - i }
    });
    (places.collect(), inputs)
}

/// The op in the registry. Dims of a case: rows, c, every how many-th row is the token.
pub struct Spec;

impl OpSpec for Spec {
    fn name(&self) -> &'static str {
        OP
    }

    fn summary(&self) -> &'static str {
        "tokens, learnable token and positions put together"
    }

    fn cases(&self) -> Vec<OpCase> {
        let case = |d: [usize; 3]| OpCase::new(&["rows", "c", "token_every"], &d);
        vec![
            case([1, 1, 1]),
            case([2, 5, 2]),
            case([31, 7, 4]),
            case([55, 96, 3]),
            // Enough token rows for several partial sums.
            case([301, 8, 2]),
            case([29, 50, 2]).with_offset(1000.0),
        ]
    }

    fn bench_case(&self) -> OpCase {
        OpCase::new(&["rows", "c", "token_every"], &[2870, 96, 2])
    }

    fn inputs(&self, case: &OpCase) -> Vec<Input> {
        let [rows, c, every] = [case.dims[0], case.dims[1], case.dims[2]];
        let (_, inputs) = case_rows(rows, every);
        vec![
            Input::new(
                "x",
                InputKind::Activation,
                &[inputs, c],
                case.normal(0, inputs * c, case.offset, 1.0),
            ),
            Input::new("token", InputKind::Param, &[1, 1, c], case.normal(1, c, case.offset, 1.0)),
            Input::new(
                "table",
                InputKind::Constant,
                &[rows, c],
                case.normal(2, rows * c, 0.0, 1.0),
            )
            .wide(),
        ]
    }

    fn run(&self, tape: &mut Tape<'_>, case: &OpCase, args: &OpArgs) -> Result<Vec<Var>> {
        let (places, inputs) = case_rows(case.dims[0], case.dims[2]);
        let plan = AssemblePlan::new(tape.device(), inputs, case.dims[0], &places)?;
        let with = Assembly { token: args.param(1)?, table: args.var(2)?.value(), plan: &plan };
        Ok(vec![tape.row_assemble(args.var(0)?, &with)?])
    }

    fn tolerance(&self, _: &OpCase) -> Tolerance {
        Tolerance::Reduction
    }

    fn has_kernels(&self) -> bool {
        true
    }

    fn bytes(&self, case: &OpCase, size: usize) -> u64 {
        (3 * case.dims[0] * case.dims[1] * size) as u64
    }

    fn flops(&self, case: &OpCase) -> u64 {
        (case.dims[0] * case.dims[1]) as u64
    }
}
