//! Part `network`: a case in memory, and what must be true of it before it is run.

use std::path::Path;

use safetensors::Dtype;

use super::layers;
use crate::Result;
use crate::interchange::monai;
use crate::lab::tensors::CaseTensors;
use crate::nn::unetr::{Unetr, UnetrConfig};
use crate::ops::dice_ce::DiceOptions;
use crate::param_layout::ParamLayout;
use crate::train::finetune::program::FinetuneSettings;

/// A case in memory.
pub struct UnetrCase {
    pub config: UnetrConfig,
    pub optimizer: FinetuneSettings,
    pub batch: usize,
    pub steps: usize,
    /// Classes `[batch, d, h, w]`.
    pub labels: Vec<u8>,
    /// How far PyTorch's own f32 run is from its f64 run.
    pub peer_f32: PeerGap,
    pub tensors: CaseTensors,
}

/// Sizes, and what the network is made of. What is not said is as in MONAI's default and in the files so
/// far.
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
    #[serde(default = "layer_norm_eps")]
    layer_norm_eps: f64,
    #[serde(flatten)]
    others: serde_json::Map<String, serde_json::Value>,
}

fn layer_norm_eps() -> f64 {
    1e-5
}

/// Settings of MONAI's UNETR that must have these values, because this network has no others.
const KINDS: [(&str, &str); 9] = [
    ("proj_type", "\"conv\""),
    ("norm_name", "\"instance\""),
    ("conv_block", "true"),
    ("res_block", "true"),
    ("dropout_rate", "0.0"),
    ("qkv_bias", "true"),
    ("instance_norm_eps", "1e-5"),
    ("leaky_relu_slope", "0.01"),
    ("spatial_dims", "3"),
];

#[derive(serde::Deserialize)]
struct Optimizer {
    lr: f64,
    betas: [f64; 2],
    eps: f64,
    weight_decay: f64,
}

/// Largest relative distances of a tensor between PyTorch's runs in f32 and in f64; 0 where the file does
/// not say.
#[derive(Clone, Copy, Debug, Default, serde::Deserialize)]
#[serde(default)]
pub struct PeerGap {
    pub grad: f64,
    #[serde(rename = "final")]
    pub parameters: f64,
    pub moved: f64,
}

/// No size of a case is larger: products of a few of them stay far below 2^64.
const LARGEST: usize = 1 << 12;

impl UnetrCase {
    /// Reads a case. Errors: a file that is no safetensors file or no such case.
    pub fn load(path: &Path) -> Result<Self> {
        Self::new(CaseTensors::load(path, super::FORMAT)?)
    }

