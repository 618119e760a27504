//! Centre update: `center <- m center + (1 - m) mean over rows of the teacher's logits`.

use super::{Args, Case, Input, InputKind, OpSpec, Tolerance};
use crate::Result;
use crate::device::{Real, Tensor, with_real};
use crate::tape::{Tape, Var};

const OP: &str = "center_update";

/// Updates `center` in place, after the loss has used it.
///
/// Shapes: `center` [K], `logits` [rows, K] (all views, all volumes).
/// Numerics: rows are summed in order.
/// Errors: `Shape`.
/// Source: DINO, arXiv 2104.14294, section 3.1.
pub fn center_update(center: &mut Tensor, logits: &Tensor, momentum: f64) -> Result<()> {
    let (rows, k) = logits.matrix(OP)?;
    center.expect_shape(OP, &[k])?;
    with_real!(OP, logits.dtype(), T => {
        let logits = logits.host::<T>()?;
        let (m, share) = (T::of(momentum), T::of((1.0 - momentum) / rows.max(1) as f64));
        for (j, c) in center.host_mut::<T>()?.iter_mut().enumerate() {
            let sum: T = logits.iter().skip(j).step_by(k).copied().sum();
            *c = m * *c + share * sum;
        }
        Ok(())
    })
}

/// The op in the registry. Dims of a case: rows, K.
pub struct Spec;

impl OpSpec for Spec {
    fn name(&self) -> &'static str {
        OP
    }

    fn summary(&self) -> &'static str {
        "running mean of the teacher's logits"
    }

    fn cases(&self) -> Vec<Case> {
        let case = |rows, k| Case::new(&["rows", "k"], &[rows, k]);
        vec![case(1, 1), case(3, 13), case(8, 50), case(5, 130), case(4, 31).with_offset(1000.0)]
    }

    fn bench_case(&self) -> Case {
        Case::new(&["rows", "k"], &[8, 65536])
    }

    fn inputs(&self, case: &Case) -> Vec<Input> {
        let [rows, k] = [case.dims[0], case.dims[1]];
        let logits = case.normal(1, rows * k, case.offset, 1.0);
        vec![
            Input::new("center", InputKind::Constant, &[k], case.normal(0, k, case.offset, 1.0)),
            Input::new("logits", InputKind::Constant, &[rows, k], logits),
        ]
    }

    fn run(&self, _: &mut Tape<'_>, _: &Case, args: &Args) -> Result<Vec<Var>> {
        let mut center = args.var(0)?.value().duplicate()?;
        center_update(&mut center, args.var(1)?.value(), 0.9)?;
        Ok(vec![Var::constant(center)])
    }

    fn tolerance(&self, _: &Case) -> Tolerance {
        Tolerance::Reduction
    }

    fn differentiable(&self) -> bool {
        false
    }

    fn bytes(&self, case: &Case, size: usize) -> u64 {
        ((case.dims[0] + 2) * case.dims[1] * size) as u64
    }

    fn flops(&self, case: &Case) -> u64 {
        (case.dims[0] * case.dims[1]) as u64
    }
}
