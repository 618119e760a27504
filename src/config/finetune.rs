//! The configuration of fine-tuning. Defaults are the author's (docs/method.md, 6).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Change, Explicit, Loaded, Precision, Settings, load, parse, require};
use crate::{Error, Result};

/// Shipped settings by name.
pub const PRESETS: &[(&str, &str)] = &[
    ("author", include_str!("../../configs/finetune/author.toml")),
    ("hippocampus", include_str!("../../configs/finetune/hippocampus.toml")),
    ("cc-ccii", include_str!("../../configs/finetune/cc-ccii.toml")),
    ("demo", include_str!("../../configs/finetune/demo.toml")),
];

/// Keys that the file of an encoder decides, where there is one.
pub const ENCODER_KEYS: [&str; 6] =
    ["model.patch", "model.dim", "model.depth", "model.heads", "model.mlp_ratio", "model.norm_eps"];

/// Every section of a fine-tuning configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FinetuneConfig {
    pub model: UnetrModel,
    pub data: FinetuneData,
    pub augment: Augment,
    pub optim: FinetuneOptim,
    pub train: FinetuneTrain,
    pub infer: Infer,
}

/// The network around the encoder; the encoder's own sizes are those of its checkpoint, and of these
/// keys when there is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct UnetrModel {
    /// Channels at full resolution.
    pub feature_size: usize,
    /// Edge of a patch in voxels: a power of two.
    pub patch: usize,
    /// Width, blocks and heads of the encoder.
    pub dim: usize,
    pub depth: usize,
    pub heads: usize,
    /// Width of an MLP over the width of its block.
    pub mlp_ratio: f64,
    /// Of the encoder's layer norms: 1e-6 as in GL-MAE; MONAI's is 1e-5. From scratch only: an encoder
    /// brings its own.
    pub norm_eps: f64,
    /// The encoder keeps its weights: no gradient is computed for it, nothing of it is kept for one.
    pub frozen_encoder: bool,
    /// Of image classes: the encoder's last norm between the mean of the tokens and the linear layer.
    pub pooled_norm: bool,
}

impl Default for UnetrModel {
    fn default() -> Self {
        Self {
            feature_size: 48,
            patch: 16,
            dim: 768,
            depth: 12,
            heads: 12,
            mlp_ratio: 4.0,
            norm_eps: 1e-6,
            frozen_encoder: false,
            pooled_norm: true,
        }
    }
}

/// Which cases, and what is cut from them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FinetuneData {
    /// The folder of the labelled set.
    pub path: String,
    /// The task of the set: a shipped one or a TOML file.
    pub task: String,
    /// Training cases of a label-efficiency subset; 0: all.
    pub subset: usize,
    /// Share of the training cases that is used, drawn by `train.seed`: one seed's smaller shares
    /// are parts of its larger ones.
    pub fraction: f64,
    /// Window of training and inference in voxels; absent: the task's.
    pub roi: Option<[usize; 3]>,
    /// Weights of crops around a labelled voxel and around an unlabelled one.
    pub positive: f64,
    pub negative: f64,
    /// A labelled voxel of every class is as likely (MONAI's `RandCropByLabelClasses`), for sets with
    /// small structures; otherwise every labelled voxel is.
    pub class_balanced: bool,
    /// Threads that read cases ahead, no more than help; 0: all cores, at most 8.
    pub workers: usize,
    /// Prepared cases kept in memory, in MiB.
    pub cache_mib: usize,
}

impl Default for FinetuneData {
    fn default() -> Self {
        Self {
            path: String::new(),
            task: String::new(),
            subset: 0,
            fraction: 1.0,
            roi: None,
            positive: 1.0,
            negative: 1.0,
            class_balanced: false,
            workers: 2,
            cache_mib: 8192,
        }
    }
}

/// Random changes of a crop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Augment {
    /// Probability of a mirror image, per axis.
    pub flip: f64,
    /// Probability of one to three quarter turns in the plane of the first two axes.
    pub rot90: f64,
    /// Intensities times 1 +- this, with this probability.
    pub scale: f64,
    pub scale_probability: f64,
    /// Intensities plus +- this, with this probability.
    pub shift: f64,
    pub shift_probability: f64,
}

impl Default for Augment {
    fn default() -> Self {
        Self {
            flip: 0.2,
            rot90: 0.2,
            scale: 0.1,
            scale_probability: 0.1,
            shift: 0.1,
            shift_probability: 0.1,
        }
    }
}

