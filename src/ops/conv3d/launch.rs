//! Launches (to come).
use super::{Conv, ConvBwd};
use crate::device::Tensor;
use crate::tape::{Grads, Param};
use crate::{Error, Result};

pub(super) fn forward(
    _: &Conv,
    _: &mut Tensor,
    _: &[&Tensor],
    _: &Param,
    _: Option<&Tensor>,
) -> Result<()> {
    Err(Error::Unsupported("conv3d on this device".into()))
}
impl ConvBwd {
    pub(super) fn run_kernels(&self, _: &Tensor, _: &mut Grads<'_>) -> Result<()> {
        Err(Error::Unsupported("conv3d on this device".into()))
    }
}
