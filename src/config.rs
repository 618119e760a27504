//! The configuration of a run: every value of the method and of its surroundings, with its
//! default, read from TOML and from `--set section.key=value`. Unknown keys are errors.
//!
//! Defaults are the paper's sizes (preset `vit-b`); docs/configuration.md is the table.

mod bounds;
pub mod finetune;
mod load;

use serde::{Deserialize, Serialize};

pub use load::{PRESETS, preset};
pub(crate) use load::{Settings, parse, text_of};

use crate::ops::teacher_targets::TargetKind;
use crate::{Error, Result};

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub model: ModelConfig,
    pub head: HeadConfig,
    pub views: ViewConfig,
    pub loss: LossConfig,
    pub optim: OptimConfig,
    pub data: DataConfig,
    pub train: TrainConfig,
}

/// Encoder and decoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// Channels of a volume.
    pub in_chans: usize,
    /// Edge of a cubic patch in voxels.
    pub patch: usize,
    /// Width, blocks and heads of the encoder.
    pub dim: usize,
    pub depth: usize,
    pub heads: usize,
    /// Width of an MLP over the width of its block, encoder and decoder.
    pub mlp_ratio: f64,
    /// Width, blocks and heads of the decoder (U8: 512 and 576 are both read into the paper).
    pub dec_dim: usize,
    pub dec_depth: usize,
    pub dec_heads: usize,
    /// U2: how the position tables of the two view grids come about.
    pub position_table: PositionTable,
    /// U10: one decoder for both kinds of views, or one each.
    pub shared_decoder: bool,
    /// Keep only the inputs of blocks and run them again in the backward pass: less memory.
    pub recompute: bool,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            in_chans: 1,
            patch: 16,
            dim: 768,
            depth: 12,
            heads: 12,
            mlp_ratio: 4.0,
            dec_dim: 512,
            dec_depth: 8,
            dec_heads: 16,
            position_table: PositionTable::Native,
            shared_decoder: true,
            recompute: false,
        }
    }
}

impl ModelConfig {
    /// Width of the encoder's MLPs.
    pub fn mlp_hidden(&self) -> usize {
        (self.dim as f64 * self.mlp_ratio) as usize
    }

    /// Width of the decoder's MLPs.
    pub fn dec_mlp_hidden(&self) -> usize {
        (self.dec_dim as f64 * self.mlp_ratio) as usize
    }

    /// Voxels of a patch, all channels.
    pub fn patch_voxels(&self) -> usize {
        self.patch.pow(3) * self.in_chans
    }
}

/// U2: the position tables of the global and the local grid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PositionTable {
    /// Each grid has its own integer positions.
    #[default]
    Native,
    /// The global table is interpolated from the local one.
    InterpFromLocal,
    /// The local table is interpolated from the global one.
    InterpFromGlobal,
}

/// U3: the projection head (DINO's form).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HeadConfig {
    /// Widths of the two hidden layers and of the bottleneck that is normalised.
    pub hidden: usize,
    pub bottleneck: usize,
    /// K, the number of prototypes.
    pub prototypes: usize,
    /// Freeze the prototypes' gains at 1.
    pub norm_last_layer: bool,
}

impl Default for HeadConfig {
    fn default() -> Self {
        Self { hidden: 2048, bottleneck: 256, prototypes: 65536, norm_last_layer: true }
    }
}

/// What a view is and how many there are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ViewConfig {
    /// Voxels of a view along d, h, w; multiples of the patch.
    pub global_size: [usize; 3],
    pub local_size: [usize; 3],
    /// U7: p and q, views per volume.
    pub n_global: usize,
    pub n_local: usize,
    /// Share of the tokens that is masked, both kinds.
    pub mask_ratio: f64,
    /// U1: whether a global view is a native crop or a resized box.
    pub global_crop: GlobalCrop,
    /// Share of the foreground box's volume that a resized global box has, least and most.
    pub global_scale: [f64; 2],
    /// Mirror a view along an axis with this probability (the paper's code: 0).
    pub flip_probability: f64,
}

impl Default for ViewConfig {
    fn default() -> Self {
        Self {
            global_size: [160; 3],
            local_size: [96; 3],
            n_global: 2,
            n_local: 8,
            mask_ratio: 0.75,
            global_crop: GlobalCrop::Resized,
            global_scale: [0.4, 1.0],
            flip_probability: 0.0,
        }
    }
}

