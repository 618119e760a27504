//! A volume cut into columns along its first axis, so that what is summed at a time fits a budget.

use super::WindowGrid;

/// The part of a volume whose voxels have these indices `h` and `w`, for all `d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// First indices along `h` and `w`.
    pub first: [usize; 2],
    /// Sizes along `h` and `w`, in voxels.
    pub size: [usize; 2],
}

impl Column {
    /// Voxels of one slab.
    pub fn slab(&self) -> usize {
        self.size[0] * self.size[1]
    }
}

/// A cut of one axis: ends of the pieces, and the windows of each.
struct Cut {
    pieces: Vec<[usize; 2]>,
    /// Windows of all pieces together: at least those of the axis.
    windows: usize,
    longest: usize,
}

impl WindowGrid {
    /// The whole volume as one column.
    pub fn whole(&self) -> Column {
        Column { first: [0; 2], size: [self.dims[1], self.dims[2]] }
    }

    /// Bytes of the sums of a column, `channels` f32 scores and a weight for each voxel of as many slabs
    /// as a window is deep.
    pub fn column_bytes(&self, column: Column, channels: usize) -> u64 {
        let depth = self.roi[0].min(self.dims[0]) as u64;
        let values = [column.size[0] as u64, column.size[1] as u64, channels as u64 + 1, 4];
        values.into_iter().fold(depth, u64::saturating_mul)
    }

    /// Columns that cover the volume, each voxel once, whose sums need at most `bytes`; in raster order.
    /// Of all such cuts it is the one with the fewest windows. Borders lie where windows begin; where
    /// even the finest of those cuts needs more than `bytes`, it is that one.
    pub fn columns(&self, channels: usize, bytes: u64) -> Vec<Column> {
        let cuts = [1, 2].map(|axis| {
            (1..=self.starts[axis].len()).map(|n| self.cut_axis(axis, n)).collect::<Vec<Cut>>()
        });
        let needs = |h: &Cut, w: &Cut| {
            let largest = Column { first: [0; 2], size: [h.longest, w.longest] };
            self.column_bytes(largest, channels)
        };
        let pairs = || cuts[0].iter().flat_map(|h| cuts[1].iter().map(move |w| (h, w)));
        let fitting = pairs().filter(|(h, w)| needs(h, w) <= bytes);
        let best = fitting.min_by_key(|(h, w)| h.windows * w.windows);
        let Some((h, w)) = best.or_else(|| pairs().min_by_key(|(h, w)| needs(h, w))) else {
            return vec![self.whole()];
        };
        let column = |h: &[usize; 2], w: &[usize; 2]| Column {
            first: [h[0], w[0]],
            size: [h[1] - h[0], w[1] - w[0]],
        };
        h.pieces.iter().flat_map(|h| w.pieces.iter().map(move |w| column(h, w))).collect()
    }

    /// An axis in `n` pieces with about as many windows each, borders where windows begin.
    fn cut_axis(&self, axis: usize, n: usize) -> Cut {
        let (starts, length) = (&self.starts[axis], self.dims[axis]);
        let mut ends: Vec<usize> = (1..n)
            .map(|i| starts[i * starts.len() / n].saturating_sub(self.pad_before[axis]))
            .filter(|&end| end > 0 && end < length)
            .collect();
        ends.push(length);
        ends.dedup();
        let mut first = 0;
        let pieces: Vec<[usize; 2]> = ends
            .into_iter()
            .map(|end| {
                let piece = [first, end];
                first = end;
                piece
            })
            .collect();
        let windows = pieces.iter().map(|p| self.starts_in(axis, *p).count()).sum();
        let longest = pieces.iter().map(|p| p[1] - p[0]).max().unwrap_or(length);
        Cut { pieces, windows, longest }
    }

    /// Where windows that touch the piece `first..end` of an axis of the volume begin.
    fn starts_in(&self, axis: usize, [first, end]: [usize; 2]) -> impl Iterator<Item = usize> + '_ {
        let (roi, pad) = (self.roi[axis], self.pad_before[axis]);
        let touches = move |s: &usize| *s < end + pad && s + roi > first + pad;
        self.starts[axis].iter().copied().filter(touches)
    }

    /// First voxels of the windows that touch a column, in raster order, in the padded volume.
    pub fn windows_of(&self, column: Column) -> impl Iterator<Item = [usize; 3]> + '_ {
        let [h, w] = [0, 1].map(|a| {
            let piece = [column.first[a], column.first[a] + column.size[a]];
            self.starts_in(a + 1, piece).collect::<Vec<_>>()
        });
        let rows: Vec<[usize; 2]> =
            h.iter().flat_map(|&h| w.iter().map(move |&w| [h, w])).collect();
        let slices = self.starts[0].iter();
        slices.flat_map(move |&d| rows.clone().into_iter().map(move |[h, w]| [d, h, w]))
    }
}
