//! Orientation and spacing of a grid; turning a volume to RAS and exactly back.
//!
//! Orientations follow nibabel's `io_orientation`: an axis is named by the closest rotation to the
//! affine (its polar factor), the strongest axis first, each patient axis once.

use serde::{Deserialize, Serialize};

use super::volume::Volume;
use crate::{Error, Result, limits};

/// Voxel indices `(d, h, w, 1)` to millimetres in RAS+ world space, row-major. The last row is
/// `0 0 0 1`.
pub type Affine = [[f64; 4]; 4];

/// Lengths of the first three columns, in millimetres.
pub fn spacing_mm(affine: &Affine) -> [f64; 3] {
    [0, 1, 2].map(|c| (0..3).map(|r| affine[r][c] * affine[r][c]).sum::<f64>().sqrt())
}

/// The largest distance between the corners of a grid under two affines.
pub fn corners_apart_mm(dims: [usize; 3], a: &Affine, b: &Affine) -> f64 {
    let at = |corner: usize, axis: usize| match corner >> axis & 1 {
        1 => dims[axis] as f64 - 1.0,
        _ => 0.0,
    };
    let gap = |corner: usize, r: usize| {
        (0..3).map(|c| (a[r][c] - b[r][c]) * at(corner, c)).sum::<f64>() + a[r][3] - b[r][3]
    };
    (0..8)
        .map(|corner| (0..3).map(|r| gap(corner, r).powi(2)).sum::<f64>().sqrt())
        .fold(0.0, f64::max)
}

/// Why an affine cannot be used, if it cannot.
pub(super) fn check_affine(affine: &Affine) -> std::result::Result<(), &'static str> {
    if !affine.iter().flatten().all(|v| v.is_finite()) {
        return Err("is not finite");
    }
    match unit_columns(affine) {
        Some(m) if det(&m).abs() >= 1e-6 => Ok(()),
        _ => Err("is singular"),
    }
}

type Matrix = [[f64; 3]; 3];

fn det(m: &Matrix) -> f64 {
    m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1])
        - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0])
        + m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0])
}

/// The 3x3 part with every column of length 1.
fn unit_columns(affine: &Affine) -> Option<Matrix> {
    let mm = spacing_mm(affine);
    mm.iter()
        .all(|&l| l.is_finite() && l > 0.0)
        .then(|| [0, 1, 2].map(|r| [0, 1, 2].map(|c| affine[r][c] / mm[c])))
}

/// The closest orthogonal matrix to the affine's directions: its polar factor, by Newton's
/// iteration `R <- (R + R^-T) / 2` (Higham 1986). `None` when the affine is singular.
pub(super) fn polar_rotation(affine: &Affine) -> Option<Matrix> {
    let mut m = unit_columns(affine)?;
    for _ in 0..64 {
        let d = det(&m);
        if d == 0.0 || !d.is_finite() {
            return None;
        }
        // The inverse transpose is the cofactor matrix over the determinant.
        let cofactor = |r: usize, c: usize| {
            let ((a, b), (e, f)) = (((r + 1) % 3, (r + 2) % 3), ((c + 1) % 3, (c + 2) % 3));
            m[a][e] * m[b][f] - m[a][f] * m[b][e]
        };
        let next: Matrix =
            [0, 1, 2].map(|r| [0, 1, 2].map(|c| 0.5 * (m[r][c] + cofactor(r, c) / d)));
        let change =
            (0..9).map(|i| (next[i / 3][i % 3] - m[i / 3][i % 3]).abs()).fold(0.0, f64::max);
        m = next;
        if change < 1e-15 {
            break;
        }
    }
    Some(m)
}

/// Which patient axis (0 left-right, 1 posterior-anterior, 2 inferior-superior) each array axis
/// follows, and whether it runs against it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orientation {
    /// For each array axis `d h w`, the world axis it is closest to. A permutation of 0 1 2.
    pub world_axis: [usize; 3],
    /// Whether the array axis runs towards left, posterior or inferior.
    pub is_flipped: [bool; 3],
}

