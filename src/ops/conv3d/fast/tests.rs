//! Every register tile against sums in f64, on grids that no tile divides.

use super::forward::{backward_x, convolve, forward};
use super::weights::gradient;
use crate::ops::cpu::simd::levels;
use crate::ops::cpu::testing::{normal, same_bits_for_any_threads};
use crate::ops::grid::VoxelGrid;

/// `sum over voxels v, taps and channels`: calls `f(v, v + tap, tap)` for all pairs within the grid.
fn pairs(grid: VoxelGrid, mut f: impl FnMut(usize, usize, usize)) {
    let [d, h, w] = grid.dims;
    let at = |b: usize, z: usize, y: usize, x: usize| ((b * d + z) * h + y) * w + x;
    for v in 0..grid.rows() {
        let (x, y, z, b) = (v % w, v / w % h, v / (w * h) % d, v / (w * h * d));
        for tap in 0..27 {
            let (nz, ny, nx) = (z + tap / 9, y + tap / 3 % 3, x + tap % 3);
            if (1..=d).contains(&nz) && (1..=h).contains(&ny) && (1..=w).contains(&nx) {
                f(v, at(b, nz - 1, ny - 1, nx - 1), tap);
            }
        }
    }
}

fn close(ours: &[f32], want: &[f64], what: &str) {
    let scale = want.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    for (i, (&a, &b)) in ours.iter().zip(want).enumerate() {
        assert!((f64::from(a) - b).abs() <= 4e-6 * scale, "{what} element {i}: {a} and {b}");
    }
}

/// Channels of two inputs (0: absent), output channels, grid.
const CASES: [([usize; 2], usize, [usize; 4]); 6] = [
    ([1, 0], 16, [1, 3, 5, 17]),
    ([2, 1], 5, [2, 2, 3, 4]),
    ([16, 0], 16, [1, 3, 4, 29]),
    ([7, 6], 33, [2, 3, 5, 1]),
    ([16, 16], 48, [1, 2, 9, 15]),
    ([5, 0], 1, [1, 1, 1, 1]),
];

#[test]
fn tiles_of_every_level_agree_with_f64() {
    for (channels, out, [batch, d, h, w]) in CASES {
        let grid = VoxelGrid { batch, dims: [d, h, w] };
        let c = channels[0] + channels[1];
        let data = [normal(1, grid.rows() * channels[0]), normal(2, grid.rows() * channels[1])];
        let all = [(&data[0][..], channels[0]), (&data[1][..], channels[1])];
        let inputs = if channels[1] == 0 { &all[..1] } else { &all[..] };
        let x = |row: usize, i: usize| match i < channels[0] {
            true => data[0][row * channels[0] + i],
            false => data[1][row * channels[1] + i - channels[0]],
        };
        let (weight, dy) = (normal(3, out * c * 27), normal(4, grid.rows() * out));
        let (mut y, mut dw) = (vec![0.0f64; grid.rows() * out], vec![0.0f64; out * c * 27]);
        pairs(grid, |v, from, tap| {
            for n in 0..out {
                for i in 0..c {
                    let (x, k) = (f64::from(x(from, i)), (n * c + i) * 27 + tap);
                    y[v * out + n] += x * f64::from(weight[k]);
                    dw[k] += x * f64::from(dy[v * out + n]);
                }
            }
        });
        for level in levels() {
            let what = format!("{channels:?} {out} {grid:?} {level:?}");
            let mut ours = vec![f32::NAN; y.len()];
            let at = |n: usize, tap: usize, i: usize| weight[(n * c + i) * 27 + tap];
            convolve(level, &mut ours, inputs, at, out, grid, |y, s| y.copy_from_slice(s));
            close(&ours, &y, &what);
            let mut ours = vec![f32::NAN; dw.len()];
            gradient(level, &mut ours, false, &dy, inputs, out, grid);
            close(&ours, &dw, &format!("dw {what}"));
            let once = ours.clone();
            gradient(level, &mut ours, true, &dy, inputs, out, grid);
            assert!(ours.iter().zip(&once).all(|(a, b)| *a == 2.0 * b), "{what}");
        }
    }
}

