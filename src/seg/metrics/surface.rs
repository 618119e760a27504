//! Surface voxels of a structure: those with a face neighbour outside of it.

use rayon::prelude::*;

use super::counts::Extent;

/// Marks the surface of the labels in `members` within `extent`, which must hold all of them:
/// `[d, h, w]` of the box. A voxel is on the surface when one of its six face neighbours is not of
/// the structure; outside the volume counts as outside.
pub fn surface(
    labels: &[u8],
    [_, nh, nw]: [usize; 3],
    extent: &Extent,
    members: &[bool; 256],
) -> Vec<bool> {
    let [bd, bh, bw] = extent.size();
    // One voxel of outside on every side, so that no neighbour needs a check.
    let (sd, sh) = ((bh + 2) * (bw + 2), bw + 2);
    let mut inside = vec![false; (bd + 2) * sd];
    inside.par_chunks_mut(sd).enumerate().skip(1).take(bd).for_each(|(d, slab)| {
        for (h, row) in slab.chunks_exact_mut(sh).enumerate().skip(1).take(bh) {
            let start = ((extent.first[0] + d - 1) * nh + extent.first[1] + h - 1) * nw;
            let from = &labels[start + extent.first[2]..][..bw];
            for (is_in, &label) in row[1..=bw].iter_mut().zip(from) {
                *is_in = members[usize::from(label)];
            }
        }
    });
    let mut out = vec![false; bd * bh * bw];
    out.par_chunks_mut(bh * bw).enumerate().for_each(|(d, slab)| {
        for (i, is_surface) in slab.iter_mut().enumerate() {
            let at = (d + 1) * sd + (i / bw + 1) * sh + i % bw + 1;
            let around = [at - 1, at + 1, at - sh, at + sh, at - sd, at + sd];
            *is_surface = inside[at] && !around.iter().all(|&n| inside[n]);
        }
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A solid 3 x 4 x 5 block has 1 x 2 x 3 voxels inside; touching the border changes nothing.
    #[test]
    fn block_has_a_shell() {
        let members = crate::seg::Region::class(7, "").members();
        for first in [[0, 0, 0], [1, 2, 1]] {
            let dims = [6, 7, 8];
            let mut labels = vec![1; 6 * 7 * 8];
            for (d, h, w) in (0..60).map(|i| (i / 20, i / 5 % 4, i % 5)) {
                labels[((first[0] + d) * 7 + first[1] + h) * 8 + first[2] + w] = 7;
            }
            let extent = Extent { first, last: [first[0] + 2, first[1] + 3, first[2] + 4] };
            let shell = surface(&labels, dims, &extent, &members);
            assert_eq!(shell.iter().filter(|&&s| s).count(), 60 - 6);
            let at = |d: usize, h: usize, w: usize| shell[(d * 4 + h) * 5 + w];
            assert!(!at(1, 1, 1) && at(1, 0, 1) && at(0, 1, 1) && at(1, 1, 4));
        }
    }
}
