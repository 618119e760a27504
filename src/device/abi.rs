//! The plain structs and constants of `kernels/include/abi.h`. Written by hand; a test compares the
//! layout with what the C++ compiler made of it.

use std::ffi::{c_char, c_void};

/// A backward kernel's first writer of a gradient overwrites ...
pub const GRAD_OVERWRITE: i32 = 0;
/// ... and later ones add.
pub const GRAD_ACCUMULATE: i32 = 1;

/// What kind of value an argument of a kernel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ArgKind {
    Pointer = 0,
    Signed = 1,
    Unsigned = 2,
    Float = 3,
    Struct = 4,
}

impl ArgKind {
    pub(crate) fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Pointer,
            1 => Self::Signed,
            2 => Self::Unsigned,
            3 => Self::Float,
            _ => Self::Struct,
        }
    }
}

/// One kernel of the emulated build. `kinds` and `sizes` hold `count` entries.
#[repr(C)]
pub struct KernelInfo {
    pub name: *const c_char,
    pub call: unsafe extern "C" fn(args: *mut *mut c_void),
    pub kinds: *const u8,
    pub sizes: *const u32,
    pub count: u32,
    pub max_threads: u32,
}

/// What a running emulated thread knows about itself.
#[repr(C)]
pub struct EmuThread {
    pub block: *const c_void,
    pub dynamic_shared: *mut c_void,
    pub stack_low: u64,
    pub stack_bytes: u64,
    pub thread_idx: [u32; 3],
    pub block_idx: [u32; 3],
    pub block_dim: [u32; 3],
    pub grid_dim: [u32; 3],
}

/// Runs over the payloads of the lanes in `mask`, once all have arrived.
pub type Complete = unsafe extern "C" fn(payloads: *const *mut c_void, mask: u32);

/// What the emulator does for the shim.
#[repr(C)]
pub struct EmuCallbacks {
    pub access: unsafe extern "C" fn(*const c_void, *const c_void, u64, u32, *const c_void),
    pub barrier: unsafe extern "C" fn(*const c_void, u32, u32, u32, u32, *const c_void) -> u32,
    pub warp: unsafe extern "C" fn(*const c_void, u32, u32, *mut c_void, Complete, *const c_void),
    pub copy:
        unsafe extern "C" fn(*const c_void, *mut c_void, *const c_void, u32, u32, *const c_void),
    pub copy_commit: unsafe extern "C" fn(*const c_void),
    pub copy_wait: unsafe extern "C" fn(*const c_void, u32, *const c_void),
    pub fault: unsafe extern "C" fn(*const c_void, u32, *const c_void),
}

/// Weights of a weighted sum, passed by value.
pub const WEIGHTS: usize = 32;

/// See [`WEIGHTS`].
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Weights {
    pub weight: [f32; WEIGHTS],
}

/// One update of the optimiser, the same for all parameters; `rest1` is `1 - beta1` and so on.
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct AdamScalars {
    pub beta1: f32,
    pub rest1: f32,
    pub beta2: f32,
    pub rest2: f32,
    pub eps: f32,
    pub grad_scale: f32,
    pub ema: f32,
    pub ema_rest: f32,
}

/// A range of the flat buffers with settings of its own: `lr / (1 - beta1^t)`,
/// `1 / sqrt(1 - beta2^t)`, `1 - lr weight_decay`.
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct AdamSegment {
    pub begin: i64,
    pub end: i64,
    pub step_size: f32,
    pub root: f32,
    pub keep: f32,
    /// [`ADAM_ACTIVE`], [`ADAM_TEACHER`].
    pub flags: u32,
}
/// The segment is updated (it is neither frozen nor padding).
pub const ADAM_ACTIVE: u32 = 1;
/// The teacher has these elements too.
pub const ADAM_TEACHER: u32 = 2;

/// The box of a view, along d, h, w, as 32.32 fixed point: output voxel `i` lies at position
/// `start + i step` of the volume. A mirrored axis has a negative step.
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct ViewBox {
    pub start: [i64; 3],
    pub step: [i64; 3],
}

/// Where the voxels of a resampled volume lie in its source, along d, h, w, as 24.40 fixed point: output
/// voxel `i` at `start + sum_b i[b] step[b]`. Passed by value.
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct AffineMap {
    pub start: [i64; 3],
    pub step: [[i64; 3]; 3],
}

pub const ACCESS_READ: u32 = 0;
pub const ACCESS_WRITE: u32 = 1;
pub const ACCESS_ATOMIC: u32 = 2;

pub const REDUCE_NONE: u32 = 0;
pub const REDUCE_OR: u32 = 1;
pub const REDUCE_AND: u32 = 2;
pub const REDUCE_COUNT: u32 = 3;

#[cfg(test)]
mod tests {
    use std::mem::{offset_of, size_of};

    use super::*;

    unsafe extern "C" {
        static glmae_abi_layout: [u64; 64];
        static glmae_abi_layout_count: u64;
    }

    #[test]
    fn layout_is_that_of_the_cpp_compiler() {
        let ours = [
            size_of::<KernelInfo>(),
            offset_of!(KernelInfo, name),
            offset_of!(KernelInfo, call),
            offset_of!(KernelInfo, kinds),
            offset_of!(KernelInfo, sizes),
            offset_of!(KernelInfo, count),
            offset_of!(KernelInfo, max_threads),
            size_of::<EmuThread>(),
            offset_of!(EmuThread, block),
            offset_of!(EmuThread, dynamic_shared),
            offset_of!(EmuThread, stack_low),
            offset_of!(EmuThread, stack_bytes),
            offset_of!(EmuThread, thread_idx),
            offset_of!(EmuThread, block_idx),
            offset_of!(EmuThread, block_dim),
            offset_of!(EmuThread, grid_dim),
            size_of::<EmuCallbacks>(),
            offset_of!(EmuCallbacks, access),
            offset_of!(EmuCallbacks, barrier),
            offset_of!(EmuCallbacks, warp),
            offset_of!(EmuCallbacks, copy),
            offset_of!(EmuCallbacks, copy_commit),
            offset_of!(EmuCallbacks, copy_wait),
            offset_of!(EmuCallbacks, fault),
            size_of::<Weights>(),
            offset_of!(Weights, weight),
            size_of::<AdamScalars>(),
            offset_of!(AdamScalars, beta1),
            offset_of!(AdamScalars, rest1),
            offset_of!(AdamScalars, beta2),
            offset_of!(AdamScalars, rest2),
            offset_of!(AdamScalars, eps),
            offset_of!(AdamScalars, grad_scale),
            offset_of!(AdamScalars, ema),
            offset_of!(AdamScalars, ema_rest),
            size_of::<AdamSegment>(),
            offset_of!(AdamSegment, begin),
            offset_of!(AdamSegment, end),
            offset_of!(AdamSegment, step_size),
            offset_of!(AdamSegment, root),
            offset_of!(AdamSegment, keep),
            offset_of!(AdamSegment, flags),
            size_of::<ViewBox>(),
            offset_of!(ViewBox, start),
            offset_of!(ViewBox, step),
            size_of::<AffineMap>(),
            offset_of!(AffineMap, start),
            offset_of!(AffineMap, step),
        ];
        // SAFETY: layout.cpp defines the array with as many entries as the count says.
        let theirs = unsafe {
            let count = (&raw const glmae_abi_layout_count).read() as usize;
            std::slice::from_raw_parts((&raw const glmae_abi_layout).cast::<u64>(), count)
        };
        assert_eq!(ours.map(|v| v as u64).as_slice(), theirs);
    }
}