impl ViewConfig {
    /// Visible tokens of a view with `tokens` tokens: `floor(tokens (1 - mask_ratio))`.
    pub fn visible(&self, tokens: usize) -> usize {
        (tokens as f64 * (1.0 - self.mask_ratio)) as usize
    }
}

/// U1: content of a global view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GlobalCrop {
    /// A random box of 40 to 100 % of the foreground, resized to the view.
    #[default]
    Resized,
    /// A native crop, as local views are.
    Native,
}

/// Which loss terms a run has. Fewer terms are ablations of the full method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Objective {
    /// Reconstruction of local views only: MAE in 3D.
    #[serde(rename = "mae3d")]
    Mae3d,
    /// And reconstruction of global views.
    #[serde(rename = "+global")]
    Global,
    /// And global-to-global consistency.
    #[serde(rename = "+g2g")]
    GlobalToGlobal,
    /// Both reconstructions and local-to-global consistency.
    #[serde(rename = "+l2g")]
    LocalToGlobal,
    /// All four terms.
    #[default]
    #[serde(rename = "gl-mae")]
    GlMae,
}

impl Objective {
    /// Masked global views are encoded and reconstructed.
    pub fn has_global_views(self) -> bool {
        self != Self::Mae3d
    }

    /// There is an EMA teacher and a projection head.
    pub fn has_teacher(self) -> bool {
        self.has_g2g() || self.has_l2g()
    }

    pub fn has_g2g(self) -> bool {
        matches!(self, Self::GlobalToGlobal | Self::GlMae)
    }

    pub fn has_l2g(self) -> bool {
        matches!(self, Self::LocalToGlobal | Self::GlMae)
    }
}

/// The four losses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossConfig {
    pub objective: Objective,
    /// U5: normalise each target patch.
    pub norm_pix: bool,
    /// U6: weights of the terms; beta1 is global-to-global, beta2 local-to-global.
    pub rec_global: f64,
    pub rec_local: f64,
    pub beta1: f64,
    pub beta2: f64,
    /// U4: which teacher and student global views are compared.
    pub gg_pairs: Pairs,
    /// Temperatures of student and teacher; the teacher's warms up linearly from `tau_t_start`
    /// over `tau_t_warmup` steps.
    pub tau_s: f64,
    pub tau_t: f64,
    pub tau_t_start: f64,
    pub tau_t_warmup: u64,
    /// How the teacher's logits become targets (docs/training.md).
    pub teacher_targets: TargetKind,
    pub center_momentum: f64,
}

impl Default for LossConfig {
    fn default() -> Self {
        Self {
            objective: Objective::GlMae,
            norm_pix: true,
            rec_global: 1.0,
            rec_local: 1.0,
            beta1: 0.1,
            beta2: 0.1,
            gg_pairs: Pairs::Same,
            tau_s: 0.1,
            tau_t: 0.04,
            tau_t_start: 0.04,
            tau_t_warmup: 0,
            teacher_targets: TargetKind::Center,
            center_momentum: 0.9,
        }
    }
}

/// U4: pairs (i, j) of intact and masked global views of a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pairs {
    /// i = j: the masked copy of the anchor view.
    #[default]
    Same,
    /// i != j.
    Cross,
    All,
}

/// U9: the optimiser and its schedules, in steps (updates).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimConfig {
    /// Learning rate after warm-up, and at the end of the half cosine.
    pub lr: f64,
    pub lr_end: f64,
    /// Steps of linear warm-up from 0.
    pub warmup: u64,
    /// Weight decay at the start and at the end of its half cosine.
    pub weight_decay: f64,
    pub weight_decay_end: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    /// Global gradient norm above which gradients are scaled down; 0: never.
    pub clip_grad: f64,
    /// First steps in which the head's last layer is not updated.
    pub freeze_last_layer: u64,
    /// Teacher momentum at the start; it ends at 1 on a half cosine.
    pub ema_start: f64,
}

impl Default for OptimConfig {
    fn default() -> Self {
        Self {
            lr: 2e-4,
            lr_end: 0.0,
            warmup: 600,
            weight_decay: 0.05,
            weight_decay_end: 0.05,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            clip_grad: 3.0,
            freeze_last_layer: 15,
            ema_start: 0.996,
        }
    }
}

