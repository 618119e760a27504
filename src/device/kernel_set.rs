//! Which kernels multiply on tensor cores in bf16: those for every GPU, or those for Hopper's own instructions, which only
//! machine code for sm_90a has. They form their sums in another order, so that results differ in their last bits.

use std::env;

use super::Device;
#[cfg(feature = "cuda")]
use super::launch::{FATBINS, is_for_hopper};
use crate::{Error, Result};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum KernelSet {
    /// `mma.sync` and `cp.async`, from sm_80 on; also executed as C++.
    #[default]
    Portable,
    /// `wgmma` and bulk copies by tensor maps, for sm_90a.
    Hopper,
}

impl KernelSet {
    /// What a device uses that has Hopper's instructions, if this binary has kernels with them. The variable
    /// `GLMAE_KERNELS=portable` keeps to the others, for comparison; `hopper:128x256` and the like keep to one tile.
    ///
    /// Errors: `Config` for any other value of the variable.
    pub fn of_hopper() -> Result<Self> {
        let Some(value) = env::var_os("GLMAE_KERNELS").filter(|value| !value.is_empty()) else {
            return Ok(Self::Hopper);
        };
        match value.to_str() {
            Some("portable") => Ok(Self::Portable),
            Some(text) if text == "hopper" || text.starts_with("hopper:") => Ok(Self::Hopper),
            _ => Err(Error::Config(format!(
                "GLMAE_KERNELS={}: known values are 'portable', 'hopper' and, for one tile, 'hopper:128x256'; without \
                 it, GPUs of compute capability 9.0 use 'hopper'",
                value.to_string_lossy()
            ))),
        }
    }

    /// What a GPU of this compute capability uses, and why.
    ///
    /// Errors: those of [`KernelSet::of_hopper`].
    #[cfg(feature = "cuda")]
    pub fn of_capability(capability: [u32; 2]) -> Result<(Self, &'static str)> {
        let has_kernels = FATBINS.iter().any(|(file, _)| is_for_hopper(file));
        Ok(match (capability, has_kernels) {
            ([9, 0], true) => match Self::of_hopper()? {
                Self::Hopper => {
                    (Self::Hopper, "compute capability 9.0, and code for sm_90a is here")
                }
                Self::Portable => (Self::Portable, "GLMAE_KERNELS=portable"),
            },
            ([9, 0], false) => {
                (Self::Portable, "this binary was built without 90a in GLMAE_CUDA_ARCHS")
            }
            // Code for 90a runs on 9.0 and on nothing else.
            _ => (Self::Portable, "the others need compute capability 9.0"),
        })
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Hopper => "hopper",
        }
    }

    /// In words.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Portable => "portable (mma.sync, cp.async)",
            Self::Hopper => "Hopper's (wgmma, bulk copies)",
        }
    }
}

impl Device {
    /// Which kernels multiply on tensor cores here.
    pub fn kernel_set(&self) -> KernelSet {
        match self {
            Self::Cpu | Self::Emulated(_) => KernelSet::Portable,
            Self::Dry(dry) => dry.kernel_set(),
            #[cfg(feature = "cuda")]
            Self::Ptx(ptx) => ptx.options().kernels,
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => cuda.kernel_set(),
        }
    }
}
