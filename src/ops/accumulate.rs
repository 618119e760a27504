//! Accumulate: `dst += src`, where two gradients of one value meet. The function is
//! [`crate::tape::accumulate`], because the tape calls it; here are the cases that test it.
//!
//! Shapes: as many elements in both.
//! Errors: `Shape`.

use super::{Input, InputKind, OpArgs, OpCase, OpSpec, Tolerance};
use crate::Result;
use crate::tape::{Tape, Var, accumulate};

const OP: &str = "accumulate";

/// The op in the registry. Dims of a case: elements.
pub struct Spec;

impl OpSpec for Spec {
    fn name(&self) -> &'static str {
        OP
    }

    fn summary(&self) -> &'static str {
        "sum of two gradients of one value"
    }

    fn cases(&self) -> Vec<OpCase> {
        let case = |n| OpCase::new(&["n"], &[n]);
        vec![case(1), case(13), case(1000), case(70_003), case(77).with_offset(1000.0)]
    }

    fn bench_case(&self) -> OpCase {
        OpCase::new(&["n"], &[2870 * 96])
    }

    fn inputs(&self, case: &OpCase) -> Vec<Input> {
        let n = case.dims[0];
        let input = |name, i| {
            Input::new(name, InputKind::Constant, &[n], case.normal(i, n, case.offset, 1.0))
        };
        vec![input("target", 0), input("source", 1)]
    }

    fn run(&self, _: &mut Tape<'_>, _: &OpCase, args: &OpArgs) -> Result<Vec<Var>> {
        let mut target = args.var(0)?.value().duplicate()?;
        accumulate(&mut target.as_mut(), args.var(1)?.value())?;
        Ok(vec![Var::constant(target)])
    }

    fn tolerance(&self, _: &OpCase) -> Tolerance {
        Tolerance::Elementwise
    }

    fn has_kernels(&self) -> bool {
        true
    }

    fn differentiable(&self) -> bool {
        false
    }

    fn bytes(&self, case: &OpCase, size: usize) -> u64 {
        (3 * case.dims[0] * size) as u64
    }

    fn flops(&self, case: &OpCase) -> u64 {
        case.dims[0] as u64
    }
}
