//! Label maps, brought onto the grid of the prepared image they belong to.

use std::path::Path;

use super::nifti::{Limits, ReadOptions, read_volume};
use super::prepare::{CaseRecord, same_place};
use crate::{Error, Result};

/// Farthest a stored label may be from a whole number: masks stored with a slope read as 0.99999997.
const TOLERANCE: f32 = 1e-3;

/// Reads the label map at `path` and turns and cuts it as `record` says its image was: `[d, h, w]`
/// of the prepared case, `w` fastest, padding 0. Labels are only moved, never interpolated.
///
/// Errors: [`Error::Io`]; [`Error::Data`] when the file is refused, lies on another grid than the
/// image, or holds a value that is not a whole number from 0 to 255 (the voxel is named).
pub fn prepare_label(path: &Path, record: &CaseRecord, limits: &Limits) -> Result<Vec<u8>> {
    let volume = read_volume(path, &ReadOptions { limits: *limits, ..ReadOptions::default() })?;
    if volume.dims != record.input_dims
        || !same_place(volume.dims, &volume.affine, &record.input_affine)
    {
        return Err(Error::data(
            path,
            format!(
                "the label map ({:?} voxels, affine {:?}) lies on another grid than its image \
                 ({:?} voxels, affine {:?})",
                volume.dims, volume.affine, record.input_dims, record.input_affine
            ),
        ));
    }
    let is_label =
        |v: f32| (v - v.round()).abs() <= TOLERANCE && (0.0..=255.0).contains(&v.round());
    if let Some(at) = volume.data.iter().position(|&v| !is_label(v)) {
        let [_, nh, nw] = volume.dims;
        let voxel = [at / (nh * nw), at / nw % nh, at % nw];
        return Err(Error::data(
            path,
            format!(
                "the label at voxel {voxel:?} is {}, not a whole number from 0 to 255",
                volume.data.get(at).copied().unwrap_or_default()
            ),
        ));
    }
    let ras = record.orientation.voxels_to_ras(&volume.data, volume.dims)?;
    Ok(record.crop.cut(&ras)?.into_iter().map(|v| v.round() as u8).collect())
}
