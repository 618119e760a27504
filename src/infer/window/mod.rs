//! Sliding-window inference without the network: where the windows lie, how much each voxel of a
//! window counts, and how overlapping results become one volume in bounded memory.
//!
//! The geometry is MONAI's `sliding_window_inference`: sides shorter than the window are padded with
//! 0 (half before, the odd one after), the step is `int(roi (1 - overlap))`, the last window is moved
//! back to end with the volume. Windows come in raster order, the last axis fastest. A voxel sums
//! its windows in that order, which is also MONAI's, so blending adds no rounding of its own; MONAI's
//! first spatial axis is axis `d` here.
//!
//! Windows are summed where the network runs ([`crate::ops::window_blend`]), and a slab leaves the device when
//! no later window reaches it. The sums of all classes over as many slabs as a window is deep can still be
//! larger than the volume by far. So the volume is cut into columns ([`WindowGrid::columns`]) whose sums fit
//! a budget, one after the other. A window that straddles a border is computed again for each of its columns;
//! every voxel still sums the same windows in the same order, so the bits do not depend on the budget.

mod blend;
mod columns;

pub use blend::{Blender, Importance};
pub use columns::Column;

use crate::{Error, Result};

/// How the results of overlapping windows are weighted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Blending {
    /// Every voxel of a window counts the same (GL-MAE's inference).
    #[default]
    Constant,
    /// Voxels count by a Gaussian around the middle of the window, with this standard deviation as a
    /// share of the side (MONAI and nnU-Net: 0.125), and not less than [`FLOOR`].
    Gaussian { sigma_scale: f64 },
}

/// Least weight of a voxel.
pub const FLOOR: f64 = 1e-3;

impl Blending {
    /// Weights `[d, h, w]` of a window: the product over the axes of
    /// `exp(-(i - (n - 1) / 2)^2 / (2 (sigma_scale n)^2))`, at least [`FLOOR`]. Computed in f64 and
    /// rounded once; MONAI computes in f32, which differs by up to 1e-6.
    pub fn importance(self, roi: [usize; 3]) -> Vec<f32> {
        let Self::Gaussian { sigma_scale } = self else {
            return vec![1.0; roi.iter().product()];
        };
        let side = |n: usize| -> Vec<f64> {
            let (middle, sigma) = ((n as f64 - 1.0) / 2.0, sigma_scale * n as f64);
            (0..n).map(|i| (-0.5 * ((i as f64 - middle) / sigma).powi(2)).exp()).collect()
        };
        let [d, h, w] = roi.map(side);
        let mut map = Vec::with_capacity(roi.iter().product());
        for a in &d {
            for b in &h {
                map.extend(w.iter().map(|c| (a * b * c).max(FLOOR) as f32));
            }
        }
        map
    }
}

/// Windows over a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowGrid {
    /// The volume, `d h w` in voxels.
    pub dims: [usize; 3],
    /// The window.
    pub roi: [usize; 3],
    /// Zeros before the volume on each axis.
    pub pad_before: [usize; 3],
    /// The volume and its padding: at least the window.
    pub padded: [usize; 3],
    /// First voxels of the windows on each axis, in the padded volume, ascending.
    pub starts: [Vec<usize>; 3],
}

