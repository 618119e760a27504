//! A classifier of whole images: the mean of the encoder's tokens, its last norm, a linear layer
//! (docs/method.md, 6.3).

use super::params::Params;
use super::vit::{Pass, Vit, VitConfig, VitPlan};
use crate::device::nvtx;
use crate::ops::VoxelGrid;
use crate::ops::mean_pool::Pooled;
use crate::param_layout::{ParamId, ParamLayout};
use crate::tape::{Tape, Var};
use crate::{Error, Result};

/// The sizes of a network.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ClassifierConfig {
    #[serde(flatten)]
    pub vit: VitConfig,
    /// Classes.
    pub outputs: usize,
    /// The encoder's last norm between the mean and the linear layer. The released code has it in the
    /// network and does not use its result.
    pub pooled_norm: bool,
}

impl ClassifierConfig {
    /// Errors name what does not go together.
    pub fn check(&self) -> Result<()> {
        if self.outputs < 2 {
            let reason = format!("classifier: {} classes, 2 are needed", self.outputs);
            return Err(Error::Config(reason));
        }
        self.vit.check("classifier")
    }
}

/// The network, without parameters.
#[derive(Clone, Debug)]
pub struct Classifier {
    vit: Vit,
    grid: [usize; 3],
    pooled_norm: bool,
    head: (ParamId, ParamId),
}

/// The norm's parameters, which a network without `pooled_norm` has for the encoder's sake.
pub const NORM: &str = "vit.norm.";

impl Classifier {
    /// Adds the parameters to `layout`: the encoder's under `vit.`, `head.conv.weight` as a kernel of one
    /// voxel `[outputs, dim, 1, 1, 1]`, and `head.conv.bias`. Errors: see [`ClassifierConfig::check`].
    pub fn new(layout: &mut ParamLayout, config: &ClassifierConfig) -> Result<Self> {
        config.check()?;
        let vit = Vit::new(layout, &config.vit);
        let head = (
            layout.add("head.conv.weight", &[config.outputs, config.vit.dim, 1, 1, 1]),
            layout.add("head.conv.bias", &[config.outputs]),
        );
        Ok(Self { vit, grid: config.vit.grid(), pooled_norm: config.pooled_norm, head })
    }

    /// Logits `[batch, outputs]`, and the activations `tokens` and `pooled`.
    ///
    /// Shapes: as [`Vit::forward`]. Numerics: the last layer is that of scores, which makes f32 logits of
    /// bf16 activations. Source: docs/method.md, 6.3; He et al., arXiv 2111.06377, A.1 (norm after the mean).
    pub fn forward(
        &self,
        tape: &mut Tape<'_>,
        params: &Params,
        plan: &VitPlan,
        inputs: [&Var; 2],
        keeps_activations: bool,
    ) -> Result<Pass> {
        let _range = nvtx::range(|| "classifier");
        let tokens = self.vit.forward(tape, params, plan, inputs, |_, _| {})?;
        let mut pooled = tape.mean_pool(&tokens, &plan.packing, Pooled::All)?;
        if self.pooled_norm {
            pooled = self.vit.norm.forward(tape, params, &pooled)?;
        }
        let rows = VoxelGrid { batch: plan.batch, dims: [1; 3] };
        let (weight, bias) = (params.get(self.head.0)?, params.get(self.head.1)?);
        let logits = tape.conv3d_scores(&pooled, rows, &weight, Some(&bias))?;
        let activations = match keeps_activations {
            true => vec![
                ("tokens".into(), tokens, VoxelGrid { batch: plan.batch, dims: self.grid }),
                ("pooled".into(), pooled, rows),
            ],
            false => Vec::new(),
        };
        Ok(Pass { logits, activations })
    }
}
