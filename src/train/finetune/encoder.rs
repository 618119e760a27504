//! Where the network starts: everything drawn from the seed, then the encoder from a file.

use std::path::{Path, PathBuf};

use crate::checkpoint::segmenter::{self, Start};
use crate::config::finetune::FinetuneConfig;
use crate::device::{DType, Device};
use crate::interchange::{Encoder, read_encoder};
use crate::nn::classifier::ClassifierConfig;
use crate::nn::init;
use crate::nn::network::NetworkConfig;
use crate::nn::pos_embed::sincos_3d;
use crate::nn::segmenter::Segmenter;
use crate::nn::unetr::UnetrConfig;
use crate::nn::vit::{ENCODER, VitConfig};
use crate::seg::Task;
use crate::seg::task::TaskKind;
use crate::train::run::{Resume, RunFolder, none_of};
use crate::{Error, Result};

/// What the weights of a run are before its first step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// All drawn from the seed.
    Scratch,
    /// The encoder of whatever [`read_encoder`] reads; `partial`: what fits of one with parameters that are
    /// missing or unknown.
    Encoder { path: PathBuf, partial: bool },
    /// Whatever the run that is resumed began with.
    AsBegun,
}

/// What an [`Origin`] comes to.
pub struct Begun {
    pub encoder: Option<Encoder>,
    /// As checkpoints bear it; `None`: as the checkpoint that is resumed says.
    pub start: Option<Start>,
    /// The network of that checkpoint.
    pub network: Option<NetworkConfig>,
}

/// Reads the encoder, or looks into the folder for what the run began with.
///
/// Errors: as [`read`]; [`Error::Config`] when nothing was begun.
pub fn begin(origin: &Origin, folder: &RunFolder, resume: &Resume) -> Result<Begun> {
    match origin {
        Origin::Scratch => Ok(Begun { encoder: None, start: Some(Start::Scratch), network: None }),
        Origin::Encoder { path, partial } => {
            let encoder =
                read(path, *partial).map_err(|e| match folder.checkpoints().is_empty() {
                    true => e,
                    false => with_advice(e),
                })?;
            let path = path.display().to_string();
            let start = Start::Encoder { path, crc32c: fingerprint(&encoder) };
            Ok(Begun { encoder: Some(encoder), start: Some(start), network: None })
        }
        Origin::AsBegun => {
            let from = match resume {
                Resume::From(path) => Some(segmenter::newest(path)?),
                Resume::Auto => match segmenter::latest(folder.path())? {
                    (None, damaged) => match damaged.first() {
                        Some(e) => return Err(none_of(folder.path(), damaged.len(), e)),
                        None => None,
                    },
                    (found, _) => found,
                },
                Resume::Never => None,
            };
            let from = from.ok_or_else(|| nothing_begun(folder.path()))?;
            let network = segmenter::read_info(&from)?.network()?;
            Ok(Begun { encoder: None, start: None, network: Some(network) })
        }
    }
}

/// The error of a run that is to go on as it began, and did not begin.
pub fn nothing_begun(folder: &Path) -> Error {
    Error::Config(format!(
        "{} holds no checkpoint of a fine-tuning to go on from: give --encoder PATH, or --scratch for random \
         weights",
        folder.display()
    ))
}

fn with_advice(error: Error) -> Error {
    const ADVICE: &str =
        "; the run folder has checkpoints: leave --encoder out to go on as it began";
    match error {
        Error::Config(text) => Error::Config(text + ADVICE),
        Error::Data { path, reason } => Error::Data { path, reason: reason + ADVICE },
        Error::Io { path, action, source } => {
            let source = std::io::Error::new(source.kind(), format!("{source}{ADVICE}"));
            Error::Io { path, action, source }
        }
        other => other,
    }
}

/// CRC-32C of the tensors of an encoder, with their names and shapes.
fn fingerprint(encoder: &Encoder) -> u32 {
    encoder.tensors.iter().fold(0, |crc, (name, (shape, values))| {
        let crc = crc32c::crc32c_append(crc, format!("{name} {shape:?}\n").as_bytes());
        values.iter().fold(crc, |crc, v| crc32c::crc32c_append(crc, &v.to_le_bytes()))
    })
}

/// The configuration with the sizes that the network has, whoever said them.
pub fn used(config: &FinetuneConfig, network: &NetworkConfig) -> FinetuneConfig {
    let (mut used, vit) = (config.clone(), network.vit());
    let m = &mut used.model;
    (m.patch, m.dim, m.depth, m.heads) = (vit.patch, vit.dim, vit.depth, vit.heads);
    m.norm_eps = vit.norm_eps;
    if vit.mlp_hidden != (m.dim as f64 * m.mlp_ratio).round() as usize {
        m.mlp_ratio = vit.mlp_hidden as f64 / vit.dim as f64;
    }
    used
}

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
        Some(e) => e.vit(in_chans, roi),
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