impl WindowGrid {
    /// Windows of `roi` over `dims` with neighbours sharing `overlap` of a side.
    ///
    /// Errors: [`Error::Config`] when a size is 0 or `overlap` is not in `0..1`.
    pub fn new(dims: [usize; 3], roi: [usize; 3], overlap: f64) -> Result<Self> {
        if dims.contains(&0) || roi.contains(&0) || !(0.0..1.0).contains(&overlap) {
            return Err(Error::Config(format!(
                "sliding window of {roi:?} over {dims:?} with overlap {overlap}: sizes must be at \
                 least 1, the overlap from 0 to below 1"
            )));
        }
        let padded = [0, 1, 2].map(|a| dims[a].max(roi[a]));
        if padded.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).is_none() {
            return Err(Error::Config(format!("sliding window: {padded:?} voxels are too many")));
        }
        let starts = [0, 1, 2].map(|a| {
            let last = padded[a] - roi[a];
            let step = match last {
                0 => roi[a],
                _ => ((roi[a] as f64 * (1.0 - overlap)) as usize).max(1),
            };
            let count = 1 + last.div_ceil(step);
            (0..count).map(|i| (i * step).min(last)).collect()
        });
        let pad_before = [0, 1, 2].map(|a| (padded[a] - dims[a]) / 2);
        Ok(Self { dims, roi, pad_before, padded, starts })
    }

    /// Number of windows.
    pub fn len(&self) -> usize {
        self.starts.iter().map(Vec::len).product()
    }

    /// Voxels of a window.
    pub fn window(&self) -> usize {
        self.roi.iter().product()
    }

    /// Never: there is a window over every volume.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// First voxels of all windows in raster order, in the padded volume.
    pub fn windows(&self) -> impl Iterator<Item = [usize; 3]> + '_ {
        let [d, h, w] = &self.starts;
        d.iter().flat_map(move |&d| h.iter().flat_map(move |&h| w.iter().map(move |&w| [d, h, w])))
    }

    /// The part of a window that lies in the volume: its first voxel there, its first voxel in the
    /// window, its size (0 on an axis when the window sees padding only).
    pub(super) fn inside(&self, start: [usize; 3]) -> [[usize; 3]; 3] {
        let pad = self.pad_before;
        let from = [0, 1, 2].map(|a| start[a].saturating_sub(pad[a]));
        let skip = [0, 1, 2].map(|a| pad[a].saturating_sub(start[a]));
        let size = [0, 1, 2].map(|a| {
            let end = (start[a] + self.roi[a]).saturating_sub(pad[a]).min(self.dims[a]);
            end.saturating_sub(from[a])
        });
        [from, skip, size]
    }

    /// Copies a window of a `[c, dims]` volume into `out`, `[c, roi]`; padding is 0.
    ///
    /// Errors: [`Error::Shape`] when the sizes do not agree or the window is not of this grid.
    pub fn cut<T: Copy + Default>(
        &self,
        volume: &[T],
        start: [usize; 3],
        out: &mut [T],
    ) -> Result<()> {
        let (count, size): (usize, usize) = (self.dims.iter().product(), self.roi.iter().product());
        let channels = volume.len() / count;
        self.check_start(start)?;
        if channels * count != volume.len() || out.len() != channels * size {
            return Err(Error::shape(
                "window.cut",
                format!("whole volumes of {:?} and windows of {:?}", self.dims, self.roi),
                format!("{} and {} values", volume.len(), out.len()),
            ));
        }
        out.fill(T::default());
        let [from, skip, inner] = self.inside(start);
        for c in 0..channels {
            for d in 0..inner[0] {
                for h in 0..inner[1] {
                    let row = ((c * self.dims[0] + from[0] + d) * self.dims[1] + from[1] + h)
                        * self.dims[2]
                        + from[2];
                    let at = ((c * self.roi[0] + skip[0] + d) * self.roi[1] + skip[1] + h)
                        * self.roi[2]
                        + skip[2];
                    out[at..at + inner[2]].copy_from_slice(&volume[row..row + inner[2]]);
                }
            }
        }
        Ok(())
    }

    fn check_start(&self, start: [usize; 3]) -> Result<()> {
        let last = [0, 1, 2].map(|a| self.padded[a] - self.roi[a]);
        match (0..3).all(|a| start[a] <= last[a]) {
            true => Ok(()),
            false => Err(Error::shape(
                "window",
                format!("a window that starts at {last:?} or before"),
                format!("{start:?}"),
            )),
        }
    }
}

#[cfg(test)]
mod tests;
