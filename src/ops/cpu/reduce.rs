//! Row reductions with a fixed order and small linear-algebra loops.
//!
//! A sum runs in `LANES` interleaved partial sums that are folded pairwise, on every instruction set
//! alike: the order depends on the length only.

use crate::ops::cpu::par::{Shared, for_each_block};
use crate::ops::cpu::scratch::Scratch;
use crate::ops::cpu::simd::{Arith, multiversion};

const LANES: usize = 32;
/// Rows per partial column sum.
pub(crate) const ROWS: usize = 64;

/// Sums `f(i)` over `0..len` elements of `x`.
#[inline(always)]
pub(crate) fn fold<const N: usize>(
    x: [&[f32]; N],
    zero: f32,
    f: impl Fn(f32, [f32; N]) -> f32,
    join: impl Fn(f32, f32) -> f32,
) -> f32 {
    let len = x[0].len();
    let x = x.map(|x| &x[..len]);
    let mut acc = [zero; LANES];
    let whole = len / LANES * LANES;
    let mut i = 0;
    while i < whole {
        let blocks: [&[f32; LANES]; N] =
            std::array::from_fn(|s| x[s][i..i + LANES].first_chunk().expect("a whole block"));
        for l in 0..LANES {
            acc[l] = f(acc[l], std::array::from_fn(|s| blocks[s][l]));
        }
        i += LANES;
    }
    for l in 0..len - whole {
        acc[l] = f(acc[l], std::array::from_fn(|s| x[s][whole + l]));
    }
    let mut width = LANES / 2;
    while width > 0 {
        for l in 0..width {
            acc[l] = join(acc[l], acc[l + width]);
        }
        width /= 2;
    }
    acc[0]
}

#[inline(always)]
pub(crate) fn sum_body<A: Arith>(x: &[f32]) -> f32 {
    fold([x], 0.0, |s, [x]| s + x, |a, b| a + b)
}

/// The larger one; a NaN on the left is lost, so NaN handling is the caller's.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

#[inline(always)]
pub(crate) fn max_body<A: Arith>(x: &[f32]) -> f32 {
    fold([x], f32::NEG_INFINITY, |m, [x]| larger(m, x), larger)
}

#[inline(always)]
pub(crate) fn sum_sq_body<A: Arith>(x: &[f32], centre: f32) -> f32 {
    fold([x], 0.0, |s, [x]| A::mul_add(x - centre, x - centre, s), |a, b| a + b)
}

#[inline(always)]
pub(crate) fn dot_body<A: Arith>(x: &[f32], y: &[f32]) -> f32 {
    assert_eq!(x.len(), y.len(), "dot: lengths differ");
    fold([x, y], 0.0, |s, [x, y]| A::mul_add(x, y, s), |a, b| a + b)
}

#[inline(always)]
fn axpy_body<A: Arith>(y: &mut [f32], alpha: f32, x: &[f32]) {
    assert_eq!(y.len(), x.len(), "axpy: lengths differ");
    for (y, x) in y.iter_mut().zip(x) {
        *y = A::mul_add(alpha, *x, *y);
    }
}

#[inline(always)]
fn add_rows_body<A: Arith>(sums: &mut [f32], x: &[f32]) {
    for row in x.chunks_exact(sums.len().max(1)) {
        for (s, x) in sums.iter_mut().zip(row) {
            *s += x;
        }
    }
}

multiversion! {
    /// The sum of `x`.
    pub fn sum | sum_at(x: &[f32]) -> f32 = sum_body;
    /// The largest element, `-inf` for an empty slice. Elements that are NaN are not seen reliably.
    pub fn max | max_at(x: &[f32]) -> f32 = max_body;
    /// The sum of `(x - centre)^2`.
    pub fn sum_sq | sum_sq_at(x: &[f32], centre: f32) -> f32 = sum_sq_body;
    /// The inner product. Panics when the lengths differ.
    pub fn dot | dot_at(x: &[f32], y: &[f32]) -> f32 = dot_body;
    /// `y += alpha x`. Panics when the lengths differ.
    pub fn axpy | axpy_at(y: &mut [f32], alpha: f32, x: &[f32]) = axpy_body;
    /// `sums[j] += sum_i x[i, j]` for row-major `x` of `sums.len()` columns, on this thread.
    pub fn add_rows | add_rows_at(sums: &mut [f32], x: &[f32]) = add_rows_body;
}

