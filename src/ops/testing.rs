//! What tests of several ops share.

use std::sync::Arc;

use crate::device::ptx::{Arch, Options, Ptx, Schedule};
use crate::device::{Device, KernelSet};

/// A device that executes the PTX of Hopper's kernels, or nothing, said so, where this binary has none.
pub(super) fn hopper_device(schedule: Schedule) -> Option<Device> {
    let options = Options { schedule, kernels: KernelSet::Hopper, ..Options::default() };
    match Ptx::new(Arch::Sm90a, options) {
        Ok(ptx) => Some(Device::Ptx(Arc::new(ptx))),
        Err(e) => {
            println!("skipped: {e}");
            None
        }
    }
}
