//! Pictures of a reconstruction: a panel of planes, and volumes on the grid of the input file.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Result;
use crate::config::Config;
use crate::data::nifti::{Stored, write_volume};
use crate::data::{CaseRecord, Prepared};
use crate::error::Error;
use crate::infer::tiles::Reconstruction;
use crate::report::panel::Panel;

/// A rendered panel.
pub struct Picture {
    pub size: [usize; 2],
    pub png: Vec<u8>,
}

/// Input, masked input, reconstruction and blend in three planes. `title` begins the caption.
///
/// Volumes of several channels show the first.
pub fn panel(
    config: &Config,
    case: &Prepared,
    result: &Reconstruction,
    title: &str,
) -> Result<Picture> {
    let n: usize = case.dims().iter().product();
    let first = |values: &[f32]| values.get(..n).map(<[f32]>::to_vec).unwrap_or_default();
    let (input, prediction) = (first(case.voxels()), first(&result.prediction));
    let (dims, spacing) = (case.dims(), case.spacing_mm());
    let mut panel = Panel::reconstruction(dims, spacing, &input, &prediction, &result.hidden)?;
    panel.caption = format!(
        "{title}, {:.0} % hidden, {:.1} % of hidden variance explained{}",
        100.0 * result.hidden.iter().filter(|h| **h).count() as f64 / n as f64,
        100.0 * result.explained.share(),
        if config.loss.norm_pix { " (patch mean and deviation given)" } else { "" }
    );
    let canvas = panel.render()?;
    Ok(Picture { size: canvas.size(), png: canvas.png()? })
}

/// The value, in input units, of voxels outside of the prepared box: the least a map keeps.
pub fn fill_value(record: &CaseRecord) -> f32 {
    let first = record.intensity.first();
    first.map_or(0.0, |map| map.clip.map_or_else(|| map.inverse(0.0), |[low, _]| low as f32))
}

/// Writes `STEM.png`, and `STEM.nii.gz`: the input's own grid and units, seen voxels as they were
/// (within the clipped range), hidden ones as predicted. Returns the paths.
pub fn write(
    folder: &Path,
    stem: &str,
    config: &Config,
    case: &Prepared,
    result: &Reconstruction,
    title: &str,
) -> Result<(Vec<PathBuf>, Picture)> {
    fs::create_dir_all(folder).map_err(Error::io(folder, "create"))?;
    let picture = panel(config, case, result, title)?;
    let png = folder.join(format!("{stem}.png"));
    crate::atomic::write_bytes(&png, &picture.png)?;
    let nifti = folder.join(format!("{stem}.nii.gz"));
    let blend = result.blend(case.voxels());
    let volume = case.record().restore(&blend, fill_value(case.record()))?;
    write_volume(&nifti, &volume, Stored::F32)?;
    Ok((vec![png, nifti], picture))
}
