//! Where the network starts: everything drawn from the seed, then the encoder from a file.

use std::path::Path;

use super::network::NetworkConfig;
use super::state::Segmenter;
use crate::config::finetune::FinetuneConfig;
use crate::device::{DType, Device};
use crate::interchange::{Encoder, read_encoder};
use crate::nn::classifier::ClassifierConfig;
use crate::nn::init;
use crate::nn::pos_embed::sincos_3d;
use crate::nn::unetr::UnetrConfig;
use crate::nn::vit::{ENCODER, VitConfig};
use crate::seg::Task;
use crate::seg::task::TaskKind;
use crate::{Error, Result};

/// The sizes of the network for a task with windows of `roi`: those of the encoder when there is one, else
/// of the configuration.
pub fn network_config(
    config: &FinetuneConfig,
    encoder: Option<&Encoder>,
    task: &Task,
    roi: [usize; 3],
) -> NetworkConfig {
    let (m, in_chans, outputs) = (&config.model, task.channels.len(), task.outputs());
    let vit = match encoder.map(|e| &e.config) {
        Some(e) => VitConfig {
            in_chans,
            roi,
            patch: e.patch,
            dim: e.dim,
            depth: e.depth,
            heads: e.heads,
            mlp_hidden: e.mlp_hidden,
            norm_eps: e.norm_eps,
        },
        None => VitConfig {
            in_chans,
            roi,
            patch: m.patch,
            dim: m.dim,
            depth: m.depth,
            heads: m.heads,
            mlp_hidden: (m.dim as f64 * m.mlp_ratio).round() as usize,
            norm_eps: m.norm_eps,
        },
    };
    if task.kind == TaskKind::ImageClasses {
        let pooled_norm = m.pooled_norm;
        return NetworkConfig::Classifier(ClassifierConfig { vit, outputs, pooled_norm });
    }
    let VitConfig { in_chans, roi, patch, dim, depth, heads, mlp_hidden, norm_eps } = vit;
    let feature_size = m.feature_size;
    NetworkConfig::Unetr(UnetrConfig {
        in_chans,
        outputs,
        roi,
        patch,
        dim,
        depth,
        heads,
        mlp_hidden,
        feature_size,
        norm_eps,
    })
}

/// Reads the encoder of whatever [`read_encoder`] knows: our runs and checkpoints, imported encoders,
/// safetensors with the names of MONAI, timm or the official code. `partial` takes what fits.
///
/// Errors: as [`read_encoder`], with a word on `glmae import` where the file does not say enough.
pub fn read(path: &Path, partial: bool) -> Result<Encoder> {
    let told_by_import = |text: String| match ["--heads", "--grid", "--patch", "--prefix"]
        .iter()
        .any(|flag| text.contains(flag))
    {
        true => {
            format!("{text} to `glmae import`, and fine-tune the encoder.safetensors it writes")
        }
        false => text,
    };
    read_encoder(path, partial).map_err(|error| match error {
        Error::Config(text) => Error::Config(told_by_import(text)),
        Error::Data { path, reason } => Error::Data { path, reason: told_by_import(reason) },
        other => other,
    })
}

/// Makes an encoder one for the images of a network: a patch kernel of fewer channels is repeated (not
/// divided), the table of positions is resized trilinearly when the token grid is another.
///
/// Errors: as [`Encoder::adapt_channels`] and [`Encoder::adapt_grid`]. Source: docs/method.md, 6.1.
pub fn fit(mut encoder: Encoder, network: &VitConfig) -> Result<Encoder> {
    encoder.adapt_channels(network.in_chans)?;
    encoder.adapt_grid(network.grid())?;
    Ok(encoder)
}

/// A network before step 0: drawn from `seed`, then what `encoder`, which must fit, has. The position
/// rows are the encoder's or, from scratch, those of sines and cosines.
///
/// Errors: `Shape` for an encoder of other sizes.
pub fn start(
    device: &Device,
    dtype: DType,
    sizes: impl Into<NetworkConfig>,
    seed: u64,
    encoder: Option<&Encoder>,
) -> Result<Segmenter> {
    let sizes = sizes.into();
    let config = sizes.vit();
    let positions = match encoder {
        None => sincos_3d(config.grid(), config.dim),
        Some(encoder) => doubles(&encoder.get("pos_embed")?.1),
    };
    // The cls row has no token here.
    let rows = positions.get(config.dim..).unwrap_or_default();
    let mut segmenter = Segmenter::zeros(device, dtype, &sizes, rows)?;
    init::init(&mut segmenter.params, seed)?;
    for entry in segmenter.params.layout().entries().to_vec() {
        let inner = entry.name.strip_prefix(ENCODER);
        let found = inner.zip(encoder).and_then(|(name, encoder)| encoder.tensors.get(name));
        // What a partial load lacks stays as drawn.
        let Some((shape, values)) = found else { continue };
        if *shape != entry.shape {
            let expected = format!("{}: {:?}", entry.name, entry.shape);
            return Err(Error::shape("encoder", expected, format!("{shape:?}")));
        }
        segmenter.params.value_mut(&entry.name)?.upload_f64(&doubles(values))?;
    }
    segmenter.params.refresh_half()?;
    Ok(segmenter)
}

fn doubles(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}
