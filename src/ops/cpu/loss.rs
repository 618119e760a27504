//! Row losses: softmax, soft cross-entropy and mean square error, each with its gradient.

use crate::ops::cpu::math::exp_softmax1;
use crate::ops::cpu::par::{Shared, for_each_block};
use crate::ops::cpu::reduce::{fold, max_body};
use crate::ops::cpu::simd::{Arith, Level, multiversion_at};

const BLOCK: usize = 16;

#[inline(always)]
fn softmax_body<A: Arith>(y: &mut [f32], x: &[f32], inv_temp: f32) {
    let top = max_body::<A>(x);
    for (y, x) in y.iter_mut().zip(x) {
        *y = exp_softmax1::<A>((*x - top) * inv_temp);
    }
    let scale = 1.0 / fold([&*y], 0.0, |s, [v]| s + v, |a, b| a + b);
    for y in y {
        *y *= scale;
    }
}

/// Leaves `softmax(x * inv_temp)` in `p` and returns `-sum_k a_k log p_k`.
#[inline(always)]
fn cross_entropy_body<A: Arith>(p: &mut [f32], x: &[f32], a: &[f32], inv_temp: f32) -> f32 {
    let top = max_body::<A>(x);
    for (p, x) in p.iter_mut().zip(x) {
        *p = exp_softmax1::<A>((*x - top) * inv_temp);
    }
    let sum = fold([&*p], 0.0, |s, [v]| s + v, |a, b| a + b);
    let log_sum = sum.ln();
    let loss = fold(
        [a, x],
        0.0,
        |s, [a, x]| A::mul_add(a, A::mul_add(top - x, inv_temp, log_sum), s),
        |a, b| a + b,
    );
    let scale = 1.0 / sum;
    for p in p {
        *p *= scale;
    }
    loss
}

#[inline(always)]
fn cross_entropy_grad_body<A: Arith>(dx: &mut [f32], a: &[f32], mass: f32, factor: f32) {
    for (d, a) in dx.iter_mut().zip(a) {
        *d = factor * A::mul_add(mass, *d, -*a);
    }
}

#[inline(always)]
fn mse_body<A: Arith>(dx: &mut [f32], x: &[f32], t: &[f32], factor: f32) -> f32 {
    for ((d, x), t) in dx.iter_mut().zip(x).zip(t) {
        *d = factor * (x - t);
    }
    fold([x, t], 0.0, |s, [x, t]| A::mul_add(x - t, x - t, s), |a, b| a + b)
}

multiversion_at! {
    fn softmax_row_at(y: &mut [f32], x: &[f32], inv_temp: f32) = softmax_body;
    fn ce_row_at(p: &mut [f32], x: &[f32], a: &[f32], inv_temp: f32) -> f32
        = cross_entropy_body;
    fn ce_grad_row_at(dx: &mut [f32], a: &[f32], mass: f32, factor: f32)
        = cross_entropy_grad_body;
    fn mse_row_at(dx: &mut [f32], x: &[f32], t: &[f32], factor: f32) -> f32 = mse_body;
}

/// `y[i] = softmax(x[i] * inv_temp)` for rows of `k`. Panics when the sizes differ.
pub fn softmax_rows(y: &mut [f32], x: &[f32], k: usize, inv_temp: f32) {
    let level = Level::detected();
    assert!(
        y.len() == x.len() && k > 0 && x.len().is_multiple_of(k),
        "softmax_rows: x and y are [n, k]"
    );
    let y = Shared::new(y);
    for_each_block(x.len() / k, BLOCK, |_, rows| {
        for i in rows {
            // SAFETY: rows are disjoint.
            let y = unsafe { y.part(i * k..(i + 1) * k) };
            softmax_row_at(level, y, &x[i * k..(i + 1) * k], inv_temp);
        }
    });
}

/// `loss[i] = -sum_k a_ik log softmax(x_i * inv_temp)_k` and, in the same pass,
/// `dx = weight[i] * d loss[i] / dx`.
///
/// Shapes: loss, weight `[n]`; dx, x, a `[n, k]`. `a` need not sum to one. Panics when the sizes
/// differ.
pub fn soft_cross_entropy_rows(
    loss: &mut [f32],
    dx: &mut [f32],
    x: &[f32],
    a: &[f32],
    weight: &[f32],
    k: usize,
    inv_temp: f32,
) {
    let level = Level::detected();
    let n = loss.len();
    let full = n * k;
    assert!(
        dx.len() == full && x.len() == full && a.len() == full && weight.len() == n,
        "soft_cross_entropy_rows: dx, x and a are [n, k]; loss and weight [n]"
    );
    let (loss, dx) = (Shared::new(loss), Shared::new(dx));
    for_each_block(n, BLOCK, |_, rows| {
        for i in rows {
            let row = i * k..(i + 1) * k;
            // SAFETY: rows are disjoint.
            let (loss, dx) = unsafe { (loss.part(i..i + 1), dx.part(row.clone())) };
            let a = &a[row.clone()];
            loss[0] = ce_row_at(level, dx, &x[row], a, inv_temp);
            let mass = crate::ops::cpu::reduce::sum_at(level, a);
            ce_grad_row_at(level, dx, a, mass, weight[i] * inv_temp);
        }
    });
}

