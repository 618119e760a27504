//! Layer normalisation over rows, forward and backward (Ba et al., arXiv 1607.06450).
//!
//! Statistics are two-pass (mean, then centred squares), so rows with a large mean keep their
//! variance. Gradients of weight and bias are summed over blocks of 64 rows joined in order.

use crate::ops::cpu::par::{Shared, for_each_block};
use crate::ops::cpu::reduce::{ROWS, add_rows, fold, sum_body, sum_sq_body};
use crate::ops::cpu::scratch::Scratch;
use crate::ops::cpu::simd::{Arith, Level, multiversion_at};

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
        let r = 1.0 / (sum_sq_body::<A>(x, mu) / c as f32 + eps).sqrt();
        (*mean, *rstd) = (mu, r);
        for j in 0..c {
            y[j] = A::mul_add((x[j] - mu) * r, w[j], b[j]);
        }
    }
}

#[inline(always)]
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
        let sum_g = fold([dy, w], 0.0, |s, [d, w]| A::mul_add(d, w, s), |a, b| a + b);
        let sum_gx =
            fold([dy, w, x], 0.0, |s, [d, w, x]| A::mul_add(d * w, (x - mu) * r, s), |a, b| a + b);
        let (mean_g, mean_gx) = (sum_g / c as f32, sum_gx / c as f32);
        for j in 0..c {
            let xhat = (x[j] - mu) * r;
            dw[j] = A::mul_add(dy[j], xhat, dw[j]);
            db[j] += dy[j];
            dx[j] = r * (A::mul_add(dy[j], w[j], -mean_g) - xhat * mean_gx);
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

/// `y = (x - mean) * rstd * w + b` for each of `rows` rows of `c` channels.
///
/// Shapes: y, x `[rows, c]`; mean, rstd `[rows]`; w, b `[c]`. Panics when a slice has another size.
#[allow(clippy::too_many_arguments)]
pub fn layer_norm_fwd(
    y: &mut [f32],
    mean: &mut [f32],
    rstd: &mut [f32],
    x: &[f32],
    w: &[f32],
    b: &[f32],
    rows: usize,
    c: usize,
    eps: f32,
) {
    let level = Level::detected();
    assert!(y.len() == rows * c && x.len() == rows * c, "layer_norm_fwd: x and y are [rows, c]");
    assert!(mean.len() == rows && rstd.len() == rows, "layer_norm_fwd: mean and rstd are [rows]");
    assert!(w.len() == c && b.len() == c, "layer_norm_fwd: w and b are [c]");
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

/// Gradients of [`layer_norm_fwd`]: `dx` is overwritten; `dw` and `db` are added to with
/// `accumulate`, else overwritten.
///
/// Shapes: dx, dy, x `[rows, c]`; mean, rstd `[rows]`; dw, db, w `[c]`. Panics when a slice has
/// another size.
#[allow(clippy::too_many_arguments)]
pub fn layer_norm_bwd(
    dx: &mut [f32],
    dw: &mut [f32],
    db: &mut [f32],
    dy: &[f32],
    x: &[f32],
    mean: &[f32],
    rstd: &[f32],
    w: &[f32],
    rows: usize,
    c: usize,
    accumulate: bool,
) {
    let level = Level::detected();
    let full = rows * c;
    assert!(
        dx.len() == full && dy.len() == full && x.len() == full,
        "layer_norm_bwd: dx, dy and x are [rows, c]"
    );
    assert!(mean.len() == rows && rstd.len() == rows, "layer_norm_bwd: mean and rstd are [rows]");
    assert!(dw.len() == c && db.len() == c && w.len() == c, "layer_norm_bwd: dw, db, w are [c]");
    if !accumulate {
        dw.fill(0.0);
        db.fill(0.0);
    }
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
    add_rows(dw, &partial[..blocks * c]);
    add_rows(db, &partial[blocks * c..]);
}
