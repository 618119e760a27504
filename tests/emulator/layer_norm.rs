//! `kernels/layer_norm.cu` against f64, under three schedules with equal bits.

use std::time::Instant;

use glmae::device::abi::{GRAD_ACCUMULATE, GRAD_OVERWRITE};
use glmae::device::emulated::{Emulated, Mode};
use glmae::device::launch::{Arg, LaunchConfig};
use half::bf16;

use super::{SCHEDULES, device, download, normal, upload};

const EPS: f64 = 1e-6;

/// Rows and columns: one; a prime; odd; multiples of 4 but not of 8; the model's; too wide for the
/// registers, with vectors and without.
const SHAPES: [(usize, usize); 10] = [
    (1, 1),
    (3, 7),
    (13, 31),
    (5, 36),
    (5, 776),
    (216, 768),
    (33, 512),
    (2, 1024),
    (3, 1536),
    (2, 1601),
];

/// An element type of the kernels.
trait Element: bytemuck::Pod + PartialEq + std::fmt::Debug {
    const NAME: &str;
    /// Bounds on NMSE and on the worst element, relative to the largest.
    const BOUNDS: (f64, f64);
    fn from(v: f64) -> Self;
    fn to(self) -> f64;
}

impl Element for f32 {
    const NAME: &str = "f32";
    const BOUNDS: (f64, f64) = (1e-10, 1e-5);
    fn from(v: f64) -> Self {
        v as f32
    }
    fn to(self) -> f64 {
        self.into()
    }
}

impl Element for bf16 {
    const NAME: &str = "bf16";
    const BOUNDS: (f64, f64) = (1e-5, 1.0 / 128.0);
    fn from(v: f64) -> Self {
        bf16::from_f64(v)
    }
    fn to(self) -> f64 {
        self.to_f64()
    }
}

struct Case {
    rows: usize,
    c: usize,
    x: Vec<f64>,
    dy: Vec<f64>,
    gamma: Vec<f64>,
    beta: Vec<f64>,
}

impl Case {
    fn new<T: Element>((rows, c): (usize, usize), mean: f64) -> Self {
        let round = |v: Vec<f64>| v.into_iter().map(|v| T::from(v).to()).collect();
        let f32s = |v: Vec<f64>| v.into_iter().map(|v| f64::from(v as f32)).collect();
        Self {
            rows,
            c,
            x: round(normal(1, rows * c, mean)),
            dy: round(normal(2, rows * c, 0.0)),
            gamma: f32s(normal(3, c, 1.0)),
            beta: f32s(normal(4, c, 0.0)),
        }
    }

    /// y, mean, rstd in f64.
    fn forward(&self) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
        let n = self.c as f64;
        let (mut y, mut means, mut rstds) = (vec![], vec![], vec![]);
        for x in self.x.chunks(self.c) {
            let mean = x.iter().sum::<f64>() / n;
            let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
            let rstd = 1.0 / (variance + EPS).sqrt();
            y.extend((0..self.c).map(|j| (x[j] - mean) * rstd * self.gamma[j] + self.beta[j]));
            means.push(mean);
            rstds.push(rstd);
        }
        (y, means, rstds)
    }

    /// dx, dgamma, dbeta in f64.
    fn backward(&self) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
        let (_, means, rstds) = self.forward();
        let n = self.c as f64;
        let (mut dx, mut dgamma, mut dbeta) = (vec![], vec![0.0; self.c], vec![0.0; self.c]);
        for (r, (x, dy)) in self.x.chunks(self.c).zip(self.dy.chunks(self.c)).enumerate() {
            let xhat: Vec<f64> = x.iter().map(|v| (v - means[r]) * rstds[r]).collect();
            let g: Vec<f64> = dy.iter().zip(&self.gamma).map(|(d, w)| d * w).collect();
            let mean_g = g.iter().sum::<f64>() / n;
            let mean_gx = g.iter().zip(&xhat).map(|(g, h)| g * h).sum::<f64>() / n;
            dx.extend((0..self.c).map(|j| rstds[r] * (g[j] - mean_g - xhat[j] * mean_gx)));
            for j in 0..self.c {
                dgamma[j] += dy[j] * xhat[j];
                dbeta[j] += dy[j];
            }
        }
        (dx, dgamma, dbeta)
    }
}

