//! Sliding-window inference without the network: where the windows lie, how much each voxel of a
//! window counts, and how overlapping results become one volume in bounded memory.
//!
//! The geometry is MONAI's `sliding_window_inference`: sides shorter than the window are padded with
//! 0 (half before, the odd one after), the step is `int(roi (1 - overlap))`, the last window is moved
//! back to end with the volume. Windows come in raster order, the last axis fastest. A voxel sums
//! its windows in that order, which is also MONAI's, so blending adds no rounding of its own; MONAI's
//! first spatial axis is axis `d` here.

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
    fn inside(&self, start: [usize; 3]) -> [[usize; 3]; 3] {
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

/// A floating-point type that windows are blended in.
pub trait Scalar:
    Copy
    + Default
    + PartialOrd
    + std::ops::Mul<Output = Self>
    + std::ops::AddAssign
    + std::ops::Div<Output = Self>
{
    fn from_weight(weight: f32) -> Self;
}

impl Scalar for f32 {
    fn from_weight(weight: f32) -> Self {
        weight
    }
}

impl Scalar for f64 {
    fn from_weight(weight: f32) -> Self {
        weight.into()
    }
}

/// Weighted means of overlapping windows, slab by slab.
///
/// Windows arrive in raster order; a slab (one index of axis `d`) is finished when no later window
/// touches it and is handed out at once. So memory is `channels + 1` slabs of at most one window's
/// depth (plus what a step leaves unfinished), not a whole volume of class scores: 14 classes over
/// 512 x 512 x 600 would be 8.8 GB, in windows of 96 they are 1.5 GB.
pub struct Blender<'a, T> {
    grid: &'a WindowGrid,
    importance: Vec<T>,
    channels: usize,
    /// Slab of the volume that is at the front of the buffers.
    front: usize,
    /// Ring of slabs, `depth` of them: `[slab, c, h, w]`.
    sums: Vec<T>,
    /// `[slab, h, w]`.
    weights: Vec<T>,
    depth: usize,
    /// Index of the next window in raster order.
    next: usize,
}

impl<'a, T: Scalar> Blender<'a, T> {
    /// `importance` holds the weights of a window, as [`Blending::importance`] makes them.
    ///
    /// Errors: [`Error::Shape`] when they are not `roi` or there are no channels; [`Error::Config`]
    /// when a weight is not above 0; [`Error::OutOfMemory`].
    pub fn new(grid: &'a WindowGrid, channels: usize, importance: &[f32]) -> Result<Self> {
        if importance.len() != grid.roi.iter().product::<usize>() || channels == 0 {
            return Err(Error::shape(
                "blend",
                format!("weights of {:?} and at least one channel", grid.roi),
                format!("{} weights, {channels} channels", importance.len()),
            ));
        }
        if importance.iter().any(|w| !(w.is_finite() && *w > 0.0)) {
            return Err(Error::Config("window weights must be finite and above 0".to_owned()));
        }
        let depth = grid.roi[0].min(grid.dims[0]);
        let slab = grid.dims[1] * grid.dims[2];
        let zeros = |count: Option<usize>| -> Result<Vec<T>> {
            let mut data = Vec::new();
            let room = count.and_then(|n| data.try_reserve_exact(n).ok().map(|()| n));
            let n = room.ok_or_else(|| {
                Error::OutOfMemory(format!(
                    "no room to blend {channels} channels of {depth} x {slab} voxels; a window \
                     with a shorter first side needs less"
                ))
            })?;
            data.resize(n, T::default());
            Ok(data)
        };
        let count = depth.checked_mul(slab);
        Ok(Self {
            importance: importance.iter().map(|&w| T::from_weight(w)).collect(),
            channels,
            front: 0,
            sums: zeros(count.and_then(|n| n.checked_mul(channels)))?,
            weights: zeros(count)?,
            depth,
            next: 0,
            grid,
        })
    }

