//! What a run will need, before it starts.

use crate::Result;
use crate::config::{Config, ModelConfig};
use crate::device::{DType, Device};
use crate::glmae::batch::{BatchShape, ViewKind};
use crate::glmae::model::Networks;

/// Predicted bytes by class. The first five are exact; activations are an estimate from what the
/// tape keeps per row of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct MemoryPlan {
    /// Parameters of student and teacher, elements.
    pub student_parameters: u64,
    pub teacher_parameters: u64,
    /// Student, teacher and centre.
    pub weights_bytes: u64,
    /// Gradients.
    pub gradients_bytes: u64,
    /// First and second moments.
    pub moments_bytes: u64,
    /// Position tables.
    pub tables_bytes: u64,
    /// Voxels of the views of an update.
    pub views_bytes: u64,
    /// Largest sum of what the tape holds, a micro-batch.
    pub activations_bytes: u64,
    /// Most the cache of prepared cases may hold (`data.cache_mib`); host memory.
    pub cache_bytes: u64,
}

impl MemoryPlan {
    /// The plan of a run; makes no tensors but the position tables.
    pub fn new(config: &Config) -> Result<Self> {
        let nets = Networks::new(&Device::Cpu, DType::F32, config)?;
        let size = DType::F32.size() as u64;
        let student = nets.student_layout.len() as u64;
        let has_teacher = config.loss.objective.has_teacher();
        let teacher = if has_teacher { nets.teacher_layout.len() as u64 } else { 0 };
        let center = if has_teacher { config.head.prototypes as u64 } else { 0 };
        let shape = BatchShape::new(config, config.train.batch);
        let tables = nets.tables.encoder.len() + nets.tables.decoder.len();
        Ok(Self {
            student_parameters: nets.student_layout.count() as u64,
            teacher_parameters: if has_teacher { nets.teacher_layout.count() as u64 } else { 0 },
            weights_bytes: size * (student + teacher + center),
            gradients_bytes: size * student,
            moments_bytes: size * 2 * student,
            tables_bytes: size * tables as u64,
            views_bytes: size * (shape.voxels() * config.train.accumulation) as u64,
            activations_bytes: size * activations(config, &shape),
            cache_bytes: (config.data.cache_mib as u64) << 20,
        })
    }

    /// Class and bytes, in the order of the struct.
    pub fn classes(&self) -> [(&'static str, u64); 7] {
        [
            ("weights", self.weights_bytes),
            ("gradients", self.gradients_bytes),
            ("moments", self.moments_bytes),
            ("position tables", self.tables_bytes),
            ("views", self.views_bytes),
            ("activations", self.activations_bytes),
            ("cache of cases", self.cache_bytes),
        ]
    }

    /// Sum of all classes but the cache: what must fit the device.
    pub fn device_bytes(&self) -> u64 {
        self.classes().iter().take(6).map(|(_, bytes)| bytes).sum()
    }
}

/// Elements held at the end of the forward pass.
fn activations(config: &Config, shape: &BatchShape) -> u64 {
    let m = &config.model;
    let kinds = ViewKind::ALL.map(|kind| (shape.count(kind), shape.tokens(kind)));
    let rows = |per_view: fn(&Config, usize) -> usize| {
        kinds.iter().map(|&(views, tokens)| views * (1 + per_view(config, tokens))).sum::<usize>()
    };
    let seen = rows(|c, tokens| c.views.visible(tokens));
    let all = rows(|_, tokens| tokens);
    let hidden = all - seen;
    let encoder = stack(m, seen, m.dim, m.mlp_hidden(), m.depth) + seen * m.patch_voxels();
    let decoder = stack(m, all, m.dec_dim, m.dec_mlp_hidden(), m.dec_depth)
        + hidden * (2 * m.patch_voxels() + 2 * m.dec_dim);
    let logits = kinds.iter().map(|(views, _)| views).sum::<usize>()
        * (config.head.prototypes + 4 * config.head.hidden);
    let heads = if config.loss.objective.has_teacher() { 2 * logits } else { 0 };
    (encoder + decoder + heads) as u64
}

/// A stack of blocks keeps per row and block: input, norm, qkv, attention output, residual, norm
/// (8 widths), and the MLP's hidden values before and after GELU.
fn stack(m: &ModelConfig, rows: usize, dim: usize, hidden: usize, depth: usize) -> usize {
    let block = rows * (8 * dim + 2 * hidden);
    let kept = if m.recompute { block + depth * rows * dim } else { depth * block };
    kept + 2 * rows * dim
}
