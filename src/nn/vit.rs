//! The ViT under a fine-tuned network: patches of whole images, fixed positions, blocks. No cls token.

use super::block::{Block, Linear, Norm};
use super::params::Params;
use crate::device::Device;
use crate::ops::VoxelGrid;
use crate::ops::attention::Packing;
use crate::ops::linear::PostOp;
use crate::ops::patch_gather::{PatchPlan, VolumeAt, VoxelOrder};
use crate::param_layout::ParamLayout;
use crate::tape::{Tape, Var};
use crate::{Error, Result};

/// The image and the sizes of the encoder.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct VitConfig {
    pub in_chans: usize,
    /// The image, d h w.
    pub roi: [usize; 3],
    pub patch: usize,
    /// Width, blocks, heads, hidden width of the MLPs.
    pub dim: usize,
    pub depth: usize,
    pub heads: usize,
    pub mlp_hidden: usize,
    /// Of the layer norms: 1e-6 as in GL-MAE; MONAI's is 1e-5.
    pub norm_eps: f64,
}

impl VitConfig {
    /// Tokens along d, h, w.
    pub fn grid(&self) -> [usize; 3] {
        self.roi.map(|n| n / self.patch)
    }

    /// Tokens of an image.
    pub fn tokens(&self) -> usize {
        self.grid().iter().product()
    }

    /// Errors name what does not go together; `network` begins them.
    pub fn check(&self, network: &str) -> Result<()> {
        let require = |ok: bool, message: String| {
            if ok { Ok(()) } else { Err(Error::Config(format!("{network}: {message}"))) }
        };
        let sizes = [self.in_chans, self.patch, self.dim, self.depth, self.heads, self.mlp_hidden];
        require(sizes.iter().all(|&n| n > 0), "every size must be at least 1".into())?;
        require(
            self.dim.is_multiple_of(self.heads),
            format!("width dim = {} is not a multiple of {} heads", self.dim, self.heads),
        )?;
        require(
            self.roi.iter().all(|&n| n > 0 && n.is_multiple_of(self.patch)),
            format!(
                "the window roi = {:?} must be multiples of the patch {}",
                self.roi, self.patch
            ),
        )?;
        require(self.norm_eps > 0.0, format!("norm_eps = {} must be positive", self.norm_eps))
    }
}

/// What a forward pass reads beside its inputs.
#[derive(Clone, Debug)]
pub struct VitPlan {
    pub batch: usize,
    pub patches: PatchPlan,
    pub packing: Packing,
}

/// What a forward pass of a network makes.
pub struct Pass {
    /// `[batch * voxels, outputs]`, or `[batch, outputs]` of a classifier, in the dtype of the master
    /// weights: f32 with bf16 activations.
    pub logits: Var,
    /// Outputs of the modules by name: `tokens3`, `tokens`, `encoder4`, `decoder5`, ... with their
    /// grids; only when asked for.
    pub activations: Vec<(String, Var, VoxelGrid)>,
}

/// Prefix of the encoder's parameters.
pub const ENCODER: &str = "vit.";

/// The encoder without its last norm, which networks apply in different places.
#[derive(Clone, Debug)]
pub struct Vit {
    patch_embed: Linear,
    blocks: Vec<Block>,
    pub norm: Norm,
}

impl Vit {
    /// Adds the parameters under `vit.` with the published names (docs/method.md, 3.8).
    pub fn new(layout: &mut ParamLayout, config: &VitConfig) -> Self {
        let VitConfig { in_chans, patch: p, dim, depth, heads, mlp_hidden, norm_eps, .. } = *config;
        let patch_embed = Linear::new(layout, "vit.patch_embed.proj", &[dim, in_chans, p, p, p]);
        let blocks = (0..depth)
            .map(|i| {
                let name = format!("vit.blocks.{i}");
                Block::new(layout, &name, dim, heads, mlp_hidden).with_eps(norm_eps)
            })
            .collect();
        let norm = Norm::new(layout, "vit.norm", dim).with_eps(norm_eps);
        Self { patch_embed, blocks, norm }
    }

    /// The plan for `batch` images.
    pub fn plan(config: &VitConfig, device: &Device, batch: usize) -> Result<VitPlan> {
        let volume = config.in_chans * config.roi.iter().product::<usize>();
        let volumes: Vec<VolumeAt> = (0..batch)
            .map(|b| VolumeAt { offset: b * volume, channels: config.in_chans, dims: config.roi })
            .collect();
        let tokens = config.tokens();
        let rows: Vec<(usize, usize)> =
            (0..batch * tokens).map(|i| (i / tokens, i % tokens)).collect();
        Ok(VitPlan {
            batch,
            patches: PatchPlan::new(device, config.patch, &volumes, &rows)?,
            packing: Packing::new(device, &vec![tokens; batch])?,
        })
    }

    /// Tokens `[batch * tokens, dim]` after the last block, before any norm; `after(i, x)` sees those of
    /// every block.
    ///
    /// Shapes: `voxels` `[batch * in_chans * voxels]` (planar), `positions` `[batch * tokens, dim]`.
    pub fn forward(
        &self,
        tape: &mut Tape<'_>,
        params: &Params,
        plan: &VitPlan,
        [voxels, positions]: [&Var; 2],
        mut after: impl FnMut(usize, &Var),
    ) -> Result<Var> {
        let (order, dtype) = (VoxelOrder::ChannelsFirst, params.activation_dtype());
        let patches = tape.patch_gather(voxels, &plan.patches, order, dtype)?;
        let mut x = self.patch_embed.forward(tape, params, &patches, PostOp::Add(positions))?;
        drop(patches);
        for (i, block) in self.blocks.iter().enumerate() {
            x = block.forward(tape, params, &x, &plan.packing)?;
            after(i, &x);
        }
        Ok(x)
    }
}
