//! Reference cases: a few training steps of the PyTorch reference with everything needed to
//! repeat them (format `glmae-case-1`, described in docs/verification.md).

use std::path::Path;

use super::tensors::CaseTensors;
use crate::config::{Config, GlobalCrop, HeadConfig, LossConfig, ModelConfig, OptimConfig, Pairs};
use crate::config::{TrainConfig, ViewConfig, ViewKind};
use crate::device::{DType, Device, Tensor};
use crate::glmae::batch::{Batch, BatchShape};
use crate::glmae::mask::Mask;
use crate::{Error, Result};

/// A case in memory.
pub struct ReferenceCase {
    pub config: Config,
    pub steps: usize,
    pub tensors: CaseTensors,
}

/// Fields of the reference's configuration that matter to an engine; it stores more.
#[derive(serde::Deserialize)]
struct Fields {
    in_chans: usize,
    patch: usize,
    global_size: [usize; 3],
    local_size: [usize; 3],
    n_global: usize,
    n_local: usize,
    batch: usize,
    mask_ratio: f64,
    dim: usize,
    depth: usize,
    heads: usize,
    mlp_ratio: f64,
    dec_dim: usize,
    dec_depth: usize,
    dec_heads: usize,
    head_hidden: usize,
    head_bottleneck: usize,
    head_out: usize,
    norm_last_layer: bool,
    norm_pix: bool,
    beta1: f64,
    beta2: f64,
    gg_pairs: Pairs,
    tau_s: f64,
    tau_t: f64,
    tau_t_start: f64,
    tau_t_warmup: u64,
    center_momentum: f64,
    lr: f64,
    lr_end: f64,
    warmup: u64,
    total_steps: u64,
    wd: f64,
    wd_end: f64,
    adam_b1: f64,
    adam_b2: f64,
    adam_eps: f64,
    clip_grad: f64,
    freeze_last_layer: u64,
    ema_start: f64,
}

impl From<Fields> for Config {
    fn from(f: Fields) -> Self {
        Self {
            model: ModelConfig {
                in_chans: f.in_chans,
                patch: f.patch,
                dim: f.dim,
                depth: f.depth,
                heads: f.heads,
                mlp_ratio: f.mlp_ratio,
                dec_dim: f.dec_dim,
                dec_depth: f.dec_depth,
                dec_heads: f.dec_heads,
                ..ModelConfig::default()
            },
            head: HeadConfig {
                hidden: f.head_hidden,
                bottleneck: f.head_bottleneck,
                prototypes: f.head_out,
                norm_last_layer: f.norm_last_layer,
            },
            views: ViewConfig {
                global_size: f.global_size,
                local_size: f.local_size,
                n_global: f.n_global,
                n_local: f.n_local,
                mask_ratio: f.mask_ratio,
                global_crop: GlobalCrop::Native,
                ..ViewConfig::default()
            },
            loss: LossConfig {
                norm_pix: f.norm_pix,
                beta1: f.beta1,
                beta2: f.beta2,
                gg_pairs: f.gg_pairs,
                tau_s: f.tau_s,
                tau_t: f.tau_t,
                tau_t_start: f.tau_t_start,
                tau_t_warmup: f.tau_t_warmup,
                center_momentum: f.center_momentum,
                ..LossConfig::default()
            },
            optim: OptimConfig {
                lr: f.lr,
                lr_end: f.lr_end,
                warmup: f.warmup,
                weight_decay: f.wd,
                weight_decay_end: f.wd_end,
                beta1: f.adam_b1,
                beta2: f.adam_b2,
                eps: f.adam_eps,
                clip_grad: f.clip_grad,
                freeze_last_layer: f.freeze_last_layer,
                ema_start: f.ema_start,
            },
            train: TrainConfig { steps: f.total_steps, batch: f.batch, ..TrainConfig::default() },
            ..Self::default()
        }
    }
}

impl ReferenceCase {
    /// Reads a case. Errors: a file that is no safetensors file or no such case.
    pub fn load(path: &Path) -> Result<Self> {
        let tensors = CaseTensors::load(path, "glmae-case-1")?;
        let fields: Fields = tensors.json("config")?;
        let steps = tensors.json("steps")?;
        Ok(Self { config: fields.into(), steps, tensors })
    }

    /// Shape and values of a tensor.
    pub fn get(&self, name: &str) -> Result<(&[usize], &[f64])> {
        self.tensors.get(name)
    }

    /// Inputs of a step as a batch.
    pub fn batch(&self, device: &Device, dtype: DType, step: usize) -> Result<Batch> {
        let shape = BatchShape::new(&self.config, self.config.train.batch);
        let (mut voxels, mut masks) = (Vec::new(), Vec::new());
        for kind in ViewKind::ALL {
            let name = kind.name();
            let (dims, data) = self.get(&format!("step{step}.views_{name}"))?;
            let [d, h, w] = shape.size(kind);
            if dims != [shape.count(kind), shape.channels, d, h, w] {
                let reason = format!("step{step}.views_{name} has shape {dims:?}");
                return Err(Error::data(self.tensors.path(), reason));
            }
            voxels.extend_from_slice(data);
            let (dims, keep) = self.get(&format!("step{step}.ids_keep_{name}"))?;
            let &[views, kept] = dims else {
                return Err(Error::data(
                    self.tensors.path(),
                    format!("ids_keep_{name} has shape {dims:?}"),
                ));
            };
            if views != shape.count(kind) {
                return Err(Error::data(
                    self.tensors.path(),
                    format!("ids_keep_{name} has {views} views"),
                ));
            }
            for view in 0..views {
                let keep = &keep[view * kept..(view + 1) * kept];
                if keep.iter().any(|t| *t < 0.0) {
                    return Err(Error::data(
                        self.tensors.path(),
                        format!("ids_keep_{name} is negative"),
                    ));
                }
                let keep: Vec<usize> = keep.iter().map(|&t| t as usize).collect();
                masks.push(Mask::from_keep(shape.tokens(kind), &keep)?);
            }
        }
        let voxels = Tensor::from_f64(device, dtype.master(), &voxels, &[voxels.len()])?;
        Batch::from_views(dtype, &shape, masks, &voxels)
    }
}
