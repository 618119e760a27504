//! Every tensor its own allocation of the driver, of exactly its size: `GLMAE_CUDA_MEMORY=exact`. Slow, and
//! for compute-sanitizer only, which knows the driver's allocations and not the pieces that [`arena`] cuts
//! from them: an access past the end of a tensor is a fault this way, and reused bytes are unwritten again.
//!
//! [`arena`]: crate::device

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{CudaStream, result};

use super::fault::driver;
use crate::device::launch::DevicePtr;
use crate::error::{Error, Result};

/// Allocations by address.
#[derive(Default)]
pub struct Exact {
    live: Mutex<BTreeMap<u64, usize>>,
}

impl Exact {
    /// Errors: `Config` for a value that is not known.
    pub fn from_env() -> Result<Option<Self>> {
        const NAME: &str = "GLMAE_CUDA_MEMORY";
        match std::env::var(NAME).as_deref() {
            Err(_) | Ok("" | "pooled") => Ok(None),
            Ok("exact") => Ok(Some(Self::default())),
            Ok(other) => {
                Err(Error::Config(format!("{NAME} is '{other}'; it can be 'pooled' or 'exact'")))
            }
        }
    }

    /// The context must be current.
    pub fn alloc(&self, bytes: usize, name: &str) -> Result<DevicePtr> {
        // SAFETY: the context is current, and the size is not 0.
        let at = unsafe { result::malloc_sync(bytes.max(1)) }
            .map_err(driver(&format!("{bytes} bytes for '{name}'")))?;
        self.live.lock().unwrap_or_else(PoisonError::into_inner).insert(at, bytes);
        Ok(DevicePtr(at))
    }

    /// Waits for the stream, then frees. The context must be current.
    pub fn free(&self, ptr: DevicePtr, stream: &Arc<CudaStream>) -> Result<()> {
        if self.live.lock().unwrap_or_else(PoisonError::into_inner).remove(&ptr.0).is_none() {
            let at = ptr.0;
            return Err(Error::Device(format!("free of {at:#x}, which is no allocation")));
        }
        stream.synchronize().map_err(driver("synchronize"))?;
        // SAFETY: an allocation of the driver, taken from the list a moment ago; no work is under way.
        unsafe { result::free_sync(ptr.0) }.map_err(driver("free"))
    }
}
