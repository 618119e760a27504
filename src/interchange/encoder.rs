//! An encoder from a file: ours, MONAI's, or one with official (timm) names, under any of the
//! prefixes that programs put before them.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::file::{Values, shown, write};
use super::said::{CONFIG, FORMAT, Note};
use super::segmenter::{self, SegmenterWeights};
use super::{foreign, own, patch};
use crate::nn::pos_embed::{interpolate, sincos_3d};
use crate::nn::vit::VitConfig;
use crate::{Error, Result};

/// The sizes of an encoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderConfig {
    pub in_chans: usize,
    /// Edge of a patch in voxels.
    pub patch: usize,
    /// Width, blocks, heads, hidden width of the MLPs.
    pub dim: usize,
    pub depth: usize,
    pub heads: usize,
    pub mlp_hidden: usize,
    /// Of the layer norms it was trained with: 1e-6 in GL-MAE and timm, 1e-5 in MONAI.
    pub norm_eps: f64,
}

impl EncoderConfig {
    /// The encoder over windows of `roi` voxels with `in_chans` channels.
    pub fn vit(&self, in_chans: usize, roi: [usize; 3]) -> VitConfig {
        let Self { patch, dim, depth, heads, mlp_hidden, norm_eps, .. } = *self;
        VitConfig { in_chans, roi, patch, dim, depth, heads, mlp_hidden, norm_eps }
    }
}

impl From<&VitConfig> for EncoderConfig {
    fn from(vit: &VitConfig) -> Self {
        let VitConfig { in_chans, patch, dim, depth, heads, mlp_hidden, norm_eps, .. } = *vit;
        Self { in_chans, patch, dim, depth, heads, mlp_hidden, norm_eps }
    }
}

/// What became of the tensors of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ImportReport {
    /// What the file was taken for.
    pub source: String,
    /// Parameters, under our names.
    pub loaded: Vec<String>,
    /// What neither the file nor the user says, and what it was taken for, one sentence each.
    pub assumed: Vec<String>,
    /// What was changed or made up on the way, one sentence each.
    pub adapted: Vec<String>,
    /// Parameters, under our names, that the file does not have (only in partial loads).
    pub missing: Vec<String>,
    /// Tensors, under the file's names, that no encoder of ours has (only in partial loads).
    pub unexpected: Vec<String>,
    /// Tensors of other parts, under the file's names: decoders, heads, layers that MONAI does not use.
    pub ignored: Vec<String>,
}

impl ImportReport {
    /// A line for each thing that a user should know; of long lists the beginning.
    pub fn lines(&self) -> Vec<String> {
        let listed = |names: &[String]| {
            let first: Vec<String> = names.iter().take(SHOWN).map(|n| shown(n)).collect();
            let more = if names.len() > SHOWN { ", ..." } else { "" };
            format!("{}: {}{more}", names.len(), first.join(", "))
        };
        let mut lines = vec![format!("taken for {}", shown(&self.source))];
        lines.push(format!("{} parameters loaded", self.loaded.len()));
        lines.extend(self.assumed.iter().map(|what| format!("assumed {what}")));
        lines.extend(self.adapted.iter().map(|what| format!("adapted {what}")));
        for (what, names) in [
            ("missing", &self.missing),
            ("unexpected", &self.unexpected),
            ("left out", &self.ignored),
        ] {
            lines.extend((!names.is_empty()).then(|| format!("{what} {}", listed(names))));
        }
        lines
    }
}

/// Names of a list in a line.
const SHOWN: usize = 5;

/// What a file does not say. Where it does say it, these must agree with it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImportOptions {
    /// Take what fits, even if parameters are missing or unknown.
    pub partial: bool,
    /// Heads, which no shape tells.
    pub heads: Option<usize>,
    /// Grid d h w of the table of positions; default: that of its sines and cosines, or a cube.
    pub grid: Option<[usize; 3]>,
    /// Edge of a patch, for MONAI's "perceptron", whose shape does not tell; default: the one with which an
    /// image has at most 7 channels.
    pub patch: Option<usize>,
    /// Of the layer norms; default: 1e-5 for MONAI's names, 1e-6 for timm's.
    pub norm_eps: Option<f64>,
    /// Where the encoder is, such as `teacher.backbone.`; default: under known wrappers, of several the
    /// student's, or the only prefix there is.
    pub prefix: Option<String>,
}

/// The parameters of a pre-trained encoder in host memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoder {
    pub config: EncoderConfig,
    /// Grid d h w of `pos_embed`; `None` when the file has none, or neither it nor its size tells.
    pub grid: Option<[usize; 3]>,
    /// Shape and values under our names (docs/method.md, 3.8): `patch_embed.proj.weight`
    /// `[dim, in_chans, patch, patch, patch]`, `blocks.{i}.*`, `norm.*`, `pos_embed`
    /// `[1, 1 + tokens, dim]` (row 0 is the cls token's, zero where there was none), and
    /// `cls_token` if the file has it.
    pub tensors: BTreeMap<String, Values>,
    pub report: ImportReport,
}

