//! Everything a run carries from step to step: what a checkpoint must hold for a bit-exact resume.

use serde::{Deserialize, Serialize};

use crate::config::{Config, Precision};
use crate::data::Case;
use crate::device::{DType, Device, Tensor, class};
use crate::glmae::model::{Networks, Weights};
use crate::nn::segmenter::Segmenter;
use crate::{Error, Result};

/// The dtype of activations on `device` ([`Precision`]). Errors: bf16 on the CPU.
pub fn activation_dtype(config: &Config, device: &Device) -> Result<DType> {
    activation_dtype_of(config.train.precision, device)
}

/// As [`activation_dtype`].
pub fn activation_dtype_of(precision: Precision, device: &Device) -> Result<DType> {
    match (precision, device) {
        (Precision::F32, _) | (Precision::Auto, Device::Cpu) => Ok(DType::F32),
        (Precision::Auto, device) if device.is_simulated() => Ok(DType::F32),
        (Precision::Bf16, Device::Cpu) => Err(Error::Config(
            "train.precision = \"bf16\" needs the CUDA kernels: use --device cuda (or emulated), or \
             \"f32\""
                .into(),
        )),
        _ => Ok(DType::Bf16),
    }
}

/// The dtype of activations where nothing is trained: on the CPU a network of any `precision` runs in f32.
pub fn inference_dtype(precision: Precision, device: &Device) -> Result<DType> {
    match device {
        Device::Cpu => Ok(DType::F32),
        _ => activation_dtype_of(precision, device),
    }
}

/// The state of pre-training.
#[derive(Debug)]
pub struct State {
    pub weights: Weights,
    /// First and second moments of AdamW over the student's flat buffer.
    pub m: Tensor,
    pub v: Tensor,
    pub counters: Counters,
}

/// The numbers of a state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Steps done; the next step has this number.
    pub step: u64,
    /// Updates of the parameters (a step without finite numbers makes none), and those of the
    /// head's last layer, which is frozen at first: the numbers of AdamW's bias correction.
    pub updates: u64,
    pub last_layer_updates: u64,
    /// Steps skipped for non-finite numbers, in all and in a row.
    pub bad_steps: u64,
    pub bad_in_a_row: u32,
}

impl Counters {
    /// After one more step: one without finite numbers makes no update; `last_layer_waits`: the head's last
    /// layer made none.
    pub fn after_step(&self, is_finite: bool, last_layer_waits: bool) -> Self {
        let mut after = Self { step: self.step + 1, ..*self };
        if !is_finite {
            after.bad_steps += 1;
            after.bad_in_a_row += 1;
            return after;
        }
        after.bad_in_a_row = 0;
        after.updates += 1;
        after.last_layer_updates += u64::from(!last_layer_waits);
        after
    }
}

impl State {
    /// The state before step 0.
    pub fn init(device: &Device, dtype: DType, config: &Config, nets: &Networks) -> Result<Self> {
        Self::from_weights(Weights::init(device, dtype, config, nets)?)
    }

    /// A state with these weights that has not been trained yet.
    pub fn from_weights(weights: Weights) -> Result<Self> {
        let flat = weights.student.flat();
        let _class = class::scope("moments");
        let zeros = || Tensor::zeros(flat.device(), flat.dtype(), flat.shape());
        Ok(Self { m: zeros()?, v: zeros()?, counters: Counters::default(), weights })
    }
}

/// The state of fine-tuning.
#[derive(Debug)]
pub struct FinetuneState {
    pub segmenter: Segmenter,
    /// First and second moments of AdamW over the piece of the flat buffer that trains
    /// ([`crate::param_layout::ParamLayout::trained`]): a frozen encoder has none.
    pub m: Tensor,
    pub v: Tensor,
    pub counters: Counters,
}

impl FinetuneState {
    /// A state that has not been trained yet. What is to be frozen is frozen before.
    pub fn new(segmenter: Segmenter) -> Result<Self> {
        let _class = class::scope("moments");
        let (flat, n) = (segmenter.params.flat(), segmenter.params.layout().trained().len());
        let zeros = || Tensor::zeros(flat.device(), flat.dtype(), &[n]);
        Ok(Self { m: zeros()?, v: zeros()?, counters: Counters::default(), segmenter })
    }
}

/// Which cases a run was trained on, without their names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataFingerprint {
    pub cases: u64,
    /// CRC-32C of the case ids, each followed by a line break.
    pub crc32c: u32,
}

impl DataFingerprint {
    pub fn new(cases: &[Case]) -> Self {
        let crc = cases.iter().fold(0, |crc, case| {
            crc32c::crc32c_append(crc32c::crc32c_append(crc, case.id.as_bytes()), b"\n")
        });
        Self { cases: cases.len() as u64, crc32c: crc }
    }

    /// The warning of a run that goes on with other cases than `then`.
    pub fn changed_since(&self, then: &Self) -> String {
        format!(
            "the training cases changed ({} then, {} now, or other names): the run goes on, but not bit \
             for bit as before",
            then.cases, self.cases
        )
    }
}