impl Orientation {
    /// nibabel's `io_orientation`.
    ///
    /// Errors: [`Error::Unsupported`] when the affine is singular or not finite.
    pub fn from_affine(affine: &Affine) -> Result<Self> {
        let refused = |why: &str| Error::Unsupported(format!("the affine {affine:?} {why}"));
        check_affine(affine).map_err(refused)?;
        let r = polar_rotation(affine).ok_or_else(|| refused("is singular"))?;
        let strength = |axis: usize| (0..3).map(|row| r[row][axis].powi(2)).fold(0.0, f64::max);
        let mut order = [0, 1, 2];
        order.sort_by(|&a, &b| strength(b).total_cmp(&strength(a)));
        let (mut world_axis, mut is_flipped) = ([0; 3], [false; 3]);
        let mut free = vec![0, 1, 2];
        for axis in order {
            // The first of equals, as numpy's argmax.
            let mut best = 0;
            for slot in 1..free.len() {
                if r[free[slot]][axis].abs() > r[free[best]][axis].abs() {
                    best = slot;
                }
            }
            let row = free.remove(best);
            world_axis[axis] = row;
            is_flipped[axis] = r[row][axis] < 0.0;
        }
        Ok(Self { world_axis, is_flipped })
    }

    /// The way to turn a grid so that it lies on another one, voxel on voxel: axes swapped and reversed,
    /// nothing interpolated. `None` when there is none within `tolerance_mm` at the corners.
    pub fn between(
        dims: [usize; 3],
        affine: &Affine,
        onto_dims: [usize; 3],
        onto: &Affine,
        tolerance_mm: f64,
    ) -> Option<Self> {
        const ORDERS: [[usize; 3]; 6] =
            [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
        let turns = ORDERS.into_iter().flat_map(|world_axis| {
            (0..8).map(move |signs: usize| Self {
                world_axis,
                is_flipped: [0, 1, 2].map(|axis| signs >> axis & 1 == 1),
            })
        });
        turns.into_iter().find(|turn| {
            turn.ras_dims(dims) == onto_dims
                && corners_apart_mm(onto_dims, &turn.ras_affine(affine, dims), onto) <= tolerance_mm
        })
    }

    /// Codes as nibabel's `aff2axcodes`: the direction each array axis runs to, such as `RAS`.
    pub fn codes(&self) -> String {
        const NAMES: [[char; 2]; 3] = [['R', 'L'], ['A', 'P'], ['S', 'I']];
        (0..3).map(|a| NAMES[self.world_axis[a]][usize::from(self.is_flipped[a])]).collect()
    }

    /// Whether the axes are R, A, S as they stand.
    pub fn is_ras(&self) -> bool {
        self.world_axis == [0, 1, 2] && self.is_flipped == [false; 3]
    }

    /// The array axis that becomes axis `world` in RAS.
    fn source_axis(&self, world: usize) -> usize {
        (0..3).find(|&a| self.world_axis[a] == world).unwrap_or(world)
    }

    /// Lengths of the axes of a grid of these `dims` after it is turned to RAS.
    pub fn ras_dims(&self, dims: [usize; 3]) -> [usize; 3] {
        [0, 1, 2].map(|world| dims[self.source_axis(world)])
    }

    /// The affine of a grid of these `dims` after it is turned to RAS.
    pub fn ras_affine(&self, affine: &Affine, dims: [usize; 3]) -> Affine {
        let mut out = *affine;
        for r in 0..3 {
            for world in 0..3 {
                let axis = self.source_axis(world);
                out[r][world] = affine[r][axis];
                if self.is_flipped[axis] {
                    out[r][world] = -affine[r][axis];
                    out[r][3] += affine[r][axis] * (dims[axis] as f64 - 1.0);
                }
            }
        }
        out
    }

    /// Turns `[c, d, h, w]` voxels of a grid of these `dims` to RAS. A permutation: no value
    /// changes.
    ///
    /// Errors: [`Error::Shape`] when `data` is not a whole number of such grids.
    pub fn voxels_to_ras<T: Copy + bytemuck::Zeroable>(
        &self,
        data: &[T],
        dims: [usize; 3],
    ) -> Result<Vec<T>> {
        self.permute(data, dims, true)
    }

    /// Turns RAS voxels back onto a grid of `dims` (those before [`Orientation::voxels_to_ras`]).
    ///
    /// Errors: [`Error::Shape`] when `data` is not a whole number of such grids.
    pub fn voxels_from_ras<T: Copy + bytemuck::Zeroable>(
        &self,
        data: &[T],
        dims: [usize; 3],
    ) -> Result<Vec<T>> {
        self.permute(data, dims, false)
    }

    /// Walks the RAS grid in order; its voxel `(x, y, z)` lies at `base + x s0 + y s1 + z s2` of the
    /// file's grid.
    fn permute<T: Copy + bytemuck::Zeroable>(
        &self,
        data: &[T],
        dims: [usize; 3],
        to_ras: bool,
    ) -> Result<Vec<T>> {
        let count = dims.iter().product::<usize>();
        if count == 0 || data.is_empty() || !data.len().is_multiple_of(count) {
            return Err(Error::shape(
                "reorient",
                format!("a multiple of {dims:?}"),
                format!("{} voxels", data.len()),
            ));
        }
        if self.is_ras() {
            return Ok(data.to_vec());
        }
        let strides = [(dims[1] * dims[2]) as isize, dims[2] as isize, 1];
        let [nx, ny, nz] = self.ras_dims(dims);
        let mut step = [0isize; 3];
        let mut base = 0isize;
        for world in 0..3 {
            let axis = self.source_axis(world);
            step[world] = strides[axis];
            if self.is_flipped[axis] {
                base += strides[axis] * (dims[axis] as isize - 1);
                step[world] = -strides[axis];
            }
        }
        let mut out = limits::zeroed(data.len(), "a volume in RAS")?;
        for (from, out) in data.chunks_exact(count).zip(out.chunks_exact_mut(count)) {
            let mut ras = 0;
            for x in 0..nx as isize {
                for y in 0..ny as isize {
                    let mut file = base + x * step[0] + y * step[1];
                    for _ in 0..nz {
                        match to_ras {
                            true => out[ras] = from[file as usize],
                            false => out[file as usize] = from[ras],
                        }
                        ras += 1;
                        file += step[2];
                    }
                }
            }
        }
        Ok(out)
    }
}

/// Turns a volume to RAS. The second value is the orientation it had, for
/// [`Orientation::voxels_from_ras`].
///
/// Errors: [`Error::Unsupported`] when the affine is singular or not finite.
pub fn to_ras(volume: Volume) -> Result<(Volume, Orientation)> {
    let orientation = volume.orientation()?;
    if orientation.is_ras() {
        return Ok((volume, orientation));
    }
    let Volume { data, channels, dims, affine, space_code } = volume;
    let turned = Volume {
        data: orientation.voxels_to_ras(&data, dims)?,
        channels,
        dims: orientation.ras_dims(dims),
        affine: orientation.ras_affine(&affine, dims),
        space_code,
    };
    Ok((turned, orientation))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, Rng};