/// Reads the encoder of a file: a run folder or a checkpoint of `glmae pretrain` (or its
/// `teacher.safetensors`) or of `glmae finetune`, `encoder.safetensors` of `glmae import`, a
/// `glmae-segmenter-1` file, or a safetensors file of MONAI's `ViT` or `UNETR`, of timm or of the
/// official code.
///
/// `partial` takes what fits. Errors: [`Error::Data`] naming the tensor that is missing, unknown, of
/// another shape or not finite; [`Error::Config`] when the file does not tell what
/// [`read_encoder_with`] can be told; [`Error::Io`].
pub fn read_encoder(path: &Path, partial: bool) -> Result<Encoder> {
    read_encoder_with(path, &ImportOptions { partial, ..Default::default() })
}

/// [`read_encoder`] with what the file does not say.
pub fn read_encoder_with(path: &Path, options: &ImportOptions) -> Result<Encoder> {
    let is_checkpoint = own::is_checkpoint(path);
    let is_segmenter = !is_checkpoint && SegmenterWeights::is_one(path)?;
    if !is_checkpoint && !is_segmenter {
        return foreign::read(path, options);
    }
    let told = ImportOptions { partial: options.partial, ..Default::default() };
    if *options != told {
        let reason = "a checkpoint of glmae says its heads, grid and patch itself: leave them out";
        return Err(Error::Config(format!("{}: {reason}", path.display())));
    }
    if is_segmenter {
        return own::encoder_of(SegmenterWeights::read(path)?, segmenter::FORMAT);
    }
    own::read(path)
}

impl Encoder {
    /// Shape and values of a tensor. Errors: [`Error::Config`] when it is not there.
    pub fn get(&self, name: &str) -> Result<&Values> {
        let found = self.tensors.get(name);
        found.ok_or_else(|| Error::Config(format!("the encoder has no tensor '{name}'")))
    }

    /// Writes `encoder.safetensors`, which [`read_encoder`] reads again, the report apart.
    ///
    /// Errors: [`Error::Io`].
    pub fn write(&self, path: &Path) -> Result<()> {
        let note = Note { config: self.config.clone(), grid: self.grid }.to_json()?;
        write(path, &self.tensors, &[("format", FORMAT.into()), (CONFIG, note)])
    }

    /// Makes it one for images of `in_chans` channels: the patch kernel is repeated, not divided.
    ///
    /// Errors: [`Error::Config`] when `in_chans` is no multiple of what it has.
    /// Source: docs/method.md, 6.1.
    pub fn adapt_channels(&mut self, in_chans: usize) -> Result<()> {
        let (from, EncoderConfig { dim, .. }) = (self.config.in_chans, self.config.clone());
        if in_chans == from {
            return Ok(());
        }
        // 4096 is far beyond images, and keeps a mistyped number from filling the memory.
        if in_chans == 0 || !in_chans.is_multiple_of(from) || in_chans > 4096 {
            return Err(Error::Config(format!(
                "an encoder of {from} channels cannot be repeated to {in_chans} channels"
            )));
        }
        let name = "patch_embed.proj.weight";
        if let Some((shape, values)) = self.tensors.get_mut(name) {
            *values = patch::repeat_channels(values, dim, in_chans / from);
            shape[1] = in_chans;
        }
        self.config.in_chans = in_chans;
        let times = in_chans / from;
        self.report.adapted.push(format!("{name}: its channels ({from}) repeated {times} times"));
        Ok(())
    }

    /// Makes it one for images of the token grid `grid` (d h w): the table of positions is
    /// interpolated trilinearly, without aligned corners. Without a table it gets the sin-cos table.
    ///
    /// Errors: [`Error::Config`] when the table's own grid is not known and another is asked for.
    /// Source: docs/method.md, 6.1.
    pub fn adapt_grid(&mut self, grid: [usize; 3]) -> Result<()> {
        let dim = self.config.dim;
        let tokens = grid.iter().try_fold(1usize, |n, &g| n.checked_mul(g));
        let tokens = tokens.filter(|&n| n > 0 && n.saturating_mul(dim) < 1 << 31);
        let Some(tokens) = tokens else {
            return Err(Error::Config(format!("a grid of {grid:?} tokens is no grid of an image")));
        };
        if self.grid == Some(grid) {
            return Ok(());
        }
        let table = self.tensors.get("pos_embed").map(|(_, values)| values);
        let (made, how) = match (table, self.grid) {
            (None, _) => (sincos_3d(grid, dim), format!("made, sin-cos of the grid {grid:?}")),
            (Some(table), Some(from)) => {
                let table: Vec<f64> = table.iter().map(|&v| f64::from(v)).collect();
                let how = format!("interpolated from the grid {from:?} to {grid:?}");
                (interpolate(&table, dim, from, grid), how)
            }
            (Some(table), None) => {
                let rows = table.len() / dim;
                return Err(Error::Config(format!(
                    "the table of positions has {} rows and its grid is not known: give --grid, that \
                     of the pre-training,",
                    rows - 1
                )));
            }
        };
        let values = made.into_iter().map(|v| v as f32).collect();
        self.tensors.insert("pos_embed".into(), (vec![1, 1 + tokens, dim], values));
        self.grid = Some(grid);
        self.report.adapted.push(format!("pos_embed: {how}"));
        Ok(())
    }
}