fn run_forward<T: Element>(device: &Emulated, case: &Case) -> (Vec<T>, Vec<f32>, Vec<f32>) {
    let (rows, c) = (case.rows, case.c);
    let elements = |v: &[f64]| v.iter().map(|&v| T::from(v)).collect::<Vec<_>>();
    let floats = |v: &[f64]| v.iter().map(|&v| v as f32).collect::<Vec<_>>();
    let x = upload(device, "x", &elements(&case.x));
    let gamma = upload(device, "gamma", &floats(&case.gamma));
    let beta = upload(device, "beta", &floats(&case.beta));
    let y = device.alloc(size_of::<T>() * rows * c, "y").unwrap();
    let mean = device.alloc(4 * rows, "mean").unwrap();
    let rstd = device.alloc(4 * rows, "rstd").unwrap();
    let args: [Arg; 9] = [
        y.into(),
        mean.into(),
        rstd.into(),
        x.into(),
        gamma.into(),
        beta.into(),
        (rows as i64).into(),
        (c as i32).into(),
        (EPS as f32).into(),
    ];
    let config = LaunchConfig::linear(rows.div_ceil(4) as u32, 128);
    device.launch(&format!("layer_norm_fwd_{}", T::NAME), &config, &args).unwrap();
    let out =
        (download(device, y, rows * c), download(device, mean, rows), download(device, rstd, rows));
    for ptr in [x, gamma, beta, y, mean, rstd] {
        device.free(ptr).unwrap();
    }
    out
}

fn run_backward<T: Element>(
    device: &Emulated,
    case: &Case,
    mode: i32,
) -> (Vec<T>, Vec<f32>, Vec<f32>) {
    let (rows, c) = (case.rows, case.c);
    let elements = |v: &[f64]| v.iter().map(|&v| T::from(v)).collect::<Vec<_>>();
    let floats = |v: &[f64]| v.iter().map(|&v| v as f32).collect::<Vec<_>>();
    let (_, means, rstds) = case.forward();
    let dy = upload(device, "dy", &elements(&case.dy));
    let x = upload(device, "x", &elements(&case.x));
    let gamma = upload(device, "gamma", &floats(&case.gamma));
    let mean = upload(device, "mean", &floats(&means));
    let rstd = upload(device, "rstd", &floats(&rstds));
    let dx = device.alloc(size_of::<T>() * rows * c, "dx").unwrap();
    let dgamma = device.alloc(4 * c, "dgamma").unwrap();
    let dbeta = device.alloc(4 * c, "dbeta").unwrap();
    if mode == GRAD_ACCUMULATE {
        device.upload(dx, bytemuck::cast_slice(&vec![T::from(1.0); rows * c])).unwrap();
        device.upload(dgamma, bytemuck::cast_slice(&vec![1.0f32; c])).unwrap();
        device.upload(dbeta, bytemuck::cast_slice(&vec![1.0f32; c])).unwrap();
    }
    let parts = rows.div_ceil(16);
    let partial = device.alloc(4 * parts * 2 * c, "partial").unwrap();
    let args: [Arg; 10] = [
        dx.into(),
        partial.into(),
        mean.into(),
        rstd.into(),
        dy.into(),
        x.into(),
        gamma.into(),
        (rows as i64).into(),
        (c as i32).into(),
        mode.into(),
    ];
    let name = format!("layer_norm_bwd_{}", T::NAME);
    let shared = (4 * 2 * c.next_multiple_of(256) * 4) as u32;
    device.allow_shared(&name, shared).unwrap();
    device.launch(&name, &LaunchConfig::linear(parts as u32, 128).shared(shared), &args).unwrap();
    let config = LaunchConfig {
        grid: [(2 * c).div_ceil(32) as u32, 1, 1],
        block: [32, 8, 1],
        shared_bytes: 0,
    };
    let args: [Arg; 6] = [
        dgamma.into(),
        dbeta.into(),
        partial.into(),
        (parts as i32).into(),
        (c as i32).into(),
        mode.into(),
    ];
    device.launch("layer_norm_bwd_params_f32", &config, &args).unwrap();
    let out =
        (download(device, dx, rows * c), download(device, dgamma, c), download(device, dbeta, c));
    for ptr in [dy, x, gamma, mean, rstd, dx, dgamma, dbeta, partial] {
        device.free(ptr).unwrap();
    }
    out
}

