//! Reference cases of the segmentation network (format `glmae-unetr-1`, part `network`).

use std::path::Path;

use super::tensors::CaseTensors;
use crate::nn::unetr::UnetrConfig;
use crate::train::finetune::program::SegSettings;
use crate::{Error, Result};

/// A case in memory.
pub struct UnetrCase {
    pub config: UnetrConfig,
    pub optimizer: SegSettings,
    pub batch: usize,
    pub steps: usize,
    pub tensors: CaseTensors,
}

#[derive(serde::Deserialize)]
struct Fields {
    in_channels: usize,
    out_channels: usize,
    img_size: [usize; 3],
    feature_size: usize,
    hidden_size: usize,
    mlp_dim: usize,
    num_heads: usize,
    num_layers: usize,
    patch: usize,
    batch: usize,
}

#[derive(serde::Deserialize)]
struct Optimizer {
    lr: f64,
    betas: [f64; 2],
    eps: f64,
    weight_decay: f64,
}

impl UnetrCase {
    /// Reads a case. Errors: a file that is no safetensors file or no such case.
    pub fn load(path: &Path) -> Result<Self> {
        let tensors = CaseTensors::load(path, "glmae-unetr-1")?;
        let part = tensors.text("part")?;
        if part != "network" {
            return Err(Error::data(path, format!("a case of part '{part}', not 'network'")));
        }
        let f: Fields = tensors.json("config")?;
        let o: Optimizer = tensors.json("optimizer")?;
        let config = UnetrConfig {
            in_chans: f.in_channels,
            outputs: f.out_channels,
            roi: f.img_size,
            patch: f.patch,
            dim: f.hidden_size,
            depth: f.num_layers,
            heads: f.num_heads,
            mlp_hidden: f.mlp_dim,
            feature_size: f.feature_size,
            // MONAI's.
            norm_eps: 1e-5,
        };
        let optimizer = SegSettings {
            lr: o.lr,
            weight_decay: o.weight_decay,
            beta1: o.betas[0],
            beta2: o.betas[1],
            eps: o.eps,
            clip_grad: 0.0,
        };
        Ok(Self { config, optimizer, batch: f.batch, steps: tensors.json("steps")?, tensors })
    }

    /// Shape and values of a tensor.
    pub fn get(&self, name: &str) -> Result<(&[usize], &[f64])> {
        self.tensors.get(name)
    }
}
