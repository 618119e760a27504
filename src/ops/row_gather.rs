//! Row gather: `y[i] = x[index[i]]`. Takes the cls rows for the projection head and the masked
//! rows for the pixel head.

use super::kernels::for_each_row;
use super::{Args, Case, Input, InputKind, OpSpec, Tolerance, needs_grad};
use crate::device::{Device, Tensor, with_real};
use crate::tape::{Backward, Grads, Tape, Var};
use crate::{Error, Result};

const OP: &str = "row_gather";

/// Which rows are taken; every row at most once, so that the gradient is a plain copy.
#[derive(Clone, Debug)]
pub struct GatherPlan {
    /// `[rows taken]` i32.
    index: Tensor,
    rows: usize,
}

impl GatherPlan {
    /// Errors: an index outside `0..rows`, or one that is named twice.
    pub fn new(device: &Device, rows: usize, index: &[usize]) -> Result<Self> {
        let mut seen = vec![false; rows];
        for &i in index {
            if i >= rows || std::mem::replace(&mut seen[i], true) {
                return Err(Error::shape(
                    OP,
                    format!("distinct rows below {rows}"),
                    format!("row {i}"),
                ));
            }
        }
        let ids: Vec<i32> = index.iter().map(|&i| i as i32).collect();
        Ok(Self { index: Tensor::from_slice(device, &ids, &[ids.len()])?, rows })
    }

    /// Number of rows taken.
    pub fn taken(&self) -> usize {
        self.index.len()
    }
}

impl<'a> Tape<'a> {
    /// `y[i] = x[index[i]]`.
    ///
    /// Shapes: `x` [rows, c], result [plan.taken(), c].
    /// Numerics: data movement, exact.
    /// Errors: `Shape`.
    pub fn row_gather(&mut self, x: &Var, plan: &GatherPlan) -> Result<Var> {
        let (rows, c) = x.value().matrix(OP)?;
        if rows != plan.rows {
            return Err(Error::shape(OP, format!("{} rows", plan.rows), format!("{rows}")));
        }
        let dtype = x.value().dtype();
        let mut y = Tensor::empty(self.device(), dtype, &[plan.taken(), c])?;
        with_real!(OP, dtype, T => {
            let (x, index) = (x.value().host::<T>()?, plan.index.host::<i32>()?);
            for_each_row(y.host_mut::<T>()?, c, |i, y| {
                y.copy_from_slice(&x[index[i] as usize * c..][..c]);
            });
            Ok(())
        })?;
        let keeps = needs_grad(&[x], &[]);
        Ok(self.record(OP, y, keeps, || RowGatherBwd { x: x.clone(), plan: plan.clone() }))
    }
}

struct RowGatherBwd {
    x: Var,
    plan: GatherPlan,
}

impl Backward for RowGatherBwd {
    fn run(self: Box<Self>, dy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let Some((mut dx, mode)) = grads.slot(&self.x)? else { return Ok(()) };
        let c = dx.shape()[1];
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

    fn cases(&self) -> Vec<Case> {
        let case = |d: [usize; 3]| Case::new(&["rows", "c", "step"], &d);
        vec![
            case([1, 1, 1]),
            case([13, 7, 3]),
            case([31, 50, 2]),
            case([55, 192, 4]),
            case([17, 33, 1]).with_offset(1000.0),
        ]
    }

    fn bench_case(&self) -> Case {
        Case::new(&["rows", "c", "step"], &[2870, 96, 2])
    }

    fn inputs(&self, case: &Case) -> Vec<Input> {
        let [rows, c] = [case.dims[0], case.dims[1]];
        let x = case.normal(0, rows * c, case.offset, 1.0);
        vec![Input::new("x", InputKind::Activation, &[rows, c], x)]
    }

    fn run(&self, tape: &mut Tape<'_>, case: &Case, args: &Args) -> Result<Vec<Var>> {
        let index: Vec<usize> = (0..case.dims[0]).rev().step_by(case.dims[2]).collect();
        let plan = GatherPlan::new(tape.device(), case.dims[0], &index)?;
        Ok(vec![tape.row_gather(args.var(0)?, &plan)?])
    }

    fn tolerance(&self, _: &Case) -> Tolerance {
        Tolerance::Bitwise
    }

    fn bytes(&self, case: &Case, size: usize) -> u64 {
        (2 * case.dims[0].div_ceil(case.dims[2]) * case.dims[1] * size) as u64
    }

    fn flops(&self, _: &Case) -> u64 {
        0
    }
}
