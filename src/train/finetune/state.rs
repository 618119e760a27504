//! Everything a fine-tuning run carries from step to step.

use std::sync::Arc;

use super::network::{Network, NetworkConfig};
use super::program::channels_last;
use crate::Result;
use crate::device::{DType, Device, Tensor, class};
use crate::nn::params::Params;
use crate::nn::vit::{ENCODER, VitPlan};
use crate::param_layout::ParamLayout;
use crate::tape::{Tape, Var};

/// A network with its parameters and the position rows of its token grid.
#[derive(Debug)]
pub struct Segmenter {
    pub net: Network,
    pub params: Params,
    /// `[tokens, dim]`, fixed (gl-mae 2.2), in the dtype of activations.
    pub positions: Tensor,
}

impl Segmenter {
    /// Parameters of zeros, to be initialised or loaded, for activations of `dtype`.
    pub fn zeros(
        device: &Device,
        dtype: DType,
        sizes: impl Into<NetworkConfig>,
        positions: &[f64],
    ) -> Result<Self> {
        let _class = class::scope("weights");
        let mut layout = ParamLayout::default();
        let net = Network::new(&mut layout, &sizes.into())?;
        let mut params = Params::zeros(device, dtype, Arc::new(layout), true)?;
        params.freeze(|name| net.is_unused(name));
        let rows = [net.config.tokens(), net.config.dim];
        let positions = Tensor::from_f64(device, dtype, positions, &rows)?;
        Ok(Self { net, params, positions })
    }

    /// Keeps the encoder's weights as they are from now on.
    pub fn freeze_encoder(&mut self) {
        self.params.freeze(|name| name.starts_with(ENCODER));
    }

    /// Logits of the images that `plan` is for, `voxels` `[batch, channels, d, h, w]`, without anything
    /// kept for a gradient. `positions` are [`Segmenter::positions_of`] as many.
    pub fn logits(&self, plan: &VitPlan, positions: &Var, voxels: &[f32]) -> Result<Tensor> {
        let (net, params) = (&self.net, &self.params);
        let device = params.flat().device();
        let (channels, rows) = (net.config.in_chans, net.image_rows(plan.batch));
        let planar = Tensor::from_slice(device, voxels, &[voxels.len()])?;
        let last = match rows {
            0 => Vec::new(),
            _ => channels_last(voxels, channels, net.config.roi.iter().product()),
        };
        let last: Vec<f64> = last.into_iter().map(f64::from).collect();
        let image = Tensor::from_f64(device, params.activation_dtype(), &last, &[rows, channels])?;
        let mut tape = Tape::inference(device);
        let inputs = [&Var::constant(planar), &Var::constant(image), positions];
        Ok(net.forward(&mut tape, params, plan, inputs, false)?.logits.value().clone())
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
