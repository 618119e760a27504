//! Weighted means of overlapping windows on any device, column by column and slab by slab.

use super::{Column, WindowGrid};
use crate::device::{DType, Device, Tensor};
use crate::ops::window_blend::{Part, WindowBlend};
use crate::{Error, Result};

/// How much each voxel of a window counts, on the device that blends.
#[derive(Debug)]
pub struct Importance {
    device: Device,
    dtype: DType,
    roi: [usize; 3],
    /// `[voxels]`; `None` where all of them count 1.
    weights: Option<Tensor>,
}

impl Importance {
    /// The `weights` of a window of `roi`, as [`super::Blending::importance`] makes them, for sums of
    /// `dtype`.
    ///
    /// Errors: [`Error::Shape`] when they are not `roi`; [`Error::Config`] when a weight is not above 0; those
    /// of the device.
    pub fn new(device: &Device, dtype: DType, roi: [usize; 3], weights: &[f32]) -> Result<Self> {
        if weights.len() != roi.iter().product::<usize>() {
            let got = format!("{} weights", weights.len());
            return Err(Error::shape("blend", format!("weights of {roi:?}"), got));
        }
        if weights.iter().any(|w| !(w.is_finite() && *w > 0.0)) {
            return Err(Error::Config("window weights must be finite and above 0".to_owned()));
        }
        let weights = match weights.iter().any(|&w| w != 1.0) {
            true => {
                let wide: Vec<f64> = weights.iter().map(|&w| w.into()).collect();
                Some(Tensor::from_f64(device, dtype, &wide, &[wide.len()])?)
            }
            false => None,
        };
        Ok(Self { device: device.clone(), dtype, roi, weights })
    }
}

/// Weighted means of the windows over the columns of a volume.
///
/// Windows of a column arrive in raster order; a slab (one index of axis `d`) is finished when no later window
/// touches it and is handed out at once. So the device holds `channels + 1` values for each voxel of as many
/// slabs as a window is deep ([`WindowGrid::column_bytes`]); [`WindowGrid::columns`] makes columns for which
/// that fits a budget. All columns of a volume share this memory.
pub struct Blender<'a> {
    grid: &'a WindowGrid,
    importance: &'a Importance,
    ring: WindowBlend,
    column: Column,
    /// The first slab that is not finished.
    front: usize,
    /// First voxels of the windows of the column, and how many of them were added.
    starts: Vec<[usize; 3]>,
    next: usize,
}

impl<'a> Blender<'a> {
    /// Room for the largest of `columns`; none of them is begun.
    ///
    /// Errors: [`Error::Shape`] when the importance is of other windows, there are no channels, or a column is
    /// not of this grid; [`Error::OutOfMemory`].
    pub fn new(
        grid: &'a WindowGrid,
        columns: &[Column],
        channels: usize,
        importance: &'a Importance,
    ) -> Result<Self> {
        if importance.roi != grid.roi || channels == 0 {
            return Err(Error::shape(
                "blend",
                format!("weights of {:?} and at least one channel", grid.roi),
                format!("weights of {:?}, {channels} channels", importance.roi),
            ));
        }
        columns.iter().try_for_each(|&column| check(grid, column))?;
        let largest = columns.iter().max_by_key(|c| c.slab());
        let column =
            *largest.ok_or_else(|| Error::shape("blend", "at least one column", "none"))?;
        let depth = grid.roi[0].min(grid.dims[0]);
        let [h, w] = column.size;
        let ring = WindowBlend::new(&importance.device, importance.dtype, [depth, h, w], channels);
        let ring = ring.map_err(|error| match error {
            Error::OutOfMemory(why) => Error::OutOfMemory(format!(
                "no room to blend {channels} channels of {depth} x {h} x {w} voxels; a smaller \
                 infer.memory_mib needs less ({why})"
            )),
            other => other,
        })?;
        Ok(Self { grid, importance, ring, column, front: 0, starts: Vec::new(), next: 0 })
    }

    /// Begins a column: the windows to come are those of [`WindowGrid::windows_of`].
    ///
    /// Errors: [`Error::Shape`] when it is not of this grid or larger than those of `new`; those of the device.
    pub fn begin(&mut self, column: Column) -> Result<()> {
        check(self.grid, column)?;
        self.ring.restart(column.size)?;
        self.starts = self.grid.windows_of(column).collect();
        (self.column, self.front, self.next) = (column, 0, 0);
        Ok(())
    }

    /// As [`Blender::begin`], of the first window alone: what a column holds, in a moment. Most of its means are
    /// of no window (NaN).
    pub fn begin_first(&mut self, column: Column) -> Result<()> {
        self.begin(column)?;
        self.starts.truncate(1);
        Ok(())
    }

    /// Adds the scores `[roi, channels]`, voxel by voxel, of the next window of the column. Slabs that
    /// are finished go to `finished(d, means)` in order, means `[h * w, channels]` of the column on the device,
    /// which must not be kept.
    ///
    /// Errors: [`Error::Shape`] when the scores have another size, or all windows were added; what
    /// `finished` returns.
    pub fn add(
        &mut self,
        scores: &Tensor,
        finished: &mut dyn FnMut(usize, &Tensor) -> Result<()>,
    ) -> Result<()> {
        let Some(&start) = self.starts.get(self.next) else {
            let expected = format!("{} windows of the column", self.starts.len());
            return Err(Error::shape("blend", expected, "one more"));
        };
        let [mut start, mut skip, mut size] = self.grid.inside(start);
        // The part of it that lies in the column, counted from there.
        let Column { first, size: column } = self.column;
        for (a, (first, length)) in first.into_iter().zip(column).enumerate() {
            let cut = first.saturating_sub(start[a + 1]);
            let end = (start[a + 1] + size[a + 1]).min(first + length);
            start[a + 1] = start[a + 1].max(first) - first;
            skip[a + 1] += cut;
            size[a + 1] = end.saturating_sub(first + start[a + 1]);
        }
        self.finish_before(start[0], finished)?;
        let part = Part { start, skip, size };
        self.ring.add(scores, self.grid.roi, part, self.importance.weights.as_ref())?;
        self.next += 1;
        match self.next == self.starts.len() {
            true => self.finish_before(self.grid.dims[0], finished),
            false => Ok(()),
        }
    }

    /// Hands out the slabs before `d`; their places are empty afterwards.
    fn finish_before(
        &mut self,
        d: usize,
        finished: &mut dyn FnMut(usize, &Tensor) -> Result<()>,
    ) -> Result<()> {
        while self.front < d {
            let front = self.front;
            self.ring.finish(front, |means| finished(front, means))?;
            self.front += 1;
        }
        Ok(())
    }
}

/// Whether a column lies in the volume.
fn check(grid: &WindowGrid, column: Column) -> Result<()> {
    let [h, w] = [0, 1].map(|a| column.first[a].checked_add(column.size[a]));
    if column.size.contains(&0)
        || h.is_none_or(|end| end > grid.dims[1])
        || w.is_none_or(|end| end > grid.dims[2])
    {
        let (expected, got) = (format!("a column of {:?}", grid.dims), format!("{column:?}"));
        return Err(Error::shape("blend", expected, got));
    }
    Ok(())
}
