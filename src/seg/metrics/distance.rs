//! Exact Euclidean distances to a set of voxels on an anisotropic grid.
//!
//! The squared distance is separable: along each axis it is the lower envelope of parabolas that
//! stand on the values of the axis before (Felzenszwalb and Huttenlocher, "Distance transforms of
//! sampled functions", 2012; Meijster et al. 2000), linear in the number of voxels. The last axis is
//! evaluated only where a distance is asked for. Lines are independent, so the result does not
//! depend on the number of threads.

use rayon::prelude::*;

/// Distance in mm from every voxel of `from` to the nearest voxel of `to`; infinite when `to` holds
/// none. Both are `[d, h, w]` masks of `dims`, `w` fastest; the order of the result is h, w, d.
///
/// Memory: 8 bytes per voxel of `dims`. Numerics: f64; the chosen nearest voxel is exact up to ties
/// within rounding.
pub fn surface_distances(
    from: &[bool],
    to: &[bool],
    dims: [usize; 3],
    spacing_mm: [f64; 3],
) -> Vec<f64> {
    let [nd, nh, nw] = dims;
    if from.is_empty() || nd * nh * nw != from.len() || from.len() != to.len() {
        return Vec::new();
    }
    let mut squared = vec![f64::INFINITY; to.len()];
    squared.par_chunks_mut(nh * nw).zip(to.par_chunks(nh * nw)).for_each(|(slab, sites)| {
        for (row, sites) in slab.chunks_exact_mut(nw).zip(sites.chunks_exact(nw)) {
            along_row(row, sites, spacing_mm[2]);
        }
        let (mut column, mut envelope) = (vec![0.0; nh], Envelope::default());
        for w in 0..nw {
            for (value, row) in column.iter_mut().zip(slab.chunks_exact(nw)) {
                *value = row[w];
            }
            envelope.build(&column, spacing_mm[1]);
            envelope.walk(&column, 0..nh, |h, value| slab[h * nw + w] = value);
        }
    });
    let per_row: Vec<Vec<f64>> = (0..nh)
        .into_par_iter()
        .map(|h| {
            let (mut column, mut asked) = (vec![0.0; nd], Vec::new());
            let (mut envelope, mut found) = (Envelope::default(), Vec::new());
            for w in 0..nw {
                let at = |d: usize| (d * nh + h) * nw + w;
                asked.clear();
                asked.extend((0..nd).filter(|&d| from[at(d)]));
                if asked.is_empty() {
                    continue;
                }
                for (d, value) in column.iter_mut().enumerate() {
                    *value = squared[at(d)];
                }
                envelope.build(&column, spacing_mm[0]);
                envelope.walk(&column, asked.iter().copied(), |_, v| found.push(v.sqrt()));
            }
            found
        })
        .collect();
    per_row.concat()
}

/// Squared distances to the sites of one line: the nearest before and the nearest after.
fn along_row(row: &mut [f64], sites: &[bool], mm: f64) {
    let mut last = None;
    for (i, (value, &site)) in row.iter_mut().zip(sites).enumerate() {
        last = if site { Some(i) } else { last };
        if let Some(at) = last {
            *value = ((i - at) as f64 * mm).powi(2);
        }
    }
    let mut next = None;
    for (i, (value, &site)) in row.iter_mut().zip(sites).enumerate().rev() {
        next = if site { Some(i) } else { next };
        if let Some(at) = next {
            *value = value.min(((at - i) as f64 * mm).powi(2));
        }
    }
}

/// Lower envelope of the parabolas `f[q] + (mm (x - q))^2`, infinite `f[q]` left out.
#[derive(Default)]
struct Envelope {
    mm: f64,
    /// Parabolas of the envelope from left to right, and where each begins to be the lowest.
    sites: Vec<usize>,
    begins: Vec<f64>,
}

