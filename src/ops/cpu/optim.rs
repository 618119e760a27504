//! AdamW (Loshchilov and Hutter, arXiv 1711.05101) and the moving average of the teacher, as loops
//! over flat parameters.

use crate::ops::cpu::par::{Shared, for_each_block};
use crate::ops::cpu::simd::{Arith, Level, multiversion_at};

/// The scalars of one AdamW step.
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    pub lr: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    /// Decoupled: `p *= 1 - lr * weight_decay`.
    pub weight_decay: f32,
    /// Step number, from 1.
    pub step: u64,
    /// Gradients are multiplied by this first (clipping, accumulation).
    pub grad_scale: f32,
}

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

impl AdamW {
    fn scalars(&self) -> Scalars {
        let correction = |beta: f32| 1.0 - f64::from(beta).powf(self.step as f64);
        Scalars {
            decay: (1.0 - f64::from(self.lr) * f64::from(self.weight_decay)) as f32,
            beta1: self.beta1,
            beta2: self.beta2,
            eps: self.eps,
            step_size: (f64::from(self.lr) / correction(self.beta1)) as f32,
            inv_sqrt_correction2: (1.0 / correction(self.beta2).sqrt()) as f32,
            grad_scale: self.grad_scale,
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
fn ema_body<A: Arith>(average: &mut [f32], p: &[f32], momentum: f32) {
    for (a, p) in average.iter_mut().zip(p) {
        *a = A::mul_add(1.0 - momentum, *p - *a, *a);
    }
}

multiversion_at! {
    fn adamw_block_at(
        p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], s: &Scalars,
    ) = adamw_body;
    fn ema_block_at(average: &mut [f32], p: &[f32], momentum: f32) = ema_body;
}

/// Elements per task.
const BLOCK: usize = 1 << 14;

/// One AdamW step over parameters `p` with gradients `g` and moments `m`, `v`. Panics when the
/// lengths differ.
pub fn adamw(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], scalars: AdamW) {
    let level = Level::detected();
    let n = p.len();
    assert!(g.len() == n && m.len() == n && v.len() == n, "adamw: lengths differ");
    let s = scalars.scalars();
    let (p, m, v) = (Shared::new(p), Shared::new(m), Shared::new(v));
    for_each_block(n, BLOCK, |_, r| {
        // SAFETY: blocks are disjoint.
        let (p, m, v) = unsafe { (p.part(r.clone()), m.part(r.clone()), v.part(r.clone())) };
        adamw_block_at(level, p, &g[r], m, v, &s);
    });
}

/// `average += (1 - momentum) (p - average)`. Panics when the lengths differ.
pub fn ema(average: &mut [f32], p: &[f32], momentum: f32) {
    let level = Level::detected();
    assert_eq!(average.len(), p.len(), "ema: lengths differ");
    let shared = Shared::new(average);
    for_each_block(shared.len(), BLOCK, |_, r| {
        // SAFETY: blocks are disjoint.
        let average = unsafe { shared.part(r.clone()) };
        ema_block_at(level, average, &p[r], momentum);
    });
}
