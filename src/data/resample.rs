//! From one grid to another: MONAI's `Spacing`.
//!
//! The new grid keeps the rotation of the old one, not the axes of the world: its affine is
//! `Q diag(spacing)` with `Q R` the QR decomposition of the old 3x3 part (positive diagonal of `R`),
//! so an oblique scan stays oblique and shear goes. Its size is `round(extent + 1)`, halves to even,
//! where the extent is the range of the old corner voxels' centres in new voxels. Voxel 0 lies on the
//! old corner voxel that is lowest along all three new axes; if shear leaves none, middle lies on
//! middle. Points outside of the old grid take the value of the nearest voxel. Nothing is smoothed
//! before a reduction.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::geometry::{Affine, check_affine};
use crate::{Error, Result, limits};

/// Most voxels of a new grid: 2^31, as of a file.
const MAX_VOXELS: f64 = (1u64 << 31) as f64;

/// Two grids in one world, and the way between them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resample {
    /// The grid that is sampled, `d h w`.
    pub from_dims: [usize; 3],
    pub from_affine: Affine,
    /// The grid of the result.
    pub to_dims: [usize; 3],
    pub to_affine: Affine,
}

type Matrix = [[f64; 3]; 3];

/// Columns of length 1 and at right angles, in the order of the affine's: Gram-Schmidt, which is the
/// QR decomposition with a positive diagonal.
fn rotation(affine: &Affine) -> Matrix {
    let mut q = [[0.0; 3]; 3];
    for c in 0..3 {
        let mut column = [0, 1, 2].map(|r| affine[r][c]);
        // Twice is enough for full accuracy (Kahan and Parlett).
        for _ in 0..2 {
            for before in 0..c {
                let along: f64 = (0..3).map(|r| q[r][before] * column[r]).sum();
                for r in 0..3 {
                    column[r] -= along * q[r][before];
                }
            }
        }
        let length = column.iter().map(|v| v * v).sum::<f64>().sqrt();
        for r in 0..3 {
            q[r][c] = column[r] / length;
        }
    }
    q
}

/// The corner voxels of a grid, the last axis changing first.
fn corners(dims: [usize; 3]) -> [[f64; 3]; 8] {
    [0, 1, 2, 3, 4, 5, 6, 7]
        .map(|i| [0, 1, 2].map(|a| if i >> (2 - a) & 1 == 1 { dims[a] as f64 - 1.0 } else { 0.0 }))
}

fn times(m: &Matrix, v: [f64; 3]) -> [f64; 3] {
    [0, 1, 2].map(|r| (0..3).map(|c| m[r][c] * v[c]).sum())
}