/// From files to voxels that views are cut from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// A folder, a NIfTI file, a text list, an MSD `dataset.json` or an nnU-Net raw folder.
    pub path: String,
    /// How intensities become numbers near 0..1 or -1..1.
    pub intensity: IntensityKind,
    /// Window of `intensity = "window"`, in Hounsfield units.
    pub window_hu: [f64; 2],
    /// Percentiles of `intensity = "percentile"` and of `"zscore"`'s clipping.
    pub percentiles: [f64; 2],
    /// Voxels above this value (after the intensity map) are foreground; the box around them is
    /// what views are cut from. Absent: the whole volume.
    pub foreground: Option<f64>,
    /// Ids of cases that the run must not see; each must be there.
    pub exclude: Vec<String>,
    /// Every how many-th case is kept out of training to measure reconstruction; 0: none.
    pub holdout_every: usize,
    /// Threads that decode cases ahead of the training loop.
    pub workers: usize,
    /// Prepared cases kept in memory, in MiB.
    pub cache_mib: usize,
    /// Volumes kept on a GPU, in MiB, beside what a step needs.
    pub device_cache_mib: usize,
    /// Share of bad cases that ends a run; below it they are reported and left out.
    pub bad_case_limit: f64,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            path: String::new(),
            intensity: IntensityKind::Window,
            window_hu: [-1000.0, 1000.0],
            percentiles: [0.5, 99.5],
            foreground: Some(0.0),
            exclude: Vec::new(),
            holdout_every: 0,
            workers: 2,
            cache_mib: 4096,
            device_cache_mib: 8192,
            bad_case_limit: 0.01,
        }
    }
}

/// How intensities are mapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IntensityKind {
    /// CT: clip to a window of Hounsfield units, map to 0..1.
    #[default]
    Window,
    /// MRI: clip to percentiles of the volume, map to 0..1.
    Percentile,
    /// MRI: clip to percentiles of the volume, then zero mean and unit variance.
    Zscore,
}

/// The run itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Updates of the run.
    pub steps: u64,
    /// Volumes per micro-batch, and micro-batches per update.
    pub batch: usize,
    pub accumulation: usize,
    /// Arithmetic of activations; parameters, moments and losses are f32 in any case.
    pub precision: Precision,
    /// Everything random follows from it.
    pub seed: u64,
    /// Worker threads of the CPU device; 0: all cores. Results do not depend on it.
    pub threads: usize,
    /// Every how many steps: a line in the logs, a checkpoint, a picture.
    pub log_every: u64,
    pub save_every: u64,
    pub picture_every: u64,
    /// Newest checkpoints that are kept; every `keep_every`-th step is kept as well (0: none).
    pub keep_last: usize,
    pub keep_every: u64,
    /// Steps in a row without finite numbers after which the run stops.
    pub max_bad_steps: u32,
}

/// Arithmetic of activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// bf16 on a GPU, f32 elsewhere.
    #[default]
    Auto,
    /// f32 everywhere.
    F32,
    /// bf16 storage, f32 sums: on the CUDA kernels only.
    Bf16,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            steps: 24_000,
            batch: 51,
            accumulation: 1,
            precision: Precision::Auto,
            seed: 0,
            threads: 0,
            log_every: 10,
            save_every: 500,
            picture_every: 500,
            keep_last: 3,
            keep_every: 0,
            max_bad_steps: 8,
        }
    }
}