    /// A case of part `network`. Nothing is allocated for a network whose tensors are not in the file.
    ///
    /// Errors: [`crate::Error::Data`] for another part, a network or a loss that is not ours, a tensor that is
    /// missing or has another shape than the configuration says.
    pub fn new(tensors: CaseTensors) -> Result<Self> {
        let part = tensors.text("part")?;
        if part != "network" {
            return Err(tensors.bad(format!("a case of part '{part}', not 'network'")));
        }
        let f: Fields = tensors.json("config")?;
        for (key, ours) in KINDS {
            let ours: serde_json::Value = serde_json::from_str(ours).unwrap_or_default();
            let said = f.others.get(key).unwrap_or(&ours);
            if *said != ours && (said.as_f64().is_none() || said.as_f64() != ours.as_f64()) {
                let what = format!("metadata 'config': {key} is {said}, only {ours} is known");
                return Err(tensors.bad(what));
            }
        }
        let [d, h, w] = f.img_size;
        let sizes = [
            ("in_channels", f.in_channels),
            ("out_channels", f.out_channels),
            ("img_size", d.max(h).max(w)),
            ("feature_size", f.feature_size),
            ("hidden_size", f.hidden_size),
            ("mlp_dim", f.mlp_dim),
            ("num_heads", f.num_heads),
            ("num_layers", f.num_layers),
            ("batch", f.batch),
        ];
        if let Some((key, n)) = sizes.into_iter().find(|(_, n)| !(1..=LARGEST).contains(n)) {
            let what = format!("metadata 'config': {key} is {n}, not in 1..={LARGEST}");
            return Err(tensors.bad(what));
        }
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
            norm_eps: f.layer_norm_eps,
        };
        config.check().map_err(|e| tensors.bad(format!("metadata 'config': {e}")))?;
        if layers::options(&tensors)? != DiceOptions::default() {
            return Err(tensors.bad("metadata 'loss': only UNETR's own Dice is trained with"));
        }
        let o: Optimizer = tensors.json("optimizer")?;
        let frozen: Vec<String> = tensors.json("frozen")?;
        if frozen != [monai::POSITIONS] {
            let what = format!("metadata 'frozen' is {frozen:?}, only the positions are known");
            return Err(tensors.bad(what));
        }
        let optimizer = FinetuneSettings {
            lr: o.lr,
            weight_decay: o.weight_decay,
            beta1: o.betas[0],
            beta2: o.betas[1],
            eps: o.eps,
            clip_grad: 0.0,
        };
        let steps = tensors.json("steps")?;
        let labels = tensors.labels("label", &[f.batch, 1, d, h, w])?;
        if let Some(label) = labels.iter().find(|l| usize::from(**l) >= f.out_channels) {
            let what = format!("'label' holds {label} of {} classes", f.out_channels);
            return Err(tensors.bad(what));
        }
        let has_peer = tensors.has_text("fp32_vs_fp64");
        let peer_f32 = if has_peer { tensors.json("fp32_vs_fp64")? } else { PeerGap::default() };
        let case = Self { config, optimizer, batch: f.batch, steps, labels, peer_f32, tensors };
        case.check_tensors()?;
        Ok(case)
    }

    /// Whether everything is there, in the shapes of the configuration.
    fn check_tensors(&self) -> Result<()> {
        let (t, c) = (&self.tensors, &self.config);
        let [d, h, w] = c.roi;
        t.shaped("image", &[self.batch, c.in_chans, d, h, w])?;
        t.shaped("fp64.step0.act.logits", &[self.batch, c.outputs, d, h, w])?;
        if self.steps == 0 {
            return Err(t.bad("metadata 'steps' is 0: nothing to check"));
        }
        for step in 0..self.steps {
            for term in ["dice", "ce", "total"] {
                t.shaped(&format!("fp64.step{step}.loss.{term}"), &[1])?;
            }
        }
        let mut layout = ParamLayout::default();
        Unetr::new(&mut layout, c)?;
        let positions = (monai::POSITIONS.to_owned(), vec![1, c.tokens(), c.dim]);
        let params = layout.entries().iter().map(|e| (monai::name(&e.name), e.shape.clone()));
        for (name, shape) in params.chain([positions]) {
            for prefix in ["init", "fp64.step0.grad", "fp64.final"] {
                t.shaped(&format!("{prefix}.{name}"), &shape)?;
            }
        }
        // Of MONAI's, these take no part.
        let known = |n: &&str| {
            let ours = monai::POSITIONS == *n || n.contains("cross_attn");
            !ours && layout.entries().iter().all(|e| monai::name(&e.name) != **n)
        };
        match t.names("init.").find(known) {
            Some(name) => Err(t.bad(format!("'init.{name}' is no parameter of this network"))),
            None => Ok(()),
        }
    }

    /// Whether the results of the f64 run were rounded to f32 when they were stored.
    pub fn stores_f32(&self) -> bool {
        self.tensors.dtype("fp64.step0.act.logits") == Some(Dtype::F32)
    }

    /// Shape and values of a tensor.
    pub fn get(&self, name: &str) -> Result<(&[usize], &[f64])> {
        self.tensors.get(name)
    }
}
