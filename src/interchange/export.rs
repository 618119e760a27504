//! Our weights as the state dict of another program, complete enough for a strict load.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use super::encoder::{Encoder, EncoderConfig, read_encoder};
use super::file::{Values, write};
use super::said::{CONSTRUCT, EXPORTED, Note};
use super::segmenter::{self, SegmenterWeights};
use super::{monai, own, patch};
use crate::atomic;
use crate::checkpoint::FOLDER;
use crate::nn::unetr::ENCODER;
use crate::{Error, Result};

/// Whose state dict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Monai(monai::Version),
    /// The names of timm and of the official code (docs/method.md, 3.8).
    Timm,
}

impl Target {
    pub const ALL: [Self; 4] = [
        Self::Monai(monai::Version::V1_6),
        Self::Monai(monai::Version::V1_4),
        Self::Monai(monai::Version::V1_0),
        Self::Timm,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Monai(monai::Version::V1_6) => "monai-1.6",
            Self::Monai(monai::Version::V1_4) => "monai-1.4",
            Self::Monai(monai::Version::V1_0) => "monai-1.0",
            Self::Timm => "timm",
        }
    }

    /// Errors: [`Error::Config`] with the list of targets.
    pub fn parse(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|t| t.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::Config(format!("--target {name}: no such target; there are {names}"))
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Variants of MONAI's networks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExportOptions {
    /// The patch embedding as a linear layer ("perceptron") instead of a convolution.
    pub perceptron: bool,
    /// Leave out `attn.qkv.bias`, for networks that are built without (MONAI's default).
    pub without_qkv_bias: bool,
    /// Of a segmentation network the encoder alone.
    pub encoder_only: bool,
}

/// A state dict.
#[derive(Clone, Debug, PartialEq)]
pub struct Exported {
    /// Shape and values by the target's names.
    pub tensors: BTreeMap<String, Values>,
    /// Python that builds the network which loads it strictly.
    pub construct: String,
    /// The sizes of its encoder and the grid of the positions, for the way back.
    pub encoder: EncoderConfig,
    pub grid: Option<[usize; 3]>,
    /// What the state dict does not carry, one sentence each.
    pub lost: Vec<String>,
}

/// Errors: [`Error::Config`] when writing `out` would replace a part of the checkpoint `path` it is made of.
pub fn spare_source(path: &Path, out: &Path) -> Result<()> {
    let run = path.join(FOLDER);
    let read = if run.is_dir() { run.as_path() } else { path };
    match atomic::replaced([out], [read]) {
        Some(out) => Err(Error::Config(format!(
            "{} is part of {}, which it is made of; name another file",
            out.display(),
            path.display()
        ))),
        None => Ok(()),
    }
}

/// Reads a checkpoint or run folder of pre-training or of fine-tuning (a run's best network, else its
/// newest), `encoder.safetensors` or a segmenter (`glmae-segmenter-1`) and turns it into the state dict
/// of `target`: of a segmentation network all of it, decoder and output layer, too.
///
/// Errors: as [`read_encoder`] and [`SegmenterWeights::read`]; [`Error::Unsupported`] for sizes that
/// the target cannot be built with.
pub fn export(path: &Path, target: Target, options: &ExportOptions) -> Result<Exported> {
    if target == Target::Timm && (options.perceptron || options.without_qkv_bias) {
        let reason = "--perceptron and --without-qkv-bias are variants of MONAI's networks";
        return Err(Error::Config(reason.into()));
    }
    if !options.encoder_only {
        let whole = match own::is_checkpoint(path) {
            true => own::segmenter(path)?,
            false if SegmenterWeights::is_one(path)? => Some(SegmenterWeights::read(path)?),
            false => None,
        };
        if let Some(weights) = whole {
            return segmenter(&weights, target, options);
        }
    }
    encoder(&read_encoder(path, false)?, target, options)
}