/// Column sums `out[j] (+)= sum_i x[i, j]` of row-major `x: [rows, out.len()]`: the gradient of a
/// bias. Blocks of 64 rows are summed in parallel and joined in order. Panics when `x` is not a
/// whole number of rows.
pub fn column_sums(out: &mut [f32], x: &[f32], accumulate: bool) {
    let c = out.len();
    if c == 0 {
        return;
    }
    assert_eq!(x.len() % c, 0, "column_sums: ragged rows");
    let rows = x.len() / c;
    let mut partial = Scratch::zeroed(rows.div_ceil(ROWS) * c);
    let shared = Shared::new(&mut partial);
    for_each_block(rows, ROWS, |block, range| {
        // SAFETY: one part per block.
        let part = unsafe { shared.part(block * c..(block + 1) * c) };
        add_rows(part, &x[range.start * c..range.end * c]);
    });
    join_rows(out, &mut partial, accumulate);
}

/// Sums the rows of `partial` in order (destroying it) into `out`, or adds that sum to `out`.
pub(crate) fn join_rows(out: &mut [f32], partial: &mut [f32], accumulate: bool) {
    if !accumulate {
        out.fill(0.0);
    }
    if let Some((first, rest)) = partial.split_at_mut_checked(out.len()) {
        add_rows(first, rest);
        add_rows(out, first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::cpu::simd::levels;
    use crate::ops::cpu::testing::{normal, same_bits_for_any_threads};

    #[test]
    fn reductions_match_f64_and_the_plain_sum_has_one_order_on_all_levels() {
        for n in [0, 1, 31, 32, 33, 192, 1009] {
            let (x, y) = (normal(n as u64, n), normal(7, n));
            let exact: f64 = x.iter().map(|v| f64::from(*v)).sum();
            let squares: f64 = x.iter().map(|v| (f64::from(*v) - 0.5).powi(2)).sum();
            let product: f64 = x.iter().zip(&y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
            let size: f64 = x.iter().map(|v| f64::from(v.abs())).sum::<f64>() + 1e-9;
            let top = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let first = sum(&x).to_bits();
            for level in levels() {
                assert_eq!(sum_at(level, &x).to_bits(), first, "{n} {level:?}");
                assert!((f64::from(sum_at(level, &x)) - exact).abs() <= 1e-6 * size);
                assert!((f64::from(sum_sq_at(level, &x, 0.5)) - squares).abs() <= 1e-6 * squares);
                assert!((f64::from(dot_at(level, &x, &y)) - product).abs() <= 5e-6 * size);
                assert_eq!(max_at(level, &x), top, "{n} {level:?}");
            }
        }
    }

    #[test]
    fn column_sums_match_f64_for_any_number_of_threads() {
        let (rows, c) = (333, 37);
        let x = normal(1, rows * c);
        let mut out = vec![f32::NAN; c];
        column_sums(&mut out, &x, false);
        for j in 0..c {
            let want: f64 = (0..rows).map(|i| f64::from(x[i * c + j])).sum();
            assert!((f64::from(out[j]) - want).abs() <= 1e-5 * rows as f64, "{j}");
        }
        let once = out.clone();
        column_sums(&mut out, &x, true);
        assert!(out.iter().zip(&once).all(|(a, b)| *a == 2.0 * b));
        same_bits_for_any_threads(|| {
            let mut out = vec![0.0; c];
            column_sums(&mut out, &x, false);
            out
        });
    }

    #[test]
    fn axpy_adds() {
        let x = normal(1, 101);
        let mut y = vec![1.0; 101];
        axpy(&mut y, 2.0, &x);
        assert!(y.iter().zip(&x).all(|(y, x)| (y - (1.0 + 2.0 * x)).abs() <= 1e-6));
    }
}