impl Config {
    /// Checks that the values go together. Errors name the key and what it may be.
    pub fn validate(&self) -> Result<()> {
        let require = |ok: bool, message: &str| {
            if ok { Ok(()) } else { Err(Error::Config(message.to_owned())) }
        };
        let (m, h, v, l, o, t) =
            (&self.model, &self.head, &self.views, &self.loss, &self.optim, &self.train);
        let sizes = [m.in_chans, m.patch, m.dim, m.depth, m.heads, m.dec_dim, m.dec_heads];
        require(sizes.iter().all(|&n| n > 0), "sizes in [model] must be at least 1")?;
        bounds::check(self)?;
        require(m.patch <= 64, "model.patch must be at most 64")?;
        require(m.dim % m.heads == 0, "model.dim must be a multiple of model.heads")?;
        require(
            m.dec_dim % m.dec_heads == 0,
            "model.dec_dim must be a multiple of model.dec_heads",
        )?;
        require(
            m.mlp_ratio <= 64.0 && m.mlp_hidden() > 0 && m.dec_mlp_hidden() > 0,
            "model.mlp_ratio must be above 0, leave the MLPs at least one channel, and be at most 64",
        )?;
        require(
            h.hidden > 0 && h.bottleneck > 0 && h.prototypes > 1,
            "[head] sizes must be at least 1, head.prototypes at least 2",
        )?;
        for (key, size) in [("global_size", v.global_size), ("local_size", v.local_size)] {
            require(
                size.iter().all(|&n| n > 0 && n % m.patch == 0),
                &format!("views.{key} = {size:?} must be multiples of model.patch = {}", m.patch),
            )?;
            let tokens = size.iter().map(|n| n / m.patch).product::<usize>();
            let visible = v.visible(tokens);
            require(
                v.mask_ratio > 0.0 && v.mask_ratio < 1.0 && visible > 0 && visible < tokens,
                &format!(
                    "views.mask_ratio = {} must lie between 0 and 1 and leave some of the {tokens} \
                     tokens of views.{key} visible and some masked",
                    v.mask_ratio
                ),
            )?;
        }
        require(
            v.n_local > 0,
            "views.n_local must be at least 1 (every objective reconstructs local views)",
        )?;
        require(
            v.n_global > 0 || !l.objective.has_global_views(),
            "views.n_global must be at least 1 unless loss.objective is \"mae3d\"",
        )?;
        require(
            l.gg_pairs != Pairs::Cross || v.n_global > 1 || !l.objective.has_g2g(),
            "loss.gg_pairs = \"cross\" needs views.n_global of at least 2",
        )?;
        let [low, high] = v.global_scale;
        require(
            0.0 < low && low <= high && high <= 1.0,
            "views.global_scale must be [least, most] with 0 < least <= most <= 1",
        )?;
        require((0.0..=1.0).contains(&v.flip_probability), "views.flip_probability: 0 to 1")?;
        let weights = [l.rec_global, l.rec_local, l.beta1, l.beta2];
        require(
            weights.iter().all(|w| w.is_finite() && *w >= 0.0),
            "loss weights must be finite and not negative",
        )?;
        require(
            [l.tau_s, l.tau_t, l.tau_t_start].iter().all(|t| t.is_finite() && *t > 0.0),
            "temperatures must be positive",
        )?;
        let shares = [l.center_momentum, o.ema_start];
        require(
            shares.iter().all(|m| (0.0..=1.0).contains(m)),
            "loss.center_momentum and optim.ema_start must lie between 0 and 1",
        )?;
        let rates = [o.lr, o.lr_end, o.weight_decay, o.weight_decay_end, o.clip_grad];
        require(
            rates.iter().all(|r| r.is_finite() && *r >= 0.0),
            "optim.lr, lr_end, weight_decay, weight_decay_end and clip_grad: finite, not negative",
        )?;
        require(
            (0.0..1.0).contains(&o.beta1) && (0.0..1.0).contains(&o.beta2) && o.eps > 0.0,
            "optim.beta1 and beta2 must lie in [0, 1), optim.eps must be positive",
        )?;
        require(
            (1..=1 << 16).contains(&t.batch) && (1..=1 << 16).contains(&t.accumulation),
            "train.batch and train.accumulation must lie between 1 and 65536",
        )?;
        require(
            t.log_every > 0 && t.save_every > 0 && t.keep_last > 0,
            "train.log_every, save_every and keep_last must be at least 1",
        )?;
        let d = &self.data;
        require(
            d.window_hu[0] < d.window_hu[1] && d.window_hu.iter().all(|x| x.is_finite()),
            "data.window_hu must be [low, high] with low < high",
        )?;
        let [low, high] = d.percentiles;
        require(
            0.0 <= low && low < high && high <= 100.0,
            "data.percentiles must be [low, high] within 0 to 100",
        )?;
        require(d.holdout_every != 1, "data.holdout_every = 1 would leave nothing to train on")?;
        require(
            (0.0..=1.0).contains(&d.bad_case_limit),
            "data.bad_case_limit is a share between 0 and 1",
        )
    }
}
