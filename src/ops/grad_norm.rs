//! Global gradient norm over the flat gradient buffer, and the factor that clips it:
//! `g <- g min(1, clip / (norm + 1e-6))`.

use rayon::prelude::*;

use super::{Args, Case, Input, InputKind, OpSpec, Tolerance};
use crate::Result;
use crate::device::{Real, Tensor, with_real};
use crate::tape::{Tape, Var};

const OP: &str = "grad_norm";

/// Elements that one partial sum covers: fixed, so that the result does not depend on threads.
const CHUNK: usize = 1 << 16;

/// Euclidean norm of a flat buffer; its padding and untrained parameters hold zeros.
///
/// Shapes: `flat` [n].
/// Numerics: squares are summed in f64, chunk by chunk in order. Not finite if any element is not.
/// Errors: `Shape`.
pub fn grad_norm(flat: &Tensor) -> Result<f64> {
    fn squares<T: Real>(x: &[T]) -> f64 {
        x.iter().map(|&x| x.to_f64() * x.to_f64()).sum()
    }
    with_real!(OP, flat.dtype(), T => {
        let partial: Vec<f64> = flat.host::<T>()?.par_chunks(CHUNK).map(squares).collect();
        Ok(partial.iter().sum::<f64>().sqrt())
    })
}

/// The factor that brings a norm down to `clip`; 1 when `clip` is 0 (no clipping).
/// Source: `torch.nn.utils.clip_grad_norm_`.
pub fn clip_factor(norm: f64, clip: f64) -> f64 {
    if clip > 0.0 { (clip / (norm + 1e-6)).min(1.0) } else { 1.0 }
}

/// The op in the registry. Dims of a case: elements.
pub struct Spec;

impl OpSpec for Spec {
    fn name(&self) -> &'static str {
        OP
    }

    fn summary(&self) -> &'static str {
        "Euclidean norm of all gradients"
    }

    fn cases(&self) -> Vec<Case> {
        let case = |n| Case::new(&["n"], &[n]);
        vec![case(1), case(13), case(1001), case(200_003), case(777).with_offset(1000.0)]
    }

    fn bench_case(&self) -> Case {
        Case::new(&["n"], &[3_000_000])
    }

    fn inputs(&self, case: &Case) -> Vec<Input> {
        let n = case.dims[0];
        vec![Input::new("flat", InputKind::Constant, &[n], case.normal(0, n, case.offset, 1.0))]
    }

    fn run(&self, tape: &mut Tape<'_>, _: &Case, args: &Args) -> Result<Vec<Var>> {
        let flat = args.var(0)?.value();
        let norm = grad_norm(flat)?;
        Ok(vec![Var::constant(Tensor::from_f64(tape.device(), flat.dtype(), &[norm], &[1])?)])
    }

    fn tolerance(&self, _: &Case) -> Tolerance {
        Tolerance::Reduction
    }

    fn differentiable(&self) -> bool {
        false
    }

    fn bytes(&self, case: &Case, size: usize) -> u64 {
        (case.dims[0] * size) as u64
    }

    fn flops(&self, case: &Case) -> u64 {
        2 * case.dims[0] as u64
    }
}
