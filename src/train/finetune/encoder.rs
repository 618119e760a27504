//! Where the network starts: everything drawn from the seed, then the encoder from a checkpoint.

use std::path::Path;

use super::state::Segmenter;
use crate::config::finetune::FinetuneConfig;
use crate::device::{DType, Device};
use crate::glmae::batch::{BatchShape, ViewKind};
use crate::nn::init;
use crate::nn::pos_embed::{interpolate, sincos_3d};
use crate::nn::unetr::{ENCODER, UnetrConfig};
use crate::train::checkpoint::{Student, load_student};
use crate::{Error, Result};

/// The sizes of the network: those of the encoder when there is one, else of the configuration.
pub fn unetr_config(
    config: &FinetuneConfig,
    encoder: Option<&Student>,
    in_chans: usize,
    outputs: usize,
    roi: [usize; 3],
) -> UnetrConfig {
    let m = &config.model;
    let (feature_size, norm_eps) = (m.feature_size, m.norm_eps);
    match encoder.map(|e| &e.info.config.model) {
        Some(e) => UnetrConfig {
            in_chans,
            outputs,
            roi,
            patch: e.patch,
            dim: e.dim,
            depth: e.depth,
            heads: e.heads,
            mlp_hidden: e.mlp_hidden(),
            feature_size,
            norm_eps,
        },
        None => UnetrConfig {
            in_chans,
            outputs,
            roi,
            patch: m.patch,
            dim: m.dim,
            depth: m.depth,
            heads: m.heads,
            mlp_hidden: (m.dim as f64 * m.mlp_ratio).round() as usize,
            feature_size,
            norm_eps,
        },
    }
}

/// Reads the encoder of a pre-training checkpoint or run folder.
///
/// Errors: as [`load_student`].
pub fn read(path: &Path) -> Result<Student> {
    load_student(path, &Device::Cpu)
}

/// A network before step 0.
///
/// The position rows are the encoder's, trilinearly resized when the token grid is another, or those of
/// sines and cosines. A patch kernel of one channel is repeated for more (not divided).
/// Source: gl-mae 2.2.
pub fn start(
    device: &Device,
    dtype: DType,
    config: &UnetrConfig,
    seed: u64,
    encoder: Option<&Student>,
) -> Result<Segmenter> {
    let positions = match encoder {
        None => sincos_3d(config.grid(), config.dim),
        Some(student) => {
            let from = BatchShape::new(&student.info.config, 1).grid(ViewKind::Local);
            let first = student.nets.tables.first(ViewKind::Local);
            let rows = 1 + from.iter().product::<usize>();
            let table =
                student.nets.tables.encoder.view(first * config.dim, &[rows, config.dim])?;
            interpolate(&table.to_f64_vec()?, config.dim, from, config.grid())
        }
    };
    // The cls row has no token here.
    let mut segmenter = Segmenter::zeros(device, dtype, config, &positions[config.dim..])?;
    init::init(&mut segmenter.params, seed)?;
    if let Some(student) = encoder {
        for entry in segmenter.params.layout().entries().to_vec() {
            let Some(name) = entry.name.strip_prefix(ENCODER) else { continue };
            let mut values = student.params.value(name)?.to_f64_vec()?;
            if name == "patch_embed.proj.weight" {
                values = repeat_channels(&values, &entry.shape)?;
            }
            segmenter.params.value_mut(&entry.name)?.upload_f64(&values)?;
        }
    }
    segmenter.params.refresh_half()?;
    Ok(segmenter)
}

/// A kernel `[dim, c, p, p, p]` for more channels: one channel repeated.
fn repeat_channels(values: &[f64], shape: &[usize]) -> Result<Vec<f64>> {
    let wanted: usize = shape.iter().product();
    if values.len() == wanted {
        return Ok(values.to_vec());
    }
    let (dim, channels) = (shape[0], shape[1]);
    let patch = wanted / (dim * channels);
    if values.len() != dim * patch {
        return Err(Error::Config(format!(
            "the encoder's patch embedding has {} channels, the images have {channels}; only a \
             kernel of one channel can be repeated",
            values.len() / (dim * patch)
        )));
    }
    Ok(values
        .chunks_exact(patch)
        .flat_map(|k| (0..channels).flat_map(move |_| k.iter().copied()))
        .collect())
}
