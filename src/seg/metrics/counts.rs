//! One pass over two label maps: how often each pair of labels meets, and where each label lies.

use rayon::prelude::*;

/// First and last voxel of a box on each axis, both inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub first: [usize; 3],
    pub last: [usize; 3],
}

impl Extent {
    pub fn union(self, other: Self) -> Self {
        Self {
            first: [0, 1, 2].map(|a| self.first[a].min(other.first[a])),
            last: [0, 1, 2].map(|a| self.last[a].max(other.last[a])),
        }
    }

    pub fn size(&self) -> [usize; 3] {
        [0, 1, 2].map(|a| self.last[a] + 1 - self.first[a])
    }
}

/// Joint counts of two label maps on one grid.
pub struct Counts {
    /// Voxels with label `p` in the prediction and `r` in the reference, at `256 p + r`.
    joint: Vec<u64>,
    /// Where a label occurs in either map.
    extents: [Option<Extent>; 256],
}

/// Slabs counted by one task; a table of counts is 512 KiB.
const SLABS: usize = 16;

impl Counts {
    /// Both maps are `[d, h, w]` of `dims`, which must not be empty.
    pub fn new(pred: &[u8], reference: &[u8], [_, nh, nw]: [usize; 3]) -> Self {
        let chunk = SLABS * nh * nw;
        let tasks = pred.par_chunks(chunk).zip(reference.par_chunks(chunk)).enumerate();
        tasks
            .map(|(task, (pred, reference))| {
                let mut counts = Self::empty();
                let rows = pred.chunks_exact(nw).zip(reference.chunks_exact(nw));
                for (row, (pred, reference)) in rows.enumerate() {
                    counts.row(pred, reference, task * SLABS + row / nh, row % nh);
                }
                counts
            })
            // Sums of whole numbers and extremes: the order does not matter.
            .reduce(Self::empty, Self::merge)
    }

    fn empty() -> Self {
        Self { joint: vec![0; 256 * 256], extents: [None; 256] }
    }

    fn row(&mut self, pred: &[u8], reference: &[u8], d: usize, h: usize) {
        for (w, (&p, &r)) in pred.iter().zip(reference).enumerate() {
            self.joint[256 * usize::from(p) + usize::from(r)] += 1;
            if p | r == 0 {
                continue;
            }
            let here = Extent { first: [d, h, w], last: [d, h, w] };
            for label in [p, r] {
                let extent = &mut self.extents[usize::from(label)];
                *extent = Some(extent.map_or(here, |e| e.union(here)));
            }
        }
    }

    fn merge(mut self, other: Self) -> Self {
        for (a, b) in self.joint.iter_mut().zip(&other.joint) {
            *a += b;
        }
        for (a, b) in self.extents.iter_mut().zip(other.extents) {
            *a = match (*a, b) {
                (Some(a), Some(b)) => Some(a.union(b)),
                (a, b) => a.or(b),
            };
        }
        self
    }

    /// Voxels in the prediction, in the reference and in both, of the labels in `members`.
    pub fn voxels(&self, members: &[bool; 256]) -> [u64; 3] {
        let mut totals = [0; 3];
        for (i, &n) in self.joint.iter().enumerate().filter(|(_, n)| **n > 0) {
            let (p, r) = (members[i / 256], members[i % 256]);
            totals[0] += n * u64::from(p);
            totals[1] += n * u64::from(r);
            totals[2] += n * u64::from(p && r);
        }
        totals
    }

    /// The box of these labels in both maps. Label 0 has none: it is not judged by its surface.
    pub fn extent(&self, members: &[bool; 256]) -> Option<Extent> {
        let boxes = self.extents.iter().zip(members).filter_map(|(e, &m)| e.filter(|_| m));
        boxes.reduce(Extent::union)
    }
}