impl Resample {
    /// From a grid to one with this spacing along its own axes.
    ///
    /// Errors: [`Error::Unsupported`] for an affine that is singular or not finite, or a new grid of
    /// more than 2^31 voxels; [`Error::Config`] for a spacing that is no length.
    pub fn to_spacing(dims: [usize; 3], affine: &Affine, spacing_mm: [f64; 3]) -> Result<Self> {
        if !spacing_mm.iter().all(|s| s.is_finite() && *s > 0.0) {
            return Err(Error::Config(format!(
                "spacing {spacing_mm:?} mm: three lengths above 0 are needed"
            )));
        }
        check_affine(affine)
            .map_err(|why| Error::Unsupported(format!("the affine {affine:?} {why}")))?;
        let q = rotation(affine);
        let old: Matrix = [0, 1, 2].map(|r| [0, 1, 2].map(|c| affine[r][c]));
        // Corners in new voxels, up to the origin: the inverse of `Q diag(s)` is `diag(1/s) Q^T`.
        let new_from_world: Matrix = [0, 1, 2].map(|r| [0, 1, 2].map(|c| q[c][r] / spacing_mm[r]));
        let at = corners(dims).map(|v| times(&new_from_world, times(&old, v)));
        let low = [0, 1, 2].map(|a| at.iter().map(|v| v[a]).fold(f64::INFINITY, f64::min));
        let high = [0, 1, 2].map(|a| at.iter().map(|v| v[a]).fold(f64::NEG_INFINITY, f64::max));
        let size = [0, 1, 2].map(|a| (high[a] - low[a] + 1.0).round_ties_even());
        let voxels: f64 = size.iter().product();
        if voxels.is_nan() || voxels > MAX_VOXELS {
            return Err(Error::Unsupported(format!(
                "a grid of {dims:?} voxels at {spacing_mm:?} mm has {size:?} voxels, more than 2^31"
            )));
        }
        let mut to_affine = [[0.0; 4]; 4];
        to_affine[3][3] = 1.0;
        for r in 0..3 {
            for c in 0..3 {
                to_affine[r][c] = q[r][c] * spacing_mm[c];
            }
        }
        // numpy's `allclose`.
        let is_lowest =
            |v: &[f64; 3]| (0..3).all(|a| (low[a] - v[a]).abs() <= 1e-8 + 1e-5 * v[a].abs());
        let first = at.iter().position(is_lowest).map(|i| corners(dims)[i]);
        for r in 0..3 {
            let place =
                |v: [f64; 3]| (0..3).map(|c| affine[r][c] * v[c]).sum::<f64>() + affine[r][3];
            to_affine[r][3] = match first {
                Some(corner) => place(corner),
                None => {
                    let middle = (0..3).map(|c| to_affine[r][c] * size[c] / 2.0).sum::<f64>();
                    place(dims.map(|n| n as f64 / 2.0)) - middle
                }
            };
        }
        Ok(Self {
            from_dims: dims,
            from_affine: *affine,
            to_dims: size.map(|n| n as usize),
            to_affine,
        })
    }

    /// The way back.
    pub fn inverse(&self) -> Self {
        Self {
            from_dims: self.to_dims,
            from_affine: self.to_affine,
            to_dims: self.from_dims,
            to_affine: self.from_affine,
        }
    }

