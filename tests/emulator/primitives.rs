//! The prelude's primitives against their definitions.

use glmae::device::emulated::{Emulated, Mode};
use glmae::device::launch::{Arg, LaunchConfig};
use half::bf16;

use super::{SCHEDULES, device, download, normal, upload};

/// Runs `body` on checked devices of every schedule and on a plain one; all must agree.
fn everywhere<T: PartialEq + std::fmt::Debug>(body: impl Fn(&Emulated) -> T) -> T {
    let first = body(&device(Mode::Plain, SCHEDULES[0]));
    for schedule in SCHEDULES {
        assert_eq!(first, body(&device(Mode::Checked, schedule)), "{schedule:?} differs");
    }
    first
}

fn launch(device: &Emulated, name: &str, threads: u32, args: &[Arg]) {
    device.launch(name, &LaunchConfig::linear(1, threads), args).unwrap();
}

#[test]
fn tensor_core_tile() {
    let round = |v: Vec<f64>| v.into_iter().map(bf16::from_f64).collect::<Vec<_>>();
    let (a, b) = (round(normal(1, 256, 0.0)), round(normal(2, 128, 0.0)));
    let c: Vec<f32> = normal(3, 128, 0.0).into_iter().map(|v| v as f32).collect();
    for name in ["primitive_mma", "primitive_mma_ldmatrix"] {
        let d: Vec<f32> = everywhere(|device| {
            let d = device.alloc(512, "d").unwrap();
            let [a, b] = [("a", &a), ("b", &b)].map(|(name, v)| upload(device, name, v));
            let c = upload(device, "c", &c);
            launch(device, name, 32, &[d.into(), a.into(), b.into(), c.into()]);
            download(device, d, 128)
        });
        for (i, &got) in d.iter().enumerate() {
            let (row, column) = (i / 8, i % 8);
            let dot = |k: usize| a[row * 16 + k].to_f64() * b[k * 8 + column].to_f64();
            let want = f64::from(c[i]) + (0..16).map(dot).sum::<f64>();
            assert_eq!(got, want as f32, "{name} [{row}, {column}]");
        }
    }
}

/// The definition of the PTX ISA: register `i` of a lane holds two neighbours of row `lane / 4` of
/// matrix `i`, from column `lane % 4 * 2` on; transposed likewise.
#[test]
fn matrix_loads() {
    let x: Vec<u16> = (0..256).collect();
    let out: Vec<u32> = everywhere(|device| {
        let out = device.alloc(4 * 32 * 4 * 4, "out").unwrap();
        let x = upload(device, "x", &x);
        launch(device, "primitive_ldmatrix", 32, &[out.into(), x.into()]);
        download(device, out, 4 * 32 * 4)
    });
    for (form, (registers, transposed)) in
        [(4, false), (4, true), (2, false), (2, true)].into_iter().enumerate()
    {
        for lane in 0..32 {
            for i in 0..4 {
                let element = |e: usize| {
                    let (major, minor) = (lane / 4, lane % 4 * 2 + e);
                    let (row, column) = if transposed { (minor, major) } else { (major, minor) };
                    u32::from(x[(i * 8 + row) * 8 + column])
                };
                let want = if i < registers { element(0) | element(1) << 16 } else { 0 };
                assert_eq!(out[(form * 32 + lane) * 4 + i], want, "form {form} lane {lane} r{i}");
            }
        }
    }
}

#[test]
fn shuffles() {
    let out: Vec<i32> = everywhere(|device| {
        let out = device.alloc(8 * 64 * 4, "out").unwrap();
        launch(device, "primitive_shuffle", 64, &[out.into()]);
        download(device, out, 8 * 64)
    });
    for i in 0..64 {
        let (lane, warp) = (i % 32, i / 32 * 32);
        let (segment, end) = (lane / 8 * 8, lane / 8 * 8 + 7);
        let own_unless = |inside: bool, source: i32| if inside { source } else { lane };
        let want = [
            5,
            segment + (lane + 3) % 8,
            lane ^ 16,
            own_unless((lane ^ 12) <= end, lane ^ 12),
            own_unless(lane + 3 < 32, lane + 3),
            own_unless(lane + 3 <= end, lane + 3),
            own_unless(lane >= 3, lane - 3),
            own_unless(lane - 3 >= segment, lane - 3),
        ];
        for (form, source) in want.into_iter().enumerate() {
            assert_eq!(out[form * 64 + i as usize], warp + source, "form {form}, thread {i}");
        }
    }
}

