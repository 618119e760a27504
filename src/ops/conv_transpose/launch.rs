//! Launches (to come).
use super::ConvTransposeBwd;
use crate::device::Tensor;
use crate::ops::grid::Grid;
use crate::tape::{Grads, Param};
use crate::{Error, Result};

pub(super) fn forward(_: &mut Tensor, _: &Tensor, _: &Param, _: Grid) -> Result<()> {
    Err(Error::Unsupported("conv_transpose on this device".into()))
}
impl ConvTransposeBwd {
    pub(super) fn run_kernels(&self, _: &Tensor, _: &mut Grads<'_>) -> Result<()> {
        Err(Error::Unsupported("conv_transpose on this device".into()))
    }
}
