//! A CUDA device: the fatbins that build.rs made of `kernels/*.cu`, through the driver API. It has the
//! methods of the emulated device, and launches go through the same checks.
//!
//! All work is on one stream of the device's own, in order; `upload`, `copy`, `fill`, `launch` and
//! `free` return before it is done, `download` and `synchronize` wait. Large uploads cross the bus on a
//! second stream meanwhile, and take their place in the order from there (`staging`). An error of a kernel may
//! surface at any later call.
//!
//! Not yet run on a GPU; `tests/stand_in` executes all of it behind a stand-in for the driver.

mod exact;
mod fault;
mod graph;
mod launch;
mod staging;
mod timing;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys::{
    CUdevice_attribute as Attribute, CUfunction_attribute_enum as OfFunction,
};
use cudarc::driver::{CudaContext, CudaModule, CudaStream, DriverError, result, sys};

pub use self::graph::Graph;
pub use self::timing::Mark;

use self::exact::Exact;
use self::fault::driver;
use self::launch::Function;
use self::staging::Staging;
use super::KernelSet;
use super::arena::{Arena, Usage};
use super::capturing::Capturing;
use super::launch::{DeviceLimits, DevicePtr, Kernel};
use crate::error::{Error, Result};

/// One GPU. Methods may be called from any thread.
pub struct Cuda {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    limits: DeviceLimits,
    /// By file; loaded at the first launch from each.
    modules: Mutex<HashMap<&'static str, Arc<CudaModule>>>,
    functions: Mutex<HashMap<&'static str, Function>>,
    arena: Mutex<Arena>,
    /// Made at the first upload.
    staging: Mutex<Option<Staging>>,
    capturing: Capturing,
    exact: Option<Exact>,
    kernels: KernelSet,
    /// Whether kernels that wait for the one before them may start while it runs.
    overlaps: bool,
    processors: u32,
}

/// Whether the CUDA driver is installed. Everything else here panics without it.
pub fn is_driver_present() -> bool {
    // SAFETY: tries to open the driver's library, whose initialiser is safe to run.
    unsafe { sys::is_culib_present() }
}

/// Number of CUDA devices; 0 without a driver.
pub fn count() -> usize {
    if !is_driver_present() {
        return 0;
    }
    CudaContext::device_count().map_or_else(
        |error| {
            tracing::warn!(%error, "the CUDA driver is there but does not start; going on without a GPU");
            0
        },
        |n| usize::try_from(n).unwrap_or(0),
    )
}

/// A GPU as the driver lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    pub name: String,
    /// Major and minor version of its compute capability.
    pub capability: [u32; 2],
    /// Bytes of its memory.
    pub memory: usize,
    pub processors: u32,
}