#[test]
fn votes() {
    let out: Vec<u32> = everywhere(|device| {
        let out = device.alloc(7 * 64 * 4, "out").unwrap();
        launch(device, "primitive_vote", 64, &[out.into()]);
        download(device, out, 7 * 64)
    });
    let thirds = (0..32).filter(|l| l % 3 == 0).fold(0u32, |m, l| m | 1 << l);
    for i in 0..64 {
        let low = i % 32 < 16;
        let half = if low { 0xffff } else { 0xffff_0000u32 };
        let want = [thirds, thirds & half, u32::from(!low), u32::from(low), 22, 1, 0];
        for (form, want) in want.into_iter().enumerate() {
            assert_eq!(out[form * 64 + i], want, "form {form}, thread {i}");
        }
    }
}

/// Against the crate `half`: ties, infinities, overflow to infinity, denormals, all exponents.
#[test]
fn bf16_rounds_to_nearest_even() {
    let mut x: Vec<f32> = (0..=u16::MAX)
        .flat_map(|high| {
            [0u32, 1, 0x7fff, 0x8000, 0x8001, 0xffff].map(|low| u32::from(high) << 16 | low)
        })
        .map(f32::from_bits)
        .collect();
    x.extend(normal(5, 1000, 0.0).into_iter().map(|v| v as f32));
    let device = device(Mode::Plain, SCHEDULES[0]);
    let n = x.len();
    let (y, back) = (device.alloc(2 * n, "y").unwrap(), device.alloc(4 * n, "back").unwrap());
    let args = [y.into(), back.into(), upload(&device, "x", &x).into(), Arg::I32(n as i32)];
    let config = LaunchConfig::linear(n.div_ceil(256) as u32, 256);
    device.launch("primitive_bf16", &config, &args).unwrap();
    let (y, back) = (download::<bf16>(&device, y, n), download::<f32>(&device, back, n));
    for i in 0..n {
        if x[i].is_nan() {
            assert_eq!(y[i].to_bits(), 0x7fff, "{:#x}", x[i].to_bits());
            assert!(back[i].is_nan());
        } else {
            assert_eq!(y[i].to_bits(), bf16::from_f32(x[i]).to_bits(), "{:#x}", x[i].to_bits());
            assert_eq!(back[i], y[i].to_f32());
        }
    }
}

#[test]
fn asynchronous_copies_fill_with_zeros() {
    for (n, valid) in [(64usize, 16), (64, 4), (33, 8), (1, 12)] {
        // The last row ends after `valid` bytes: what lies behind must not be read.
        let x: Vec<f32> = (0..(n - 1) * 4 + valid / 4).map(|i| i as f32 + 1.0).collect();
        let y: Vec<f32> = everywhere(|device| {
            let y = device.alloc(64 * 16, "y").unwrap();
            let x = upload(device, "x", &x);
            let args = [y.into(), x.into(), Arg::I32(n as i32), Arg::I32(valid as i32)];
            launch(device, "primitive_cp_async", 32, &args);
            download(device, y, 256)
        });
        for (i, &got) in y.iter().enumerate() {
            let row = if i < 128 { 31 - i / 4 } else { 63 - (i / 4 - 32) };
            let want = x.get(row * 4 + i % 4).copied().unwrap_or(0.0);
            assert_eq!(got, want, "n {n} valid {valid}: [{}, {}]", i / 4, i % 4);
        }
    }
}

#[test]
fn block_sums() {
    for threads in [32u32, 96, 1024] {
        let x: Vec<f32> = (0..3 * threads).map(|i| (i % 7) as f32).collect();
        let sums: Vec<f32> = everywhere(|device| {
            let sum = device.alloc(12, "sum").unwrap();
            let args = [sum.into(), upload(device, "x", &x).into()];
            let config = LaunchConfig::linear(3, threads);
            device.launch("primitive_block_sum", &config, &args).unwrap();
            download(device, sum, 3)
        });
        for (sum, x) in sums.iter().zip(x.chunks(threads as usize)) {
            // Small integers: exact in any order.
            assert_eq!(*sum, x.iter().sum::<f32>() * threads as f32);
        }
    }
}
