//! The emulated device: its reports, and its primitives.

mod faults;
mod primitives;
#[cfg(feature = "sanitize")]
mod sanitized;

use glmae::device::emulated::{Emulated, Mode, Options, Schedule};
use glmae::device::launch::{Arg, DevicePtr};
use glmae::rng::{Purpose, Rng};

/// The schedules under which a kernel must give the same bits.
pub const SCHEDULES: [Schedule; 3] =
    [Schedule::Ascending, Schedule::Descending, Schedule::Shuffled(7)];

pub fn device(mode: Mode, schedule: Schedule) -> Emulated {
    Emulated::new(Options { mode, schedule, ..Options::default() })
}

/// Uploads a slice into an allocation of its own.
pub fn upload<T: bytemuck::NoUninit>(device: &Emulated, name: &str, data: &[T]) -> DevicePtr {
    let bytes = bytemuck::cast_slice(data);
    let ptr = device.alloc(bytes.len(), name).unwrap();
    device.upload(ptr, bytes).unwrap();
    ptr
}

/// Room for `floats` results.
pub fn out_of(device: &Emulated, floats: usize) -> Arg<'static> {
    device.alloc(floats * 4, "y").unwrap().into()
}

pub fn download<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(
    device: &Emulated,
    ptr: DevicePtr,
    n: usize,
) -> Vec<T> {
    let mut data = vec![T::zeroed(); n];
    device.download(ptr, bytemuck::cast_slice_mut(&mut data)).unwrap();
    data
}

/// `n` normal numbers of mean `mean` and deviation 1.
pub fn normal(seed: u64, n: usize, mean: f64) -> Vec<f64> {
    let mut rng = Rng::new(seed, Purpose::Test, 0, 0, 0);
    (0..n).map(|_| mean + rng.normal()).collect()
}
