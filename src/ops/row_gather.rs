//! Row gather: `y[i] = x[index[i]]`. Takes the cls rows for the projection head and the masked
//! rows for the pixel head.

use super::cpu::par::for_each_row;
use super::{Input, InputKind, OpArgs, OpCase, OpSpec, Tolerance, needs_grad};
use crate::device::launch::LaunchConfig;
use crate::device::{Device, KernelCall, Tensor, with_real};
use crate::tape::{Backward, Grads, Tape, Var};
use crate::{Error, Result};

const OP: &str = "row_gather";

/// Which rows are taken; every row at most once, so that the gradient is a plain copy.
#[derive(Clone, Debug)]
pub struct GatherPlan {
    /// `[rows taken]` i32.
    index: Tensor,
    /// `[rows]` i32: where a row was taken to, -1 for nowhere.
    taken: Tensor,
}

impl GatherPlan {
    /// Errors: an index outside `0..rows`, or one that is named twice.
    pub fn new(device: &Device, rows: usize, index: &[usize]) -> Result<Self> {
        let mut taken = vec![-1i32; rows];
        for (to, &i) in index.iter().enumerate() {
            match taken.get_mut(i) {
                Some(free) if *free < 0 => *free = to as i32,
                _ => {
                    return Err(Error::shape(
                        OP,
                        format!("distinct rows below {rows}"),
                        format!("row {i}"),
                    ));
                }
            }
        }
        let ids: Vec<i32> = index.iter().map(|&i| i as i32).collect();
        Ok(Self {
            index: Tensor::from_slice(device, &ids, &[ids.len()])?,
            taken: Tensor::from_slice(device, &taken, &[rows])?,
        })
    }

    /// See [`super::patch_gather::PatchPlan::refill`].
    pub fn refill(&mut self, other: &Self) -> Result<()> {
        self.index.as_mut().assign(&other.index)?;
        self.taken.as_mut().assign(&other.taken)
    }

    /// Number of rows taken.
    pub fn taken(&self) -> usize {
        self.index.len()
    }
}

impl<'a> Tape<'a> {
    /// `y[i] = x[index[i]]`.
    ///
    /// Shapes: `x` `[rows, c]`, result `[plan.taken(), c]`.
    /// Numerics: data movement, exact.
    /// Errors: `Shape`.
    ///
    /// ```
    /// use glmae::device::{Device, Tensor};
    /// use glmae::ops::row_gather::GatherPlan;
    /// use glmae::tape::{Tape, Var};
    /// let cpu = Device::Cpu;
    /// let x = Var::constant(Tensor::from_slice(&cpu, &[1.0, 2.0, 3.0], &[3, 1])?);
    /// let plan = GatherPlan::new(&cpu, 3, &[2, 0])?;
    /// let y = Tape::new(&cpu).row_gather(&x, &plan)?;
    /// // Row 2, then row 0.
    /// assert_eq!(y.value().to_f64_vec()?, [3.0, 1.0]);
    /// # Ok::<(), glmae::Error>(())
    /// ```
    pub fn row_gather(&mut self, x: &Var, plan: &GatherPlan) -> Result<Var> {
        let (rows, c) = x.value().matrix(OP)?;
        if rows != plan.taken.len() {
            return Err(Error::shape(OP, format!("{} rows", plan.taken.len()), format!("{rows}")));
        }
        let dtype = x.value().dtype();
        let mut y = Tensor::empty(self.device(), dtype, &[plan.taken(), c])?;
        match self.device() {
            Device::Cpu => with_real!(OP, dtype, T => {
                let (x, index) = (x.value().host::<T>()?, plan.index.host::<i32>()?);
                for_each_row(y.host_mut::<T>()?, c, |i, y| {
                    y.copy_from_slice(&x[index[i] as usize * c..][..c]);
                });
                Ok(())
            })?,
            _ if y.is_empty() => {}
            device => KernelCall::typed(device, "row_gather_fwd", dtype)
                .output(&mut y)?
                .input(x.value())?
                .input(&plan.index)?
                .value(plan.taken() as i64)
                .value(c as i32)
                .launch(rows_launch(plan.taken()))?,
        }
        let keeps = needs_grad(&[x], &[]);
        Ok(self.record(OP, y, keeps, || RowGatherBwd { x: x.clone(), plan: plan.clone() }))
    }
}