/// AdamW and its schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FinetuneOptim {
    /// Learning rate after warm-up of an update of 16 crops; scaled with the crops of an update.
    pub lr: f64,
    /// AdamW's weight decay, the decays of its two moments, and what keeps its division from 0.
    pub weight_decay: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    /// Global gradient norm above which gradients are scaled down; 0: never.
    pub clip_grad: f64,
    /// Epochs of linear warm-up from 0; then half a cosine to 0.
    pub warmup_epochs: u64,
}

impl Default for FinetuneOptim {
    fn default() -> Self {
        Self {
            lr: 1e-4,
            weight_decay: 1e-5,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            clip_grad: 5.0,
            warmup_epochs: 50,
        }
    }
}

/// The run itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FinetuneTrain {
    /// Passes over the training cases.
    pub epochs: u64,
    /// Volumes per micro-batch, crops per volume, micro-batches per update.
    pub batch: usize,
    pub crops: usize,
    pub accumulation: usize,
    /// Arithmetic of activations.
    pub precision: Precision,
    /// Everything random follows from it.
    pub seed: u64,
    /// Threads of the CPU device, no more than help; 0: all cores. Results do not depend on it.
    pub threads: usize,
    /// Every how many steps: a line in the logs.
    pub log_every: u64,
    /// Every how many epochs: a validation, which saves the best (0: none at all), and a checkpoint.
    pub validate_every: u64,
    pub save_every: u64,
    /// Newest checkpoints that are kept, beside the best.
    pub keep_last: usize,
    /// Steps in a row without finite numbers after which the run stops.
    pub max_bad_steps: u32,
}

impl Default for FinetuneTrain {
    fn default() -> Self {
        Self {
            epochs: 1000,
            batch: 2,
            crops: 4,
            accumulation: 1,
            precision: Precision::Auto,
            seed: 47,
            threads: 0,
            log_every: 10,
            validate_every: 50,
            save_every: 50,
            keep_last: 1,
            max_bad_steps: 8,
        }
    }
}

/// How windows of a volume are put together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Infer {
    /// Share of a window's side that neighbours have in common.
    pub overlap: f64,
    /// Weight voxels by a Gaussian around the middle of their window (else all count the same).
    pub gaussian: bool,
    /// Windows that go through the network at once.
    pub windows: usize,
    /// What the sums of overlapping windows may take, in MiB. With less than a whole volume needs it is
    /// done in columns: more windows, the same bits.
    pub memory_mib: usize,
}

impl Default for Infer {
    fn default() -> Self {
        Self { overlap: 0.5, gaussian: false, windows: 4, memory_mib: 512 }
    }
}

impl Settings for FinetuneConfig {
    fn validate(&self) -> Result<()> {
        let (d, a, o, t) = (&self.data, &self.augment, &self.optim, &self.train);
        let weights = [d.positive, d.negative];
        require(
            weights.iter().all(|w| w.is_finite() && *w >= 0.0) && weights.iter().sum::<f64>() > 0.0,
            "data.positive and data.negative must not be negative, nor both 0",
        )?;
        let shares = [a.flip, a.rot90, a.scale_probability, a.shift_probability];
        require(
            shares.iter().all(|p| (0.0..=1.0).contains(p)),
            "probabilities in [augment] must lie between 0 and 1",
        )?;
        require(
            (0.0..1.0).contains(&a.scale) && a.shift.is_finite() && a.shift >= 0.0,
            "augment.scale must lie in [0, 1), augment.shift must not be negative",
        )?;
        require(
            [o.lr, o.weight_decay, o.clip_grad].iter().all(|r| r.is_finite() && *r >= 0.0),
            "optim.lr, weight_decay and clip_grad must be finite and not negative",
        )?;
        require(
            (0.0..1.0).contains(&o.beta1) && (0.0..1.0).contains(&o.beta2) && o.eps > 0.0,
            "optim.beta1 and beta2 must lie in [0, 1), optim.eps must be positive",
        )?;
        require(
            [t.batch, t.crops, t.accumulation].iter().all(|n| (1..=1 << 16).contains(n)),
            "train.batch, crops and accumulation must lie between 1 and 65536",
        )?;
        let m = &self.model;
        require(
            m.mlp_ratio > 0.0 && m.mlp_ratio <= 64.0,
            "model.mlp_ratio must lie above 0, at most 64",
        )?;
        require(
            [t.log_every, t.save_every, t.epochs].iter().all(|&n| n > 0) && t.keep_last > 0,
            "train.epochs, log_every, save_every and keep_last must be at least 1",
        )?;
        require(
            d.fraction > 0.0 && d.fraction <= 1.0,
            "data.fraction must be above 0 and at most 1",
        )?;
        self.infer.validate()
    }
}

