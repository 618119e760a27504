//! UNETR (arXiv 2103.10504): the encoder's tokens at several depths become volumes, are scaled up
//! and joined with the image in a U-shaped decoder.
//!
//! With patch 16 and 12 blocks this is MONAI's network (gl-mae 5.3). Other patch edges, powers of
//! two, have one level per doubling: with `levels = log2(patch)`, skip connection `k` (2 to `levels`)
//! comes from the block with index `(k - 1) depth / levels`, counted from 0, before any norm.

use super::block::{Block, Linear, Norm};
use super::conv_block::{ProjectionBlock, ResBlock, UpBlock};
use super::params::{ParamId, ParamLayout, Params};
use crate::device::{Device, nvtx};
use crate::ops::Grid;
use crate::ops::attention::Packing;
use crate::ops::linear::Epilogue;
use crate::ops::patch_gather::{PatchPlan, VolumeAt, VoxelOrder};
use crate::tape::{Tape, Var};
use crate::{Error, Result};

/// The sizes of a network.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnetrConfig {
    /// Channels of the image and of the result.
    pub in_chans: usize,
    pub outputs: usize,
    /// The image, d h w.
    pub roi: [usize; 3],
    pub patch: usize,
    /// Encoder: width, blocks, heads, hidden width of the MLPs.
    pub dim: usize,
    pub depth: usize,
    pub heads: usize,
    pub mlp_hidden: usize,
    /// Channels at full resolution.
    pub feature_size: usize,
    /// Of the encoder's layer norms: 1e-6 as in GL-MAE; MONAI's is 1e-5.
    pub norm_eps: f64,
}

impl UnetrConfig {
    /// Doublings from the token grid to the image.
    pub fn levels(&self) -> usize {
        self.patch.trailing_zeros() as usize
    }

    /// Tokens along d, h, w.
    pub fn grid(&self) -> [usize; 3] {
        self.roi.map(|n| n / self.patch)
    }

    /// Tokens of an image.
    pub fn tokens(&self) -> usize {
        self.grid().iter().product()
    }

    /// Errors name what does not go together.
    pub fn check(&self) -> Result<()> {
        let require = |ok: bool, message: String| {
            if ok { Ok(()) } else { Err(Error::Config(message)) }
        };
        let sizes =
            [self.in_chans, self.outputs, self.dim, self.heads, self.mlp_hidden, self.feature_size];
        require(sizes.iter().all(|&n| n > 0), "UNETR: every size must be at least 1".into())?;
        require(
            self.patch.is_power_of_two() && (2..=64).contains(&self.patch),
            format!("UNETR: the patch edge {} must be 2, 4, 8, 16, 32 or 64", self.patch),
        )?;
        require(
            self.dim.is_multiple_of(self.heads),
            format!("UNETR: width {} is not a multiple of {} heads", self.dim, self.heads),
        )?;
        require(
            self.depth >= self.levels(),
            format!(
                "UNETR: {} blocks cannot feed the {} levels of patch {}",
                self.depth,
                self.levels(),
                self.patch
            ),
        )?;
        require(
            self.roi.iter().all(|&n| n > 0 && n.is_multiple_of(self.patch)),
            format!(
                "UNETR: the window {:?} must be multiples of the patch {}",
                self.roi, self.patch
            ),
        )?;
        require(
            self.norm_eps > 0.0,
            format!("UNETR: norm_eps = {} must be positive", self.norm_eps),
        )
    }
}

/// The network, without parameters.
#[derive(Clone, Debug)]
pub struct Unetr {
    pub config: UnetrConfig,
    patch_embed: Linear,
    blocks: Vec<Block>,
    norm: Norm,
    image: ResBlock,
    /// Levels 2, 3, ...: the index of the block they come from.
    skips: Vec<(usize, ProjectionBlock)>,
    /// From the tokens to the image.
    ups: Vec<UpBlock>,
    out: (ParamId, ParamId),
}

/// What a forward pass reads beside its inputs.
#[derive(Clone, Debug)]
pub struct UnetrPlan {
    pub batch: usize,
    pub patches: PatchPlan,
    pub packing: Packing,
}

/// What a forward pass makes.
pub struct UnetrPass {
    /// `[batch * voxels, outputs]`, in the dtype of the master weights: f32 with bf16 activations.
    pub logits: Var,
    /// Outputs of the modules by name: `tokens3`, `tokens`, `encoder4`, `decoder5`, ... with their
    /// grids; only when asked for.
    pub activations: Vec<(String, Var, Grid)>,
}

/// Prefix of the encoder's parameters.
pub const ENCODER: &str = "vit.";

