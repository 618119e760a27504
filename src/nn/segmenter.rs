//! A network for images, with its parameters.

use std::sync::Arc;

use super::network::{Network, NetworkConfig};
use super::params::Params;
use super::vit::{ENCODER, VitPlan};
use crate::Result;
use crate::device::{DType, Device, Tensor, TensorMut, class};
use crate::param_layout::ParamLayout;
use crate::tape::{Tape, Var};

/// A network with its parameters and the position rows of its token grid.
#[derive(Debug)]
pub struct Segmenter {
    pub net: Network,
    pub params: Params,
    /// `[tokens, dim]`, fixed (docs/method.md, 6.1), in the dtype of activations.
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
            TensorMut::new(&mut all, b * n * dim, &[n, dim])?.assign(&self.positions)?;
        }
        Ok(all)
    }
}

/// `[batch, channels, n]` as `[batch, n, channels]`.
pub fn channels_last<T: Copy>(planar: &[T], channels: usize, n: usize) -> Vec<T> {
    if channels == 1 {
        return planar.to_vec();
    }
    let mut out = Vec::with_capacity(planar.len());
    for image in planar.chunks_exact(channels * n) {
        out.extend((0..n).flat_map(|i| (0..channels).map(move |c| image[c * n + i])));
    }
    out
}