impl Infer {
    /// The bounds of the keys, and of the flags of prediction that stand for them.
    pub fn validate(&self) -> Result<()> {
        require(
            (0.0..1.0).contains(&self.overlap),
            &format!("infer.overlap = {} must lie in [0, 1)", self.overlap),
        )?;
        require(
            (1..=1 << 16).contains(&self.windows),
            &format!("infer.windows = {} must lie between 1 and 65536", self.windows),
        )?;
        require(
            (1..=1 << 30).contains(&self.memory_mib),
            &format!("infer.memory_mib = {} must lie between 1 and 2^30", self.memory_mib),
        )
    }

    /// Windows of a large volume, over those of the default overlap.
    pub fn cost(&self) -> f64 {
        ((1.0 - Self::default().overlap) / (1.0 - self.overlap)).powi(3)
    }
}

impl FinetuneConfig {
    /// A preset's name or the path of a TOML file, then overrides `section.key=value`.
    /// Errors: as [`super::Config::load`].
    pub fn load(source: &str, overrides: &[String]) -> Result<Self> {
        Ok(Self::load_with(source, &Change::sets(overrides)?)?.config)
    }

    /// As [`FinetuneConfig::load`], with values from flags too, and what was asked for explicitly.
    pub fn load_with(source: &str, changes: &[Change]) -> Result<Loaded<Self>> {
        load(source, PRESETS, changes)
    }

    /// As [`FinetuneConfig::load`], from TOML text; `source` names it in errors.
    pub fn parse(text: &str, source: &str, overrides: &[String]) -> Result<Self> {
        parse(text, source, overrides)
    }

    /// The whole configuration as TOML, for the run folder.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string_pretty(self).map_err(|e| Error::Config(e.to_string()))
    }

    /// Errors: [`Error::Config`] when the user asked for a size of the encoder and `used`, which the
    /// encoder's file decided, has another. A preset's sizes are those from scratch: nobody asked for them.
    pub fn refuse_ignored(&self, used: &Self, explicit: &Explicit) -> Result<()> {
        let why = "the encoder's file decides that: leave the key out, or train from random weights with \
                   --scratch";
        explicit.refuse_ignored(self, used, &ENCODER_KEYS, why)
    }

    /// Crops of an update.
    pub fn crops_per_update(&self) -> usize {
        self.train.batch * self.train.crops * self.train.accumulation
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_an_encoder_decides_otherwise_are_refused() {
        let load = |set: &[&str]| {
            let set: Vec<Change> = set.iter().map(|item| Change::set(item).unwrap()).collect();
            FinetuneConfig::load_with("hippocampus", &set).unwrap()
        };
        // The encoder is 192 wide and has 6 heads; the preset says 96 and 3.
        let mut used = load(&[]).config;
        (used.model.dim, used.model.heads) = (192, 6);
        let check = |set: &[&str]| {
            let Loaded { config, explicit } = load(set);
            let used = FinetuneConfig { train: config.train.clone(), ..used.clone() };
            config.refuse_ignored(&used, &explicit).map_err(|e| e.to_string())
        };
        check(&[]).unwrap();
        check(&["train.epochs=3", "model.dim=192"]).unwrap();
        let e = check(&["model.dim=96", "model.heads=3", "model.patch=4"]).unwrap_err();
        assert!(e.contains("--set model.dim=96: 192 is used"), "{e}");
        assert!(e.contains("--set model.heads=3: 6 is used") && !e.contains("patch"), "{e}");
        assert!(e.contains("the encoder's file decides") && e.contains("--scratch"), "{e}");
    }

    #[test]
    fn bounds_of_inference() {
        let good = Infer::default();
        good.validate().unwrap();
        for overlap in [-0.1, 1.0, f64::NAN] {
            let e = Infer { overlap, ..good }.validate().unwrap_err().to_string();
            assert!(e.contains("infer.overlap"), "{e}");
        }
        assert!(Infer { windows: 0, ..good }.validate().is_err());
        assert!(Infer { memory_mib: 0, ..good }.validate().is_err());
        assert_eq!((good.cost(), Infer { overlap: 0.75, ..good }.cost()), (1.0, 8.0));
    }
}