impl Unetr {
    /// Adds the parameters to `layout`: the encoder's under `vit.` with the names of gl-mae 5.1, the
    /// others with MONAI's. Errors: see [`UnetrConfig::check`].
    pub fn new(layout: &mut ParamLayout, config: &UnetrConfig) -> Result<Self> {
        config.check()?;
        let UnetrConfig { in_chans, patch: p, dim, depth, heads, mlp_hidden, .. } = *config;
        let (f, levels, eps) = (config.feature_size, config.levels(), config.norm_eps);
        let patch_embed = Linear::new(layout, "vit.patch_embed.proj", &[dim, in_chans, p, p, p]);
        let blocks = (0..depth)
            .map(|i| {
                let name = format!("vit.blocks.{i}");
                Block::new(layout, &name, dim, heads, mlp_hidden).with_eps(eps)
            })
            .collect();
        let norm = Norm::new(layout, "vit.norm", dim).with_eps(eps);
        let image = ResBlock::new(layout, "encoder1.layer", in_chans, f);
        let channels = |level: usize| f << (level - 1);
        let skips = (2..=levels)
            .map(|level| {
                let name = format!("encoder{level}");
                let block = (level - 1) * depth / levels;
                let rounds = levels - level;
                (block, ProjectionBlock::new(layout, &name, dim, channels(level), rounds))
            })
            .collect();
        let ups = (1..=levels)
            .rev()
            .map(|level| {
                let inputs = if level == levels { dim } else { channels(level + 1) };
                UpBlock::new(layout, &format!("decoder{}", level + 1), inputs, channels(level))
            })
            .collect();
        let out = (
            layout.add("out.conv.conv.weight", &[config.outputs, f, 1, 1, 1]),
            layout.add("out.conv.conv.bias", &[config.outputs]),
        );
        Ok(Self { config: config.clone(), patch_embed, blocks, norm, image, skips, ups, out })
    }

    /// The plan for `batch` images.
    pub fn plan(&self, device: &Device, batch: usize) -> Result<UnetrPlan> {
        let c = &self.config;
        let volume = c.in_chans * c.roi.iter().product::<usize>();
        let volumes: Vec<VolumeAt> = (0..batch)
            .map(|b| VolumeAt { offset: b * volume, channels: c.in_chans, dims: c.roi })
            .collect();
        let tokens = c.tokens();
        let rows: Vec<(usize, usize)> =
            (0..batch * tokens).map(|i| (i / tokens, i % tokens)).collect();
        Ok(UnetrPlan {
            batch,
            patches: PatchPlan::new(device, c.patch, &volumes, &rows)?,
            packing: Packing::new(device, &vec![tokens; batch])?,
        })
    }

    /// Shapes: `voxels` `[batch * in_chans * voxels]` (planar), `image` the same as
    /// `[batch * voxels, in_chans]` in the dtype of activations, `positions` `[batch * tokens, dim]`
    /// (not trained; a value on the tape, so that its gradient can be asked for).
    /// Source: MONAI 1.6 `UNETR`, `UNETR_CASES.md`; gl-mae 5.3.
    pub fn forward<'a>(
        &self,
        tape: &mut Tape<'a>,
        params: &Params,
        plan: &UnetrPlan,
        [voxels, image, positions]: [&Var; 3],
        keeps_activations: bool,
    ) -> Result<UnetrPass> {
        let batch = plan.batch;
        let (grid, levels) = (Grid { batch, dims: self.config.grid() }, self.config.levels());
        let mut activations = Vec::new();
        let mut keep = |name: String, value: &Var, grid: Grid| {
            if keeps_activations {
                activations.push((name, value.clone(), grid));
            }
        };
        let (order, dtype) = (VoxelOrder::ChannelsFirst, params.activation_dtype());
        let _range = nvtx::range(|| "unetr");
        let patches = tape.patch_gather(voxels, &plan.patches, order, dtype)?;
        let mut x = self.patch_embed.forward(tape, params, &patches, Epilogue::Add(positions))?;
        drop(patches);
        let mut taken = Vec::new();
        for (i, block) in self.blocks.iter().enumerate() {
            x = block.forward(tape, params, &x, &plan.packing)?;
            if self.skips.iter().any(|(from, _)| *from == i) {
                keep(format!("tokens{i}"), &x, grid);
                taken.push(x.clone());
            }
        }
        let tokens = self.norm.forward(tape, params, &x)?;
        drop(x);
        keep("tokens".into(), &tokens, grid);
        // Deepest first: each is made when it is needed and gone afterwards.
        let mut y = tokens;
        let mut at = grid;
        for (up, level) in self.ups.iter().zip((1..=levels).rev()) {
            let skip = match level {
                1 => {
                    let full = Grid { batch, dims: self.config.roi };
                    self.image.forward(tape, params, &[image], full)?
                }
                _ => {
                    let (_, block) = &self.skips[level - 2];
                    let (skip, skip_grid) = block.forward(tape, params, &taken[level - 2], grid)?;
                    taken.truncate(level - 2);
                    keep(format!("encoder{level}"), &skip, skip_grid);
                    skip
                }
            };
            y = up.forward(tape, params, &y, &skip, at)?;
            at = at.doubled();
            keep(format!("decoder{}", level + 1), &y, at);
        }
        let (weight, bias) = (params.get(self.out.0)?, params.get(self.out.1)?);
        let logits = tape.conv3d_scores(&y, at, &weight, Some(&bias))?;
        Ok(UnetrPass { logits, activations })
    }
}