/// All GPUs, without opening one; empty without a driver.
pub fn list() -> Result<Vec<Gpu>> {
    let describe = |ordinal: usize| -> std::result::Result<Gpu, DriverError> {
        let ordinal = i32::try_from(ordinal).unwrap_or(i32::MAX);
        let device = result::device::get(ordinal)?;
        // SAFETY: `device` is what the driver gave a moment ago.
        let attribute = |a: Attribute| unsafe { result::device::get_attribute(device, a) };
        let number = |a: Attribute| attribute(a).map(|n| u32::try_from(n).unwrap_or(0));
        Ok(Gpu {
            name: result::device::get_name(device)?,
            capability: [
                number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ],
            // SAFETY: as above.
            memory: unsafe { result::device::total_mem(device)? },
            processors: number(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        })
    };
    let found: std::result::Result<_, _> = (0..count()).map(describe).collect();
    found.map_err(driver("listing the GPUs"))
}

impl Cuda {
    /// Opens device `ordinal`.
    ///
    /// Errors: `Device` without a driver or such a device; `Unsupported` below compute capability 8.0.
    pub fn new(ordinal: usize) -> Result<Self> {
        if !is_driver_present() {
            return Err(Error::Device(
                "no CUDA driver is installed (libcuda was not found)".into(),
            ));
        }
        let open = driver(&format!("CUDA device {ordinal}"));
        let context = CudaContext::new(ordinal).map_err(open)?;
        // SAFETY: nothing is allocated yet. This device orders its work by its one stream itself; the
        // events would break graph capture.
        unsafe { context.disable_event_tracking() };
        let attribute = |a: Attribute| {
            let value = context.attribute(a).map_err(driver("device attribute"))?;
            u32::try_from(value).map_err(|_| Error::Device(format!("attribute {a:?} is {value}")))
        };
        let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        if major < 8 {
            let name = context.name().unwrap_or_default();
            return Err(Error::Unsupported(format!(
                "{name} has compute capability {major}.x, the kernels need 8.0 or newer"
            )));
        }
        let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let (kernels, _) = KernelSet::of_capability([major, minor])?;
        let limits = DeviceLimits {
            grid: [
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X)?,
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y)?,
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z)?,
            ],
            block: [
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X)?,
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y)?,
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z)?,
            ],
            threads: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?.into(),
            shared_bytes: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK)?,
            shared_bytes_opt_in: attribute(
                Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
            )?,
        };
        let processors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let stream = context.new_stream().map_err(driver("new stream"))?;
        Ok(Self {
            context,
            stream,
            limits,
            modules: Mutex::default(),
            functions: Mutex::default(),
            arena: Mutex::default(),
            staging: Mutex::default(),
            capturing: Capturing::default(),
            exact: Exact::from_env()?,
            kernels,
            overlaps: launch::overlaps()?,
            processors,
        })
    }

    /// The product name.
    pub fn name(&self) -> String {
        self.context.name().unwrap_or_else(|_| "CUDA device".into())
    }

    /// Whether the GPU lets only one process in at a time (its compute mode).
    pub fn is_exclusive(&self) -> bool {
        let mode = self.context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_MODE);
        mode == Ok(sys::CUcomputemode_enum::CU_COMPUTEMODE_EXCLUSIVE_PROCESS as i32)
    }

    /// Which kernels multiply matrices.
    pub fn kernel_set(&self) -> KernelSet {
        self.kernels
    }

    pub fn limits(&self) -> &DeviceLimits {
        &self.limits
    }

    pub fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Makes the context that of this thread, as every call of the driver wants it.
    pub(super) fn bind(&self) -> Result<()> {
        self.context.bind_to_thread().map_err(driver("bind context"))
    }

    fn arena(&self) -> MutexGuard<'_, Arena> {
        self.arena.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes held by tensors now and at most so far, and got from the driver.
    pub fn usage(&self) -> Usage {
        self.arena().usage()
    }

    /// Starts a new measurement of the peak.
    pub fn reset_peak(&self) {
        self.arena().reset_peak();
    }

    /// Allocates `bytes`, 512-byte aligned, contents undefined. The memory may have belonged to another
    /// tensor a moment ago: the stream orders the uses.
    ///
    /// Errors: `OutOfMemory`, with what was asked for, what is free, and who holds the most.
    pub fn alloc(&self, bytes: usize, name: &'static str) -> Result<DevicePtr> {
        let is_captured = self.capturing.takes_in("allocation")?;
        if let Some(exact) = &self.exact {
            self.bind()?;
            return exact.alloc(bytes, name);
        }
        let mut arena = self.arena();
        if let Some(at) = arena.take(bytes, name) {
            return Ok(DevicePtr(at));
        }
        self.bind()?;
        let segment = Arena::segment_bytes(bytes);
        // SAFETY: the context is current, and no segment has 0 bytes.
        let mut got = unsafe { result::malloc_sync(segment) };
        if matches!(got, Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY))) && !is_captured
        {
            // What is cached in other sizes may make the difference.
            self.release(&mut arena)?;
            // SAFETY: as above.
            got = unsafe { result::malloc_sync(segment) };
        }
        match got {
            Ok(at) => {
                arena.add_segment(at, segment, bytes);
                let at = arena.take(bytes, name);
                at.map(DevicePtr).ok_or_else(|| Error::Device("the arena lost a segment".into()))
            }
            Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                Err(self.out_of_memory(&arena, bytes, name))
            }
            Err(e) => Err(driver("allocation")(e)),
        }
    }

    /// Gives segments that no tensor uses back to the driver; waits for the work under way.
    pub fn release_unused(&self) -> Result<()> {
        self.bind()?;
        self.release(&mut self.arena())
    }

    fn release(&self, arena: &mut Arena) -> Result<()> {
        self.stream.synchronize().map_err(driver("synchronize"))?;
        for unused in arena.take_unused_segments() {
            // SAFETY: a segment from the driver, without a tensor in it; no work is under way.
            unsafe { result::free_sync(unused) }.map_err(driver("free"))?;
        }
        Ok(())
    }

    fn out_of_memory(&self, arena: &Arena, bytes: usize, name: &str) -> Error {
        let mib = |bytes: usize| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
        let free = self.context.mem_get_info().map_or_else(
            |_| "unknown".to_owned(),
            |(free, total)| format!("{} of {} are free", mib(free), mib(total)),
        );
        let Usage { live, reserved, .. } = arena.usage();
        let holders = arena
            .largest(5)
            .into_iter()
            .map(|(name, count, bytes)| format!("{count} x {} {name}", mib(bytes / count.max(1))));
        Error::OutOfMemory(format!(
            "{} for '{name}' on {}: {free}; this process holds {} ({} in tensors). Largest: {}. Lower \
             train.batch, or use a smaller model",
            mib(bytes),
            self.name(),
            mib(reserved),
            mib(live),
            holders.collect::<Vec<_>>().join(", ")
        ))
    }

    /// Takes an allocation back. The next one to get the memory uses it behind all work started so
    /// far, so nothing has to be waited for.
    pub fn free(&self, ptr: DevicePtr) -> Result<()> {
        if let Some(exact) = &self.exact {
            self.bind()?;
            // What a graph was recorded with stays until the device goes.
            return match self.capturing.refuse("free") {
                Ok(()) => exact.free(ptr, &self.stream),
                Err(_) => Ok(()),
            };
        }
        if self.arena().give(ptr.0) {
            return Ok(());
        }
        Err(Error::Device(format!("free of {:#x}, which is no allocation", ptr.0)))
    }

    /// Copies `from` to the device through pinned memory. Its place is in the order of the stream; a
    /// large one crosses the bus earlier, while the stream does what was started before.
    pub fn upload(&self, to: DevicePtr, from: &[u8]) -> Result<()> {
        self.capturing.refuse("upload")?;
        // A driver may refuse ranges without bytes, here and in the next three.
        if from.is_empty() {
            return Ok(());
        }
        self.bind()?;
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        let staging = match &mut *staging {
            Some(staging) => staging,
            none => none.insert(Staging::new(&self.context)?),
        };
        staging.upload(&self.stream, to, from)
    }

    pub fn download(&self, from: DevicePtr, to: &mut [u8]) -> Result<()> {
        self.capturing.refuse("download")?;
        if to.is_empty() {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: `to` is borrowed until the synchronisation below.
        unsafe { result::memcpy_dtoh_async(to, from.0, self.stream.cu_stream()) }
            .map_err(driver("download"))?;
        self.synchronize()
    }

    pub fn copy(&self, to: DevicePtr, from: DevicePtr, bytes: usize) -> Result<()> {
        self.capturing.takes_in("copy")?;
        if bytes == 0 {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: the driver checks the ranges.
        unsafe { result::memcpy_dtod_async(to.0, from.0, bytes, self.stream.cu_stream()) }
            .map_err(driver("copy"))
    }

    pub fn fill(&self, to: DevicePtr, byte: u8, bytes: usize) -> Result<()> {
        self.capturing.takes_in("fill")?;
        if bytes == 0 {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: the driver checks the range.
        unsafe { result::memset_d8_async(to.0, byte, bytes, self.stream.cu_stream()) }
            .map_err(driver("fill"))
    }

    /// Waits for all work; errors of kernels surface here.
    pub fn synchronize(&self) -> Result<()> {
        self.capturing.refuse("waiting")?;
        self.stream.synchronize().map_err(driver("synchronize"))
    }

    /// Allows a kernel `bytes` of dynamic shared memory, if they need allowing.
    ///
    /// Errors: `Unsupported` for an unknown kernel; `Device` for more than there is.
    pub fn allow_shared(&self, kernel: &str, bytes: u32) -> Result<()> {
        let kernel = Kernel::find(kernel)?;
        if !self.function(kernel)?.shared.must_opt_in(kernel, bytes, &self.limits)? {
            return Ok(());
        }
        // One lock from the question to the answer: of two threads the larger wish stays.
        let mut functions = self.functions();
        let Some(found) = functions.get_mut(kernel.name) else { return Ok(()) };
        if found.shared.must_opt_in(kernel, bytes, &self.limits)? {
            let attribute = OfFunction::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let value = i32::try_from(bytes).unwrap_or(i32::MAX);
            found.function.set_attribute(attribute, value).map_err(driver("shared memory"))?;
            found.shared.opted_in = bytes;
        }
        Ok(())
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        // Graphs and tensors hold the device, so nothing is in use any more. Errors have no reader: the
        // context goes next, and all its memory with it.
        let ready = self.bind().is_ok() && self.stream.synchronize().is_ok();
        if ready {
            for segment in self.arena().take_unused_segments() {
                // SAFETY: a segment from the driver, and no work is under way.
                let _ = unsafe { result::free_sync(segment) };
            }
        }
    }
}