    /// Adds the result `[c, roi]` of the next window of [`WindowGrid::windows`]. Slabs that are
    /// finished go to `finished(d, scores)` in order, scores `[c, h, w]`: weighted means.
    ///
    /// Errors: [`Error::Shape`] when the result has another size, or all windows were added; what
    /// `finished` returns.
    pub fn add(
        &mut self,
        result: &[T],
        finished: &mut dyn FnMut(usize, &[T]) -> Result<()>,
    ) -> Result<()> {
        let [nd, nh, nw] = self.grid.starts.each_ref().map(Vec::len);
        let (roi, [_, height, width]) = (self.grid.roi, self.grid.dims);
        let window: usize = roi.iter().product();
        if result.len() != self.channels * window || self.next >= nd * nh * nw {
            return Err(Error::shape(
                "blend",
                format!("{} x {roi:?} for each of {} windows", self.channels, nd * nh * nw),
                format!("{} values for window {}", result.len(), self.next),
            ));
        }
        let at = [self.next / (nh * nw), self.next / nw % nh, self.next % nw];
        let start = [0, 1, 2].map(|a| self.grid.starts[a][at[a]]);
        let [from, skip, size] = self.grid.inside(start);
        self.finish_before(from[0], finished)?;
        let slab = height * width;
        for d in 0..size[0] {
            let ring = (from[0] + d) % self.depth;
            for h in 0..size[1] {
                let row = (from[1] + h) * width + from[2];
                let of_window = ((skip[0] + d) * roi[1] + skip[1] + h) * roi[2] + skip[2];
                let weights = &self.importance[of_window..of_window + size[2]];
                for (sum, &weight) in self.weights[ring * slab + row..].iter_mut().zip(weights) {
                    *sum += weight;
                }
                for c in 0..self.channels {
                    let sums = &mut self.sums[(ring * self.channels + c) * slab + row..];
                    let values = &result[c * window + of_window..];
                    for ((sum, &value), &weight) in sums.iter_mut().zip(values).zip(weights) {
                        *sum += weight * value;
                    }
                }
            }
        }
        self.next += 1;
        match self.next == nd * nh * nw {
            true => self.finish_before(self.grid.dims[0], finished),
            false => Ok(()),
        }
    }

    /// Hands out the slabs before `d` and clears their places.
    fn finish_before(
        &mut self,
        d: usize,
        finished: &mut dyn FnMut(usize, &[T]) -> Result<()>,
    ) -> Result<()> {
        let slab = self.grid.dims[1] * self.grid.dims[2];
        while self.front < d {
            let ring = self.front % self.depth;
            let sums = &mut self.sums[ring * self.channels * slab..][..self.channels * slab];
            let weights = &mut self.weights[ring * slab..][..slab];
            for channel in sums.chunks_exact_mut(slab) {
                for (sum, &weight) in channel.iter_mut().zip(weights.iter()) {
                    *sum = *sum / weight;
                }
            }
            finished(self.front, sums)?;
            sums.fill(T::default());
            weights.fill(T::default());
            self.front += 1;
        }
        Ok(())
    }
}

