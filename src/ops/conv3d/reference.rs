//! Plain loops: the oracle in f64, and the f32 arithmetic where no fast path exists.

use std::ops::Range;

use crate::device::Real;
use crate::ops::grid::VoxelGrid;

/// Calls `f(tap, row)` for every tap of the voxel `row` that lies within its volume, in order.
fn for_each_neighbour(grid: VoxelGrid, row: usize, mut f: impl FnMut(usize, usize)) {
    let [d, h, w] = grid.dims;
    let (x, y, z) = (row % w, row / w % h, row / (w * h) % d);
    for tap in 0..27 {
        let (z, y, x) = (z + tap / 9, y + tap / 3 % 3, x + tap % 3);
        if (1..=d).contains(&z) && (1..=h).contains(&y) && (1..=w).contains(&x) {
            let shift = (tap / 9 * h + tap / 3 % 3) * w + tap % 3;
            f(tap, row + shift - (h + 1) * w - 1);
        }
    }
}

/// `y = conv(inputs) + bias`, 3 x 3 x 3. `inputs`: matrices and their channels.
pub fn reference<T: Real>(
    y: &mut [T],
    inputs: &[(&[T], usize)],
    weight: &[T],
    bias: Option<&[T]>,
    out: usize,
    grid: VoxelGrid,
) {
    let channels: usize = inputs.iter().map(|x| x.1).sum();
    for (row, y) in y.chunks_exact_mut(out).enumerate() {
        for (o, y) in y.iter_mut().enumerate() {
            let mut sum = bias.map_or(T::default(), |bias| bias[o]);
            for_each_neighbour(grid, row, |tap, from| {
                let mut first = 0;
                for &(x, c) in inputs {
                    for i in 0..c {
                        sum += x[from * c + i] * weight[(o * channels + first + i) * 27 + tap];
                    }
                    first += c;
                }
            });
            *y = sum;
        }
    }
}

/// Gradient of the input that has channels `range` of `channels`.
pub fn reference_dx<T: Real>(
    dx: &mut [T],
    accumulate: bool,
    dy: &[T],
    weight: &[T],
    range: Range<usize>,
    channels: usize,
    grid: VoxelGrid,
) {
    let (width, out) = (range.len(), weight.len() / (channels * 27));
    if !accumulate {
        dx.fill(T::default());
    }
    for (row, dy) in dy.chunks_exact(out).enumerate() {
        for_each_neighbour(grid, row, |tap, to| {
            for (i, dx) in dx[to * width..(to + 1) * width].iter_mut().enumerate() {
                for (o, &d) in dy.iter().enumerate() {
                    *dx += d * weight[(o * channels + range.start + i) * 27 + tap];
                }
            }
        });
    }
}

/// Gradient of the weight.
pub fn reference_dw<T: Real>(
    dw: &mut [T],
    accumulate: bool,
    dy: &[T],
    inputs: &[(&[T], usize)],
    out: usize,
    grid: VoxelGrid,
) {
    let channels: usize = inputs.iter().map(|x| x.1).sum();
    if !accumulate {
        dw.fill(T::default());
    }
    for (row, dy) in dy.chunks_exact(out).enumerate() {
        for_each_neighbour(grid, row, |tap, from| {
            for (o, &d) in dy.iter().enumerate() {
                let mut first = 0;
                for &(x, c) in inputs {
                    for i in 0..c {
                        dw[(o * channels + first + i) * 27 + tap] += d * x[from * c + i];
                    }
                    first += c;
                }
            }
        });
    }
}
