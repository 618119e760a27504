//! Products against f64 in every layout, level and block position.

use super::*;
use crate::ops::cpu::math;
use crate::ops::cpu::simd::levels;
use crate::ops::cpu::testing::{assert_close, normal, same_bits_for_any_threads};

/// A matrix in one of three storage orders, with spare elements between rows for the third.
fn view(data: &[f32], rows: usize, cols: usize, order: usize) -> MatRef<'_> {
    match order {
        0 => MatRef::strided(data, rows, cols, cols + 3, 1),
        1 => MatRef::strided(data, rows, cols, 1, rows + 5),
        _ => MatRef::strided(data, rows, cols, 2 * cols, 2),
    }
    .unwrap()
}

fn reference(alpha: f32, a: &MatRef, b: &MatRef, beta: f32, c: &[f32], c_rs: usize) -> Vec<f64> {
    let at = |x: &MatRef, i: usize, j: usize| f64::from(x.data[i * x.rs + j * x.cs]);
    let mut out = Vec::new();
    for i in 0..a.rows {
        for j in 0..b.cols {
            let sum: f64 = (0..a.cols).map(|p| at(a, i, p) * at(b, p, j)).sum();
            let old = if beta == 0.0 { 0.0 } else { f64::from(c[i * c_rs + j]) };
            out.push(f64::from(alpha) * sum + f64::from(beta) * old);
        }
    }
    out
}

fn norms(x: &MatRef) -> Vec<f64> {
    let row = |i| (0..x.cols).map(move |j| f64::from(x.data[i * x.rs + j * x.cs]).powi(2));
    (0..x.rows).map(|i| row(i).sum::<f64>().sqrt()).collect()
}

#[test]
fn gemm_matches_f64_in_all_layouts_and_levels() {
    let sizes = [(1, 1, 1), (1, 33, 7), (13, 31, 5), (14, 32, 64), (15, 65, 257), (29, 48, 300)];
    let sizes = sizes.into_iter().chain([(127, 97, 513), (250, 192, 96), (3, 1, 1009)]);
    for (case, (m, n, k)) in sizes.enumerate() {
        let room = 2 * (m + n + k + 10) * (k.max(m).max(n) + 10);
        let (x, w) = (normal(case as u64, room), normal(100 + case as u64, room));
        for order in 0..9 {
            let (a, b) = (view(&x, m, k, order / 3), view(&w, k, n, order % 3));
            let (alpha, beta) = [(1.0, 0.0), (0.5, 1.0), (-1.25, 0.75)][order % 3];
            let c_rs = n + order;
            // What beta 0 must not read.
            let old = if beta == 0.0 { vec![f32::NAN; m * c_rs] } else { normal(7, m * c_rs) };
            let want = reference(alpha, &a, &b, beta, &old, c_rs);
            let (na, nb) = (norms(&a), norms(&b.t()));
            for level in levels() {
                let mut c = old.clone();
                let none = Epilogue::default();
                gemm_at(level, alpha, a, b, beta, &mut c, c_rs, none).unwrap();
                let got: Vec<f32> = (0..m * n).map(|e| c[e / n * c_rs + e % n]).collect();
                let bound = 8.0 * f64::from(f32::EPSILON) * (k as f64).sqrt();
                let name = format!("{m}x{n}x{k} layouts {order} {level:?}");
                assert_close(&name, &got, &want, |e| {
                    bound * (na[e / n] * nb[e % n] + want[e].abs() + 1e-6)
                });
                for (e, v) in c.iter().enumerate().filter(|(e, _)| e % c_rs >= n) {
                    assert_eq!(v.to_bits(), old[e].to_bits(), "{name} wrote between rows");
                }
            }
        }
    }
}

