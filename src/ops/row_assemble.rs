//! Row assembly: puts token rows, a learnable token and positions together.
//!
//! `y[i] = (source[i] >= 0 ? x[source[i]] : token) + table[position[i]]`
//!
//! The encoder input is made so (the token is the cls token, the rows are the embedded visible
//! patches) and the decoder input too (the token is the mask token, the rows are the encoder
//! outputs put back in raster order).

use super::cpu::par::for_each_row;
use super::row_gather::rows_launch;
use super::{Input, InputKind, OpArgs, OpCase, OpSpec, Tolerance, needs_grad};
use crate::device::launch::LaunchConfig;
use crate::device::{Device, KernelCall, Tensor, with_real};
use crate::tape::{Backward, Grads, Param, Tape, Var};
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

impl<'a> Tape<'a> {
    /// Assembles rows; see the module.
    ///
    /// Shapes: `x` `[inputs, c]`, `token` of c elements (stored `[1, 1, c]`), `table` `[positions, c]`
    /// (not trained; of the token's dtype, which stays f32 when `x` is bf16), result
    /// `[plan.rows(), c]`.
    /// Numerics: one addition per element; the gradient of the token sums rows in order.
    /// Errors: `Shape`.
    /// Source: docs/method.md, 3.4 and 3.5 (positions are added before masked tokens are dropped, which
    /// is the same as adding the kept tokens' positions).
    ///
    /// ```
    /// use glmae::device::{Device, Tensor};
    /// use glmae::ops::row_assemble::{AssemblePlan, RowSource};
    /// use glmae::tape::{Param, Tape, Var};
    /// let cpu = Device::Cpu;
    /// let x = Var::constant(Tensor::from_slice(&cpu, &[10.0, 20.0], &[1, 2])?);
    /// let token = Param::constant(Tensor::from_slice(&cpu, &[1.0, 2.0], &[1, 1, 2])?);
    /// let table = Tensor::from_slice(&cpu, &[0.0, 0.0, 5.0, 5.0], &[2, 2])?;
    /// let rows = [RowSource { row: None, position: 0 }, RowSource { row: Some(0), position: 1 }];
    /// let plan = AssemblePlan::new(&cpu, 1, 2, &rows)?;
    /// let y = Tape::new(&cpu).row_assemble(&x, &token, &table, &plan)?;
    /// // The token with position 0, then the row with position 1.
    /// assert_eq!(y.value().to_f64_vec()?, [1.0, 2.0, 15.0, 25.0]);
    /// # Ok::<(), glmae::Error>(())
    /// ```
    pub fn row_assemble(
        &mut self,
        x: &Var,
        token: &Param,
        table: &Tensor,
        plan: &AssemblePlan,
    ) -> Result<Var> {
        let (inputs, c) = x.value().matrix(OP)?;
        table.expect_shape(OP, &[plan.positions, c])?;
        if inputs != plan.target.len() || token.value.len() != c {
            let expected = format!("{} rows and a token of {c}", plan.target.len());
            return Err(Error::shape(OP, expected, format!("{inputs} rows, {:?}", token.value)));
        }
        if table.dtype() != token.value.dtype() {
            let expected = format!("a table of {}", token.value.dtype());
            return Err(Error::shape(OP, expected, table.dtype().name()));
        }
        let dtype = x.value().dtype();
        let mut y = Tensor::empty(self.device(), dtype, &[plan.rows(), c])?;
        match self.device() {
            Device::Cpu => with_real!(OP, dtype, T => {
                let (x, token) = (x.value().host::<T>()?, token.value.host::<T>()?);
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
                .input(x.value())?
                .input(&token.value)?
                .input(table)?
                .input(&plan.source)?
                .input(&plan.position)?
                .value(plan.rows() as i64)
                .value(c as i32)
                .launch(rows_launch(plan.rows()))?,
        }
        Ok(self.record(OP, y, needs_grad(&[x], &[token]), || RowAssembleBwd {
            x: x.clone(),
            token: token.clone(),
            plan: plan.clone(),
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
        let (_, c) = dy.matrix(OP)?;
        if *dy.device() != Device::Cpu {
            return self.run_kernels(&dy, c, grads);
        }
        with_real!(OP, dy.dtype(), T => {
            let dy = dy.host::<T>()?;
            if let Some((mut dtoken, mode)) = grads.param(&self.token)? {
                let dtoken = dtoken.host_mut::<T>()?;
                if !mode.accumulates() {
                    dtoken.fill(T::default());
                }
                for (row, &source) in dy.chunks_exact(c.max(1)).zip(self.plan.source.host::<i32>()?) {
                    if source < 0 {
                        for (d, &g) in dtoken.iter_mut().zip(row) {
                            *d += g;
                        }
                    }
                }
            }
            if let Some((mut dx, mode)) = grads.slot(&self.x)? {
                let rows = dx.host_mut::<T>()?.chunks_exact_mut(c.max(1));
                for (dx, &target) in rows.zip(self.plan.target.host::<i32>()?) {
                    if !mode.accumulates() {
                        dx.fill(T::default());
                    }
                    if target >= 0 {
                        for (d, &g) in dx.iter_mut().zip(&dy[target as usize * c..][..c]) {
                            *d += g;
                        }
                    }
                }
            }
            Ok(())
        })
    }
}

impl RowAssembleBwd {
    fn run_kernels(&self, dy: &Tensor, c: usize, grads: &mut Grads<'_>) -> Result<()> {
        let (device, dtype) = (dy.device(), dy.dtype());
        if c == 0 {
            return Ok(());
        }
        if let Some((mut dtoken, mode)) = grads.param(&self.token)? {
            // The number of parts fixes the order of the sum: from the sizes alone.
            let count = self.plan.token_rows.len();
            let parts = count.div_ceil(64).clamp(1, 128);
            let columns = 32 * (16 / dtype.size());
            let mut partial = Tensor::empty(device, self.token.value.dtype(), &[parts, c])?;
            KernelCall::typed(device, "row_assemble_bwd_params", dtype)
                .output(&mut partial)?
                .input(dy)?
                .input(&self.plan.token_rows)?
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
                .launch(LaunchConfig::linear(c.div_ceil(256) as u32, 256))?;
        }
        if let Some((mut dx, mode)) = grads.slot(&self.x)? {
            let inputs = self.plan.target.len();
            if inputs > 0 {
                KernelCall::typed(device, "row_assemble_bwd_x", dtype)
                    .output_mut(&mut dx)?
                    .input(dy)?
                    .input(&self.plan.target)?
                    .value(inputs as i64)
                    .value(c as i32)
                    .value(mode.as_arg())
                    .launch(rows_launch(inputs))?;
            }
        }
        Ok(())
    }
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
        // One input row more than is used: its gradient must be zero.
        let inputs = rows - rows.div_ceil(every) + 1;
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
        let [rows, _, every] = [case.dims[0], case.dims[1], case.dims[2]];
        let inputs = args.var(0)?.shape()[0];
        let mut used = 0;
        let plan: Vec<RowSource> = (0..rows)
            .map(|i| {
                let row = (i % every != 0).then(|| {
                    used += 1;
                    inputs - 1 - used
                });
                RowSource { row, position: rows - 1 - i }
            })
            .collect();
        let plan = AssemblePlan::new(tape.device(), inputs, rows, &plan)?;
        Ok(vec![tape.row_assemble(args.var(0)?, args.param(1)?, args.var(2)?.value(), &plan)?])
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
