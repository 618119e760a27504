//! Floor 1: where tensors live and where ops run.

pub mod abi;
mod dtype;
pub mod emulated;
pub mod launch;
pub mod memory;
mod tensor;

pub(crate) use dtype::with_real;
pub use dtype::{DType, Element, Real};
pub use tensor::{Tensor, TensorMut};

use crate::{Error, Result};

/// A place that holds tensors and runs ops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    /// The Rust references and their fast paths.
    Cpu,
}

impl Device {
    /// Parses `auto`, `cpu`, ... as given on the command line. `auto` picks the best there is.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "auto" | "cpu" => Ok(Self::Cpu),
            other if other.starts_with("cuda") => Err(Error::Unsupported(format!(
                "device '{other}': this binary was built without the feature 'cuda'; use --device cpu"
            ))),
            other => Err(Error::Config(format!("unknown device '{other}'; known: auto, cpu"))),
        }
    }

    /// Name as a user writes it.
    pub fn name(&self) -> String {
        match self {
            Self::Cpu => "cpu".into(),
        }
    }
}
