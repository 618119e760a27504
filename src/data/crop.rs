//! Cutting the foreground out, padding to a least size, and pasting back.

use serde::{Deserialize, Serialize};

use super::geometry::Affine;
use crate::{Error, Result, limits};

/// Where zeros go when a volume is smaller than it must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pad {
    /// Half before, half after, the odd one after (MONAI's `SpatialPad`).
    #[default]
    Symmetric,
    /// All after the last voxel.
    End,
}

/// A box cut out of a grid and padded: what it takes to paste it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CropRecord {
    /// The grid the box was cut from, `d h w`.
    pub grid: [usize; 3],
    /// First voxel of the box.
    pub start: [usize; 3],
    /// Size of the box.
    pub size: [usize; 3],
    /// Zeros before the box in the result.
    pub pad_before: [usize; 3],
    /// Size of the result: the box and its padding.
    pub dims: [usize; 3],
}

impl CropRecord {
    /// What was done to a box that is smaller than a window, for people; `None` when it was not.
    pub fn padding(&self) -> Option<String> {
        let sides = |[d, h, w]: [usize; 3]| format!("{d} x {h} x {w}");
        (self.size != self.dims)
            .then(|| format!("{} voxels, padded to {}", sides(self.size), sides(self.dims)))
    }

    /// The box `start..start + size`, padded to at least `min_size`.
    pub fn new(
        grid: [usize; 3],
        start: [usize; 3],
        size: [usize; 3],
        min_size: [usize; 3],
        pad: Pad,
    ) -> Self {
        let dims = [0, 1, 2].map(|a| size[a].max(min_size[a]));
        let pad_before = [0, 1, 2].map(|a| match pad {
            Pad::Symmetric => (dims[a] - size[a]) / 2,
            Pad::End => 0,
        });
        Self { grid, start, size, pad_before, dims }
    }

    /// Cuts `[c, grid]` voxels to `[c, dims]`; padding is 0.
    ///
    /// Errors: [`Error::Shape`] when `data` is not a whole number of grids.
    pub fn cut<T: Copy + bytemuck::Zeroable>(&self, data: &[T]) -> Result<Vec<T>> {
        let channels = whole("crop", data.len(), self.grid)?;
        let mut out =
            limits::zeroed(channels * self.dims.iter().product::<usize>(), "a cut-out volume")?;
        self.rows(channels, |grid, result, n| {
            out[result..result + n].copy_from_slice(&data[grid..grid + n]);
        });
        Ok(out)
    }

    /// Pastes `[c, dims]` voxels into `[c, grid]` voxels filled with `fill`; padding is dropped.
    ///
    /// Errors: [`Error::Shape`] when `data` is not a whole number of results.
    pub fn paste<T: Copy + bytemuck::Zeroable>(&self, data: &[T], fill: T) -> Result<Vec<T>> {
        let channels = whole("paste", data.len(), self.dims)?;
        let mut out =
            limits::zeroed(channels * self.grid.iter().product::<usize>(), "a restored volume")?;
        out.fill(fill);
        self.rows(channels, |grid, result, n| {
            out[grid..grid + n].copy_from_slice(&data[result..result + n]);
        });
        Ok(out)
    }

    /// The affine of the result.
    pub fn affine(&self, affine: &Affine) -> Affine {
        let mut out = *affine;
        for r in 0..3 {
            for a in 0..3 {
                let shift = self.start[a] as f64 - self.pad_before[a] as f64;
                out[r][3] += affine[r][a] * shift;
            }
        }
        out
    }

    /// Calls `copy(offset in the grid, offset in the result, length)` for every row of the box.
    fn rows(&self, channels: usize, mut copy: impl FnMut(usize, usize, usize)) {
        let offset = |dims: [usize; 3], c: usize, at: [usize; 3], d: usize, h: usize| {
            ((c * dims[0] + at[0] + d) * dims[1] + at[1] + h) * dims[2] + at[2]
        };
        for c in 0..channels {
            for d in 0..self.size[0] {
                for h in 0..self.size[1] {
                    copy(
                        offset(self.grid, c, self.start, d, h),
                        offset(self.dims, c, self.pad_before, d, h),
                        self.size[2],
                    );
                }
            }
        }
    }
}

fn whole(op: &'static str, len: usize, dims: [usize; 3]) -> Result<usize> {
    let count: usize = dims.iter().product();
    if count == 0 || len == 0 || !len.is_multiple_of(count) {
        return Err(Error::shape(op, format!("a multiple of {dims:?}"), format!("{len} voxels")));
    }
    Ok(len / count)
}

