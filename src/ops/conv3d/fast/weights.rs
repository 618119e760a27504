//! The weight gradient: `dw[n, c, tap] = sum over voxels v of dy[v, n] x[v + tap, c]`.

use super::panel::Layout;
use super::tiles::{Outer, Tiles};
use crate::ops::cpu::par::{Shared, for_each_block, for_each_task};
use crate::ops::cpu::scratch::Scratch;
use crate::ops::cpu::simd::Level;
use crate::ops::grid::VoxelGrid;

/// Groups of tasks that are summed apart, and the most floats that their sums may take together
/// (64 MiB) where there are more than two.
const GROUPS: usize = 16;
const PARTIALS: usize = 1 << 24;

/// `dw [out, channels, 27]` is overwritten, or added to. `inputs` as for [`super::forward`].
pub fn backward_weight(
    dw: &mut [f32],
    accumulate: bool,
    dy: &[f32],
    inputs: &[(&[f32], usize)],
    out: usize,
    grid: VoxelGrid,
) {
    gradient(Level::detected(), dw, accumulate, dy, inputs, out, grid);
}

pub(super) fn gradient(
    level: Level,
    dw: &mut [f32],
    accumulate: bool,
    dy: &[f32],
    inputs: &[(&[f32], usize)],
    out: usize,
    grid: VoxelGrid,
) {
    let channels = inputs.iter().map(|x| x.1).sum();
    if dw.is_empty() {
        return;
    }
    let tiles = Tiles::of(level);
    let layout = Layout::new(grid, channels);
    // A line of taps of the sums is padded to whole tiles.
    let line = layout.k.next_multiple_of(tiles.columns);
    let (height, width) = (out.next_multiple_of(tiles.nr), line * layout.lines.len());
    let size = height * width;
    let groups = (PARTIALS / size).clamp(2, GROUPS).min(layout.tasks()).max(1);
    let mut partial = Scratch::new(groups * size);
    let shared = Shared::new(&mut partial);
    for_each_task(groups, |group| {
        // SAFETY: one part per group.
        let sums = unsafe { shared.part(group * size..(group + 1) * size) };
        sums.fill(0.0);
        let mut panel = layout.scratch();
        let tasks = layout.tasks();
        for index in group * tasks / groups..(group + 1) * tasks / groups {
            let task = layout.task(index);
            layout.fill(&mut panel, inputs, &task);
            let rows = layout.rows(&task);
            // dy with zeros where a row of the panel is no voxel.
            let mut d = Scratch::zeroed(rows * height);
            for y in 0..task.h.len() {
                let first = layout.voxel(&task, y) * out;
                let from = dy[first..first + grid.dims[2] * out].chunks_exact(out);
                let to = d[y * layout.pitch * height..].chunks_exact_mut(height);
                to.zip(from).for_each(|(to, from)| to[..out].copy_from_slice(from));
            }
            for (l, start) in layout.lines.iter().enumerate() {
                for j in (0..line).step_by(tiles.columns) {
                    for i in (0..height).step_by(tiles.nr) {
                        // SAFETY: `d` and `sums` are padded to whole tiles, the panel has slack for
                        // columns behind its last row.
                        unsafe {
                            tiles.outer(Outer {
                                count: rows,
                                a: d.as_ptr().add(i),
                                a_stride: height,
                                b: panel.as_ptr().add(start + j),
                                b_stride: layout.stride,
                                c: sums.as_mut_ptr().add(i * width + l * line + j),
                                c_stride: width,
                            });
                        }
                    }
                }
            }
        }
    });
    let (partial, k): (&[f32], _) = (&partial, layout.k);
    let dw = Shared::new(dw);
    for_each_block(out, 1, |_, range| {
        for n in range {
            // SAFETY: each output channel belongs to one block.
            let dw = unsafe { dw.part(n * channels * 27..(n + 1) * channels * 27) };
            for tap in 0..27 {
                let at = tap * channels / k * line + tap * channels % k;
                for c in 0..channels {
                    let of_group = |g: usize| partial[g * size + n * width + at + c];
                    let sum: f32 = (0..groups).map(of_group).sum();
                    let to = &mut dw[c * 27 + tap];
                    *to = if accumulate { *to + sum } else { sum };
                }
            }
        }
    });
}