impl Exported {
    /// Writes it as a safetensors file. Errors: [`Error::Io`].
    pub fn write(&self, path: &Path, target: Target) -> Result<()> {
        let note = Note { config: self.encoder.clone(), grid: self.grid };
        let notes = [
            ("format", "pt".to_owned()),
            ("glmae.target", target.to_string()),
            (CONSTRUCT, self.construct.clone()),
            (EXPORTED, note.to_json()?),
        ];
        write(path, &self.tensors, &notes)
    }
}

/// The encoder alone: MONAI's `ViT`, or a timm-style one.
pub fn encoder(encoder: &Encoder, target: Target, options: &ExportOptions) -> Result<Exported> {
    let config = &encoder.config;
    let Target::Monai(version) = target else {
        let construct = format!(
            "# a ViT as in timm, over 3-D patches: embed_dim={}, depth={}, num_heads={}, \
             mlp_hidden={}, patch={}, in_chans={}, num_classes=0, norm eps {:e}",
            config.dim,
            config.depth,
            config.heads,
            config.mlp_hidden,
            config.patch,
            config.in_chans,
            config.norm_eps
        );
        let tensors = encoder.tensors.clone();
        let (encoder, grid) = (config.clone(), encoder.grid);
        return Ok(Exported { tensors, construct, encoder, grid, lost: vec![] });
    };
    let mut lost = vec![norm_note(config.norm_eps)];
    let mut ours = encoder.tensors.clone();
    if ours.remove("cls_token").is_some() {
        lost.push(
            "cls_token: ViT has one only as a classifier; features without it differ from those of \
             the pre-training, as in every UNETR that is fine-tuned"
                .into(),
        );
    }
    let Some((shape, table)) = ours.get_mut("pos_embed") else {
        return Err(Error::Config("the encoder has no table of positions to export".into()));
    };
    table.drain(..config.dim);
    shape[1] -= 1;
    let grid = encoder.grid.ok_or_else(|| {
        let reason = "the grid of the table of positions is not known; glmae import --grid";
        Error::Config(reason.into())
    })?;
    let mut tensors = vit(ours, "", config, version, options)?;
    lost.extend(drop_qkv_bias(&mut tensors, options));
    let size = grid.map(|g| g * config.patch);
    let construct = format!(
        "monai.networks.nets.ViT(in_channels={}, img_size={}, patch_size={}, hidden_size={}, \
         mlp_dim={}, num_layers={}, num_heads={}, {}=\"{}\", qkv_bias={})",
        config.in_chans,
        tuple(size),
        tuple([config.patch; 3]),
        config.dim,
        config.mlp_hidden,
        config.depth,
        config.heads,
        version.projection_argument(),
        projection(options),
        python(!options.without_qkv_bias)
    );
    Ok(Exported { tensors, construct, encoder: config.clone(), grid: Some(grid), lost })
}

