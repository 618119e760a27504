//! A volume in memory: voxels, grid and where the grid lies in the patient.

use super::geometry::{Affine, Orientation, spacing_mm};
use crate::{Error, Result};

/// Voxels of one image on a regular grid, with the map from voxel indices to millimetres.
///
/// The array is row-major `[c, d, h, w]`, `w` fastest. Its axes are the axes of the NIfTI file in
/// the file's order: `(d, h, w)` is nibabel's `[i, j, k]`, so index tuples, affines and
/// orientation codes agree with nibabel and MONAI as they stand.
#[derive(Clone, Debug, PartialEq)]
pub struct Volume {
    /// `channels * d * h * w` values in the units of the file (slope and intercept applied).
    pub data: Vec<f32>,
    /// Length of the axis `c`.
    pub channels: usize,
    /// Lengths of the axes `d`, `h`, `w`, in voxels.
    pub dims: [usize; 3],
    /// Voxel indices `(d, h, w, 1)` to millimetres in RAS+ world space.
    pub affine: Affine,
    /// The NIfTI code of the world space: 0 unknown, 1 scanner, 2 aligned, 3 Talairach, 4 MNI,
    /// 5 another template.
    pub space_code: i16,
}

impl Volume {
    /// A volume of these parts.
    ///
    /// Errors: [`Error::Shape`] when the number of values is not `channels * d * h * w`, or when
    /// one of them is zero.
    pub fn new(
        data: Vec<f32>,
        channels: usize,
        dims: [usize; 3],
        affine: Affine,
        space_code: i16,
    ) -> Result<Self> {
        let count = dims.iter().try_fold(channels, |n, &d| n.checked_mul(d));
        if count != Some(data.len()) || data.is_empty() {
            return Err(Error::shape(
                "volume",
                format!("{channels} x {dims:?} values, none of them zero"),
                format!("{} values", data.len()),
            ));
        }
        Ok(Self { data, channels, dims, affine, space_code })
    }

    /// Voxels of one channel.
    pub fn voxels_per_channel(&self) -> usize {
        self.dims.iter().product()
    }

    /// Lengths of a voxel's edges along `d`, `h`, `w`, in millimetres.
    pub fn spacing_mm(&self) -> [f64; 3] {
        spacing_mm(&self.affine)
    }

    /// Which patient axis each array axis follows.
    ///
    /// Errors: [`Error::Unsupported`] when the affine is singular or not finite.
    pub fn orientation(&self) -> Result<Orientation> {
        Orientation::from_affine(&self.affine)
    }
}
