//! The memory behind tensors: pooled host memory on the CPU, an allocation of the device elsewhere.

use super::launch::DevicePtr;
use super::memory::HostMemory;
use super::{Device, class};
use crate::Result;

/// One allocation.
pub(super) enum Storage {
    Host(HostMemory),
    Device(DeviceMemory),
}

/// Memory of an emulated or real GPU, freed when dropped.
pub(super) struct DeviceMemory {
    device: Device,
    pub ptr: DevicePtr,
}

impl Storage {
    pub fn new(device: &Device, bytes: usize) -> Result<Self> {
        match device {
            Device::Cpu => Ok(Self::Host(HostMemory::new(bytes)?)),
            Device::Emulated(emulated) => {
                let ptr = emulated.alloc(bytes.max(1), class::current())?;
                Ok(Self::Device(DeviceMemory { device: device.clone(), ptr }))
            }
            Device::Dry(dry) => {
                let ptr = dry.alloc(bytes.max(1), class::current())?;
                Ok(Self::Device(DeviceMemory { device: device.clone(), ptr }))
            }
            #[cfg(feature = "cuda")]
            Device::Ptx(ptx) => {
                let ptr = ptx.alloc(bytes.max(1), class::current())?;
                Ok(Self::Device(DeviceMemory { device: device.clone(), ptr }))
            }
            #[cfg(feature = "cuda")]
            Device::Cuda(cuda) => {
                let ptr = cuda.alloc(bytes.max(1), class::current())?;
                Ok(Self::Device(DeviceMemory { device: device.clone(), ptr }))
            }
        }
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        let freed = match &self.device {
            Device::Cpu => Ok(()),
            Device::Emulated(emulated) => emulated.free(self.ptr),
            Device::Dry(dry) => dry.free(self.ptr),
            #[cfg(feature = "cuda")]
            Device::Ptx(ptx) => ptx.free(self.ptr),
            #[cfg(feature = "cuda")]
            Device::Cuda(cuda) => cuda.free(self.ptr),
        };
        if let Err(error) = freed {
            // A destructor cannot fail; devices on the host report writes outside of an allocation here.
            tracing::error!(%error, "device memory");
        }
    }
}