/// The class of every voxel of scores `[c, n]`: the first of the largest. NaN never wins; where all
/// are NaN it is 0.
pub fn argmax<T: Scalar>(scores: &[T], voxels: usize) -> Vec<u8> {
    let mut best: Vec<(u8, Option<T>)> = vec![(0, None); voxels];
    for (class, channel) in scores.chunks_exact(voxels.max(1)).enumerate().take(256) {
        for (best, &score) in best.iter_mut().zip(channel) {
            // Only NaN is not equal to itself.
            let counts = score.partial_cmp(&score).is_some();
            if counts && best.1.is_none_or(|b| score > b) {
                *best = (class as u8, Some(score));
            }
        }
    }
    best.into_iter().map(|(class, _)| class).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn starts_follow_the_rules_of_monai() {
        let grid = WindowGrid::new([21, 10, 4], [10, 10, 6], 0.5).unwrap();
        assert_eq!(grid.starts, [vec![0, 5, 10, 11], vec![0], vec![0]]);
        assert_eq!((grid.pad_before, grid.padded), ([0, 0, 1], [21, 10, 6]));
        assert_eq!((grid.len(), grid.is_empty()), (4, false));
        // An overlap that leaves no step moves by one voxel.
        let dense = WindowGrid::new([4, 1, 1], [2, 1, 1], 0.9).unwrap();
        assert_eq!(dense.starts[0], [0, 1, 2]);
        for (dims, roi, overlap) in [
            ([0, 1, 1], [1; 3], 0.5),
            ([1; 3], [0, 1, 1], 0.5),
            ([1; 3], [1; 3], 1.0),
            ([1; 3], [1; 3], -0.1),
            ([1; 3], [1; 3], f64::NAN),
        ] {
            assert!(matches!(WindowGrid::new(dims, roi, overlap), Err(Error::Config(_))));
        }
    }

    #[test]
    fn gaussian_has_its_floor_and_its_middle() {
        let map = Blending::Gaussian { sigma_scale: 0.125 }.importance([9, 9, 9]);
        assert_eq!((map[0], map[364]), (1e-3, 1.0));
        assert_eq!(Blending::Constant.importance([2, 3, 1]), [1.0; 6]);
    }

    #[test]
    fn wrong_sizes_are_refused() {
        let grid = WindowGrid::new([4; 3], [2; 3], 0.5).unwrap();
        assert!(Blender::<f32>::new(&grid, 1, &[1.0; 7]).is_err());
        assert!(Blender::<f32>::new(&grid, 0, &[1.0; 8]).is_err());
        assert!(Blender::<f32>::new(&grid, 1, &[0.0; 8]).is_err());
        let mut blender = Blender::new(&grid, 1, &[1.0; 8]).unwrap();
        assert!(blender.add(&[0.0f32; 9], &mut |_, _| Ok(())).is_err());
        for _ in 0..grid.len() {
            blender.add(&[0.0; 8], &mut |_, _| Ok(())).unwrap();
        }
        assert!(blender.add(&[0.0; 8], &mut |_, _| Ok(())).is_err());
        assert!(grid.cut(&[0u8; 64], [0; 3], &mut [0; 7]).is_err());
        assert!(grid.cut(&[0u8; 64], [3, 0, 0], &mut [0; 8]).is_err());
        assert!(WindowGrid::new([usize::MAX / 2, 9, 9], [9; 3], 0.0).is_err());
    }

    #[test]
    fn argmax_takes_the_first_largest_number() {
        let nan = f32::NAN;
        assert_eq!(argmax(&[1.0, 2.0, nan, nan, 1.0, 3.0, -5.0, nan], 4), [0, 1, 1, 0]);
        assert_eq!(argmax::<f32>(&[], 0), [0; 0]);
    }

    proptest! {
        /// Windows that repeat what they see blend to the volume itself; every slab comes once, in
        /// order; the cut windows are the padded volume's.
        #[test]
        fn identity_blends_to_the_volume(
            dims in prop::array::uniform3(1usize..12),
            roi in prop::array::uniform3(1usize..7),
            overlap in 0.0f64..0.95,
            gaussian in any::<bool>(),
        ) {
            let grid = WindowGrid::new(dims, roi, overlap).unwrap();
            let count: usize = dims.iter().product();
            let volume: Vec<f64> = (0..2 * count).map(|i| 1.0 + i as f64).collect();
            let blending = match gaussian {
                true => Blending::Gaussian { sigma_scale: 0.125 },
                false => Blending::Constant,
            };
            let mut blender = Blender::new(&grid, 2, &blending.importance(roi)).unwrap();
            let mut window = vec![0.0; 2 * roi.iter().product::<usize>()];
            let slab = dims[1] * dims[2];
            let (mut expected, mut good) = (0, true);
            for start in grid.windows() {
                grid.cut(&volume, start, &mut window).unwrap();
                blender.add(&window, &mut |d, scores| {
                    good &= d == expected && scores.len() == 2 * slab;
                    expected += 1;
                    for (i, &score) in scores.iter().enumerate() {
                        let want = volume[(i / slab) * count + d * slab + i % slab];
                        good &= (score - want).abs() <= 1e-12 * want;
                    }
                    Ok(())
                }).unwrap();
            }
            prop_assert!(good && expected == dims[0]);
        }
    }
}
