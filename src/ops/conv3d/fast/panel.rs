//! A task's copy of the input around its lines of output.

use std::ops::Range;

use super::tiles::{MOST_COLUMNS, MOST_ROWS};
use crate::ops::cpu::scratch::Scratch;
use crate::ops::grid::VoxelGrid;

/// Floats of a panel (256 KiB), a part of L2, where a line of voxels is not longer by itself.
const PANEL: usize = 1 << 16;
/// Up to so many channels the 27 taps of a voxel are written down one after the other: runs of
/// 3 C values would be too short for the register tile.
const FEW: usize = 4;

/// How the lines of an output grid are cut into tasks, and what a panel looks like.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub grid: VoxelGrid,
    /// Channels of all inputs together.
    pub channels: usize,
    /// Most lines of output of a task; all lie in one plane.
    pub height: usize,
    /// Rows of the panel per line of output: voxels, and two that are none.
    pub pitch: usize,
    /// Floats between two rows.
    pub stride: usize,
    /// Values of a run, and where the runs of row 0 begin.
    pub k: usize,
    pub lines: Vec<usize>,
    overlaps: bool,
}

/// Some lines of output: volume, plane, lines.
pub(super) struct Task {
    pub volume: usize,
    pub d: usize,
    pub h: Range<usize>,
}

impl Layout {
    pub fn new(grid: VoxelGrid, channels: usize) -> Self {
        let [_, h, w] = grid.dims;
        let overlaps = channels > FEW;
        let (pitch, stride) = if overlaps { (w + 2, channels) } else { (w, 27 * channels) };
        let of_line = if overlaps { 3 * pitch * stride } else { pitch * stride };
        let extra = if overlaps { 2 } else { 0 };
        let height = (PANEL / of_line.max(1)).saturating_sub(extra).clamp(1, h.max(1));
        let (k, lines) = if overlaps {
            let start = |l: usize| (l / 3 * (height + 2) + l % 3) * pitch * stride;
            (3 * channels, (0..9).map(start).collect())
        } else {
            (27 * channels, vec![0])
        };
        Self { grid, channels, height, pitch, stride, k, lines, overlaps }
    }

    /// Rows of the im2col matrix that the sum of a voxel runs over.
    pub fn depth(&self) -> usize {
        27 * self.channels
    }

    pub fn tasks(&self) -> usize {
        let [d, h, _] = self.grid.dims;
        self.grid.batch * d * h.div_ceil(self.height)
    }

    pub fn task(&self, index: usize) -> Task {
        let [d, h, _] = self.grid.dims;
        let (plane, part) = (index / h.div_ceil(self.height), index % h.div_ceil(self.height));
        let first = part * self.height;
        Task { volume: plane / d, d: plane % d, h: first..h.min(first + self.height) }
    }

    /// First row of the matrix of voxels of line `line` (counted from the first) of a task.
    pub fn voxel(&self, task: &Task, line: usize) -> usize {
        let [d, h, w] = self.grid.dims;
        ((task.volume * d + task.d) * h + task.h.start + line) * w
    }

    /// Rows of the panel from the first voxel of a task to its last.
    pub fn rows(&self, task: &Task) -> usize {
        let [_, _, w] = self.grid.dims;
        (task.h.len() - 1) * self.pitch + w
    }

    /// A panel with room for what the register tiles read behind its last row.
    pub fn scratch(&self) -> Scratch {
        let (depth, lines) = if self.overlaps { (3, self.height + 2) } else { (1, self.height) };
        let floats = depth * lines * self.pitch * self.stride;
        Scratch::new(floats + MOST_ROWS * self.stride + self.k + MOST_COLUMNS)
    }

    /// Fills `panel` for a task. `inputs`: matrices of the grid and their numbers of channels.
    pub fn fill(&self, panel: &mut [f32], inputs: &[(&[f32], usize)], task: &Task) {
        if self.overlaps {
            self.fill_lines(panel, inputs, task);
        } else {
            self.fill_taps(panel, inputs, task);
        }
    }

    fn fill_lines(&self, panel: &mut [f32], inputs: &[(&[f32], usize)], task: &Task) {
        let [d, h, w] = self.grid.dims;
        let of_line = self.pitch * self.stride;
        for kd in 0..3 {
            for line in 0..task.h.len() + 2 {
                let at = (kd * (self.height + 2) + line) * of_line;
                let to = &mut panel[at..at + of_line];
                let (z, y) = (task.d + kd, task.h.start + line);
                if !(1..=d).contains(&z) || !(1..=h).contains(&y) {
                    to.fill(0.0);
                    continue;
                }
                let row = ((task.volume * d + z - 1) * h + y - 1) * w;
                to[..self.stride].fill(0.0);
                to[(w + 1) * self.stride..].fill(0.0);
                let to = &mut to[self.stride..(w + 1) * self.stride];
                if let [(x, c)] = *inputs {
                    to.copy_from_slice(&x[row * c..(row + w) * c]);
                    continue;
                }
                let mut first = 0;
                for &(x, c) in inputs {
                    let from = x[row * c..(row + w) * c].chunks_exact(c);
                    for (to, from) in to.chunks_exact_mut(self.stride).zip(from) {
                        to[first..first + c].copy_from_slice(from);
                    }
                    first += c;
                }
            }
        }
    }

    fn fill_taps(&self, panel: &mut [f32], inputs: &[(&[f32], usize)], task: &Task) {
        let [d, h, w] = self.grid.dims;
        let line = w * self.stride;
        for y in 0..task.h.len() {
            let panel = &mut panel[y * line..(y + 1) * line];
            for tap in 0..27 {
                let (z, y) = (task.d + tap / 9, task.h.start + y + tap / 3 % 3);
                let inside = (1..=d).contains(&z) && (1..=h).contains(&y);
                for (i, to) in panel.chunks_exact_mut(self.stride).enumerate() {
                    let to = &mut to[tap * self.channels..(tap + 1) * self.channels];
                    let x = i + tap % 3;
                    if !inside || !(1..=w).contains(&x) {
                        to.fill(0.0);
                        continue;
                    }
                    let row = ((task.volume * d + z - 1) * h + y - 1) * w + x - 1;
                    let mut first = 0;
                    for &(x, c) in inputs {
                        to[first..first + c].copy_from_slice(&x[row * c..(row + 1) * c]);
                        first += c;
                    }
                }
            }
        }
    }
}
