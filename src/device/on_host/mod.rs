//! What the devices have in common whose kernels are executed on the host: memory between guard zones, books
//! of shared memory, checks of launches, capture. How a kernel is executed is the [`Engine`]'s part.

mod recording;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use glmae_simt::memory::{self, Map, Memory};

pub use self::recording::Graph;
use self::recording::Recording;
use super::arena::Usage;
use super::capturing::Capturing;
use super::launch::{Arg, DeviceLimits, DevicePtr, Kernel, LaunchConfig, Shared, check};
use crate::error::{Error, Result};

/// What executes the kernels of a device.
pub trait Engine: Send + Sync {
    fn limits(&self) -> &DeviceLimits;

    /// The kind of memory that its kernels work in.
    fn memory(&self) -> memory::Options;

    /// Bytes of the `__shared__` variables of a kernel.
    fn static_bytes(&self, kernel: &'static Kernel) -> Result<u32>;

    /// Runs a launch to its end; count and kinds of the arguments, extents and pointers were checked.
    fn run(&self, launch: &Launch) -> Result<()>;
}

/// A launch that was checked.
pub struct Launch<'a> {
    pub kernel: &'static Kernel,
    pub config: &'a LaunchConfig,
    pub args: &'a [Arg<'a>],
    /// The allocations of the device.
    pub map: Arc<Map>,
}

/// A device whose kernels are executed on the host. All methods take `&self`; launches are finished when they
/// return.
pub struct OnHost<E> {
    engine: E,
    memory: Mutex<Memory>,
    shared: Mutex<HashMap<&'static str, Shared>>,
    launched: Mutex<BTreeSet<&'static str>>,
    /// Present while a graph is captured.
    capturing: Capturing,
    recording: Mutex<Recording>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<E: Engine> OnHost<E> {
    /// A device whose kernels this engine executes.
    pub fn with(engine: E) -> Self {
        Self {
            memory: Mutex::new(Memory::new(engine.memory())),
            engine,
            shared: Mutex::default(),
            launched: Mutex::default(),
            capturing: Capturing::default(),
            recording: Mutex::default(),
        }
    }

    pub fn engine(&self) -> &E {
        &self.engine
    }

    /// Names of the kernels that have run to their end on this device, sorted.
    pub fn launched(&self) -> Vec<&'static str> {
        lock(&self.launched).iter().copied().collect()
    }

    /// Allocates `bytes` (256-byte aligned), poisoned; `name` appears in messages.
    ///
    /// Errors: `OutOfMemory`.
    pub fn alloc(&self, bytes: usize, name: &str) -> Result<DevicePtr> {
        self.capturing.takes_in("allocation")?;
        Ok(DevicePtr(lock(&self.memory).alloc(bytes, name)?))
    }

    /// Frees an allocation.
    ///
    /// Errors: `Device` when `ptr` is not the start of a live allocation, or when something was
    /// written just outside it.
    pub fn free(&self, ptr: DevicePtr) -> Result<()> {
        if !self.note_free(ptr) {
            lock(&self.memory).free(ptr.0)?;
        }
        Ok(())
    }

    /// Errors (of this and the next three): `Device` when a range is not within one allocation.
    pub fn upload(&self, to: DevicePtr, from: &[u8]) -> Result<()> {
        self.capturing.refuse("upload")?;
        Ok(lock(&self.memory).upload(to.0, from)?)
    }

    /// Also an error, when checked: bytes that were never written.
    pub fn download(&self, from: DevicePtr, to: &mut [u8]) -> Result<()> {
        self.capturing.refuse("download")?;
        Ok(lock(&self.memory).download(from.0, to)?)
    }

    /// Copies within the device; never-written bytes stay so.
    pub fn copy(&self, to: DevicePtr, from: DevicePtr, bytes: usize) -> Result<()> {
        if self.note_copy(to, from, bytes)? {
            return Ok(());
        }
        Ok(lock(&self.memory).copy(to.0, from.0, bytes)?)
    }

    pub fn fill(&self, to: DevicePtr, byte: u8, bytes: usize) -> Result<()> {
        if self.note_fill(to, byte, bytes)? {
            return Ok(());
        }
        Ok(lock(&self.memory).fill(to.0, byte, bytes)?)
    }

    /// Bytes held now and at most so far; compare [`crate::device::Dry::usage`].
    pub fn usage(&self) -> Usage {
        let memory::Usage { live, peak } = lock(&self.memory).usage();
        Usage { live, peak, reserved: live }
    }

    /// Allows a kernel `bytes` of dynamic shared memory beyond the default 48 KiB, static ones
    /// included, as `cuFuncSetAttribute` does.
    ///
    /// Errors: `Unsupported` for an unknown kernel, `Device` above the limit.
    pub fn allow_shared(&self, kernel: &str, bytes: u32) -> Result<()> {
        let kernel = Kernel::find(kernel)?;
        if self.shared(kernel)?.must_opt_in(kernel, bytes, self.engine.limits())? {
            lock(&self.shared).entry(kernel.name).or_default().opted_in = bytes;
        }
        Ok(())
    }

    /// Static and allowed shared memory of a kernel.
    pub fn shared(&self, kernel: &'static Kernel) -> Result<Shared> {
        if let Some(found) = lock(&self.shared).get(kernel.name) {
            return Ok(*found);
        }
        let new = Shared { static_bytes: self.engine.static_bytes(kernel)?, opted_in: 0 };
        Ok(*lock(&self.shared).entry(kernel.name).or_insert(new))
    }

    /// Runs a kernel to its end.
    ///
    /// Errors: `Unsupported` for a kernel that this binary or the engine does not have; `Device` for a wrong
    /// launch, and for everything the engine reports.
    pub fn launch(&self, name: &str, config: &LaunchConfig, args: &[Arg]) -> Result<()> {
        let kernel = Kernel::find(name)?;
        check(kernel, config, args, self.engine.limits(), self.shared(kernel)?)?;
        let map = lock(&self.memory).map.clone();
        check_pointers(kernel, args, &map)?;
        if self.note_launch(kernel, config, args)? {
            return Ok(());
        }
        self.engine.run(&Launch { kernel, config, args, map })?;
        lock(&self.launched).insert(kernel.name);
        let memory = lock(&self.memory);
        if !memory.is_checked() {
            memory.check_guards()?;
        }
        Ok(())
    }
}

/// Pointer arguments must point into live allocations, or be null.
fn check_pointers(kernel: &Kernel, args: &[Arg], map: &Map) -> Result<()> {
    for (i, arg) in args.iter().enumerate() {
        if let Arg::Ptr(ptr) = arg
            && *ptr != DevicePtr::NULL
            && map.find(ptr.0).is_none()
        {
            return Err(Error::Device(format!(
                "kernel {}: argument {i} points to {}",
                kernel.name,
                map.describe(ptr.0, 1)
            )));
        }
    }
    Ok(())
}
