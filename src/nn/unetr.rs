//! UNETR (arXiv 2103.10504): the encoder's tokens at several depths become volumes, are scaled up
//! and joined with the image in a U-shaped decoder.
//!
//! With patch 16 and 12 blocks this is MONAI's network (docs/method.md, 6.2). Other patch edges, powers of
//! two, have one level per doubling: with `levels = log2(patch)`, skip connection `k` (2 to `levels`)
//! comes from the block with index `(k - 1) depth / levels`, counted from 0, before any norm.

use super::conv_block::{ProjectionBlock, ResBlock, UpBlock};
use super::params::Params;
pub use super::vit::ENCODER;
use super::vit::{Pass, Vit, VitConfig, VitPlan};
use crate::device::nvtx;
use crate::ops::VoxelGrid;
use crate::param_layout::{ParamId, ParamLayout};
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
        self.vit().grid()
    }

    /// Tokens of an image.
    pub fn tokens(&self) -> usize {
        self.vit().tokens()
    }

    /// The image and the encoder.
    pub fn vit(&self) -> VitConfig {
        let Self { in_chans, roi, patch, dim, depth, heads, mlp_hidden, norm_eps, .. } = *self;
        VitConfig { in_chans, roi, patch, dim, depth, heads, mlp_hidden, norm_eps }
    }

    /// Errors name what does not go together.
    pub fn check(&self) -> Result<()> {
        let require = |ok: bool, message: String| {
            if ok { Ok(()) } else { Err(Error::Config(message)) }
        };
        require(
            self.outputs > 0 && self.feature_size > 0,
            "UNETR: every size must be at least 1".into(),
        )?;
        require(
            self.patch.is_power_of_two() && (2..=64).contains(&self.patch),
            format!("UNETR: the patch edge {} must be 2, 4, 8, 16, 32 or 64", self.patch),
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
        self.vit().check("UNETR")
    }
}

/// The network, without parameters.
#[derive(Clone, Debug)]
pub struct Unetr {
    pub config: UnetrConfig,
    vit: Vit,
    image: ResBlock,
    /// Levels 2, 3, ...: the index of the block they come from.
    skips: Vec<(usize, ProjectionBlock)>,
    /// From the tokens to the image.
    ups: Vec<UpBlock>,
    out: (ParamId, ParamId),
}

impl Unetr {
    /// Adds the parameters to `layout`: the encoder's under `vit.` with the published names, the
    /// others with MONAI's. Errors: see [`UnetrConfig::check`].
    pub fn new(layout: &mut ParamLayout, config: &UnetrConfig) -> Result<Self> {
        config.check()?;
        let UnetrConfig { in_chans, dim, depth, .. } = *config;
        let (f, levels) = (config.feature_size, config.levels());
        let vit = Vit::new(layout, &config.vit());
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
        Ok(Self { config: config.clone(), vit, image, skips, ups, out })
    }

    /// Shapes: `voxels` `[batch * in_chans * voxels]` (planar), `image` the same as
    /// `[batch * voxels, in_chans]` in the dtype of activations, `positions` `[batch * tokens, dim]`
    /// (not trained; a value on the tape, so that its gradient can be asked for).
    /// Source: MONAI 1.6 `UNETR`; docs/method.md, 6.2.
    pub fn forward(
        &self,
        tape: &mut Tape<'_>,
        params: &Params,
        plan: &VitPlan,
        [voxels, image, positions]: [&Var; 3],
        keeps_activations: bool,
    ) -> Result<Pass> {
        let batch = plan.batch;
        let (grid, levels) = (VoxelGrid { batch, dims: self.config.grid() }, self.config.levels());
        let mut activations = Vec::new();
        let mut keep = |name: String, value: &Var, grid: VoxelGrid| {
            if keeps_activations {
                activations.push((name, value.clone(), grid));
            }
        };
        let _range = nvtx::range(|| "unetr");
        let mut taken = Vec::new();
        let x = self.vit.forward(tape, params, plan, [voxels, positions], |i, x| {
            if self.skips.iter().any(|(from, _)| *from == i) {
                keep(format!("tokens{i}"), x, grid);
                taken.push(x.clone());
            }
        })?;
        let tokens = self.vit.norm.forward(tape, params, &x)?;
        drop(x);
        keep("tokens".into(), &tokens, grid);
        // Deepest first: each is made when it is needed and gone afterwards.
        let mut y = tokens;
        let mut at = grid;
        for (up, level) in self.ups.iter().zip((1..=levels).rev()) {
            let skip = match level {
                1 => {
                    let full = VoxelGrid { batch, dims: self.config.roi };
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
        Ok(Pass { logits, activations })
    }
}
