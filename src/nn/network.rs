//! The networks that are fine-tuned: UNETR for label maps, a classifier for classes of images.

use super::classifier::{self, Classifier, ClassifierConfig};
use super::params::Params;
use super::unetr::{Unetr, UnetrConfig};
use super::vit::{Pass, Vit, VitConfig, VitPlan};
use crate::device::Device;
use crate::ops::VoxelGrid;
use crate::param_layout::ParamLayout;
use crate::tape::{Tape, Var};
use crate::{Error, Result};

/// The sizes of a network.
#[derive(Clone, Debug, PartialEq)]
pub enum NetworkConfig {
    Unetr(UnetrConfig),
    Classifier(ClassifierConfig),
}

impl From<&UnetrConfig> for NetworkConfig {
    fn from(config: &UnetrConfig) -> Self {
        Self::Unetr(config.clone())
    }
}

impl From<&ClassifierConfig> for NetworkConfig {
    fn from(config: &ClassifierConfig) -> Self {
        Self::Classifier(config.clone())
    }
}

impl From<&NetworkConfig> for NetworkConfig {
    fn from(config: &NetworkConfig) -> Self {
        config.clone()
    }
}

impl NetworkConfig {
    /// The name of the network in checkpoints.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unetr(_) => UNETR,
            Self::Classifier(_) => CLASSIFIER,
        }
    }

    /// The image and the encoder.
    pub fn vit(&self) -> VitConfig {
        match self {
            Self::Unetr(config) => config.vit(),
            Self::Classifier(config) => config.vit.clone(),
        }
    }

    /// Classes or regions.
    pub fn outputs(&self) -> usize {
        match self {
            Self::Unetr(config) => config.outputs,
            Self::Classifier(config) => config.outputs,
        }
    }

    /// Errors name what does not go together.
    pub fn check(&self) -> Result<()> {
        match self {
            Self::Unetr(config) => config.check(),
            Self::Classifier(config) => config.check(),
        }
    }

    /// TOML text, which [`NetworkConfig::parse`] reads.
    pub fn to_toml(&self) -> Result<String> {
        let text = match self {
            Self::Unetr(config) => toml::to_string(config),
            Self::Classifier(config) => toml::to_string(config),
        };
        text.map_err(|e| Error::Config(e.to_string()))
    }

    /// The sizes of a network of `kind`. Errors: another kind; text that does not hold them.
    pub fn parse(kind: &str, text: &str) -> Result<Self> {
        let bad = |e: toml::de::Error| Error::Config(format!("checkpoint: {e}"));
        match kind {
            UNETR => Ok(Self::Unetr(toml::from_str(text).map_err(bad)?)),
            CLASSIFIER => Ok(Self::Classifier(toml::from_str(text).map_err(bad)?)),
            other => Err(Error::Config(format!("checkpoint: a network of kind '{other}'"))),
        }
    }
}

/// Kinds of networks.
pub const UNETR: &str = "unetr";
pub const CLASSIFIER: &str = "classifier";

/// A network, without parameters.
#[derive(Clone, Debug)]
pub struct Network {
    /// The image and the encoder.
    pub config: VitConfig,
    sizes: NetworkConfig,
    body: Body,
}

#[derive(Clone, Debug)]
enum Body {
    Unetr(Unetr),
    Classifier(Classifier),
}

impl Network {
    /// Adds the parameters to `layout`. Errors: see [`NetworkConfig::check`].
    pub fn new(layout: &mut ParamLayout, sizes: &NetworkConfig) -> Result<Self> {
        let body = match sizes {
            NetworkConfig::Unetr(config) => Body::Unetr(Unetr::new(layout, config)?),
            NetworkConfig::Classifier(config) => Body::Classifier(Classifier::new(layout, config)?),
        };
        Ok(Self { config: sizes.vit(), sizes: sizes.clone(), body })
    }

    /// All sizes.
    pub fn sizes(&self) -> &NetworkConfig {
        &self.sizes
    }

    /// Whether it tells the class of an image, not of its voxels.
    pub fn classifies(&self) -> bool {
        matches!(self.body, Body::Classifier(_))
    }

    /// Parameters without a place in the forward pass.
    pub fn is_unused(&self, name: &str) -> bool {
        match &self.sizes {
            NetworkConfig::Classifier(c) => !c.pooled_norm && name.starts_with(classifier::NORM),
            NetworkConfig::Unetr(_) => false,
        }
    }

    /// Rows of logits of `batch` images, each with a label.
    pub fn rows(&self, batch: usize) -> VoxelGrid {
        match self.body {
            Body::Unetr(_) => VoxelGrid { batch, dims: self.config.roi },
            Body::Classifier(_) => VoxelGrid { batch, dims: [1; 3] },
        }
    }

    /// Rows of the image with the channels last of `batch` images: 0 where the network has no use for it.
    pub fn image_rows(&self, batch: usize) -> usize {
        match self.body {
            Body::Unetr(_) => batch * self.config.roi.iter().product::<usize>(),
            Body::Classifier(_) => 0,
        }
    }

    /// The plan for `batch` images.
    pub fn plan(&self, device: &Device, batch: usize) -> Result<VitPlan> {
        Vit::plan(&self.config, device, batch)
    }

    /// Shapes: `voxels` `[batch * in_chans * voxels]` (planar), `image` the same as
    /// `[batch * voxels, in_chans]` in the dtype of activations (a classifier has no use for it),
    /// `positions` `[batch * tokens, dim]`.
    pub fn forward(
        &self,
        tape: &mut Tape<'_>,
        params: &Params,
        plan: &VitPlan,
        [voxels, image, positions]: [&Var; 3],
        keeps_activations: bool,
    ) -> Result<Pass> {
        match &self.body {
            Body::Unetr(net) => {
                net.forward(tape, params, plan, [voxels, image, positions], keeps_activations)
            }
            Body::Classifier(net) => {
                net.forward(tape, params, plan, [voxels, positions], keeps_activations)
            }
        }
    }
}
