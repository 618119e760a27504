//! A launch on the executor of `glmae_simt`.

use super::{Entry, Executor};
use crate::device::on_host::Launch;
use crate::error::{Error, Result};

/// Runs a launch to its end. `params` are its arguments as they lie in the space of parameters.
pub(super) fn run(_: &Executor, _: &Entry, _: &Launch, _: &[u8]) -> Result<()> {
    Err(Error::Unsupported("the executor is not there yet".into()))
}
