//! The arithmetic of a linear layer on the CPU: products of matrices with what follows them, column
//! sums, GELU. Prototypes and 1 x 1 x 1 convolutions are made of the same.
//!
//! Each function takes the fast path in f32 and plain loops, the oracle, in f64.

use rayon::prelude::*;

use crate::Result;
use crate::device::Real;
use crate::ops::cpu::gemm::{Epilogue, MatRef, gemm};
use crate::ops::cpu::{math, par, reduce};

/// `c = a b` or `c += a b`, then the epilogue; `c` is row-major without gaps.
pub(in crate::ops) fn product<T: Real>(
    a: MatRef<'_, T>,
    b: MatRef<'_, T>,
    accumulate: bool,
    c: &mut [T],
    epilogue: Epilogue<'_, T>,
) -> Result<()> {
    if let Some(same) = T::same_as_f32() {
        let (a, b, columns) = (a.of_f32(same), b.of_f32(same), b.cols());
        let (c, epilogue) = (same.of_mut(c), epilogue.of_f32(same));
        return gemm(1.0, a, b, f32::from(accumulate), c, columns, epilogue);
    }
    reference(a, b, accumulate, c, epilogue);
    Ok(())
}

fn reference<T: Real>(
    a: MatRef<'_, T>,
    b: MatRef<'_, T>,
    accumulate: bool,
    c: &mut [T],
    mut epilogue: Epilogue<'_, T>,
) {
    let (rows, columns, inner) = (a.rows(), b.cols(), a.cols());
    for i in 0..rows {
        for j in 0..columns {
            let at = i * columns + j;
            let mut sum = T::default();
            for k in 0..inner {
                sum += a.at(i, k) * b.at(k, j);
            }
            sum += if accumulate { c[at] } else { T::default() };
            sum += epilogue.bias.map_or(T::default(), |bias| bias[j]);
            if let Some(pre) = &mut epilogue.gelu {
                pre[at] = sum;
                sum = gelu(sum);
            }
            sum += epilogue.residual.map_or(T::default(), |r| r[at]);
            c[at] = epilogue.gelu_grad.map_or(sum, |pre| sum * gelu_derivative(pre[at]));
        }
    }
}

/// `out[j] (+)= sum_i x[i, j]`: the gradient of a bias.
pub(in crate::ops) fn sum_rows<T: Real>(out: &mut [T], x: &[T], accumulate: bool) {
    if let Some(same) = T::same_as_f32() {
        return reduce::column_sums(same.of_mut(out), same.of(x), accumulate);
    }
    if !accumulate {
        out.fill(T::default());
    }
    if out.is_empty() {
        return;
    }
    for row in x.chunks_exact(out.len()) {
        for (o, &x) in out.iter_mut().zip(row) {
            *o += x;
        }
    }
}

/// `dy <- dy gelu'(pre)` in place.
pub(super) fn gelu_backward<T: Real>(dy: &mut [T], pre: &[T]) {
    if let Some(same) = T::same_as_f32() {
        let parts = same.of_mut(dy).par_chunks_mut(par::ELEMENTS);
        let parts = parts.zip(same.of(pre).par_chunks(par::ELEMENTS));
        return parts.for_each(|(dy, pre)| math::gelu_backward(dy, pre));
    }
    for (d, &u) in dy.iter_mut().zip(pre) {
        *d *= gelu_derivative(u);
    }
}

/// `gelu(u) = u/2 (1 + erf(u / sqrt 2))`.
pub(super) fn gelu<T: Real>(u: T) -> T {
    T::of(0.5) * u * (T::of(1.0) + (u * T::of(std::f64::consts::FRAC_1_SQRT_2)).erf())
}

/// `gelu'(u) = (1 + erf(u / sqrt 2)) / 2 + u phi(u)`.
pub(super) fn gelu_derivative<T: Real>(u: T) -> T {
    let phi = (T::of(-0.5) * u * u).exp() * T::of(0.398_942_280_401_432_7);
    T::of(0.5) * (T::of(1.0) + (u * T::of(std::f64::consts::FRAC_1_SQRT_2)).erf()) + u * phi
}
