//! Times the CPU fast paths at the shapes of the `small` preset: best and median of repeated runs.
//!
//!     cargo bench --bench cpu [-- FILTER]

use glmae::ops::adamw_ema::{AdamW, Segment, fast as optimiser};
use glmae::ops::attention::fast::{self as attention, Shape};
use glmae::ops::cpu::gemm::{Epilogue, MatRef, gemm};
use glmae::ops::cpu::math;
use glmae::ops::layer_norm::fast as layer_norm;
use std::hint::black_box;
use std::time::Instant;

fn data(n: usize) -> Vec<f32> {
    (0..n as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0).collect()
}

/// Prints the best and the median time, and the rate of `work` (FLOP or bytes) at the best.
fn time(filter: &str, name: &str, work: f64, unit: &str, mut run: impl FnMut()) {
    if !name.contains(filter) {
        return;
    }
    run();
    let begin = Instant::now();
    let mut times = Vec::new();
    while times.len() < 7 || (begin.elapsed().as_secs_f64() < 0.4 && times.len() < 2000) {
        let start = Instant::now();
        run();
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    let (best, median) = (times[0], times[times.len() / 2]);
    println!(
        "{name:<44} best {:9.3} ms  median {:9.3} ms  {:8.1} {unit}",
        best * 1e3,
        median * 1e3,
        work / best * 1e-9
    );
}

fn gemms(filter: &str) {
    for (t, k, n) in [
        (722, 192, 576),
        (722, 192, 192),
        (722, 192, 768),
        (722, 768, 192),
        (2002, 192, 576),
        (2002, 192, 768),
        (2002, 768, 192),
        (2870, 96, 288),
        (2870, 96, 96),
        (2870, 96, 384),
        (2870, 384, 96),
        (2148, 96, 512),
        (2000, 512, 192),
    ] {
        let flop = 2.0 * (t * k * n) as f64;
        let (x, w, dy) = (data(t * k), data(n * k), data(t * n));
        let (mut y, mut dx, mut dw) = (vec![0.0; t * n], vec![0.0; t * k], vec![0.0; n * k]);
        let view = |d, r, c| MatRef::new(d, r, c).expect("sizes agree");
        time(filter, &format!("gemm nt {t}x{k}x{n}"), flop, "GFLOP/s", || {
            let (a, b) = (view(&x, t, k), view(&w, n, k).t());
            gemm(1.0, a, b, 0.0, &mut y, n, Epilogue::default()).expect("sizes agree");
        });
        time(filter, &format!("gemm nn {t}x{n}x{k}"), flop, "GFLOP/s", || {
            let (a, b) = (view(&dy, t, n), view(&w, n, k));
            gemm(1.0, a, b, 0.0, &mut dx, k, Epilogue::default()).expect("sizes agree");
        });
        time(filter, &format!("gemm tn {n}x{t}x{k}"), flop, "GFLOP/s", || {
            let (a, b) = (view(&dy, t, n).t(), view(&x, t, k));
            gemm(1.0, a, b, 0.0, &mut dw, k, Epilogue::default()).expect("sizes agree");
        });
    }
    let (t, k, n) = (722, 192, 768);
    let (x, w, bias) = (data(t * k), data(n * k), data(n));
    let (mut y, mut pre) = (vec![0.0; t * n], vec![0.0; t * n]);
    time(filter, "gemm nt 722x192x768 bias+gelu", 2.0 * (t * k * n) as f64, "GFLOP/s", || {
        let (a, b) = (MatRef::new(&x, t, k), MatRef::new(&w, n, k));
        let epilogue = Epilogue { bias: Some(&bias), gelu: Some(&mut pre), ..Epilogue::default() };
        let (a, b) = (a.expect("sizes agree"), b.expect("sizes agree").t());
        gemm(1.0, a, b, 0.0, &mut y, n, epilogue).expect("sizes agree");
    });
}

fn attentions(filter: &str) {
    for (lens, heads, d) in
        [(&[1001, 1001][..], 3, 64), (&[1001, 1001], 3, 32), (&[251, 251, 55, 55, 55, 55], 3, 64)]
    {
        let c = heads * d;
        let mut cu = vec![0i32];
        for len in lens {
            cu.push(cu[cu.len() - 1] + len);
        }
        let t = cu[lens.len()] as usize;
        let shape = Shape::new(&cu, heads, d);
        let (qkv, dout) = (data(t * 3 * c), data(t * c));
        let (mut out, mut lse) = (vec![0.0; t * c], vec![0.0; t * heads]);
        let mut dqkv = vec![0.0; t * 3 * c];
        let pairs: f64 = lens.iter().map(|&l| f64::from(l) * f64::from(l)).sum();
        let flop = 4.0 * pairs * c as f64;
        let name = format!("{}x{} heads {heads} d {d}", lens.len(), lens[0]);
        time(filter, &format!("attention fwd {name}"), flop, "GFLOP/s", || {
            attention::forward(&mut out, &mut lse, &qkv, shape).expect("sizes agree");
        });
        time(filter, &format!("attention bwd {name}"), 2.5 * flop, "GFLOP/s", || {
            attention::backward(&mut dqkv, &dout, &qkv, &out, &lse, shape).expect("sizes agree");
        });
    }
}

fn elementwise(filter: &str) {
    let n = 1 << 14;
    let x = data(n).iter().map(|v| v * 6.0).collect::<Vec<_>>();
    let mut y = x.clone();
    let melem = n as f64;
    time(filter, "gelu 16384 (1 thread)", melem, "Gelem/s", || math::gelu(&mut y, black_box(&x)));
    time(filter, "gelu_backward 16384 (1 thread)", melem, "Gelem/s", || {
        math::gelu_backward(&mut y, black_box(&x));
    });
    time(filter, "exp 16384 (1 thread, with copy)", melem, "Gelem/s", || {
        y.copy_from_slice(&x);
        math::exp(black_box(&mut y));
    });
    let (rows, c) = (2870, 192);
    let (x, dy, w, b) = (data(rows * c), data(rows * c), data(c), data(c));
    let (mut y, mut mean, mut rstd) = (x.clone(), vec![0.0; rows], vec![0.0; rows]);
    let bytes = (rows * c * 4) as f64;
    time(filter, "layer_norm fwd 2870x192", 2.0 * bytes, "GB/s", || {
        layer_norm::forward(&mut y, &mut mean, &mut rstd, &x, &w, &b, 1e-6);
    });
    let (mut dw, mut db) = (vec![0.0; c], vec![0.0; c]);
    time(filter, "layer_norm bwd 2870x192", 3.0 * bytes, "GB/s", || {
        layer_norm::backward(&mut y, &mut dw, &mut db, &dy, &x, &mean, &rstd, &w, false);
    });
    let n = 6_000_000;
    let (mut p, g, mut m, mut v) = (data(n), data(n), vec![0.0; n], vec![0.0; n]);
    let settings = AdamW {
        lr: 1e-4,
        weight_decay: 0.05,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        grad_scale: 1.0,
        ema: 0.99,
    };
    let segment = Segment { offset: 0, len: n, decays: true, update: 10 };
    time(filter, "adamw 6M", 28.0 * n as f64, "GB/s", || {
        optimiser::adamw(&settings, &segment, &mut p, &g, &mut m, &mut v);
    });
}

fn main() {
    // Cargo passes --bench; anything else narrows the list.
    let filter = std::env::args().skip(1).find(|a| !a.starts_with("--")).unwrap_or_default();
    let threads = std::env::var("THREADS").ok().and_then(|t| t.parse().ok()).unwrap_or(0);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
    pool.install(|| {
        println!(
            "{} threads, {:?}",
            rayon::current_num_threads(),
            glmae::ops::cpu::simd::Level::detected()
        );
        gemms(&filter);
        attentions(&filter);
        elementwise(&filter);
    });
}
