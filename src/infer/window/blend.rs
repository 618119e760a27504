//! Weighted means of overlapping windows, column by column and slab by slab.

use super::{Column, WindowGrid};
use crate::{Error, Result};

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

/// Weighted means of the windows over one column of a volume.
///
/// Windows arrive in raster order; a slab (one index of axis `d`) is finished when no later window
/// touches it and is handed out at once. So memory is `channels + 1` slabs of at most one window's
/// depth, over the column: [`WindowGrid::columns`] makes columns for which that fits a budget.
pub struct Blender<'a, T> {
    grid: &'a WindowGrid,
    column: Column,
    importance: &'a [f32],
    channels: usize,
    /// Slab of the volume that is at the front of the buffers.
    front: usize,
    /// Ring of slabs, `depth` of them: `[slab, c, h, w]`.
    sums: Vec<T>,
    /// `[slab, h, w]`.
    weights: Vec<T>,
    depth: usize,
    /// First voxels of the windows of the column, and how many of them were added.
    starts: Vec<[usize; 3]>,
    next: usize,
}

impl<'a, T: Scalar> Blender<'a, T> {
    /// `importance` holds the weights of a window, as [`super::Blending::importance`] makes them.
    ///
    /// Errors: [`Error::Shape`] when they are not `roi`, there are no channels or the column is not of
    /// this grid; [`Error::Config`] when a weight is not above 0; [`Error::OutOfMemory`].
    pub fn new(
        grid: &'a WindowGrid,
        column: Column,
        channels: usize,
        importance: &'a [f32],
    ) -> Result<Self> {
        if importance.len() != grid.roi.iter().product::<usize>() || channels == 0 {
            return Err(Error::shape(
                "blend",
                format!("weights of {:?} and at least one channel", grid.roi),
                format!("{} weights, {channels} channels", importance.len()),
            ));
        }
        let [h, w] = [0, 1].map(|a| column.first[a].checked_add(column.size[a]));
        if column.size.contains(&0)
            || h.is_none_or(|end| end > grid.dims[1])
            || w.is_none_or(|end| end > grid.dims[2])
        {
            let (expected, got) = (format!("a column of {:?}", grid.dims), format!("{column:?}"));
            return Err(Error::shape("blend", expected, got));
        }
        if importance.iter().any(|w| !(w.is_finite() && *w > 0.0)) {
            return Err(Error::Config("window weights must be finite and above 0".to_owned()));
        }
        let depth = grid.roi[0].min(grid.dims[0]);
        let slab = column.slab();
        let zeros = |count: Option<usize>| -> Result<Vec<T>> {
            let mut data = Vec::new();
            let room = count.and_then(|n| data.try_reserve_exact(n).ok().map(|()| n));
            let n = room.ok_or_else(|| {
                Error::OutOfMemory(format!(
                    "no room to blend {channels} channels of {depth} x {slab} voxels; a smaller \
                     infer.memory_mib needs less"
                ))
            })?;
            data.resize(n, T::default());
            Ok(data)
        };
        let count = depth.checked_mul(slab);
        Ok(Self {
            importance,
            channels,
            front: 0,
            sums: zeros(count.and_then(|n| n.checked_mul(channels)))?,
            weights: zeros(count)?,
            depth,
            starts: grid.windows_of(column).collect(),
            next: 0,
            grid,
            column,
        })
    }

    /// Adds the result `[c, roi]` of the next window of [`WindowGrid::windows_of`]. Slabs that are
    /// finished go to `finished(d, scores)` in order, scores `[c, h, w]` of the column: weighted means.
    ///
    /// Errors: [`Error::Shape`] when the result has another size, or all windows were added; what
    /// `finished` returns.
    pub fn add(
        &mut self,
        result: &[T],
        finished: &mut dyn FnMut(usize, &[T]) -> Result<()>,
    ) -> Result<()> {
        let (roi, [height, width]) = (self.grid.roi, self.column.size);
        let window: usize = roi.iter().product();
        let start = self.starts.get(self.next).copied();
        let Some(start) = start.filter(|_| result.len() == self.channels * window) else {
            return Err(Error::shape(
                "blend",
                format!("{} x {roi:?} for each of {} windows", self.channels, self.starts.len()),
                format!("{} values for window {}", result.len(), self.next),
            ));
        };
        let [mut from, mut skip, mut size] = self.grid.inside(start);
        // The part of it that lies in the column, counted from there.
        for (a, (first, length)) in self.column.first.into_iter().zip(self.column.size).enumerate()
        {
            let cut = first.saturating_sub(from[a + 1]);
            let end = (from[a + 1] + size[a + 1]).min(first + length);
            from[a + 1] = from[a + 1].max(first) - first;
            skip[a + 1] += cut;
            size[a + 1] = end.saturating_sub(first + from[a + 1]);
        }
        self.finish_before(from[0], finished)?;
        let slab = height * width;
        for d in 0..size[0] {
            let ring = (from[0] + d) % self.depth;
            for h in 0..size[1] {
                let row = (from[1] + h) * width + from[2];
                let of_window = ((skip[0] + d) * roi[1] + skip[1] + h) * roi[2] + skip[2];
                let weights = &self.importance[of_window..of_window + size[2]];
                let totals = &mut self.weights[ring * slab + row..];
                for (sum, &weight) in totals.iter_mut().zip(weights) {
                    *sum += T::from_weight(weight);
                }
                for c in 0..self.channels {
                    let sums = &mut self.sums[(ring * self.channels + c) * slab + row..];
                    let values = &result[c * window + of_window..];
                    for ((sum, &value), &weight) in sums.iter_mut().zip(values).zip(weights) {
                        *sum += T::from_weight(weight) * value;
                    }
                }
            }
        }
        self.next += 1;
        match self.next == self.starts.len() {
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
        let slab = self.column.slab();
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