#[test]
fn gradient_of_an_input_is_the_transpose() {
    for (channels, out, [batch, d, h, w]) in CASES {
        let grid = VoxelGrid { batch, dims: [d, h, w] };
        let c = channels[0] + channels[1];
        let (weight, dy) = (normal(3, out * c * 27), normal(4, grid.rows() * out));
        let mut first = 0;
        for width in channels.into_iter().filter(|&c| c > 0) {
            let mut want = vec![0.0f64; grid.rows() * width];
            pairs(grid, |v, to, tap| {
                for n in 0..out {
                    for i in 0..width {
                        let w = f64::from(weight[(n * c + first + i) * 27 + tap]);
                        want[to * width + i] += w * f64::from(dy[v * out + n]);
                    }
                }
            });
            let mut dx = vec![f32::NAN; want.len()];
            let range = first..first + width;
            backward_x(&mut dx, false, &dy, &weight, range.clone(), c, grid);
            close(&dx, &want, &format!("dx of {range:?}"));
            let once = dx.clone();
            backward_x(&mut dx, true, &dy, &weight, range, c, grid);
            assert!(dx.iter().zip(&once).all(|(a, b)| *a == 2.0 * b));
            first += width;
        }
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    let grid = VoxelGrid { batch: 2, dims: [5, 23, 31] };
    let (x, weight) = (normal(1, grid.rows() * 16), normal(2, 16 * 16 * 27));
    let dy = normal(3, grid.rows() * 16);
    same_bits_for_any_threads(|| {
        let mut y = vec![0.0; grid.rows() * 16];
        forward(&mut y, &[(&x, 16)], &weight, None, 16, grid);
        let mut dw = vec![0.0; weight.len()];
        super::backward_weight(&mut dw, false, &dy, &[(&x, 16)], 16, grid);
        y.extend(dw);
        y
    });
}

/// Rates at the sizes of a UNETR of feature size 16 on 48^3, printed; the comparison is the matrix
/// product of the same FLOP that the linear op does.
#[test]
#[ignore = "a measurement: cargo test --release --lib conv3d::fast::tests::rates -- --ignored --nocapture"]
fn rates() {
    use crate::ops::cpu::gemm::{Epilogue, MatRef, gemm};
    let time = |mut f: Box<dyn FnMut() + '_>| {
        f();
        let run = |_| {
            let start = std::time::Instant::now();
            f();
            start.elapsed().as_secs_f64()
        };
        (0..5).map(run).fold(f64::INFINITY, f64::min)
    };
    for (side, channels, out) in
        [(48, 1, 16), (48, 16, 16), (48, 32, 16), (24, 64, 32), (12, 128, 128)]
    {
        let grid = VoxelGrid { batch: 1, dims: [side; 3] };
        let (x, dy) = (normal(1, grid.rows() * channels), normal(2, grid.rows() * out));
        let weight = normal(3, out * channels * 27);
        let giga = 2e-9 * (grid.rows() * out * channels * 27) as f64;
        let (mut y, mut dx) = (dy.clone(), x.clone());
        let mut dw = weight.clone();
        let inputs = [(&x[..], channels)];
        let fwd = time(Box::new(|| forward(&mut y, &inputs, &weight, None, out, grid)));
        let bwd_x = time(Box::new(|| {
            backward_x(&mut dx, false, &dy, &weight, 0..channels, channels, grid);
        }));
        let bwd_w = time(Box::new(|| {
            super::backward_weight(&mut dw, false, &dy, &inputs, out, grid);
        }));
        let k = channels * 27;
        let rows = grid.rows().min(1 << 13);
        let a = normal(4, rows * k);
        let mut c = vec![0.0; rows * out];
        let product = time(Box::new(|| {
            let a = MatRef::new(&a, rows, k).unwrap();
            let b = MatRef::new(&weight, out, k).unwrap().t();
            gemm(1.0, a, b, 0.0, &mut c, out, Epilogue::default()).unwrap();
        }));
        let of_product = 2e-9 * (rows * out * k) as f64 / product;
        println!(
            "{side}^3, {channels} -> {out}: forward {:.0}, gradient of x {:.0}, of the weight {:.0} \
             GFLOP/s; matrix product {of_product:.0}",
            giga / fwd,
            giga / bwd_x,
            giga / bwd_w
        );
    }
}
