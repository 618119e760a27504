//! What a kernel launch is, on every device: name, grid, block, shared bytes and argument slots, and
//! the checks that need no device. All devices that run kernels go through [`check`].

use std::ffi::c_void;

use super::DType;
use super::abi::{ArgKind, KernelInfo, TensorMap};
use crate::error::{Error, Result};

/// An address in the memory of one device. Offsets within an allocation are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct DevicePtr(pub u64);

impl DevicePtr {
    /// For optional arguments; a kernel must not read through it.
    pub const NULL: Self = Self(0);

    /// The address `bytes` further on.
    pub fn offset(self, bytes: usize) -> Self {
        Self(self.0.wrapping_add(bytes as u64))
    }
}

/// Extent of a launch: blocks, threads per block, and dynamic shared memory in bytes per block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchConfig {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared_bytes: u32,
}

impl LaunchConfig {
    /// A one-dimensional launch without dynamic shared memory.
    pub fn linear(blocks: u32, threads: u32) -> Self {
        Self { grid: [blocks, 1, 1], block: [threads, 1, 1], shared_bytes: 0 }
    }

    /// The launch of kernels that cover a flat array (`FLAT_TILE` of `kernels/include/rows.cuh`): 256
    /// threads with four units of 16 bytes each.
    pub fn flat(n: usize, dtype: DType) -> Self {
        Self::linear(n.div_ceil(256 * 4 * (16 / dtype.size())).max(1) as u32, 256)
    }

    /// The same launch with `bytes` of dynamic shared memory per block.
    pub fn shared(self, bytes: u32) -> Self {
        Self { shared_bytes: bytes, ..self }
    }

    /// Threads per block.
    pub fn threads(&self) -> u64 {
        self.block.iter().map(|&n| u64::from(n)).product()
    }

    /// Blocks of the grid.
    pub fn blocks(&self) -> u64 {
        self.grid.iter().map(|&n| u64::from(n)).product()
    }
}

/// One argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub enum Arg<'a> {
    Ptr(DevicePtr),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    F32(f32),
    /// A plain struct of `abi.rs` passed by value, as `bytemuck::bytes_of` gives it.
    Pod(&'a [u8]),
    Map(TensorMap),
}

impl From<DevicePtr> for Arg<'_> {
    fn from(v: DevicePtr) -> Self {
        Self::Ptr(v)
    }
}

macro_rules! arg_from {
    ($($type:ty => $variant:ident),*) => {
        $(impl From<$type> for Arg<'_> {
            fn from(v: $type) -> Self {
                Self::$variant(v)
            }
        })*
    };
}
arg_from!(i32 => I32, u32 => U32, i64 => I64, u64 => U64, f32 => F32, TensorMap => Map);

impl Arg<'_> {
    fn kind(&self) -> ArgKind {
        match self {
            Self::Ptr(_) => ArgKind::Pointer,
            Self::I32(_) | Self::I64(_) => ArgKind::Signed,
            Self::U32(_) | Self::U64(_) => ArgKind::Unsigned,
            Self::F32(_) => ArgKind::Float,
            Self::Pod(_) | Self::Map(_) => ArgKind::Struct,
        }
    }

    pub(super) fn size(&self) -> usize {
        match self {
            Self::I32(_) | Self::U32(_) | Self::F32(_) => 4,
            Self::Ptr(_) | Self::I64(_) | Self::U64(_) => 8,
            Self::Pod(bytes) => bytes.len(),
            Self::Map(map) => size_of_val(map),
        }
    }

    /// Writes the value to the first [`Arg::size`] bytes of `room`.
    pub(super) fn write(&self, room: &mut [u8]) {
        let mut write = |bytes: &[u8]| room[..bytes.len()].copy_from_slice(bytes);
        match self {
            Self::Ptr(v) => write(&v.0.to_ne_bytes()),
            Self::I32(v) => write(&v.to_ne_bytes()),
            Self::U32(v) => write(&v.to_ne_bytes()),
            Self::I64(v) => write(&v.to_ne_bytes()),
            Self::U64(v) => write(&v.to_ne_bytes()),
            Self::F32(v) => write(&v.to_ne_bytes()),
            Self::Pod(bytes) => write(bytes),
            Self::Map(map) => write(bytemuck::cast_slice(&map.opaque)),
        }
    }
}

/// Arguments laid out as `cuLaunchKernel` wants them: an array of pointers to the values.
pub struct Slots {
    /// The values, each at the start of its own run of 16-byte units.
    values: Vec<u128>,
    starts: Vec<usize>,
}

impl Slots {
    pub fn new(args: &[Arg]) -> Self {
        let mut slots = Self { values: Vec::new(), starts: Vec::with_capacity(args.len()) };
        for arg in args {
            let start = slots.values.len();
            slots.starts.push(start);
            slots.values.resize(start + arg.size().div_ceil(16).max(1), 0);
            arg.write(bytemuck::cast_slice_mut(&mut slots.values[start..]));
        }
        slots
    }

    /// The array of pointers; valid while `self` lives and does not move its values.
    pub fn pointers(&mut self) -> Vec<*mut c_void> {
        let base = self.values.as_mut_ptr();
        // `wrapping_add` stays within the allocation: every start is an index of `values`.
        self.starts.iter().map(|&i| base.wrapping_add(i).cast()).collect()
    }
}