    fn affine_of(columns: [[f64; 3]; 3]) -> Affine {
        let mut affine = [[0.0; 4]; 4];
        for r in 0..3 {
            for c in 0..3 {
                affine[r][c] = columns[c][r];
            }
            affine[r][3] = 5.0 * r as f64;
        }
        affine[3][3] = 1.0;
        affine
    }

    /// Codes of nibabel 5.4.2's `aff2axcodes` for the same matrices.
    #[test]
    fn codes_equal_nibabel() {
        for (columns, codes) in [
            ([[1., 0., 0.], [0., 1., 0.], [0., 0., 1.]], "RAS"),
            ([[-1., 0., 0.], [0., -2., 0.], [0., 0., 3.]], "LPS"),
            ([[0., -1., 0.], [0., 0., 1.], [1., 0., 0.]], "PSR"),
            // Oblique, with the dominant axis not on the diagonal.
            ([[0.6, 0.8, 0.1], [0.8, -0.6, 0.0], [0.1, 0.0, -1.0]], "ARI"),
            // Sheared: the polar factor decides, not the largest element.
            ([[1.0, 0.0, 0.0], [0.9, 1.0, 0.0], [0.0, 0.2, -2.0]], "RAI"),
        ] {
            assert_eq!(Orientation::from_affine(&affine_of(columns)).unwrap().codes(), codes);
        }
    }

