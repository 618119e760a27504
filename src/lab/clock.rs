//! How long work takes on a device: host time where the work is done when a call returns, events in
//! the stream of a GPU.

use std::time::Instant;

use crate::Result;
use crate::device::Device;
#[cfg(feature = "cuda")]
use crate::device::cuda::Mark;

/// A point in time on a device.
pub enum Moment {
    Host(Instant),
    #[cfg(feature = "cuda")]
    Cuda(Mark),
}

impl Moment {
    /// Now, on the device: behind all work started so far.
    pub fn now(device: &Device) -> Result<Self> {
        match device {
            Device::Cpu | Device::Emulated(_) | Device::Dry(_) => Ok(Self::Host(Instant::now())),
            #[cfg(feature = "cuda")]
            Device::Ptx(_) => Ok(Self::Host(Instant::now())),
            #[cfg(feature = "cuda")]
            Device::Cuda(cuda) => Ok(Self::Cuda(cuda.mark()?)),
        }
    }

    /// Seconds from this moment to a later one of the same device.
    pub fn seconds_to(&self, end: &Self) -> Result<f64> {
        match (self, end) {
            (Self::Host(begin), Self::Host(end)) => Ok((*end - *begin).as_secs_f64()),
            #[cfg(feature = "cuda")]
            (Self::Cuda(begin), Self::Cuda(end)) => begin.seconds_to(end),
            #[cfg(feature = "cuda")]
            _ => Err(crate::Error::shape("timing", "two moments of one device", "of two")),
        }
    }
}
