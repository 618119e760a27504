//! The f32 fast path of the optimiser: AdamW and the moving average of the teacher, as vectorised loops
//! over flat parameters.

use super::{AdamW, Segment};
use crate::ops::cpu::par::{ELEMENTS, Shared, for_each_block};
use crate::ops::cpu::simd::{Arith, Level, multiversion_at};

/// What the loop needs, with the bias corrections rounded once.
#[derive(Clone, Copy)]
pub(crate) struct Scalars {
    decay: f32,
    beta1: f32,
    beta2: f32,
    eps: f32,
    step_size: f32,
    inv_sqrt_correction2: f32,
    grad_scale: f32,
}

impl Scalars {
    fn new(a: &AdamW, segment: &Segment) -> Self {
        let correction = |beta: f64| 1.0 - libm::pow(beta, segment.update as f64);
        let weight_decay = if segment.decays { a.weight_decay } else { 0.0 };
        Self {
            decay: (1.0 - a.lr * weight_decay) as f32,
            beta1: a.beta1 as f32,
            beta2: a.beta2 as f32,
            eps: a.eps as f32,
            step_size: (a.lr / correction(a.beta1)) as f32,
            inv_sqrt_correction2: (1.0 / correction(a.beta2).sqrt()) as f32,
            grad_scale: a.grad_scale as f32,
        }
    }
}

#[inline(always)]
fn adamw_body<A: Arith>(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], s: &Scalars) {
    let s = *s;
    for (((p, g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
        let g = g * s.grad_scale;
        // m + (1 - beta)(g - m): exact fixed point at m == g.
        *m = A::mul_add(1.0 - s.beta1, g - *m, *m);
        *v = A::mul_add(1.0 - s.beta2, g * g, s.beta2 * *v);
        let denominator = A::mul_add(v.sqrt(), s.inv_sqrt_correction2, s.eps);
        *p = A::mul_add(*p, s.decay, -(s.step_size * *m / denominator));
    }
}

#[inline(always)]
fn ema_body<A: Arith>(average: &mut [f32], p: &[f32], share: f32) {
    for (a, p) in average.iter_mut().zip(p) {
        *a = A::mul_add(share, *p - *a, *a);
    }
}

multiversion_at! {
    fn adamw_block_at(
        p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], s: &Scalars,
    ) = adamw_body;
    fn ema_block_at(average: &mut [f32], p: &[f32], share: f32) = ema_body;
}

/// One AdamW step over the parameters `p` of a segment with gradients `g` and moments `m`, `v`. Panics
/// when the lengths differ.
pub fn adamw(
    settings: &AdamW,
    segment: &Segment,
    p: &mut [f32],
    g: &[f32],
    m: &mut [f32],
    v: &mut [f32],
) {
    let level = Level::detected();
    let n = p.len();
    assert!(g.len() == n && m.len() == n && v.len() == n, "adamw: lengths differ");
    let s = Scalars::new(settings, segment);
    let (p, m, v) = (Shared::new(p), Shared::new(m), Shared::new(v));
    for_each_block(n, ELEMENTS, |_, r| {
        // SAFETY: blocks are disjoint.
        let (p, m, v) = unsafe { (p.part(r.clone()), m.part(r.clone()), v.part(r.clone())) };
        adamw_block_at(level, p, &g[r], m, v, &s);
    });
}

/// `average += (1 - momentum) (p - average)`. Panics when the lengths differ.
pub fn ema(average: &mut [f32], p: &[f32], momentum: f64) {
    let share = (1.0 - momentum) as f32;
    let level = Level::detected();
    assert_eq!(average.len(), p.len(), "ema: lengths differ");
    let shared = Shared::new(average);
    for_each_block(shared.len(), ELEMENTS, |_, r| {
        // SAFETY: blocks are disjoint.
        let average = unsafe { shared.part(r.clone()) };
        ema_block_at(level, average, &p[r], share);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::cpu::testing::normal;

    #[test]
    fn adamw_follows_the_f64_recurrence() {
        let n = 40_001;
        let mut p = normal(1, n);
        let (mut m, mut v) = (vec![0.0; n], vec![0.0; n]);
        let mut exact: Vec<[f64; 3]> = p.iter().map(|p| [f64::from(*p), 0.0, 0.0]).collect();
        let (lr, b1, b2, eps, wd, gs) = (1e-2, 0.9, 0.95, 1e-8, 0.05, 0.5);
        for step in 1..=5 {
            let g = normal(10 + step, n);
            let settings =
                AdamW { lr, weight_decay: wd, beta1: b1, beta2: b2, eps, grad_scale: gs, ema: 0.0 };
            let segment = Segment { offset: 0, len: n, decays: true, update: step };
            adamw(&settings, &segment, &mut p, &g, &mut m, &mut v);
            for (x, g) in exact.iter_mut().zip(&g) {
                let g = f64::from(*g) * gs;
                x[1] = b1 * x[1] + (1.0 - b1) * g;
                x[2] = b2 * x[2] + (1.0 - b2) * g * g;
                let (mh, vh) = (
                    x[1] / (1.0 - libm::pow(b1, step as f64)),
                    x[2] / (1.0 - libm::pow(b2, step as f64)),
                );
                x[0] = x[0] * (1.0 - lr * wd) - lr * mh / (vh.sqrt() + eps);
            }
        }
        for (i, x) in exact.iter().enumerate() {
            assert!((f64::from(p[i]) - x[0]).abs() <= 4e-6 * x[0].abs().max(0.1), "p[{i}]");
            assert!((f64::from(m[i]) - x[1]).abs() <= 4e-6 * x[1].abs().max(0.1), "m[{i}]");
            assert!((f64::from(v[i]) - x[2]).abs() <= 4e-6 * x[2], "v[{i}]");
        }
    }

    #[test]
    fn ema_moves_towards_the_student() {
        let (p, start) = (normal(1, 1000), normal(2, 1000));
        let mut a = start.clone();
        ema(&mut a, &p, 0.75);
        for i in 0..a.len() {
            let want = 0.75 * f64::from(start[i]) + 0.25 * f64::from(p[i]);
            assert!((f64::from(a[i]) - want).abs() <= 4e-7 * 4.0, "{i}");
        }
        ema(&mut a, &p, 0.0);
        assert!(a.iter().zip(&p).all(|(a, p)| (a - p).abs() <= 4e-7 * 4.0));
    }
}