impl Envelope {
    fn build(&mut self, f: &[f64], mm: f64) {
        self.mm = mm;
        self.sites.clear();
        self.begins.clear();
        for (q, &fq) in f.iter().enumerate().filter(|(_, v)| v.is_finite()) {
            let mut begin = f64::NEG_INFINITY;
            while let (Some(&v), Some(&v_begin)) = (self.sites.last(), self.begins.last()) {
                // Written so that only the first term is rounded at the scale of the values.
                let apart = (q - v) as f64;
                let meet = 0.5 * ((fq - f[v]) / (mm * mm * apart) + (q + v) as f64);
                if meet > v_begin {
                    begin = meet;
                    break;
                }
                self.sites.pop();
                self.begins.pop();
            }
            self.sites.push(q);
            self.begins.push(begin);
        }
    }

    /// Calls `each(x, value)` for ascending positions `x`. The envelope must be that of `f`.
    fn walk(
        &self,
        f: &[f64],
        positions: impl Iterator<Item = usize>,
        mut each: impl FnMut(usize, f64),
    ) {
        let mut k = 0;
        for x in positions {
            while self.begins.get(k + 1).is_some_and(|&b| b < x as f64) {
                k += 1;
            }
            let value = self
                .sites
                .get(k)
                .map_or(f64::INFINITY, |&q| (x.abs_diff(q) as f64 * self.mm).powi(2) + f[q]);
            each(x, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All pairs, in the order of [`surface_distances`].
    fn brute_force(from: &[bool], to: &[bool], dims: [usize; 3], mm: [f64; 3]) -> Vec<f64> {
        let [nd, nh, nw] = dims;
        let mut out = Vec::new();
        for h in 0..nh {
            for w in 0..nw {
                for d in (0..nd).filter(|d| from[(d * nh + h) * nw + w]) {
                    let mut best = f64::INFINITY;
                    for (i, _) in to.iter().enumerate().filter(|(_, t)| **t) {
                        let at = [i / (nh * nw), i / nw % nh, i % nw];
                        let gap = |a: usize, b: usize, mm: f64| (a.abs_diff(b) as f64 * mm).powi(2);
                        best = best.min(
                            gap(at[0], d, mm[0]) + gap(at[1], h, mm[1]) + gap(at[2], w, mm[2]),
                        );
                    }
                    out.push(best.sqrt());
                }
            }
        }
        out
    }

    #[test]
    fn one_voxel_far_away() {
        let dims = [3, 1, 5];
        let (mut from, mut to) = (vec![false; 15], vec![false; 15]);
        from[0] = true;
        assert_eq!(surface_distances(&from, &to, dims, [1.0; 3]), [f64::INFINITY]);
        to[2 * 5 + 4] = true;
        assert_eq!(surface_distances(&from, &to, dims, [1.5, 9.0, 1.0]), [5.0]);
        assert_eq!(surface_distances(&to, &from, dims, [1.5, 9.0, 1.0]), [5.0]);
        assert_eq!(surface_distances(&[false; 15], &to, dims, [1.0; 3]), [0.0; 0]);
    }

    proptest! {
        #[test]
        fn equals_brute_force(
            dims in prop::array::uniform3(1usize..8),
            mm in prop::array::uniform3(0.2f64..4.0),
            seed in any::<u64>(),
            (sparse_from, sparse_to) in (1usize..30, 1usize..30),
        ) {
            use crate::rng::{Purpose, Rng};
            let count: usize = dims.iter().product();
            let mut rng = Rng::new(seed, Purpose::Test, 0, 0, 0);
            let mut mask = |one_in: usize| -> Vec<bool> {
                (0..count).map(|_| rng.below(one_in as u64) == 0).collect()
            };
            let (from, to) = (mask(sparse_from), mask(sparse_to));
            let got = surface_distances(&from, &to, dims, mm);
            let want = brute_force(&from, &to, dims, mm);
            prop_assert_eq!(got.len(), want.len());
            for (g, w) in got.iter().zip(&want) {
                prop_assert!(g == w || (g - w).abs() <= 1e-13 * w, "{} is not {}", g, w);
            }
        }
    }
}
