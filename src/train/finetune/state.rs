//! Everything a fine-tuning run carries from step to step.

use std::sync::Arc;

use crate::Result;
use crate::device::{DType, Device, Tensor, class};
use crate::nn::params::{ParamLayout, Params};
use crate::nn::unetr::{ENCODER, Unetr, UnetrConfig};

/// A network with its parameters and the position rows of its token grid.
#[derive(Debug)]
pub struct Segmenter {
    pub net: Unetr,
    pub params: Params,
    /// `[tokens, dim]`, fixed (gl-mae 2.2), in the dtype of activations.
    pub positions: Tensor,
}

impl Segmenter {
    /// Parameters of zeros, to be initialised or loaded, for activations of `dtype`.
    pub fn zeros(
        device: &Device,
        dtype: DType,
        config: &UnetrConfig,
        positions: &[f64],
    ) -> Result<Self> {
        let _class = class::scope("weights");
        let mut layout = ParamLayout::default();
        let net = Unetr::new(&mut layout, config)?;
        let params = Params::zeros(device, dtype, Arc::new(layout), true)?;
        let positions = Tensor::from_f64(device, dtype, positions, &[config.tokens(), config.dim])?;
        Ok(Self { net, params, positions })
    }

    /// Keeps the encoder's weights as they are from now on.
    pub fn freeze_encoder(&mut self) {
        self.params.freeze(|name| name.starts_with(ENCODER));
    }

    /// The position rows of `batch` images, `[batch * tokens, dim]`.
    pub fn positions_of(&self, batch: usize) -> Result<Tensor> {
        let (n, dim) = self.positions.matrix("positions")?;
        let mut all =
            Tensor::empty(self.positions.device(), self.positions.dtype(), &[batch * n, dim])?;
        for b in 0..batch {
            crate::device::TensorMut::new(&mut all, b * n * dim, &[n, dim])?
                .assign(&self.positions)?;
        }
        Ok(all)
    }
}

/// The state of a run: what a checkpoint must hold for a bit-exact resume.
#[derive(Debug)]
pub struct SegState {
    pub segmenter: Segmenter,
    /// First and second moments of AdamW over the flat buffer.
    pub m: Tensor,
    pub v: Tensor,
    /// Steps done, and updates made of them.
    pub step: u64,
    pub updates: u64,
    pub bad_in_a_row: u32,
}

impl SegState {
    /// A state that has not been trained yet.
    pub fn new(segmenter: Segmenter) -> Result<Self> {
        let _class = class::scope("moments");
        let flat = segmenter.params.flat();
        let zeros = || Tensor::zeros(flat.device(), flat.dtype(), flat.shape());
        Ok(Self { m: zeros()?, v: zeros()?, step: 0, updates: 0, bad_in_a_row: 0, segmenter })
    }
}
