//! Where the CPU device chooses between an op's plain reference and its fast path.
//!
//! f64 always runs the reference: it is the oracle. f32 runs the fast path where one exists, and
//! the tests of the registry compare the two.

use super::{attention, layer_norm, linear};
use crate::device::Real;

/// The arithmetic of a CPU device, with the loops that are worth more than plain code.
pub trait Kernels: Real {
    /// `c = alpha a b + beta c`, `a` of m x k, `b` of k x n with any strides, `c` of m x n with
    /// rows of stride `c_rs`. With `beta` = 0, `c` is not read.
    #[allow(clippy::too_many_arguments)] // the argument list of every GEMM since 1979
    fn gemm(
        [m, n, k]: [usize; 3],
        alpha: Self,
        a: &[Self],
        [a_rs, a_cs]: [usize; 2],
        b: &[Self],
        [b_rs, b_cs]: [usize; 2],
        beta: Self,
        c: &mut [Self],
        c_rs: usize,
    ) {
        for i in 0..m {
            for j in 0..n {
                let mut sum = Self::default();
                for l in 0..k {
                    sum += a[i * a_rs + l * a_cs] * b[l * b_rs + j * b_cs];
                }
                let dst = &mut c[i * c_rs + j];
                *dst =
                    if beta == Self::default() { alpha * sum } else { alpha * sum + beta * *dst };
            }
        }
    }

    /// Exact GELU in place.
    fn gelu(x: &mut [Self]) {
        x.iter_mut().for_each(|x| *x = linear::gelu(*x));
    }

    /// `dy <- dy gelu'(pre)` in place.
    fn gelu_backward(dy: &mut [Self], pre: &[Self]) {
        for (d, &u) in dy.iter_mut().zip(pre) {
            *d *= linear::gelu_derivative(u);
        }
    }

    /// `out[j] (+)= sum_i x[i, j]`.
    fn sum_rows(out: &mut [Self], x: &[Self], accumulate: bool) {
        linear::sum_rows(out, x, accumulate);
    }

    /// See [`layer_norm`].
    fn layer_norm(
        y: &mut [Self],
        mean: &mut [Self],
        rstd: &mut [Self],
        x: &[Self],
        weight: &[Self],
        bias: &[Self],
        eps: Self,
    ) {
        layer_norm::reference(y, mean, rstd, x, weight, bias, eps);
    }

    /// Gradient of the layer norm's weight.
    fn layer_norm_dweight(
        dweight: &mut [Self],
        dy: &[Self],
        x: &[Self],
        mean: &[Self],
        rstd: &[Self],
        accumulate: bool,
    ) {
        layer_norm::reference_dweight(dweight, dy, x, mean, rstd, accumulate);
    }

    /// Gradient of the layer norm's input.
    fn layer_norm_dx(
        dx: &mut [Self],
        dy: &[Self],
        x: &[Self],
        mean: &[Self],
        rstd: &[Self],
        weight: &[Self],
        accumulate: bool,
    ) {
        layer_norm::reference_dx(dx, dy, x, mean, rstd, weight, accumulate);
    }

    /// See [`attention`].
    fn attention(out: &mut [Self], lse: &mut [Self], qkv: &[Self], cu: &[i32], heads: usize) {
        attention::reference(out, lse, qkv, cu, heads);
    }

    /// Gradient of queries, keys and values.
    fn attention_backward(
        dqkv: &mut [Self],
        dout: &[Self],
        qkv: &[Self],
        out: &[Self],
        lse: &[Self],
        cu: &[i32],
        heads: usize,
    ) {
        attention::reference_backward(dqkv, dout, qkv, out, lse, cu, heads);
    }
}

impl Kernels for f64 {}
impl Kernels for f32 {}
