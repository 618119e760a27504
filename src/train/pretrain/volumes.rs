//! Prepared volumes on the device: those used last stay there, so that an epoch after the first
//! uploads nothing while they fit (`data.device_cache_mib`).

use crate::data::Prepared;
use crate::device::{Device, Tensor, class};
use crate::{Error, Result};

/// The volumes that are on the device. The one used longest ago is the first to go.
pub struct DeviceVolumes {
    device: Device,
    limit: usize,
    bytes: usize,
    /// Number of the case and its voxels, least recently used first.
    held: Vec<(usize, Tensor)>,
}

impl DeviceVolumes {
    /// Keeps at most `limit` bytes. On the CPU nothing is kept: the cache of prepared cases is in the
    /// same memory.
    pub fn new(device: &Device, limit: usize) -> Self {
        let limit = if *device == Device::Cpu { 0 } else { limit };
        Self { device: device.clone(), limit, bytes: 0, held: Vec::new() }
    }

    /// The voxels `[channels, d, h, w]` of case number `index`, uploaded if they are not there.
    pub fn get(&mut self, index: usize, case: &Prepared) -> Result<Tensor> {
        if let Some(at) = self.held.iter().position(|held| held.0 == index) {
            let found = self.held.remove(at);
            let tensor = found.1.clone();
            self.held.push(found);
            return Ok(tensor);
        }
        let bytes = size_of_val(case.voxels());
        while self.bytes + bytes > self.limit && self.drop_oldest() {}
        let _class = class::scope("volumes");
        let [d, h, w] = case.dims();
        let shape = [case.channels(), d, h, w];
        let tensor = loop {
            match Tensor::from_slice(&self.device, case.voxels(), &shape) {
                // What is only kept for later makes room first.
                Err(Error::OutOfMemory(_)) if self.drop_oldest() => {}
                outcome => break outcome?,
            }
        };
        if bytes <= self.limit {
            self.bytes += bytes;
            self.held.push((index, tensor.clone()));
        }
        Ok(tensor)
    }

    /// Lets go of the volume that was used longest ago. False when there is none.
    fn drop_oldest(&mut self) -> bool {
        let any = !self.held.is_empty();
        if any {
            self.bytes -= 4 * self.held.remove(0).1.len();
        }
        any
    }
}