/// The whole segmentation network: MONAI's `UNETR`, or the author's variant with official names.
pub fn segmenter(
    weights: &SegmenterWeights,
    target: Target,
    options: &ExportOptions,
) -> Result<Exported> {
    let config = &weights.config;
    if (config.patch, config.depth) != (16, 12) {
        let what = format!("patch {} and {} blocks", config.patch, config.depth);
        return Err(Error::Unsupported(format!(
            "a UNETR of {what}: MONAI and the official code build it with patch 16 and 12 blocks \
             only; --encoder-only exports its encoder"
        )));
    }
    let build = |head: &str, tail: &str| {
        format!(
            "{head}(in_channels={}, out_channels={}, img_size={}, feature_size={}, hidden_size={}, \
             mlp_dim={}, num_heads={}{tail})",
            config.in_chans,
            config.outputs,
            tuple(config.roi),
            config.feature_size,
            config.dim,
            config.mlp_hidden,
            config.heads
        )
    };
    let (encoder, grid) = (EncoderConfig::from(&config.vit()), Some(config.grid()));
    let Target::Monai(version) = target else {
        let construct = build("# UNETR with a timm-style encoder under vit.: UNETR", "");
        let tensors = weights.tensors.clone();
        return Ok(Exported { tensors, construct, encoder, grid, lost: vec![] });
    };
    let mut rest = weights.tensors.clone();
    let is_encoder = |name: &String| name.starts_with(ENCODER);
    let names: Vec<String> = rest.keys().filter(|name| is_encoder(name)).cloned().collect();
    let inner = names.into_iter().filter_map(|name| {
        let values = rest.remove(&name)?;
        Some((name.strip_prefix(ENCODER)?.to_owned(), values))
    });
    let inner: BTreeMap<String, Values> = inner.collect();
    debug_assert!(inner.contains_key(segmenter::POSITIONS.trim_start_matches(ENCODER)));
    let mut tensors = vit(inner, ENCODER, &encoder, version, options)?;
    tensors.extend(rest);
    let mut lost = vec![norm_note(config.norm_eps)];
    lost.extend(drop_qkv_bias(&mut tensors, options));
    let tail = format!(
        ", {}=\"{}\", qkv_bias={}",
        version.projection_argument(),
        projection(options),
        python(!options.without_qkv_bias)
    );
    let construct = build("monai.networks.nets.UNETR", &tail);
    Ok(Exported { tensors, construct, encoder, grid, lost })
}

/// MONAI's `ViT` from our encoder, whose table has no cls row.
fn vit(
    ours: BTreeMap<String, Values>,
    prefix: &str,
    config: &EncoderConfig,
    version: monai::Version,
    options: &ExportOptions,
) -> Result<BTreeMap<String, Values>> {
    let EncoderConfig { dim, in_chans, patch: p, .. } = *config;
    let mut tensors = BTreeMap::new();
    for (name, (mut shape, mut values)) in ours {
        let mut theirs = monai::encoder_name(&name);
        if options.perceptron && name.starts_with("patch_embed.proj.") {
            theirs = theirs.replace("patch_embeddings.", "patch_embeddings.1.");
            if name.ends_with(".weight") {
                values = patch::to_perceptron(&values, in_chans, p);
                shape = vec![dim, p.pow(3) * in_chans];
            }
        }
        tensors.insert(format!("{prefix}{theirs}"), (shape, values));
    }
    for i in 0..config.depth {
        for (name, shape, value) in version.unused(dim, !options.without_qkv_bias) {
            let count = shape.iter().product();
            tensors.insert(format!("{prefix}blocks.{i}.{name}"), (shape, vec![value; count]));
        }
    }
    Ok(tensors)
}

fn drop_qkv_bias(
    tensors: &mut BTreeMap<String, Values>,
    options: &ExportOptions,
) -> Option<String> {
    if !options.without_qkv_bias {
        return None;
    }
    let mut largest = 0f32;
    tensors.retain(|name, (_, values)| {
        let dropped = name.ends_with(".attn.qkv.bias");
        if dropped {
            largest = values.iter().fold(largest, |m, v| m.max(v.abs()));
        }
        !dropped
    });
    Some(format!(
        "attn.qkv.bias of every block (largest value {largest:e}): outputs are others than ours"
    ))
}

fn norm_note(eps: f64) -> String {
    if eps == 1e-5 {
        return "nothing of the layer norms: their eps is MONAI's 1e-5".into();
    }
    format!(
        "the eps of layer norms: trained with {eps:e}, MONAI builds them with 1e-5; for equal outputs \
         set m.eps = {eps:e} on every torch.nn.LayerNorm m of the network"
    )
}

fn projection(options: &ExportOptions) -> &'static str {
    if options.perceptron { "perceptron" } else { "conv" }
}

fn tuple(sides: [usize; 3]) -> String {
    format!("({}, {}, {})", sides[0], sides[1], sides[2])
}

fn python(value: bool) -> &'static str {
    if value { "True" } else { "False" }
}
