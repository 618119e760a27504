//! Reference cases of the segmentation side (format `glmae-unetr-1`, docs/verification.md): what MONAI
//! makes of networks, layers, sliding windows, metrics and the preparation of volumes.

mod layers;
mod metrics;
pub mod network;
pub mod network_case;
mod prep;
mod window;

use std::path::Path;

use super::judge::{Judge, Results, Row};
use super::tensors::CaseTensors;
use super::verify::{Bounds, compare};
use crate::Result;
use crate::device::{DType, Device};
use crate::ops::VoxelGrid;

/// `format` of the metadata.
pub const FORMAT: &str = "glmae-unetr-1";

/// Case, part, steps, our numbers and the report.
type Outcome = (CaseTensors, String, usize, Results, Vec<Row>);

/// Repeats a case of any part. Parts that do not compute on a device (metrics, most of prep) are the
/// same on all of them.
///
/// Errors: [`crate::Error::Data`] for a file that is no such case, of an unknown part, without a
/// tensor it must have or with one of another shape; those of the run.
pub(super) fn verify(path: &Path, device: &Device, dtype: DType) -> Result<Outcome> {
    let case = CaseTensors::load(path, FORMAT)?;
    let part = case.text("part")?.to_owned();
    let mut judge = Judge::default();
    match part.as_str() {
        "network" => {
            let case = network_case::UnetrCase::new(case)?;
            let ours = network::run(&case, device, dtype)?;
            let mut bounds = Bounds::of_unetr(dtype).of_stored(case.stores_f32());
            if dtype != DType::F64 {
                bounds = bounds.beyond_kinks(&case.peer_f32);
            }
            let rows = compare(&case.tensors, &ours, &bounds);
            return Ok((case.tensors, part, case.steps, ours, rows));
        }
        "layers" => layers::run(&case, device, dtype, &mut judge)?,
        "window" => window::run(&case, device, dtype, &mut judge)?,
        "metrics" => metrics::run(&case, &mut judge)?,
        "prep" => prep::run(&case, device, dtype, &mut judge)?,
        other => {
            let known = "network, layers, window, metrics and prep";
            return Err(case.bad(format!("a case of part '{other}'; known parts are {known}")));
        }
    }
    Ok((case, part, 0, judge.ours, judge.rows))
}

/// Bound of a single operation in an arithmetic, `exact` in f64 (docs/numerics.md).
fn bound_of(dtype: DType, exact: f64) -> f64 {
    match dtype {
        DType::F64 => exact,
        DType::Bf16 => 3e-2,
        _ => 1e-5_f64.max(exact),
    }
}

/// `[batch, channels, voxels]` as the rows of voxels `[batch, voxels, channels]`.
fn channels_last(data: &[f64], channels: usize, grid: VoxelGrid) -> Vec<f64> {
    let n = grid.voxels();
    let image = |image: &[f64]| -> Vec<f64> {
        (0..n).flat_map(|i| (0..channels).map(move |c| c * n + i)).map(|i| image[i]).collect()
    };
    data.chunks_exact((channels * n).max(1)).flat_map(image).collect()
}

/// `[batch, voxels, channels]` as `[batch, channels, voxels]`.
fn channels_first(rows: &[f64], grid: VoxelGrid) -> Vec<f64> {
    let n = grid.voxels();
    let channels = rows.len() / grid.rows().max(1);
    let mut out = Vec::with_capacity(rows.len());
    for image in rows.chunks_exact((channels * n).max(1)) {
        out.extend((0..channels).flat_map(|c| (0..n).map(move |i| image[i * channels + c])));
    }
    out
}
