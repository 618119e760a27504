//! Forward and backward against plain loops in f64.

use super::backward::backward_at;
use super::forward::forward_at;
use super::*;
use crate::ops::cpu::simd::levels;
use crate::ops::cpu::testing::{assert_close, normal, same_bits_for_any_threads};

struct Exact {
    out: Vec<f64>,
    lse: Vec<f64>,
    dqkv: Vec<f64>,
}

/// Plain loops in f64.
fn reference(qkv: &[f32], dout: &[f32], shape: &Shape) -> Exact {
    let (c, d, total) = (shape.c(), shape.head_dim, shape.tokens());
    let scale = f64::from(shape.scale);
    let (mut out, mut lse) = (vec![0.0; total * c], vec![0.0; total * shape.heads]);
    let mut dqkv = vec![0.0; 3 * total * c];
    for w in shape.cu_seqlens.windows(2) {
        let rows = w[0] as usize..w[1] as usize;
        for h in 0..shape.heads {
            let at = |t: usize, which: usize, e: usize| t * 3 * c + which * c + h * d + e;
            let x = |t, which, e| f64::from(qkv[at(t, which, e)]);
            for i in rows.clone() {
                let s: Vec<f64> = rows
                    .clone()
                    .map(|j| (0..d).map(|e| x(i, 0, e) * x(j, 1, e)).sum::<f64>() * scale)
                    .collect();
                let top = s.iter().copied().fold(f64::MIN, f64::max);
                let total_weight: f64 = s.iter().map(|v| (v - top).exp()).sum();
                lse[h * total + i] = top + total_weight.ln();
                let p: Vec<f64> = s.iter().map(|v| (v - top).exp() / total_weight).collect();
                let g = |e: usize| f64::from(dout[i * c + h * d + e]);
                for e in 0..d {
                    out[i * c + h * d + e] =
                        rows.clone().zip(&p).map(|(j, p)| p * x(j, 2, e)).sum();
                }
                let delta: f64 = (0..d).map(|e| g(e) * out[i * c + h * d + e]).sum();
                for (j, p) in rows.clone().zip(&p) {
                    let dp: f64 = (0..d).map(|e| g(e) * x(j, 2, e)).sum();
                    let ds = p * (dp - delta) * scale;
                    for e in 0..d {
                        dqkv[at(j, 2, e)] += p * g(e);
                        dqkv[at(j, 1, e)] += ds * x(i, 0, e);
                        dqkv[at(i, 0, e)] += ds * x(j, 1, e);
                    }
                }
            }
        }
    }
    Exact { out, lse, dqkv }
}

#[test]
fn attention_matches_f64() {
    let cases: [(&[i32], usize, usize); 6] = [
        (&[0, 1], 1, 1),
        (&[0, 1, 1, 8, 21], 2, 7),
        (&[0, 55, 110, 361], 3, 32),
        (&[0, 97, 194], 2, 64),
        (&[0, 1001], 1, 16),
        (&[0, 513, 520], 1, 40),
    ];
    for (case, (cu_seqlens, heads, head_dim)) in cases.into_iter().enumerate() {
        let scale = 1.0 / (head_dim as f32).sqrt();
        let shape = Shape { cu_seqlens, heads, head_dim, scale };
        let (c, t) = (shape.c(), shape.tokens());
        for offset in [0.0, 3.0] {
            let mut qkv = normal(case as u64, 3 * t * c);
            qkv.iter_mut().for_each(|x| *x += offset);
            let dout = normal(50 + case as u64, t * c);
            let want = reference(&qkv, &dout, &shape);
            let largest = |x: &[f64]| x.iter().fold(1e-3f64, |m, v| m.max(v.abs()));
            for level in levels().filter(|l| Tile::of(*l).is_some()) {
                let name = format!("{cu_seqlens:?} x {heads} x {head_dim} + {offset} {level:?}");
                let (mut out, mut lse) = (vec![f32::NAN; t * c], vec![f32::NAN; t * heads]);
                let mut dqkv = vec![f32::NAN; 3 * t * c];
                forward_at(level, &mut out, &mut lse, &qkv, shape).unwrap();
                backward_at(level, &mut dqkv, &dout, &qkv, &out, &lse, shape).unwrap();
                // 8 eps sqrt(K) of the largest magnitude; scores carry their own rounding
                // error into the exponent, hence the factor of their size.
                let size = largest(&want.lse).max(1.0);
                let bound = |x: &[f64]| {
                    let n = (head_dim + t) as f64;
                    8.0 * f64::from(f32::EPSILON) * n.sqrt() * size * largest(x)
                };
                let (o, l, g) = (bound(&want.out), 2e-6 * size, bound(&want.dqkv));
                assert_close(&format!("out {name}"), &out, &want.out, |_| o);
                assert_close(&format!("lse {name}"), &lse, &want.lse, |_| l);
                assert_close(&format!("dqkv {name}"), &dqkv, &want.dqkv, |_| g);
            }
        }
    }
}

#[test]
fn attention_keeps_its_bits_for_any_number_of_threads() {
    if Tile::of(Level::detected()).is_none() {
        println!("skipped: no AVX2");
        return;
    }
    let shape = Shape { cu_seqlens: &[0, 700, 755, 1000], heads: 2, head_dim: 24, scale: 0.2 };
    let (c, t) = (shape.c(), shape.tokens());
    let (qkv, dout) = (normal(1, 3 * t * c), normal(2, t * c));
    same_bits_for_any_threads(|| {
        let (mut out, mut lse) = (vec![0.0; t * c], vec![0.0; t * shape.heads]);
        let mut dqkv = vec![0.0; 3 * t * c];
        forward(&mut out, &mut lse, &qkv, shape).unwrap();
        backward(&mut dqkv, &dout, &qkv, &out, &lse, shape).unwrap();
        [out, lse, dqkv].concat()
    });
}

#[test]
fn attention_refuses_what_does_not_fit() {
    let run = |cu_seqlens: &[i32], out: usize| {
        let shape = Shape { cu_seqlens, heads: 2, head_dim: 4, scale: 1.0 };
        forward(&mut vec![0.0; out], &mut [0.0; 6], &[0.0; 72], shape)
    };
    assert!(run(&[0, 4, 2, 3], 24).is_err());
    assert!(run(&[1, 3], 24).is_err());
    assert!(run(&[-1, 3], 24).is_err());
    assert!(run(&[], 24).is_err());
    assert!(run(&[0, 3], 23).is_err());
}