    /// New voxel indices to old ones: a matrix and an offset, `inverse(from) to`.
    fn index_map(&self) -> Result<(Matrix, [f64; 3])> {
        let m = &self.from_affine;
        check_affine(m).map_err(|why| Error::Unsupported(format!("the affine {m:?} {why}")))?;
        // Adjugate over determinant: rows are cross products of columns.
        let column = |c: usize| [m[0][c], m[1][c], m[2][c]];
        let cross = |a: [f64; 3], b: [f64; 3]| {
            [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
        };
        let adjugate =
            [cross(column(1), column(2)), cross(column(2), column(0)), cross(column(0), column(1))];
        let det: f64 = (0..3).map(|r| adjugate[0][r] * m[r][0]).sum();
        let inverse = adjugate.map(|row| row.map(|v| v / det));
        let apart = [0, 1, 2].map(|r| self.to_affine[r][3] - m[r][3]);
        let columns = [0, 1, 2].map(|c| times(&inverse, [0, 1, 2].map(|r| self.to_affine[r][c])));
        let matrix = [0, 1, 2].map(|r| [0, 1, 2].map(|c| columns[c][r]));
        Ok((matrix, times(&inverse, apart)))
    }

    /// Where a new voxel lies in the old grid, in voxels: row `a` of the result times `(d, h, w, 1)` is
    /// its position along axis `a`. The form that [`crate::ops::resample::resample`] takes.
    ///
    /// Errors: [`Error::Unsupported`] for a singular affine.
    pub fn index_map_rows(&self) -> Result<[[f64; 4]; 3]> {
        let (m, offset) = self.index_map()?;
        Ok([0, 1, 2].map(|a| [m[a][0], m[a][1], m[a][2], offset[a]]))
    }

    /// Trilinear values `[c, to_dims]` of `[c, from_dims]`, weights in f64.
    ///
    /// Errors: [`Error::Shape`] when `data` is not a whole number of volumes;
    /// [`Error::Unsupported`] for a singular affine.
    pub fn linear(&self, data: &[f32]) -> Result<Vec<f32>> {
        let [_, nh, nw] = self.from_dims;
        self.sample(data, |volume, at| {
            let mut sum = 0.0;
            let axes: [[(usize, f64); 2]; 3] = [0, 1, 2].map(|a| {
                let low = at[a].floor();
                let (i, share) = (low as usize, at[a] - low);
                [(i, 1.0 - share), ((i + 1).min(self.from_dims[a] - 1), share)]
            });
            for (d, wd) in axes[0] {
                for (h, wh) in axes[1] {
                    let row = (d * nh + h) * nw;
                    for (w, ww) in axes[2] {
                        sum += wd * wh * ww * f64::from(volume[row + w]);
                    }
                }
            }
            sum as f32
        })
    }

    /// Values `[c, to_dims]` of the nearest voxels of `[c, from_dims]`; halves go to even indices.
    ///
    /// Errors: as [`Resample::linear`].
    pub fn nearest<T: Copy + bytemuck::Zeroable + Send + Sync>(
        &self,
        data: &[T],
    ) -> Result<Vec<T>> {
        let [_, nh, nw] = self.from_dims;
        self.sample(data, |volume, at| {
            let [d, h, w] = at.map(|v| v.round_ties_even() as usize);
            volume[(d * nh + h) * nw + w]
        })
    }

    /// `value(volume, position)` for every new voxel; positions are inside of the old grid.
    fn sample<T: Copy + bytemuck::Zeroable + Send + Sync>(
        &self,
        data: &[T],
        value: impl Fn(&[T], [f64; 3]) -> T + Sync,
    ) -> Result<Vec<T>> {
        let count: usize = self.from_dims.iter().product();
        let [nd, nh, nw] = self.to_dims;
        if count == 0 || data.is_empty() || !data.len().is_multiple_of(count) || nd * nh * nw == 0 {
            return Err(Error::shape(
                "resample",
                format!("a multiple of {:?}", self.from_dims),
                format!("{} voxels", data.len()),
            ));
        }
        let (m, offset) = self.index_map()?;
        let last = self.from_dims.map(|n| n as f64 - 1.0);
        let mut out = limits::zeroed(data.len() / count * nd * nh * nw, "a resampled volume")?;
        out.par_chunks_mut(nh * nw).enumerate().for_each(|(slice, out)| {
            let volume = &data[slice / nd * count..][..count];
            let d = (slice % nd) as f64;
            for (i, out) in out.iter_mut().enumerate() {
                let (h, w) = ((i / nw) as f64, (i % nw) as f64);
                let at = [0, 1, 2].map(|a| {
                    let x = m[a][0] * d + m[a][1] * h + m[a][2] * w + offset[a];
                    x.clamp(0.0, last[a])
                });
                *out = value(volume, at);
            }
        });
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diagonal(mm: [f64; 3]) -> Affine {
        let mut affine = [[0.0; 4]; 4];
        for a in 0..3 {
            affine[a][a] = mm[a];
            affine[a][3] = 7.0 - a as f64;
        }
        affine[3][3] = 1.0;
        affine
    }

    /// A linear function of the world position is reproduced at every inner point of any grid.
    #[test]
    fn linear_functions_survive() {
        let dims = [6, 7, 8];
        let affine = [
            [0.9, 0.3, 0.1, 5.0],
            [-0.3, 1.8, 0.2, -3.0],
            [0.0, -0.2, 2.6, 1.0],
            [0.0, 0.0, 0.0, 1.0],
        ];
        let field = |m: &Affine, v: [f64; 3]| {
            let world = [0, 1, 2].map(|r| (0..3).map(|c| m[r][c] * v[c]).sum::<f64>() + m[r][3]);
            3.0 * world[0] - 2.0 * world[1] + 0.5 * world[2] + 100.0
        };
        let index = |i: usize, n: [usize; 3]| [i / (n[1] * n[2]), i / n[2] % n[1], i % n[2]];
        let data: Vec<f32> =
            (0..336).map(|i| field(&affine, index(i, dims).map(|v| v as f64)) as f32).collect();
        let grid = Resample::to_spacing(dims, &affine, [1.1, 0.9, 1.3]).unwrap();
        let (m, offset) = grid.index_map().unwrap();
        let out = grid.linear(&data).unwrap();
        let mut inner = 0;
        for (i, &value) in out.iter().enumerate() {
            let v = index(i, grid.to_dims).map(|v| v as f64);
            let old = times(&m, v);
            if (0..3).all(|a| (0.0..=dims[a] as f64 - 1.0).contains(&(old[a] + offset[a]))) {
                let want = field(&grid.to_affine, v);
                assert!((f64::from(value) - want).abs() < 1e-4, "{value} is not {want}");
                inner += 1;
            }
        }
        assert!(inner > out.len() / 3, "{inner} of {}", out.len());
        // The columns of the new affine are as long as asked for, and at right angles.
        for a in 0..3 {
            for b in 0..3 {
                let dot: f64 = (0..3).map(|r| grid.to_affine[r][a] * grid.to_affine[r][b]).sum();
                let want = if a == b { [1.1f64, 0.9, 1.3][a].powi(2) } else { 0.0 };
                assert!((dot - want).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn sizes_round_halves_to_even_and_ends_meet() {
        // (n - 1) old / new + 1: 4.5, 5.5 and 3.
        let grid = Resample::to_spacing([8, 10, 5], &diagonal([1., 1., 1.]), [2., 2., 2.]).unwrap();
        assert_eq!(grid.to_dims, [4, 6, 3]);
        let data: Vec<f32> = (0..400).map(|i| i as f32).collect();
        let out = grid.linear(&data).unwrap();
        assert_eq!((out[0], out[4 * 6 * 3 - 1]), (0.0, (6 * 10 + 9) as f32 * 5.0 + 4.0));
        let two = grid.linear(&[data.clone(), data].concat()).unwrap();
        assert_eq!((two.len(), &two[72..]), (144, &out[..]));
    }

    #[test]
    fn equal_spacing_is_the_identity() {
        let data: Vec<u8> = (0..210).map(|i| (i * 7 % 251) as u8).collect();
        let grid = Resample::to_spacing([5, 6, 7], &diagonal([0.7, 1.3, 3.0]), [0.7, 1.3, 3.0]);
        let grid = grid.unwrap();
        assert_eq!(grid.to_dims, [5, 6, 7]);
        assert_eq!(grid.nearest(&data).unwrap(), data);
        assert_eq!(grid.inverse().inverse(), grid);
    }

    /// Nearest labels to a finer grid and back are the labels; to a coarser one nearly so.
    #[test]
    fn spheres_come_back() {
        let n = 41;
        let sphere: Vec<u8> = (0..n * n * n)
            .map(|i| [i / (n * n), i / n % n, i % n].map(|v: usize| (v as f64 - 20.0).powi(2)))
            .map(|d| u8::from(d.iter().sum::<f64>() < 15.5 * 15.5))
            .collect();
        for (spacing, least) in [([0.6, 0.7, 0.45], 0.999), ([1.5, 1.5, 1.5], 0.95)] {
            let grid = Resample::to_spacing([n; 3], &diagonal([1.0; 3]), spacing).unwrap();
            let back = grid.inverse().nearest(&grid.nearest(&sphere).unwrap()).unwrap();
            let sum = |v: &[u8]| v.iter().map(|&b| f64::from(b)).sum::<f64>();
            let both = back.iter().zip(&sphere).filter(|(a, b)| **a == 1 && **b == 1).count();
            let dice = 2.0 * both as f64 / (sum(&back) + sum(&sphere));
            assert!(dice >= least, "{spacing:?}: Dice {dice}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let good = diagonal([1.0; 3]);
        for spacing in [[0.0, 1., 1.], [-1., 1., 1.], [f64::NAN, 1., 1.], [f64::INFINITY, 1., 1.]] {
            assert!(matches!(Resample::to_spacing([4; 3], &good, spacing), Err(Error::Config(_))));
        }
        assert!(Resample::to_spacing([4; 3], &diagonal([0., 1., 1.]), [1.0; 3]).is_err());
        assert!(Resample::to_spacing([400; 3], &good, [1e-3; 3]).is_err());
        let grid = Resample::to_spacing([4; 3], &good, [2.0; 3]).unwrap();
        assert!(grid.linear(&[0.0; 63]).is_err() && grid.nearest::<u8>(&[]).is_err());
    }
}