/// An exported kernel: its file below `kernels/`, without the ending, and its two emulated builds. `checked` is null with
/// the feature `sanitize` and for kernels of `kernels/hopper`, of which `plain` has only the signature.
pub struct Kernel {
    pub name: &'static str,
    pub file: &'static str,
    pub checked: *const KernelInfo,
    pub plain: *const KernelInfo,
}

// SAFETY: the pointers are to immutable statics of the linked C++ objects.
unsafe impl Sync for Kernel {}

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// Whether a file of kernels is compiled for sm_90a alone.
pub fn is_for_hopper(file: &str) -> bool {
    file.starts_with("hopper/")
}

/// What a kernel expects: kind and bytes of every argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    pub args: Vec<(ArgKind, usize)>,
    /// Threads per block the kernel was compiled for.
    pub max_threads: u32,
}

impl Kernel {
    /// Finds an exported kernel by name.
    ///
    /// Errors: `Unsupported` when this binary has no such kernel.
    pub fn find(name: &str) -> Result<&'static Self> {
        KERNELS
            .iter()
            .find(|k| k.name == name)
            .ok_or_else(|| Error::Unsupported(format!("this binary has no kernel '{name}'")))
    }

    /// Whether only sm_90a has the instructions of it.
    pub fn needs_hopper(&self) -> bool {
        is_for_hopper(self.file)
    }

    /// The signature, as the C++ compiler deduced it from the kernel's type.
    pub fn signature(&self) -> Signature {
        // SAFETY: registry.h exports `count` kinds and sizes with every kernel.
        unsafe {
            let info = &*self.plain;
            let kinds = std::slice::from_raw_parts(info.kinds, info.count as usize);
            let sizes = std::slice::from_raw_parts(info.sizes, info.count as usize);
            let args = kinds.iter().zip(sizes);
            Signature {
                args: args.map(|(&k, &s)| (ArgKind::from_code(k), s as usize)).collect(),
                max_threads: info.max_threads,
            }
        }
    }
}

/// Limits of a device, as `cuDeviceGetAttribute` reports them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceLimits {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub threads: u64,
    /// Shared memory of a block, static and dynamic, that needs no opting in.
    pub shared_bytes: u32,
    /// The most a kernel can opt in to.
    pub shared_bytes_opt_in: u32,
}

impl DeviceLimits {
    /// Compute capability 8.0. Of 8.6 and 8.9 only the last number differs: 99 KiB.
    #[cfg(feature = "cuda")]
    pub const SM_80: Self = Self { shared_bytes_opt_in: 163 << 10, ..Self::SM_90 };

    /// Compute capability 9.0.
    pub const SM_90: Self = Self {
        grid: [i32::MAX as u32, 65_535, 65_535],
        block: [1024, 1024, 64],
        threads: 1024,
        shared_bytes: 48 << 10,
        shared_bytes_opt_in: 227 << 10,
    };
}

/// What a kernel has of shared memory before it is launched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shared {
    /// Of its `__shared__` variables. Counts towards every limit.
    pub static_bytes: u32,
    /// Dynamic bytes that were allowed beyond the default.
    pub opted_in: u32,
}

impl Shared {
    /// Whether `dynamic` bytes have to be allowed first.
    ///
    /// Errors: `Device` for more than the device has.
    pub fn must_opt_in(
        &self,
        kernel: &Kernel,
        dynamic: u32,
        limits: &DeviceLimits,
    ) -> Result<bool> {
        let total = u64::from(self.static_bytes) + u64::from(dynamic);
        if total > u64::from(limits.shared_bytes_opt_in) {
            return Err(Error::Device(format!(
                "kernel {}: {total} bytes of shared memory ({} of them static), at most {}",
                kernel.name, self.static_bytes, limits.shared_bytes_opt_in
            )));
        }
        Ok(total > u64::from(limits.shared_bytes) && dynamic > self.opted_in)
    }
}

/// Checks a launch before any device sees it.
///
/// Errors: `Device`, naming the kernel and the argument or the limit.
pub fn check(
    kernel: &Kernel,
    config: &LaunchConfig,
    args: &[Arg],
    limits: &DeviceLimits,
    shared: Shared,
) -> Result<()> {
    let name = kernel.name;
    let fail = |what: String| Err(Error::Device(format!("kernel {name}: {what}")));
    let signature = kernel.signature();
    if signature.args.len() != args.len() {
        return fail(format!("takes {} arguments, got {}", signature.args.len(), args.len()));
    }
    for (i, (arg, &(kind, size))) in args.iter().zip(&signature.args).enumerate() {
        if arg.kind() != kind || arg.size() != size {
            return fail(format!(
                "argument {i} is {kind:?} of {size} bytes, got {:?} of {} bytes",
                arg.kind(),
                arg.size()
            ));
        }
    }
    for axis in 0..3 {
        let (grid, block) = (config.grid[axis], config.block[axis]);
        if grid == 0 || grid > limits.grid[axis] || block == 0 || block > limits.block[axis] {
            return fail(format!(
                "grid {:?} or block {:?} is outside 1..={:?}, 1..={:?}",
                config.grid, config.block, limits.grid, limits.block
            ));
        }
    }
    let most = limits.threads.min(u64::from(signature.max_threads));
    if config.threads() > most {
        return fail(format!("{} threads in a block, at most {most}", config.threads()));
    }
    if shared.must_opt_in(kernel, config.shared_bytes, limits)? {
        return fail(format!(
            "{} bytes of shared memory and {} static ones need opting in beyond {} (allow_shared)",
            config.shared_bytes, shared.static_bytes, limits.shared_bytes
        ));
    }
    Ok(())
}