/// One warp per row, eight per block.
pub(super) fn rows_launch(rows: usize) -> LaunchConfig {
    LaunchConfig::linear(rows.div_ceil(8).max(1) as u32, 256)
}

struct RowGatherBwd {
    x: Var,
    plan: GatherPlan,
}

impl Backward for RowGatherBwd {
    fn run(self: Box<Self>, dy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let Some((mut dx, mode)) = grads.slot(&self.x)? else { return Ok(()) };
        let (rows, c) = self.x.value().matrix(OP)?;
        if *dy.device() != Device::Cpu {
            if dx.is_empty() {
                return Ok(());
            }
            return KernelCall::typed(dy.device(), "row_gather_bwd", dy.dtype())
                .output_mut(&mut dx)?
                .input(&dy)?
                .input(&self.plan.taken)?
                .value(rows as i64)
                .value(c as i32)
                .value(mode.as_arg())
                .launch(rows_launch(rows));
        }
        with_real!(OP, dy.dtype(), T => {
            let (dx, dy) = (dx.host_mut::<T>()?, dy.host::<T>()?);
            if !mode.accumulates() {
                dx.fill(T::default());
            }
            for (dy, &i) in dy.chunks_exact(c.max(1)).zip(self.plan.index.host::<i32>()?) {
                for (dx, &d) in dx[i as usize * c..][..c].iter_mut().zip(dy) {
                    *dx += d;
                }
            }
            Ok(())
        })
    }
}

/// The op in the registry. Dims of a case: rows, c, every how many-th row is taken.
pub struct Spec;

impl OpSpec for Spec {
    fn name(&self) -> &'static str {
        OP
    }

    fn summary(&self) -> &'static str {
        "chosen rows of a matrix (cls rows, masked rows)"
    }

    fn cases(&self) -> Vec<OpCase> {
        let case = |d: [usize; 3]| OpCase::new(&["rows", "c", "step"], &d);
        vec![
            case([1, 1, 1]),
            case([13, 7, 3]),
            case([31, 50, 2]),
            case([55, 192, 4]),
            case([17, 33, 1]).with_offset(1000.0),
        ]
    }

    fn bench_case(&self) -> OpCase {
        OpCase::new(&["rows", "c", "step"], &[2870, 96, 2])
    }

    fn inputs(&self, case: &OpCase) -> Vec<Input> {
        let [rows, c] = [case.dims[0], case.dims[1]];
        let x = case.normal(0, rows * c, case.offset, 1.0);
        vec![Input::new("x", InputKind::Activation, &[rows, c], x)]
    }

    fn run(&self, tape: &mut Tape<'_>, case: &OpCase, args: &OpArgs) -> Result<Vec<Var>> {
        let index: Vec<usize> = (0..case.dims[0]).rev().step_by(case.dims[2]).collect();
        let plan = GatherPlan::new(tape.device(), case.dims[0], &index)?;
        Ok(vec![tape.row_gather(args.var(0)?, &plan)?])
    }

    fn tolerance(&self, _: &OpCase) -> Tolerance {
        Tolerance::Bitwise
    }

    fn has_kernels(&self) -> bool {
        true
    }

    fn bytes(&self, case: &OpCase, size: usize) -> u64 {
        (2 * case.dims[0].div_ceil(case.dims[2]) * case.dims[1] * size) as u64
    }

    fn flops(&self, _: &OpCase) -> u64 {
        0
    }
}