/// The smallest box `(start, size)` that holds every voxel above `threshold` in any channel of
/// `[c, dims]` voxels. `None` when there is no such voxel.
pub fn foreground_box(
    data: &[f32],
    dims: [usize; 3],
    threshold: f32,
) -> Option<([usize; 3], [usize; 3])> {
    let [nd, nh, nw] = dims;
    let (mut first, mut last) = (dims, [0; 3]);
    let mut found = false;
    for (row_index, row) in data.chunks_exact(nw).enumerate() {
        let Some(w0) = row.iter().position(|&v| v > threshold) else { continue };
        let w1 = row.iter().rposition(|&v| v > threshold).unwrap_or(w0);
        let (d, h) = (row_index / nh % nd, row_index % nh);
        for (axis, lo, hi) in [(0, d, d), (1, h, h), (2, w0, w1)] {
            first[axis] = first[axis].min(lo);
            last[axis] = last[axis].max(hi);
        }
        found = true;
    }
    found.then(|| (first, [0, 1, 2].map(|a| last[a] + 1 - first[a])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn box_is_tight_over_all_channels() {
        let dims = [4, 5, 6];
        let mut data = vec![0.0; 2 * 120];
        assert_eq!(foreground_box(&data, dims, 0.0), None);
        data[(2 * 5 + 1) * 6 + 3] = 1.0;
        assert_eq!(foreground_box(&data, dims, 0.0), Some(([2, 1, 3], [1, 1, 1])));
        data[120 + (3 * 5 + 4) * 6] = 0.5;
        assert_eq!(foreground_box(&data, dims, 0.0), Some(([2, 1, 0], [2, 4, 4])));
        assert_eq!(foreground_box(&data, dims, 0.5), Some(([2, 1, 3], [1, 1, 1])));
    }

    /// MONAI's `SpatialPad` puts (4 - 1) // 2 = 1 before a single voxel padded to 4.
    #[test]
    fn odd_padding_goes_after() {
        let cut = |pad| {
            let record = CropRecord::new([1, 1, 3], [0, 0, 1], [1, 1, 1], [1, 1, 4], pad);
            record.cut(&[7.0, 8.0, 9.0]).unwrap()
        };
        assert_eq!(cut(Pad::Symmetric), [0.0, 8.0, 0.0, 0.0]);
        assert_eq!(cut(Pad::End), [8.0, 0.0, 0.0, 0.0]);
    }

    proptest! {
        /// Paste after cut restores the box and fills the rest; every result voxel keeps its world
        /// position.
        #[test]
        fn paste_undoes_cut(
            grid in prop::array::uniform3(1usize..7),
            cuts in prop::array::uniform6(0usize..7),
            min_size in prop::array::uniform3(1usize..10),
            end in any::<bool>(),
        ) {
            let start = [0, 1, 2].map(|a| cuts[a] % grid[a]);
            let size = [0, 1, 2].map(|a| 1 + cuts[3 + a] % (grid[a] - start[a]));
            let pad = if end { Pad::End } else { Pad::Symmetric };
            let record = CropRecord::new(grid, start, size, min_size, pad);
            let count = grid.iter().product::<usize>();
            let data: Vec<f32> = (0..2 * count).map(|i| 1.0 + i as f32).collect();
            let cut = record.cut(&data).unwrap();
            let kept = cut.iter().filter(|&&v| v != 0.0).count();
            prop_assert_eq!(kept, 2 * size.iter().product::<usize>());
            let back = record.paste(&cut, -1.0).unwrap();
            for (i, (&b, &x)) in back.iter().zip(&data).enumerate() {
                let at = [i / (grid[1] * grid[2]) % grid[0], i / grid[2] % grid[1], i % grid[2]];
                let inside = (0..3).all(|a| (start[a]..start[a] + size[a]).contains(&at[a]));
                prop_assert_eq!(b, if inside { x } else { -1.0 });
            }
            let affine = [[2., 0., 0., 1.], [0., 3., 0., 2.], [0., 0., 4., 3.], [0., 0., 0., 1.]];
            let moved = record.affine(&affine);
            for a in 0..3 {
                let world = moved[a][a] * record.pad_before[a] as f64 + moved[a][3];
                prop_assert_eq!(world, affine[a][a] * start[a] as f64 + affine[a][3]);
            }
        }
    }
}
