//! The transposed convolution `2 x 2 x 2` with stride 2 as products over blocks of rows, whose
//! `[rows, 8, out]` side lies in a buffer between the product and the doubled grid.

use crate::Result;
use crate::ops::cpu::gemm::{Epilogue, MatRef, gemm};
use crate::ops::cpu::par::{Shared, for_each_block};
use crate::ops::cpu::scratch::Scratch;
use crate::ops::grid::VoxelGrid;

/// Floats of the buffer (4 MiB), unless a hundred rows need more. Blocks are cut by sizes alone.
const BUFFER: usize = 1 << 20;

fn block(out: usize) -> usize {
    (BUFFER / (8 * out)).max(112)
}

/// Weights `[in, out, 8]` as a matrix `[in, 8 out]`, tap after tap.
fn by_taps(weight: &[f32], [fan_in, out]: [usize; 2]) -> Scratch {
    let mut packed = Scratch::new(fan_in * out * 8);
    let rows = weight.chunks_exact(out * 8).zip(packed.chunks_exact_mut(out * 8));
    for (from, to) in rows {
        for (tap, to) in to.chunks_exact_mut(out).enumerate() {
            to.iter_mut().zip(from.chunks_exact(8)).for_each(|(to, from)| *to = from[tap]);
        }
    }
    packed
}

/// The volume at twice the size; `sizes`: in and out. The caller has checked all lengths.
pub fn forward(
    y: &mut [f32],
    x: &[f32],
    weight: &[f32],
    sizes: [usize; 2],
    grid: VoxelGrid,
) -> Result<()> {
    let [fan_in, out] = sizes;
    let weight = by_taps(weight, sizes);
    let weight = MatRef::new(&weight, fan_in, 8 * out)?;
    let y = Shared::new(y);
    let (rows, block) = (grid.rows(), block(out));
    for first in (0..rows).step_by(block) {
        let count = block.min(rows - first);
        let mut blocks = Scratch::new(count * 8 * out);
        let x = MatRef::new(&x[first * fan_in..], count, fan_in)?;
        gemm(1.0, x, weight, 0.0, &mut blocks, 8 * out, Epilogue::default())?;
        let blocks: &[f32] = &blocks;
        for_each_block(count, 256, |_, range| {
            for row in range {
                let from = blocks[row * 8 * out..].chunks_exact(out);
                for (child, from) in grid.children(first + row).into_iter().zip(from) {
                    // SAFETY: no two rows share a child.
                    unsafe { y.part(child * out..(child + 1) * out) }.copy_from_slice(from);
                }
            }
        });
    }
    Ok(())
}

/// The rows of dy that belong to `count` rows from `first` on, as `[count, 8 out]`.
fn gather(dy: &[f32], first: usize, count: usize, out: usize, grid: VoxelGrid) -> Scratch {
    let mut blocks = Scratch::new(count * 8 * out);
    let shared = Shared::new(&mut blocks);
    for_each_block(count, 256, |_, range| {
        for row in range {
            // SAFETY: each row belongs to one block.
            let to = unsafe { shared.part(row * 8 * out..(row + 1) * 8 * out) };
            let children = grid.children(first + row);
            for (child, to) in children.into_iter().zip(to.chunks_exact_mut(out)) {
                to.copy_from_slice(&dy[child * out..(child + 1) * out]);
            }
        }
    });
    blocks
}

/// Gradient of x, overwritten or added to.
pub fn backward_x(
    dx: &mut [f32],
    accumulate: bool,
    dy: &[f32],
    weight: &[f32],
    sizes: [usize; 2],
    grid: VoxelGrid,
) -> Result<()> {
    let [fan_in, out] = sizes;
    let weight = by_taps(weight, sizes);
    let weight = MatRef::new(&weight, fan_in, 8 * out)?.t();
    let (rows, block) = (grid.rows(), block(out));
    for first in (0..rows).step_by(block) {
        let count = block.min(rows - first);
        let d = gather(dy, first, count, out, grid);
        let d = MatRef::new(&d, count, 8 * out)?;
        let dx = &mut dx[first * fan_in..(first + count) * fan_in];
        gemm(1.0, d, weight, f32::from(accumulate), dx, fan_in, Epilogue::default())?;
    }
    Ok(())
}

/// Gradient of the weight, overwritten or added to; blocks of rows are added in order.
pub fn backward_weight(
    dw: &mut [f32],
    accumulate: bool,
    dy: &[f32],
    x: &[f32],
    sizes: [usize; 2],
    grid: VoxelGrid,
) -> Result<()> {
    let [fan_in, out] = sizes;
    let mut sums = Scratch::zeroed(fan_in * 8 * out);
    let (rows, block) = (grid.rows(), block(out));
    for first in (0..rows).step_by(block) {
        let count = block.min(rows - first);
        let d = gather(dy, first, count, out, grid);
        let d = MatRef::new(&d, count, 8 * out)?;
        let x = MatRef::new(&x[first * fan_in..], count, fan_in)?;
        gemm(1.0, x.t(), d, 1.0, &mut sums, 8 * out, Epilogue::default())?;
    }
    for (from, to) in sums.chunks_exact(8 * out).zip(dw.chunks_exact_mut(8 * out)) {
        for (tap, from) in from.chunks_exact(out).enumerate() {
            for (to, &from) in to.chunks_exact_mut(8).zip(from) {
                to[tap] = if accumulate { to[tap] + from } else { from };
            }
        }
    }
    Ok(())
}
