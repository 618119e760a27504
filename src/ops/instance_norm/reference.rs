//! The CPU code, in the arithmetic of the tensors.

use rayon::prelude::*;

use super::super::VoxelGrid;
use crate::device::Real;
use crate::tape::GradMode;

/// Elements that one task works on; partial sums are one per so many, added in order.
const BLOCK: usize = 1 << 14;

/// Mean, what its rounding left, and `1 / sqrt(var + eps)`, as `[3, batch, c]`.
#[derive(Clone, Copy)]
pub(super) struct Stats<'a, T> {
    data: &'a [T],
    plane: usize,
    c: usize,
}

impl<'a, T: Real> Stats<'a, T> {
    pub fn new(data: &'a [T], batch: usize, c: usize) -> Self {
        Self { data, plane: batch * c, c }
    }

    /// `(x - mean - rest) rstd` of channel `j` of a sample.
    fn hat(&self, sample: usize, j: usize, x: T) -> T {
        let at = sample * self.c + j;
        (x - self.data[at] - self.data[self.plane + at]) * self.rstd(sample, j)
    }

    fn rstd(&self, sample: usize, j: usize) -> T {
        self.data[2 * self.plane + sample * self.c + j]
    }
}

/// What stands before the activation: the normalised value, and what is added to it.
#[derive(Clone, Copy)]
pub(super) struct Before<'a, T> {
    pub x: &'a [T],
    pub stats: Stats<'a, T>,
    /// The shortcut, and its own statistics when it is normalised.
    pub shortcut: Option<(&'a [T], Option<Stats<'a, T>>)>,
    pub slope: T,
}

impl<T: Real> Before<'_, T> {
    /// `xhat`, and the shortcut as it is added, at flat index `i` (channel `j`).
    fn terms(&self, sample: usize, j: usize, i: usize) -> (T, Option<T>) {
        let shortcut = self.shortcut.map(|(s, stats)| match stats {
            Some(stats) => stats.hat(sample, j, s[i]),
            None => s[i],
        });
        (self.stats.hat(sample, j, self.x[i]), shortcut)
    }

    fn gradient(&self, terms: (T, Option<T>), dy: T) -> T {
        if pre(terms) > T::default() { dy } else { self.slope * dy }
    }
}

fn pre<T: Real>((xhat, shortcut): (T, Option<T>)) -> T {
    shortcut.map_or(xhat, |s| xhat + s)
}

/// Per column: sums over `rows` of what `term(row, column)` gives, in a fixed order.
fn column_sums<T: Real, const K: usize>(
    rows: usize,
    c: usize,
    term: impl Fn(usize, usize) -> [T; K] + Sync,
) -> Vec<[T; K]> {
    let step = (BLOCK / c.max(1)).max(1);
    let add = |to: &mut [T; K], from: [T; K]| to.iter_mut().zip(from).for_each(|(t, f)| *t += f);
    let parts: Vec<Vec<[T; K]>> = (0..rows.div_ceil(step))
        .into_par_iter()
        .map(|part| {
            let mut sums = vec![[T::default(); K]; c];
            for row in part * step..rows.min((part + 1) * step) {
                for (j, sum) in sums.iter_mut().enumerate() {
                    add(sum, term(row, j));
                }
            }
            sums
        })
        .collect();
    let mut total = vec![[T::default(); K]; c];
    for part in parts {
        total.iter_mut().zip(part).for_each(|(to, from)| add(to, from));
    }
    total
}

/// Statistics in two passes, the second around the mean of the first.
pub(super) fn statistics<T: Real>(stats: &mut [T], x: &[T], grid: &VoxelGrid, c: usize, eps: T) {
    let (voxels, plane) = (grid.voxels(), grid.batch * c);
    let n = T::of(voxels as f64);
    for sample in 0..grid.batch {
        let x = &x[sample * voxels * c..][..voxels * c];
        // Counted from the first voxel, so that sums stay small at a large mean.
        let sums = column_sums(voxels, c, |i, j| [x[i * c + j] - x[j]]);
        let mean: Vec<T> = sums.iter().zip(x).map(|([s], &first)| first + *s / n).collect();
        let centred = column_sums(voxels, c, |i, j| {
            let d = x[i * c + j] - mean[j];
            [d, d * d]
        });
        for (j, [d, squares]) in centred.into_iter().enumerate() {
            let (at, rest) = (sample * c + j, d / n);
            let var = ((squares - d * rest) / n).max(T::default());
            stats[at] = mean[j];
            stats[plane + at] = rest;
            stats[2 * plane + at] = T::of(1.0) / (var + eps).sqrt();
        }
    }
}

/// `y = leaky(before)`.
pub(super) fn forward<T: Real>(y: &mut [T], before: &Before<'_, T>, grid: &VoxelGrid, c: usize) {
    let (rows, voxels) = ((BLOCK / c.max(1)).max(1), grid.voxels());
    y.par_chunks_mut(rows * c).enumerate().for_each(|(block, part)| {
        for (r, row) in part.chunks_exact_mut(c).enumerate() {
            let r = block * rows + r;
            for (j, y) in row.iter_mut().enumerate() {
                let z = pre(before.terms(r / voxels, j, r * c + j));
                *y = if z > T::default() { z } else { before.slope * z };
            }
        }
    });
}

/// Means over the voxels of `d`, `d xhat` and `d shat`, per sample and channel.
pub(super) fn means<T: Real>(
    before: &Before<'_, T>,
    dy: &[T],
    grid: &VoxelGrid,
    c: usize,
) -> Vec<[T; 3]> {
    let voxels = grid.voxels();
    let n = T::of(voxels as f64);
    let of = |sample: usize| {
        column_sums(voxels, c, move |row, j| {
            let i = (sample * voxels + row) * c + j;
            let terms = before.terms(sample, j, i);
            let d = before.gradient(terms, dy[i]);
            [d, d * terms.0, d * terms.1.unwrap_or_default()]
        })
    };
    (0..grid.batch).flat_map(of).map(|sums| sums.map(|s| s / n)).collect()
}

/// Which input a gradient is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    X,
    Shortcut,
}

/// The gradient of one input.
#[allow(clippy::too_many_arguments)] // the formula's
pub(super) fn backward<T: Real>(
    dx: &mut [T],
    mode: GradMode,
    side: Side,
    before: &Before<'_, T>,
    means: &[[T; 3]],
    dy: &[T],
    grid: &VoxelGrid,
    c: usize,
) {
    let (rows, voxels) = ((BLOCK / c.max(1)).max(1), grid.voxels());
    let stats = match side {
        Side::X => Some(before.stats),
        Side::Shortcut => before.shortcut.and_then(|(_, stats)| stats),
    };
    dx.par_chunks_mut(rows * c).enumerate().for_each(|(block, part)| {
        for (r, row) in part.chunks_exact_mut(c).enumerate() {
            let r = block * rows + r;
            let sample = r / voxels;
            for (j, dx) in row.iter_mut().enumerate() {
                let i = r * c + j;
                let terms = before.terms(sample, j, i);
                let d = before.gradient(terms, dy[i]);
                let [mean_d, mean_dx, mean_ds] = means[sample * c + j];
                let (hat, mean) = match side {
                    Side::X => (terms.0, mean_dx),
                    Side::Shortcut => (terms.1.unwrap_or_default(), mean_ds),
                };
                let g = match &stats {
                    Some(stats) => stats.rstd(sample, j) * (d - mean_d - hat * mean),
                    None => d,
                };
                *dx = if mode.accumulates() { *dx + g } else { g };
            }
        }
    });
}