/// `loss[i] = mean_j (x_ij - t_ij)^2` and `dx = weight[i] * d loss[i] / dx`: with weight 0 on visible
/// tokens the masked error of MAE.
///
/// Shapes: loss, weight `[n]`; dx, x, t `[n, k]`. Panics when the sizes differ.
pub fn mse_rows(loss: &mut [f32], dx: &mut [f32], x: &[f32], t: &[f32], weight: &[f32], k: usize) {
    let level = Level::detected();
    let n = loss.len();
    let full = n * k;
    assert!(
        dx.len() == full && x.len() == full && t.len() == full && weight.len() == n,
        "mse_rows: dx, x and t are [n, k]; loss and weight [n]"
    );
    let (loss, dx) = (Shared::new(loss), Shared::new(dx));
    for_each_block(n, BLOCK, |_, rows| {
        for i in rows {
            let row = i * k..(i + 1) * k;
            // SAFETY: rows are disjoint.
            let (loss, dx) = unsafe { (loss.part(i..i + 1), dx.part(row.clone())) };
            let factor = 2.0 * weight[i] / k as f32;
            loss[0] = mse_row_at(level, dx, &x[row.clone()], &t[row], factor) / k as f32;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::cpu::testing::{assert_close, normal};

    #[test]
    fn soft_cross_entropy_and_its_gradient_match_f64() {
        for (n, k, inv_temp) in [(1, 1, 1.0f32), (3, 7, 10.0), (17, 1024, 10.0), (2, 65, 25.0)] {
            let (x, logits, weight) = (normal(1, n * k), normal(2, n * k), normal(3, n));
            let mut a = vec![0.0; n * k];
            softmax_rows(&mut a, &logits, k, inv_temp);
            let (mut loss, mut dx) = (vec![0.0; n], vec![0.0; n * k]);
            soft_cross_entropy_rows(&mut loss, &mut dx, &x, &a, &weight, k, inv_temp);
            let t = f64::from(inv_temp);
            let log_softmax = |x: &[f32]| {
                let sum = x.iter().map(|v| (f64::from(*v) * t).exp()).sum::<f64>().ln();
                x.iter().map(|v| f64::from(*v) * t - sum).collect::<Vec<f64>>()
            };
            let (mut wa, mut wl, mut wd) = (Vec::new(), Vec::new(), Vec::new());
            for (i, weight) in weight.iter().enumerate() {
                let row = i * k..(i + 1) * k;
                wa.extend(log_softmax(&logits[row.clone()]).iter().map(|v| v.exp()));
                let (lp, a) = (log_softmax(&x[row.clone()]), &a[row]);
                wl.push(-lp.iter().zip(a).map(|(l, a)| l * f64::from(*a)).sum::<f64>());
                let mass: f64 = a.iter().map(|a| f64::from(*a)).sum();
                wd.extend(
                    lp.iter()
                        .zip(a)
                        .map(|(l, a)| f64::from(*weight) * t * (mass * l.exp() - f64::from(*a))),
                );
            }
            let top = |x: &[f64]| x.iter().fold(1e-6f64, |m, v| m.max(v.abs()));
            assert_close("softmax", &a, &wa, |_| 1e-5 * top(&wa));
            if k > 1 {
                assert_close("loss", &loss, &wl, |_| 1e-5 * top(&wl));
                assert_close("dx", &dx, &wd, |_| 1e-5 * top(&wd));
            }
        }
    }

    #[test]
    fn mean_square_error_and_its_gradient_match_f64() {
        let (n, k) = (19, 513);
        let (x, t, mut weight) = (normal(1, n * k), normal(2, n * k), normal(3, n));
        weight[4] = 0.0;
        let (mut loss, mut dx) = (vec![0.0; n], vec![0.0; n * k]);
        mse_rows(&mut loss, &mut dx, &x, &t, &weight, k);
        let e: Vec<f64> = x.iter().zip(&t).map(|(x, t)| f64::from(*x) - f64::from(*t)).collect();
        let want: Vec<f64> =
            e.chunks(k).map(|e| e.iter().map(|v| v * v).sum::<f64>() / k as f64).collect();
        assert_close("mse", &loss, &want, |_| 2e-5);
        let want: Vec<f64> =
            (0..n * k).map(|i| 2.0 * f64::from(weight[i / k]) * e[i] / k as f64).collect();
        assert_close("dmse", &dx, &want, |i| 4e-6 * want[i].abs() + 1e-9);
        assert!(dx[4 * k..5 * k].iter().all(|v| *v == 0.0));
    }
}
