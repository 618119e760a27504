//! `y = conv(inputs) + bias`, and the gradient of an input, which is the same with the taps mirrored
//! and the channels exchanged.

use super::panel::Layout;
use super::tiles::{Rows, Tiles};
use crate::ops::cpu::par::{Shared, for_each_block, for_each_task};
use crate::ops::cpu::scratch::Scratch;
use crate::ops::cpu::simd::Level;
use crate::ops::grid::VoxelGrid;

/// `y [rows, out] = conv(inputs) + bias`.
///
/// `inputs`: matrices `[rows, c]` with their c, side by side as channels; `weight`
/// `[out, sum of c, 27]`. The caller has checked all lengths.
pub fn forward(
    y: &mut [f32],
    inputs: &[(&[f32], usize)],
    weight: &[f32],
    bias: Option<&[f32]>,
    out: usize,
    grid: VoxelGrid,
) {
    let channels: usize = inputs.iter().map(|x| x.1).sum();
    let weight = |n: usize, tap: usize, c: usize| weight[(n * channels + c) * 27 + tap];
    convolve(Level::detected(), y, inputs, weight, out, grid, |to, sums| match bias {
        Some(bias) => to.iter_mut().zip(sums).zip(bias).for_each(|((y, s), b)| *y = s + b),
        None => to.copy_from_slice(sums),
    });
}

/// Gradient of the input that has channels `range` of `channels`: `dx [rows, range]` is overwritten,
/// or added to. `dy [rows, out]`, `weight [out, channels, 27]`.
pub fn backward_x(
    dx: &mut [f32],
    accumulate: bool,
    dy: &[f32],
    weight: &[f32],
    range: std::ops::Range<usize>,
    channels: usize,
    grid: VoxelGrid,
) {
    let out = weight.len() / (channels * 27).max(1);
    let mirrored =
        |n: usize, tap: usize, c: usize| weight[(c * channels + range.start + n) * 27 + 26 - tap];
    let level = Level::detected();
    convolve(level, dx, &[(dy, out)], mirrored, range.len(), grid, |to, sums| {
        if accumulate {
            to.iter_mut().zip(sums).for_each(|(y, s)| *y += s);
        } else {
            to.copy_from_slice(sums);
        }
    });
}

/// Hands the sums of every voxel to `write(row of y, sums)`; `weight(n, tap, c)`.
pub(super) fn convolve(
    level: Level,
    y: &mut [f32],
    inputs: &[(&[f32], usize)],
    weight: impl Fn(usize, usize, usize) -> f32 + Sync,
    n: usize,
    grid: VoxelGrid,
    write: impl Fn(&mut [f32], &[f32]) + Sync,
) {
    let channels = inputs.iter().map(|x| x.1).sum();
    if y.is_empty() || channels == 0 {
        return;
    }
    let tiles = Tiles::of(level);
    let layout = Layout::new(grid, channels);
    let width = n.next_multiple_of(16);
    let packed = pack(&tiles, &layout, weight, n, width);
    let y = Shared::new(y);
    let [_, _, w] = grid.dims;
    for_each_task(layout.tasks(), |index| {
        let task = layout.task(index);
        let mut panel = layout.scratch();
        layout.fill(&mut panel, inputs, &task);
        let rows = layout.rows(&task);
        let mut sums = Scratch::new(rows.next_multiple_of(tiles.mr) * width);
        for (j, columns) in tiles.panels(width) {
            for i in (0..rows).step_by(tiles.mr) {
                // SAFETY: the panel has slack for whole tiles of rows, `packed` holds every column
                // panel, `sums` whole tiles of rows.
                unsafe {
                    let x = Rows {
                        a: panel.as_ptr().add(i * layout.stride),
                        stride: layout.stride,
                        lines: &layout.lines,
                        k: layout.k,
                        b: packed.as_ptr().add(layout.depth() * j),
                        c: sums.as_mut_ptr().add(i * width + j),
                        c_stride: width,
                    };
                    tiles.rows(x, columns);
                }
            }
        }
        for line in 0..task.h.len() {
            let first = layout.voxel(&task, line);
            // SAFETY: the lines of the grid are disjoint, and each belongs to one task.
            let to = unsafe { y.part(first * n..(first + w) * n) };
            let from = sums[line * layout.pitch * width..].chunks_exact(width);
            to.chunks_exact_mut(n).zip(from).for_each(|(to, from)| write(to, &from[..n]));
        }
    });
}

/// The weights as the register tiles read them: column panel after column panel, `[depth, width]`.
fn pack(
    tiles: &Tiles,
    layout: &Layout,
    weight: impl Fn(usize, usize, usize) -> f32 + Sync,
    n: usize,
    width: usize,
) -> Scratch {
    let (depth, channels) = (layout.depth(), layout.channels);
    let panels: Vec<_> = tiles.panels(width).collect();
    let mut packed = Scratch::new(depth * width);
    let shared = Shared::new(&mut packed);
    for_each_block(depth, 64, |_, range| {
        for &(j, columns) in &panels {
            let at = depth * j + range.start * columns;
            // SAFETY: these rows of this panel belong to this block.
            let part = unsafe { shared.part(at..at + range.len() * columns) };
            for (k, row) in range.clone().zip(part.chunks_exact_mut(columns)) {
                for (i, to) in row.iter_mut().enumerate() {
                    *to = if j + i < n { weight(j + i, k / channels, k % channels) } else { 0.0 };
                }
            }
        }
    });
    packed
}
