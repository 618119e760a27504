//! The f32 fast path of layer norm: rows in parallel, vectorised.
//!
//! Statistics are two-pass (mean, then centred squares), so rows with a large mean keep their
//! variance; what the rounding of the mean leaves is measured and taken off as well, because at mean
//! 1000 it is 3e-5 of a standard deviation. Gradients of weight and bias are summed over blocks of 64
//! rows joined in order.

use crate::ops::cpu::par::{Shared, for_each_block};
use crate::ops::cpu::reduce::{ROWS, fold, join_rows, sum_body, sum_sq_body};
use crate::ops::cpu::scratch::Scratch;
use crate::ops::cpu::simd::{Arith, Level, multiversion_at};

/// The part of a row's mean that `mu` lost to rounding.
#[inline(always)]
fn rest_of_mean(x: &[f32], mu: f32) -> f32 {
    fold([x], 0.0, |s, [x]| s + (x - mu), |a, b| a + b) / x.len() as f32
}

#[inline(always)]
fn fwd_body<A: Arith>(
    y: &mut [f32],
    mean: &mut [f32],
    rstd: &mut [f32],
    x: &[f32],
    w: &[f32],
    b: &[f32],
    eps: f32,
) {
    let c = w.len();
    let b = &b[..c];
    let rows = y.chunks_exact_mut(c).zip(x.chunks_exact(c)).zip(mean.iter_mut().zip(rstd));
    for ((y, x), (mean, rstd)) in rows {
        let mu = sum_body::<A>(x) / c as f32;
        let rest = rest_of_mean(x, mu);
        let variance = sum_sq_body::<A>(x, mu) / c as f32 - rest * rest;
        // Not `max`, which would turn NaN into 0.
        let variance = if variance < 0.0 { 0.0 } else { variance };
        let r = 1.0 / (variance + eps).sqrt();
        (*mean, *rstd) = (mu, r);
        for j in 0..c {
            y[j] = A::mul_add((x[j] - mu - rest) * r, w[j], b[j]);
        }
    }
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn bwd_body<A: Arith>(
    dx: &mut [f32],
    dw: &mut [f32],
    db: &mut [f32],
    dy: &[f32],
    x: &[f32],
    mean: &[f32],
    rstd: &[f32],
    w: &[f32],
) {
    let c = w.len();
    let (dw, db) = (&mut dw[..c], &mut db[..c]);
    let rows = dx.chunks_exact_mut(c).zip(dy.chunks_exact(c)).zip(x.chunks_exact(c));
    for (((dx, dy), x), (mu, r)) in rows.zip(mean.iter().zip(rstd)) {
        let (mu, r) = (*mu, *r);
        let rest = rest_of_mean(x, mu);
        let sum_g = fold([dy, w], 0.0, |s, [d, w]| A::mul_add(d, w, s), |a, b| a + b);
        let sum_gx = fold(
            [dy, w, x],
            0.0,
            |s, [d, w, x]| A::mul_add(d * w, (x - mu - rest) * r, s),
            |a, b| a + b,
        );
        let (mean_g, mean_gx) = (sum_g / c as f32, sum_gx / c as f32);
        for j in 0..c {
            let xhat = (x[j] - mu - rest) * r;
            dw[j] = A::mul_add(dy[j], xhat, dw[j]);
            db[j] += dy[j];
            // Not fused: the product must round as it did in the sum, or c = 1 leaves noise.
            dx[j] = r * (dy[j] * w[j] - mean_g - xhat * mean_gx);
        }
    }
}

multiversion_at! {
    fn fwd_at(
        y: &mut [f32], mean: &mut [f32], rstd: &mut [f32], x: &[f32], w: &[f32], b: &[f32], eps: f32,
    ) = fwd_body;
    fn bwd_at(
        dx: &mut [f32], dw: &mut [f32], db: &mut [f32], dy: &[f32], x: &[f32], mean: &[f32],
        rstd: &[f32], w: &[f32],
    ) = bwd_body;
}

/// `y = (x - mean) * rstd * w + b` for each row.
///
/// Shapes: y, x `[rows, c]`; mean, rstd `[rows]`; w, b `[c]`. Panics when a slice has another size.
#[allow(clippy::too_many_arguments)]
pub fn forward(
    y: &mut [f32],
    mean: &mut [f32],
    rstd: &mut [f32],
    x: &[f32],
    w: &[f32],
    b: &[f32],
    eps: f32,
) {
    let level = Level::detected();
    let (rows, c) = (mean.len(), w.len());
    assert!(y.len() == rows * c && x.len() == rows * c, "layer_norm: x and y are [rows, c]");
    assert!(rstd.len() == rows, "layer_norm: mean and rstd are [rows]");
    assert!(b.len() == c, "layer_norm: w and b are [c]");
    if c == 0 {
        return;
    }
    let (y, mean, rstd) = (Shared::new(y), Shared::new(mean), Shared::new(rstd));
    for_each_block(rows, ROWS, |_, r| {
        let e = r.start * c..r.end * c;
        // SAFETY: blocks of rows are disjoint.
        let (y, mean, rstd) =
            unsafe { (y.part(e.clone()), mean.part(r.clone()), rstd.part(r.clone())) };
        fwd_at(level, y, mean, rstd, &x[e], w, b, eps);
    });
}

/// Gradients of [`forward`]: `dx` is overwritten; `dw` and `db` are added to with
/// `accumulate`, else overwritten.
///
/// Shapes: dx, dy, x `[rows, c]`; mean, rstd `[rows]`; dw, db, w `[c]`. Panics when a slice has
/// another size.
#[allow(clippy::too_many_arguments)]
pub fn backward(
    dx: &mut [f32],
    dw: &mut [f32],
    db: &mut [f32],
    dy: &[f32],
    x: &[f32],
    mean: &[f32],
    rstd: &[f32],
    w: &[f32],
    accumulate: bool,
) {
    let level = Level::detected();
    let (rows, c) = (mean.len(), w.len());
    let full = rows * c;
    assert!(
        dx.len() == full && dy.len() == full && x.len() == full,
        "layer_norm backward: dx, dy and x are [rows, c]"
    );
    assert!(rstd.len() == rows, "layer_norm backward: mean and rstd are [rows]");
    assert!(dw.len() == c && db.len() == c, "layer_norm backward: dw, db, w are [c]");
    if c == 0 {
        return;
    }
    let blocks = rows.div_ceil(ROWS);
    let mut partial = Scratch::zeroed(2 * blocks * c);
    let (pw, pb) = partial.split_at_mut(blocks * c);
    let (pw, pb, dx) = (Shared::new(pw), Shared::new(pb), Shared::new(dx));
    for_each_block(rows, ROWS, |i, r| {
        let (e, own) = (r.start * c..r.end * c, i * c..(i + 1) * c);
        // SAFETY: blocks of rows are disjoint, each has its own partial sums.
        let (dx, dw, db) =
            unsafe { (dx.part(e.clone()), pw.part(own.clone()), pb.part(own.clone())) };
        bwd_at(level, dx, dw, db, &dy[e.clone()], &x[e], &mean[r.clone()], &rstd[r], w);
    });
    let (pw, pb) = partial.split_at_mut(blocks * c);
    join_rows(dw, pw, accumulate);
    join_rows(db, pb, accumulate);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::cpu::testing::{assert_close, normal, same_bits_for_any_threads};

    /// Mean, 1 / std, and the gradients (dx, dw, db), in f64.
    fn reference(x: &[f32], dy: &[f32], w: &[f32], eps: f64) -> [Vec<f64>; 5] {
        let c = w.len();
        let [mut means, mut rstds, mut dx] = [const { Vec::new() }; 3];
        let (mut dw, mut db) = (vec![0.0; c], vec![0.0; c]);
        for (x, dy) in x.chunks(c).zip(dy.chunks(c)) {
            let x: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
            let mean = x.iter().sum::<f64>() / c as f64;
            let rstd =
                1.0 / (x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / c as f64 + eps).sqrt();
            let hat = |j: usize| (x[j] - mean) * rstd;
            let g = |j: usize| f64::from(dy[j]) * f64::from(w[j]);
            let mg = (0..c).map(g).sum::<f64>() / c as f64;
            let mgx = (0..c).map(|j| g(j) * hat(j)).sum::<f64>() / c as f64;
            for j in 0..c {
                dw[j] += f64::from(dy[j]) * hat(j);
                db[j] += f64::from(dy[j]);
                dx.push(rstd * (g(j) - mg - hat(j) * mgx));
            }
            means.push(mean);
            rstds.push(rstd);
        }
        [means, rstds, dx, dw, db]
    }

    #[test]
    fn layer_norm_matches_f64() {
        for (rows, c) in [(1, 1), (7, 13), (129, 96), (65, 192), (3, 1031)] {
            // Offset 1000: where E[x^2] - E[x]^2 would lose the variance. The input is the rounded
            // sum, so the reference sees the same numbers.
            for offset in [0.0, 1000.0] {
                let mut x = normal(1, rows * c);
                x.iter_mut().for_each(|v| *v += offset);
                let (dy, w, b) = (normal(2, rows * c), normal(3, c), normal(4, c));
                let (mut y, mut dx) = (vec![0.0; rows * c], vec![0.0; rows * c]);
                let (mut mean, mut rstd) = (vec![0.0; rows], vec![0.0; rows]);
                forward(&mut y, &mut mean, &mut rstd, &x, &w, &b, 1e-6);
                let [wm, wr, wdx, wdw, wdb] = reference(&x, &dy, &w, 1e-6);
                let wy: Vec<f64> = (0..rows * c)
                    .map(|e| {
                        (f64::from(x[e]) - wm[e / c]) * wr[e / c] * f64::from(w[e % c])
                            + f64::from(b[e % c])
                    })
                    .collect();
                let top = |x: &[f64]| x.iter().fold(1e-3f64, |m, v| m.max(v.abs()));
                let close = |name: &str, got: &[f32], want: &[f64]| {
                    let bound = 1e-5 * top(want);
                    assert_close(&format!("{name} {rows}x{c}+{offset}"), got, want, |_| bound);
                };
                close("mean", &mean, &wm);
                if c > 1 {
                    close("rstd", &rstd, &wr);
                    close("y", &y, &wy);
                }
                let (mut dw, mut db) = (vec![f32::NAN; c], vec![f32::NAN; c]);
                backward(&mut dx, &mut dw, &mut db, &dy, &x, &mean, &rstd, &w, false);
                if c > 1 {
                    close("dx", &dx, &wdx);
                    close("dw", &dw, &wdw);
                }
                close("db", &db, &wdb);
                let before = (dw.clone(), db.clone());
                backward(&mut dx, &mut dw, &mut db, &dy, &x, &mean, &rstd, &w, true);
                assert!(dw.iter().zip(&before.0).all(|(a, b)| *a == 2.0 * b));
                assert!(db.iter().zip(&before.1).all(|(a, b)| *a == 2.0 * b));
            }
        }
    }

    #[test]
    fn layer_norm_keeps_its_bits_for_any_number_of_threads() {
        let (rows, c) = (777, 96);
        let (x, dy, w, b) = (normal(1, rows * c), normal(2, rows * c), normal(3, c), normal(4, c));
        same_bits_for_any_threads(|| {
            let (mut y, mut dx) = (vec![0.0; rows * c], vec![0.0; rows * c]);
            let (mut mean, mut rstd) = (vec![0.0; rows], vec![0.0; rows]);
            let (mut dw, mut db) = (vec![0.0; c], vec![0.0; c]);
            forward(&mut y, &mut mean, &mut rstd, &x, &w, &b, 1e-6);
            backward(&mut dx, &mut dw, &mut db, &dy, &x, &mean, &rstd, &w, false);
            [y, dx, dw, db].concat()
        });
    }
}