fn assert_close<T: Element>(what: &str, got: &[T], want: &[f64], (nmse, worst): (f64, f64)) {
    let largest = want.iter().fold(1e-30f64, |m, v| m.max(v.abs()));
    let energy = want.iter().map(|v| v * v).sum::<f64>().max(1e-30);
    let mut error = 0.0;
    for (i, (g, &w)) in got.iter().zip(want).enumerate() {
        let d = (g.to() - w).abs();
        assert!(d <= worst * largest, "{what}[{i}]: got {g:?}, want {w} (bound {worst:e})");
        error += d * d;
    }
    assert!(error / energy <= nmse, "{what}: NMSE {:e} above {nmse:e}", error / energy);
}

fn forward_matches<T: Element>(mean: f64) {
    for shape in SHAPES {
        let case = Case::new::<T>(shape, mean);
        let outs = SCHEDULES.map(|s| run_forward::<T>(&device(Mode::Checked, s), &case));
        assert_eq!(outs[0], outs[1], "{shape:?}: descending differs");
        assert_eq!(outs[0], outs[2], "{shape:?}: shuffled differs");
        let plain = run_forward::<T>(&device(Mode::Plain, SCHEDULES[0]), &case);
        assert_eq!(outs[0], plain, "{shape:?}: the plain build differs");
        let (y, means, rstds) = case.forward();
        // A mean of 1000 leaves an f32 row 1000 * 2^-24 of rounding in the centred values.
        let scale = 1.0f64.max(mean.abs() * 6e-8 / 1e-5 * 4.0);
        let bounds = (T::BOUNDS.0 * scale * scale, T::BOUNDS.1 * scale);
        assert_close(&format!("y {shape:?}"), &outs[0].0, &y, bounds);
        assert_close(&format!("mean {shape:?}"), &outs[0].1, &means, f32::BOUNDS);
        if shape.1 > 1 {
            let bounds = (f32::BOUNDS.0 * scale * scale, f32::BOUNDS.1 * scale);
            assert_close(&format!("rstd {shape:?}"), &outs[0].2, &rstds, bounds);
        }
    }
}

fn backward_matches<T: Element>() {
    for shape in SHAPES {
        for mode in [GRAD_OVERWRITE, GRAD_ACCUMULATE] {
            let case = Case::new::<T>(shape, 0.5);
            let outs = SCHEDULES.map(|s| run_backward::<T>(&device(Mode::Checked, s), &case, mode));
            assert_eq!(outs[0], outs[1], "{shape:?}: descending differs");
            assert_eq!(outs[0], outs[2], "{shape:?}: shuffled differs");
            let plain = run_backward::<T>(&device(Mode::Plain, SCHEDULES[0]), &case, mode);
            assert_eq!(outs[0], plain, "{shape:?}: the plain build differs");
            let (mut dx, mut dgamma, mut dbeta) = case.backward();
            for v in dx.iter_mut().chain(&mut dgamma).chain(&mut dbeta) {
                *v += f64::from(mode);
            }
            if shape.1 > 1 || mode == GRAD_ACCUMULATE {
                assert_close(&format!("dx {shape:?}"), &outs[0].0, &dx, T::BOUNDS);
            }
            assert_close(&format!("dgamma {shape:?}"), &outs[0].1, &dgamma, f32::BOUNDS);
            assert_close(&format!("dbeta {shape:?}"), &outs[0].2, &dbeta, f32::BOUNDS);
        }
    }
}

#[test]
fn forward_f32() {
    forward_matches::<f32>(0.5);
}

#[test]
fn forward_f32_of_large_mean() {
    forward_matches::<f32>(1000.0);
}

#[test]
fn forward_bf16() {
    forward_matches::<bf16>(0.5);
}

#[test]
fn backward_f32() {
    backward_matches::<f32>();
}

#[test]
fn backward_bf16() {
    backward_matches::<bf16>();
}

/// Not a benchmark: the bounds are a hundred times what a launch takes (about 5 and 80 ms), and catch
/// an emulator that has become quadratic in something.
#[test]
fn launch_cost() {
    let case = Case::new::<f32>((216, 768), 0.0);
    for (mode, bound_s) in [(Mode::Plain, 0.5), (Mode::Checked, 8.0)] {
        let device = device(mode, SCHEDULES[0]);
        let time = |_| {
            let start = Instant::now();
            run_forward::<f32>(&device, &case);
            start.elapsed()
        };
        let took = (0..5).map(time).min().unwrap_or_default();
        println!("layer_norm_fwd_f32 216x768, {mode:?}, transfers included: {took:?}");
        assert!(took.as_secs_f64() < bound_s, "{mode:?}: {took:?}");
    }
}
