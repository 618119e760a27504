//! `glmae reconstruct`: what a checkpoint makes of a masked volume.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::json;

use super::reconstruct_files;
use super::tiles::{Explained, Masking, reconstruct_volume};
use crate::checkpoint::load_student;
use crate::data::layout::Case;
use crate::data::nifti::{Stored, write_volume};
use crate::data::prepare;
use crate::device::Device;
use crate::glmae::inputs::prepare_config;
use crate::{Error, Result, atomic};

/// What to reconstruct, with what, and where to.
#[derive(Clone, Debug)]
pub struct ReconstructOptions {
    /// A checkpoint folder, a file in it, or a run folder.
    pub checkpoint: PathBuf,
    /// A NIfTI volume.
    pub input: PathBuf,
    pub out: PathBuf,
    /// Share of hidden tokens; absent: as in training.
    pub mask_ratio: Option<f64>,
    pub seed: u64,
    pub device: Device,
}

/// What was written, and how good it is.
#[derive(Clone, Debug, Serialize)]
pub struct ReconstructReport {
    /// Step of the checkpoint.
    pub step: u64,
    /// Views that covered the volume, and their kind.
    pub tiles: usize,
    pub kind: &'static str,
    pub mask_ratio: f64,
    pub seed: u64,
    /// `1 - MSE / variance` over hidden voxels, in mapped intensities. With
    /// `uses_target_statistics` it knows mean and deviation of every hidden patch.
    pub explained: f64,
    /// The same for copying the mean of the visible voxels of the view.
    pub mean_guess: f64,
    /// The share of patch-normalised values; only for models trained with `loss.norm_pix`.
    pub patch_normalised: Option<f64>,
    pub uses_target_statistics: bool,
    pub sums: Explained,
    /// Picture, reconstructed volume, map of the hidden voxels, metrics.
    pub files: Vec<PathBuf>,
}

/// Reconstructs a volume and writes into `out`: `STEM_recon.png`, `STEM_recon.nii.gz` (grid, units
/// and affine of the input; hidden voxels as predicted), `STEM_recon_hidden.nii.gz` (1 where
/// hidden) and `STEM_recon.json`.
///
/// Errors: [`Error::Data`] for an unusable checkpoint or volume; [`Error::Config`] for a mask ratio
/// that hides everything or nothing; [`Error::Io`]. Nothing is written before all is computed.
pub fn reconstruct(options: &ReconstructOptions) -> Result<ReconstructReport> {
    let student = load_student(&options.checkpoint, &options.device)?;
    let config = &student.info.config;
    let ratio = options.mask_ratio.unwrap_or(config.views.mask_ratio);
    if !(ratio > 0.0 && ratio < 1.0) {
        return Err(Error::Config(format!("--mask-ratio {ratio} must lie between 0 and 1")));
    }
    let name = options.input.file_name().map(|n| n.to_string_lossy().into_owned());
    let name = name.unwrap_or_default();
    let stem = [".nii.gz", ".nii", ".hdr", ".img.gz", ".img"]
        .iter()
        .find_map(|end| name.strip_suffix(end))
        .unwrap_or(&name);
    if !options.input.exists() {
        return Err(Error::data(&options.input, "no such file; give a NIfTI volume"));
    }
    let case = Case { id: stem.to_owned(), images: vec![options.input.clone()], label: None };
    let case = prepare(&case, &prepare_config(config))?;
    let masking = Masking { seed: options.seed, ratio, sample: 0 };
    let (nets, params) = (&student.nets, &student.params);
    let result = reconstruct_volume(&options.device, config, nets, params, &case, &masking)?;

    let stem = format!("{stem}_recon");
    let title = format!("{name}, step {}", student.info.step);
    let (mut files, _) =
        reconstruct_files::write(&options.out, &stem, config, &case, &result, &title)?;
    files.push(options.out.join(format!("{stem}_hidden.nii.gz")));
    if let Some(path) = files.last() {
        let record = case.record();
        // Through the same way back as voxels, but without the intensity map.
        let mut plain = record.clone();
        plain.intensity.iter_mut().for_each(|map| (map.shift, map.divisor) = (0.0, 1.0));
        plain.intensity.truncate(1);
        let hidden: Vec<f32> = result.hidden.iter().map(|&h| f32::from(u8::from(h))).collect();
        write_volume(path, &plain.restore(&hidden, 0.0)?, Stored::U8)?;
    }
    let metrics = options.out.join(format!("{stem}.json"));
    files.push(metrics.clone());
    let report = ReconstructReport {
        step: student.info.step,
        tiles: result.tiles,
        kind: result.kind.name(),
        mask_ratio: ratio,
        seed: options.seed,
        explained: result.explained.share(),
        mean_guess: result.explained.mean_guess_share(),
        patch_normalised: result.explained.normalised_share(),
        uses_target_statistics: config.loss.norm_pix,
        sums: result.explained,
        files,
    };
    atomic::write_json(&metrics, &json!(report))?;
    Ok(report)
}
