//! Label maps: read as whole numbers, and brought onto the grid of the prepared image they belong to.

use std::path::Path;

use super::geometry::Affine;
use super::nifti::{ReadLimits, ReadOptions, read_volume};
use super::prepare::{CaseRecord, same_place};
use crate::{Error, Result};

/// How far from whole numbers stored labels may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rounding {
    /// Farthest distance; below one half.
    pub within: f32,
    /// The flag that makes it larger, where there is one, for messages.
    pub flag: Option<&'static str>,
}

impl Default for Rounding {
    /// Masks stored with a slope read as 0.99999997.
    fn default() -> Self {
        Self { within: 1e-3, flag: None }
    }
}

impl Rounding {
    /// How to go on with values that are no farther than `apart` from whole numbers.
    fn way_out(&self, apart: f32) -> String {
        // Beyond the last it is an image or a probability.
        let enough = [0.1f32, 0.2, 0.3, 0.4].into_iter().find(|share| apart <= *share);
        match (self.flag, enough) {
            (Some(flag), Some(share)) => format!(
                "; its values are up to {apart:.4} from whole numbers, as resampling with \
                 interpolation leaves them: {flag} {share} rounds them"
            ),
            (_, None) => "; this looks like an image or probabilities, not labels".to_owned(),
            (None, _) => String::new(),
        }
    }
}

/// A label map as it is stored: whole numbers on the grid of the file.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelImage {
    /// `[d, h, w]`, `w` fastest.
    pub values: Vec<u16>,
    pub dims: [usize; 3],
    pub affine: Affine,
    pub space_code: i16,
}

impl LabelImage {
    /// Index `[d, h, w]` of a position in `values`.
    pub fn voxel(&self, at: usize) -> [usize; 3] {
        let [_, nh, nw] = self.dims;
        [at / (nh * nw), at / nw % nh, at % nw]
    }
}

/// Reads a label map.
///
/// Errors: [`Error::Io`]; [`Error::Data`] when the file is refused or holds a value that is not a
/// whole number from 0 to 65535 (the voxel is named).
pub fn read_labels(path: &Path, limits: &ReadLimits) -> Result<LabelImage> {
    read_labels_within(path, limits, Rounding::default())
}

/// As [`read_labels`], with values rounded that are near whole numbers.
///
/// Errors: as [`read_labels`].
pub fn read_labels_within(
    path: &Path,
    limits: &ReadLimits,
    rounding: Rounding,
) -> Result<LabelImage> {
    let volume = read_volume(path, &ReadOptions { limits: *limits, ..ReadOptions::default() })?;
    let is_label =
        |v: f32| (v - v.round()).abs() <= rounding.within && (0.0..=65535.0).contains(&v.round());
    let bad = volume.data.iter().position(|&v| !is_label(v));
    let value = bad.and_then(|at| volume.data.get(at).copied());
    let image = LabelImage {
        values: volume.data.iter().map(|v| v.round() as u16).collect(),
        dims: volume.dims,
        affine: volume.affine,
        space_code: volume.space_code,
    };
    match bad.zip(value) {
        None => Ok(image),
        Some((at, value)) => Err(Error::data(
            path,
            format!(
                "the label at voxel {:?} is {value}, not a whole number from 0 to 65535{}",
                image.voxel(at),
                rounding.way_out(farthest(&volume.data))
            ),
        )),
    }
}

/// The largest distance from a whole number; infinite when a value is no label whatever its fraction.
fn farthest(values: &[f32]) -> f32 {
    let apart = |v: &f32| match (0.0..=65535.0).contains(&v.round()) {
        true => (v - v.round()).abs(),
        false => f32::INFINITY,
    };
    values.iter().map(apart).fold(0.0, f32::max)
}

/// Checks that a label map lies on the grid of the image that `record` prepared.
///
/// Errors: [`Error::Data`] with both grids.
pub fn check_label_grid(
    path: &Path,
    dims: [usize; 3],
    affine: &Affine,
    record: &CaseRecord,
) -> Result<()> {
    if dims == record.input_dims && same_place(dims, affine, &record.input_affine) {
        return Ok(());
    }
    Err(Error::data(
        path,
        format!(
            "the label map ({dims:?} voxels, affine {affine:?}) lies on another grid than its image \
             ({:?} voxels, affine {:?})",
            record.input_dims, record.input_affine
        ),
    ))
}

/// Reads the label map at `path` and brings it where `record` brought its image: `[d, h, w]` of the
/// prepared case, `w` fastest, padding 0. Stored values are class indices as they are; for other
/// values, or a known number of classes, see [`crate::seg::labels`].
///
/// Errors: as [`read_labels`] and [`check_label_grid`]; [`Error::Data`] for a value above 255.
pub fn prepare_label(path: &Path, record: &CaseRecord, limits: &ReadLimits) -> Result<Vec<u8>> {
    let label = read_labels(path, limits)?;
    check_label_grid(path, label.dims, &label.affine, record)?;
    if let Some(at) = label.values.iter().position(|&v| v > 255) {
        return Err(Error::data(
            path,
            format!(
                "the label at voxel {:?} is {}, above 255: it needs a label map",
                label.voxel(at),
                label.values[at]
            ),
        ));
    }
    let classes: Vec<u8> = label.values.iter().map(|&v| v as u8).collect();
    record.place_labels(&classes)
}
