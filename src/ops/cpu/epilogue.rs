//! What a matrix product does to its result while that is in cache.

use crate::device::{Real, SameAsF32};
use crate::error::{Error, Result};
use crate::ops::cpu::math::{gelu_grad1, gelu1};
use crate::ops::cpu::par::Shared;
use crate::ops::cpu::simd::{Arith, Level, multiversion_at};

/// What is done to a row of C while it is still in cache, in this order. Matrices are `[m, n]`
/// row-major without gaps.
#[derive(Default)]
pub struct Epilogue<'a, T = f32> {
    /// Adds this row `[n]` to every row.
    pub bias: Option<&'a [T]>,
    /// Saves the value so far here and continues with its exact GELU.
    pub gelu: Option<&'a mut [T]>,
    /// Adds this matrix.
    pub residual: Option<&'a [T]>,
    /// Multiplies by the derivative of GELU at this saved pre-activation.
    pub gelu_grad: Option<&'a [T]>,
}

impl<'a, T: Real> Epilogue<'a, T> {
    /// The epilogue for code that is written for f32.
    pub(in crate::ops) fn of_f32(self, same: SameAsF32<T>) -> Epilogue<'a> {
        Epilogue {
            bias: self.bias.map(|x| same.of(x)),
            gelu: self.gelu.map(|x| same.of_mut(x)),
            residual: self.residual.map(|x| same.of(x)),
            gelu_grad: self.gelu_grad.map(|x| same.of(x)),
        }
    }
}

impl Epilogue<'_> {
    pub(crate) fn check(&self, m: usize, n: usize) -> Result<()> {
        let full = m.saturating_mul(n);
        let bad = |what: &str, expected: usize, got: usize| {
            Err(Error::shape("gemm", format!("{what} of {expected} elements"), got.to_string()))
        };
        if let Some(x) = self.bias.filter(|x| x.len() != n) {
            return bad("bias", n, x.len());
        }
        if let Some(x) = self.gelu.as_ref().filter(|x| x.len() != full) {
            return bad("pre-activation", full, x.len());
        }
        for (what, x) in [("pre-activation", self.gelu_grad), ("residual", self.residual)] {
            if let Some(x) = x.filter(|x| x.len() != full) {
                return bad(what, full, x.len());
            }
        }
        Ok(())
    }
}

/// The epilogue with its output shared between threads.
pub(crate) struct Finish<'a> {
    bias: Option<&'a [f32]>,
    gelu: Option<Shared<'a>>,
    gelu_grad: Option<&'a [f32]>,
    residual: Option<&'a [f32]>,
    n: usize,
    level: Level,
}

impl<'a> Finish<'a> {
    pub(crate) fn new(epilogue: Epilogue<'a>, n: usize, level: Level) -> Self {
        let Epilogue { bias, gelu, gelu_grad, residual } = epilogue;
        Self { bias, gelu: gelu.map(Shared::new), gelu_grad, residual, n, level }
    }

    /// Whether there is anything to do.
    pub(crate) fn is_needed(&self) -> bool {
        self.bias.is_some()
            || self.gelu.is_some()
            || self.gelu_grad.is_some()
            || self.residual.is_some()
    }

    /// Finishes the elements of row `i` from column `j` on.
    ///
    /// # Safety
    /// No other thread may work on the same elements.
    pub(crate) unsafe fn row(&self, i: usize, j: usize, c: &mut [f32]) {
        let at = i * self.n + j;
        let range = at..at + c.len();
        let cut = |x: Option<&'a [f32]>| x.map(|x| &x[range.clone()]);
        // SAFETY: the caller owns these elements.
        let pre = self.gelu.as_ref().map(|pre| unsafe { pre.part(range.clone()) });
        let bias = self.bias.map(|bias| &bias[j..j + c.len()]);
        finish_at(self.level, c, bias, pre, cut(self.gelu_grad), cut(self.residual));
    }
}

/// The steps of [`Epilogue`] over a part of a row.
#[inline(always)]
fn finish_body<A: Arith>(
    c: &mut [f32],
    bias: Option<&[f32]>,
    pre: Option<&mut [f32]>,
    gelu_grad: Option<&[f32]>,
    residual: Option<&[f32]>,
) {
    if let Some(bias) = bias {
        c.iter_mut().zip(bias).for_each(|(c, b)| *c += b);
    }
    if let Some(pre) = pre {
        pre.copy_from_slice(c);
        c.iter_mut().zip(pre.iter()).for_each(|(c, x)| *c = gelu1::<A>(*x));
    }
    if let Some(residual) = residual {
        c.iter_mut().zip(residual).for_each(|(c, r)| *c += r);
    }
    if let Some(pre) = gelu_grad {
        c.iter_mut().zip(pre).for_each(|(c, x)| *c *= gelu_grad1::<A>(*x));
    }
}

multiversion_at! {
    fn finish_at(
        c: &mut [f32], bias: Option<&[f32]>, pre: Option<&mut [f32]>, gelu_grad: Option<&[f32]>,
        residual: Option<&[f32]>,
    ) = finish_body;
}
