//! Accumulate: `dst += src`, where two gradients of one value meet.

use super::{Args, Case, Input, InputKind, OpSpec, Tolerance};
use crate::device::launch::LaunchConfig;
use crate::device::{DType, Device, KernelCall, Tensor, TensorMut, with_real};
use crate::tape::{Tape, Var};
use crate::{Error, Result};

const OP: &str = "accumulate";

/// Adds `source` to `target` in place.
///
/// Shapes: as many elements in both.
/// Numerics: one addition per element, rounded to the dtype.
/// Errors: `Shape`.
pub fn accumulate(target: &mut TensorMut<'_>, source: &Tensor) -> Result<()> {
    if target.len() != source.len() || target.dtype() != source.dtype() {
        let got = format!("{:?} and {source:?}", target.shape());
        return Err(Error::shape(OP, "as many elements of the same dtype", got));
    }
    if *source.device() != Device::Cpu {
        return run_kernel(target, source);
    }
    with_real!(OP, source.dtype(), T => {
        for (d, &s) in target.host_mut::<T>()?.iter_mut().zip(source.host::<T>()?) {
            *d += s;
        }
        Ok(())
    })
}

fn run_kernel(target: &mut TensorMut<'_>, source: &Tensor) -> Result<()> {
    let n = source.len();
    if n == 0 {
        return Ok(());
    }
    KernelCall::typed(source.device(), "accumulate_update", source.dtype())
        .output_mut(target)?
        .input(source)?
        .value(n as i64)
        .launch(flat_launch(n, source.dtype()))
}

/// The launch of kernels that cover a flat array (`FLAT_TILE` of `kernels/include/rows.cuh`): 256
/// threads with four units of 16 bytes each.
pub(super) fn flat_launch(n: usize, dtype: DType) -> LaunchConfig {
    LaunchConfig::linear(n.div_ceil(256 * 4 * (16 / dtype.size())).max(1) as u32, 256)
}

/// The op in the registry. Dims of a case: elements.
pub struct Spec;

impl OpSpec for Spec {
    fn name(&self) -> &'static str {
        OP
    }

    fn summary(&self) -> &'static str {
        "sum of two gradients of one value"
    }

    fn cases(&self) -> Vec<Case> {
        let case = |n| Case::new(&["n"], &[n]);
        vec![case(1), case(13), case(1000), case(70_003), case(77).with_offset(1000.0)]
    }

    fn bench_case(&self) -> Case {
        Case::new(&["n"], &[2870 * 96])
    }

    fn inputs(&self, case: &Case) -> Vec<Input> {
        let n = case.dims[0];
        let input = |name, i| {
            Input::new(name, InputKind::Constant, &[n], case.normal(i, n, case.offset, 1.0))
        };
        vec![input("target", 0), input("source", 1)]
    }

    fn run(&self, _: &mut Tape<'_>, _: &Case, args: &Args) -> Result<Vec<Var>> {
        let mut target = args.var(0)?.value().duplicate()?;
        accumulate(&mut target.as_mut(), args.var(1)?.value())?;
        Ok(vec![Var::constant(target)])
    }

    fn tolerance(&self, _: &Case) -> Tolerance {
        Tolerance::Elementwise
    }

    fn has_kernels(&self) -> bool {
        true
    }

    fn differentiable(&self) -> bool {
        false
    }

    fn bytes(&self, case: &Case, size: usize) -> u64 {
        (3 * case.dims[0] * size) as u64
    }

    fn flops(&self, case: &Case) -> u64 {
        case.dims[0] as u64
    }
}
