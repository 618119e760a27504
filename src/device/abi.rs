//! The plain structs and constants of `kernels/include/abi.h` under the names of Rust code. The structs
//! are what bindgen makes of the header (`scripts/generate-abi.sh`, which also writes asserts of every
//! size and offset); tests compare the file with the header it was made from, and the layout with what
//! the C++ compiler of the kernels made of it.

#[path = "abi_generated.rs"]
mod generated;

use self::generated as c;

/// A backward kernel's first writer of a gradient overwrites ...
pub const GRAD_OVERWRITE: i32 = c::GLMAE_GRAD_OVERWRITE as i32;
/// ... and later ones add.
pub const GRAD_ACCUMULATE: i32 = c::GLMAE_GRAD_ACCUMULATE as i32;

/// What kind of value an argument of a kernel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ArgKind {
    Pointer = c::GLMAE_ARG_POINTER as u8,
    Signed = c::GLMAE_ARG_SIGNED as u8,
    Unsigned = c::GLMAE_ARG_UNSIGNED as u8,
    Float = c::GLMAE_ARG_FLOAT as u8,
    Struct = c::GLMAE_ARG_STRUCT as u8,
}

impl ArgKind {
    pub(crate) fn from_code(code: u8) -> Self {
        match u32::from(code) {
            c::GLMAE_ARG_POINTER => Self::Pointer,
            c::GLMAE_ARG_SIGNED => Self::Signed,
            c::GLMAE_ARG_UNSIGNED => Self::Unsigned,
            c::GLMAE_ARG_FLOAT => Self::Float,
            _ => Self::Struct,
        }
    }
}

/// One kernel of the emulated build. `kinds` and `sizes` hold `count` entries.
pub use self::generated::GlmaeKernelInfo as KernelInfo;

/// What a running emulated thread knows about itself.
pub use self::generated::GlmaeEmuThread as EmuThread;

/// What the emulator does for the shim.
pub use self::generated::GlmaeEmuCallbacks as EmuCallbacks;

/// Runs over the payloads of the lanes in `mask`, once all have arrived.
pub type Complete = Option<unsafe extern "C" fn(payloads: *const *mut std::ffi::c_void, mask: u32)>;

/// Weights of a weighted sum, passed by value: this many.
pub const WEIGHTS: usize = c::GLMAE_WEIGHTS as usize;

/// That many weights.
pub use self::generated::GlmaeWeights as Weights;

/// One update of the optimiser, the same for all parameters; `rest1` is `1 - beta1` and so on.
pub use self::generated::GlmaeAdamScalars as AdamScalars;

/// A range of the flat buffers with settings of its own: `lr / (1 - beta1^t)`,
/// `1 / sqrt(1 - beta2^t)`, `1 - lr weight_decay`, and the flags [`ADAM_ACTIVE`], [`ADAM_TEACHER`].
pub use self::generated::GlmaeAdamSegment as AdamSegment;

/// The segment is updated (it is neither frozen nor padding).
pub const ADAM_ACTIVE: u32 = c::GLMAE_ADAM_ACTIVE;
/// The teacher has these elements too.
pub const ADAM_TEACHER: u32 = c::GLMAE_ADAM_TEACHER;

/// The box of a view, along d, h, w, as 32.32 fixed point: output voxel `i` lies at position
/// `start + i step` of the volume. A mirrored axis has a negative step.
pub use self::generated::GlmaeViewBox as ViewBox;

/// Where the voxels of a resampled volume lie in its source, along d, h, w, as 24.40 fixed point: output
/// voxel `i` at `start + sum_b i[b] step[b]`. Passed by value.
pub use self::generated::GlmaeAffineMap as AffineMap;

/// A tensor map, which only the device that made it can read. Passed by value.
pub use self::generated::GlmaeTensorMap as TensorMap;

pub const ACCESS_READ: u32 = c::GLMAE_ACCESS_READ;
pub const ACCESS_WRITE: u32 = c::GLMAE_ACCESS_WRITE;
pub const ACCESS_ATOMIC: u32 = c::GLMAE_ACCESS_ATOMIC;

pub const REDUCE_NONE: u32 = c::GLMAE_REDUCE_NONE;
pub const REDUCE_OR: u32 = c::GLMAE_REDUCE_OR;
pub const REDUCE_AND: u32 = c::GLMAE_REDUCE_AND;
pub const REDUCE_COUNT: u32 = c::GLMAE_REDUCE_COUNT;

/// What went wrong in a kernel, where it does not say it with an address.
pub(crate) fn fault_message(code: u32) -> &'static str {
    match code {
        c::GLMAE_FAULT_FLOAT_ATOMIC => "atomic on a float: the order of the additions is not fixed",
        c::GLMAE_FAULT_SHUFFLE_SOURCE => "shuffle from a lane that the mask does not name",
        c::GLMAE_FAULT_MISALIGNED => "misaligned address",
        c::GLMAE_FAULT_TRAP => "__trap()",
        c::GLMAE_FAULT_ARRAY_INDEX => "index outside an array of fixed size",
        c::GLMAE_FAULT_OVERFLOW => "integer overflow",
        c::GLMAE_FAULT_DIVISION => "integer division by zero",
        c::GLMAE_FAULT_SHIFT => "shift by a negative or too large amount",
        c::GLMAE_FAULT_UNDEFINED => "undefined behaviour",
        _ => "unknown fault",
    }
}

#[cfg(test)]
mod tests {
    use std::mem::{align_of, offset_of, size_of};

    use super::*;

    unsafe extern "C" {
        static glmae_abi_layout: [u64; 64];
        static glmae_abi_layout_count: u64;
    }

    /// The generated file says which header it was made from.
    #[test]
    fn generated_file_is_that_of_the_header() {
        let header = include_bytes!("../../kernels/include/abi.h");
        let digest = header.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, &byte| {
            (h ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let line = format!("// FNV-1a of kernels/include/abi.h: {digest:016x}");
        let generated = include_str!("abi_generated.rs");
        assert!(generated.contains(&line), "abi.h has changed: run scripts/generate-abi.sh");
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
            size_of::<TensorMap>(),
            align_of::<TensorMap>(),
        ];
        // SAFETY: layout.cpp defines the array with as many entries as the count says.
        let theirs = unsafe {
            let count = (&raw const glmae_abi_layout_count).read() as usize;
            std::slice::from_raw_parts((&raw const glmae_abi_layout).cast::<u64>(), count)
        };
        assert_eq!(ours.map(|v| v as u64).as_slice(), theirs);
    }
}