    #[test]
    fn singular_or_infinite_affines_are_refused() {
        for columns in [
            [[1., 0., 0.], [2., 0., 0.], [0., 0., 1.]],
            [[0., 0., 0.], [0., 1., 0.], [0., 0., 1.]],
            [[f64::NAN, 0., 0.], [0., 1., 0.], [0., 0., 1.]],
            [[f64::MAX, f64::MAX, 0.], [0., 1., 0.], [0., 0., 1.]],
        ] {
            assert!(Orientation::from_affine(&affine_of(columns)).is_err(), "{columns:?}");
        }
    }

    /// All 48 axis orders: every voxel keeps its world position, and the way back is exact.
    #[test]
    fn turning_keeps_world_positions_and_comes_back() {
        let dims = [3, 4, 5];
        let mut seen = std::collections::BTreeSet::new();
        for perm in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            for signs in 0..8 {
                let mut columns = [[0.0; 3]; 3];
                for a in 0..3 {
                    let mm = 1.0 + a as f64;
                    columns[a][perm[a]] = if signs >> a & 1 == 1 { -mm } else { mm };
                }
                let affine = affine_of(columns);
                let data: Vec<f32> = (0..2 * 60).map(|i| i as f32).collect();
                let volume = Volume::new(data.clone(), 2, dims, affine, 1).unwrap();
                let (ras, orientation) = to_ras(volume).unwrap();
                seen.insert(orientation.codes());
                assert!(ras.orientation().unwrap().is_ras());
                let world = |m: &Affine, v: [usize; 3]| {
                    [0, 1, 2].map(|r| (0..3).map(|c| m[r][c] * v[c] as f64).sum::<f64>() + m[r][3])
                };
                let [nd, nh, nw] = ras.dims;
                for i in 0..60 {
                    let at = [i / (nh * nw), i / nw % nh, i % nw];
                    assert!(at[0] < nd);
                    let source = ras.data[i] as usize;
                    let from = [source / 20, source / 5 % 4, source % 5];
                    assert_eq!(world(&ras.affine, at), world(&affine, from));
                }
                assert_eq!(orientation.voxels_from_ras(&ras.data, dims).unwrap(), data);
            }
        }
        assert_eq!(seen.len(), 48);
    }

    #[test]
    fn polar_factor_is_orthogonal_and_keeps_the_hand() {
        let mut rng = Rng::new(2, Purpose::Test, 0, 0, 0);
        for _ in 0..100 {
            let affine = [[0; 4]; 4].map(|row: [i32; 4]| row.map(|_| rng.normal()));
            let m = polar_rotation(&affine).unwrap();
            for i in 0..3 {
                for j in 0..3 {
                    let dot: f64 = (0..3).map(|k| m[k][i] * m[k][j]).sum();
                    assert!((dot - f64::from(i == j)).abs() < 1e-12);
                }
            }
            assert!(det(&m) * det(&unit_columns(&affine).unwrap()) > 0.0);
        }
    }
}