#[test]
fn gemm_keeps_its_bits_for_any_number_of_threads_and_any_block() {
    let (m, n, k) = (301, 203, 307);
    let (x, w) = (normal(1, m * k), normal(2, k * n));
    let product = |x: &[f32], rows: usize| {
        let mut c = vec![0.0; rows * n];
        let (a, b) = (MatRef::new(x, rows, k).unwrap(), MatRef::new(&w, k, n).unwrap());
        gemm(1.0, a, b, 0.0, &mut c, n, Epilogue::default()).unwrap();
        c
    };
    same_bits_for_any_threads(|| product(&x, m));
    same_bits_for_any_threads(|| {
        let mut c = vec![0.0; n * n];
        let a = MatRef::new(&w, k, n).unwrap();
        gemm(1.0, a.t(), a, 0.0, &mut c, n, Epilogue::default()).unwrap();
        c
    });
    if Level::detected() > Level::Baseline {
        let whole = product(&x, m);
        for row in [0, 13, 14, 157, 300] {
            let one = product(&x[row * k..(row + 1) * k], 1);
            assert_eq!(one, whole[row * n..(row + 1) * n], "row {row} alone");
        }
    }
}

#[test]
fn epilogues_equal_the_separate_operations() {
    let (m, n, k) = (37, 45, 20);
    let (x, w, bias) = (normal(3, m * k), normal(4, n * k), normal(5, n));
    let (residual, saved) = (normal(6, m * n), normal(7, m * n));
    let (a, b) = (MatRef::new(&x, m, k).unwrap(), MatRef::new(&w, n, k).unwrap().t());
    for level in levels() {
        let mut plain = vec![0.0; m * n];
        gemm_at(level, 1.0, a, b, 0.0, &mut plain, n, Epilogue::default()).unwrap();
        let biased: Vec<f32> = (0..m * n).map(|e| plain[e] + bias[e % n]).collect();
        let mut want = vec![0.0; m * n];
        math::gelu_at(level, &mut want, &biased);
        want.iter_mut().zip(&residual).for_each(|(w, r)| *w += r);
        let (mut got, mut pre) = (vec![0.0; m * n], vec![0.0; m * n]);
        let epilogue = Epilogue {
            bias: Some(&bias),
            gelu: Some(&mut pre),
            residual: Some(&residual),
            ..Epilogue::default()
        };
        gemm_at(level, 1.0, a, b, 0.0, &mut got, n, epilogue).unwrap();
        assert_eq!(pre, biased, "{level:?}");
        assert_eq!(got, want, "{level:?}");

        math::gelu_backward_at(level, &mut plain, &saved);
        let epilogue = Epilogue { gelu_grad: Some(&saved), ..Epilogue::default() };
        gemm_at(level, 1.0, a, b, 0.0, &mut got, n, epilogue).unwrap();
        assert_eq!(got, plain, "{level:?}");
    }
}

#[test]
fn gemm_refuses_what_does_not_fit() {
    let data = [0.0; 12];
    assert!(MatRef::new(&data, 3, 5).is_err());
    assert!(MatRef::strided(&data, usize::MAX, 2, usize::MAX, 1).is_err());
    let (a, b) = (MatRef::new(&data, 3, 4).unwrap(), MatRef::new(&data, 4, 3).unwrap());
    let none = Epilogue::default;
    assert!(gemm(1.0, a, a, 0.0, &mut [0.0; 16], 4, none()).is_err());
    assert!(gemm(1.0, a, b, 0.0, &mut [0.0; 8], 3, none()).is_err());
    assert!(gemm(1.0, a, b, 0.0, &mut [0.0; 9], 2, none()).is_err());
    let short = Epilogue { bias: Some(&data[..2]), ..none() };
    assert!(gemm(1.0, a, b, 0.0, &mut [0.0; 9], 3, short).is_err());
    let mut empty: [f32; 0] = [];
    let nothing = MatRef::new(&data, 0, 4).unwrap();
    assert!(gemm(1.0, nothing, b, 0.0, &mut empty, 3, none()).is_ok());
    // k = 0: the sum is empty, the epilogue still applies.
    let (a, b) = (MatRef::new(&data, 2, 0).unwrap(), MatRef::new(&data, 0, 2).unwrap());
    let (mut c, bias) = ([f32::NAN; 4], [1.0, 2.0]);
    let biased = Epilogue { bias: Some(&bias), ..none() };
    gemm(1.0, a, b, 0.0, &mut c, 2, biased).unwrap();
    assert_eq!(c, [1.0, 2.0, 1.0, 2.0]);
}
