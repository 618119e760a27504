//! The emulated CUDA device: the `.cu` files of `kernels/`, compiled by the host C++ compiler, run one
//! fibre per thread, blocks in parallel.
//!
//! On a [`Mode::Checked`] device every load and store of a kernel is seen (the compiler calls
//! `__tsan_read4` and its like before each; `kernels/emulate/runtime.cpp` provides them), and the
//! launch fails with the kernel, block, thread and source line on: an access outside the allocations,
//! after a free, misaligned, or of bytes never written; a data race within a block or between blocks;
//! a barrier or warp operation that some threads do not reach; a `cp.async` not waited for; a float
//! atomic; an integer overflow. [`Mode::Plain`] runs the same code without the checks of memory.
//!
//! Limits: no thread may spin on memory that another one writes; blocks are only ordered by atomics
//! on one address (the last-block pattern), and a missing `__threadfence` there goes unnoticed; a race
//! is only seen between accesses that a run makes, so tests run several [`Schedule`]s; writing through
//! one `__shared__` array of a kernel into another of the same kernel is not seen. A checked device
//! needs 40 bytes of shadow per byte touched, and an executable with its symbol table.
//!
//! With the feature `sanitize` both modes run the kernels under AddressSanitizer and
//! UndefinedBehaviorSanitizer instead; a bad access then ends the process with a report.

mod access;
mod block;
mod ffi;
mod graph;
mod sanitizer;
mod symbols;
mod sync;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

use glmae_simt::memory::{Map, Memory};
use glmae_simt::{memory, shadow};
use rayon::prelude::*;

use self::access::SharedMap;
pub use self::graph::Graph;
use self::graph::Recording;
use self::symbols::Symbols;
use super::arena::{self, Usage};
use super::capturing::Capturing;
use super::launch::{
    Arg, DeviceLimits, DevicePtr, Kernel, LaunchConfig, SANITIZED, Shared, Slots, check,
};
use crate::error::{Error, Result};
use crate::rng::{Purpose, Rng};

/// The order in which the threads of a block, and the blocks of a grid, are started and resumed.
/// A correct deterministic kernel gives the same bits under all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    Ascending,
    Descending,
    /// Another order at every pass, from this seed.
    Shuffled(u64),
}

/// Whether memory accesses are checked (about twenty times slower).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Checked,
    Plain,
}

/// Settings of an emulated device.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub mode: Mode,
    pub schedule: Schedule,
    pub limits: DeviceLimits,
}

impl Default for Options {
    fn default() -> Self {
        Self { mode: Mode::Checked, schedule: Schedule::Ascending, limits: DeviceLimits::SM_90 }
    }
}

/// An emulated device. All methods take `&self`; launches are finished when they return.
pub struct Emulated {
    options: Options,
    memory: Mutex<Memory>,
    shared: Mutex<HashMap<&'static str, Shared>>,
    launched: Mutex<BTreeSet<&'static str>>,
    /// Present while a graph is captured.
    capturing: Capturing,
    recording: Mutex<Recording>,
}

/// A launch, as its blocks see it.
struct Launch<'a> {
    kernel: &'static Kernel,
    config: LaunchConfig,
    schedule: Schedule,
    call: unsafe extern "C" fn(*mut *mut c_void),
    args: &'a [*mut c_void],
    map: Arc<Map>,
    checked: bool,
    symbols: Option<&'static Symbols>,
    shared: &'static SharedMap,
    /// Per variable of `shared`: whether this kernel may touch it.
    allowed: Vec<bool>,
    first_block: u32,
    /// Pairs of code addresses already found to be of the same line.
    same_line: Mutex<HashSet<(u64, u64)>>,
    /// Per address of an atomic: the blocks that have been there, and those ordered before them.
    met: Mutex<HashMap<u64, HashSet<u32>>>,
}

// SAFETY: the argument slots are only read while the launch runs.
unsafe impl Sync for Launch<'_> {}

impl Launch<'_> {
    /// Coordinates of a block from its linear index.
    fn index(&self, linear: u32) -> [u32; 3] {
        let [x, y, _] = self.config.grid;
        [linear % x, linear / x % y, linear / x / y]
    }

    fn locate(&self, pc: u64) -> String {
        let found = if pc == 0 { None } else { self.symbols.and_then(|s| s.locate(pc)) };
        found.unwrap_or_else(|| format!("{}.cu", self.kernel.file))
    }

    /// A block comes to an atomic: it now sees what the blocks before it did (whether they fenced it
    /// off with `__threadfence` is not checked), and will be seen by those after it.
    fn meet(&self, address: u64, block: u32, seen: &mut HashSet<u32>) {
        let mut met = lock(&self.met);
        let there = met.entry(address).or_default();
        seen.extend(there.iter().filter(|&&other| other != block));
        there.extend(seen.iter());
        there.insert(block);
    }

    /// The line of `first` when `pc` is another line. The compiler may have duplicated one call.
    fn other_line(&self, pc: u64, first: u64) -> Option<String> {
        let mut same = lock(&self.same_line);
        if same.contains(&(pc, first)) {
            return None;
        }
        let there = self.locate(first);
        if self.locate(pc) != there {
            return Some(there);
        }
        same.insert((pc, first));
        None
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Emulated {
    pub fn new(mut options: Options) -> Self {
        if SANITIZED {
            // The sanitizers do the checking.
            options.mode = Mode::Plain;
        }
        static INSTALL: Once = Once::new();
        // SAFETY: the table is a static of the layout that the layout test checks.
        INSTALL.call_once(|| unsafe { ffi::glmae_emu_install(&sync::CALLBACKS) });
        let memory = Memory::new(memory::Options {
            device: "emulated device",
            checked: options.mode == Mode::Checked,
            unit: arena::UNIT,
            poison: sanitizer::poison,
        });
        Self {
            options,
            memory: Mutex::new(memory),
            shared: Mutex::default(),
            launched: Mutex::default(),
            capturing: Capturing::default(),
            recording: Mutex::default(),
        }
    }

    /// Names of the kernels that have run to their end on this device, sorted.
    pub fn launched(&self) -> Vec<&'static str> {
        lock(&self.launched).iter().copied().collect()
    }

    pub fn options(&self) -> &Options {
        &self.options
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
        if self.shared(kernel).must_opt_in(kernel, bytes, &self.options.limits)? {
            lock(&self.shared).entry(kernel.name).or_default().opted_in = bytes;
        }
        Ok(())
    }

    /// Static and allowed shared memory of a kernel. Without a symbol table nothing is known to be static.
    pub fn shared(&self, kernel: &'static Kernel) -> Shared {
        *lock(&self.shared).entry(kernel.name).or_insert_with(|| Shared {
            static_bytes: SharedMap::get().bytes_of(kernel),
            opted_in: 0,
        })
    }

    /// Runs a kernel to its end.
    ///
    /// Errors: `Unsupported` for an unknown kernel (or a checked launch in a stripped executable);
    /// `Device` for a wrong launch, and for everything the emulator reports.
    pub fn launch(&self, name: &str, config: &LaunchConfig, args: &[Arg]) -> Result<()> {
        let kernel = Kernel::find(name)?;
        check(kernel, config, args, &self.options.limits, self.shared(kernel))?;
        let map = lock(&self.memory).map.clone();
        check_pointers(kernel, args, &map)?;
        if self.note_launch(kernel, config, args)? {
            return Ok(());
        }

        let checked = self.options.mode == Mode::Checked;
        let symbols = Symbols::get();
        let shared = SharedMap::get();
        if checked && symbols.is_none() {
            return Err(Error::Unsupported(
                "checked emulation in an executable without its symbol table (was it stripped?)"
                    .into(),
            ));
        }
        let blocks = u32::try_from(config.blocks())
            .map_err(|_| Error::Unsupported("emulation of 2^32 blocks".into()))?;
        let info = if checked { kernel.checked } else { kernel.plain };
        if info.is_null() {
            return Err(Error::Unsupported(
                "checked emulation in a build with the feature `contract`".into(),
            ));
        }
        // SAFETY: both point to immutable statics.
        let Some(call) = (unsafe { (*info).call }) else {
            return Err(Error::Unsupported(format!("emulation of kernel {}", kernel.name)));
        };
        let mut slots = Slots::new(args);
        let launch = Launch {
            kernel,
            config: *config,
            schedule: self.options.schedule,
            call,
            args: &slots.pointers(),
            map,
            checked,
            symbols,
            shared,
            allowed: shared.allowed(kernel),
            first_block: shadow::number_blocks(blocks).ok_or_else(|| {
                Error::Unsupported("more than 2^32 emulated blocks in one process".into())
            })?,
            same_line: Mutex::default(),
            met: Mutex::default(),
        };
        run(&launch, blocks)?;
        lock(&self.launched).insert(kernel.name);
        if !checked {
            lock(&self.memory).check_guards()?;
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

/// Runs all blocks; of the faults seen, reports that of the first block.
fn run(launch: &Launch, blocks: u32) -> Result<()> {
    let order: Vec<u32> = match launch.schedule {
        Schedule::Ascending => (0..blocks).collect(),
        Schedule::Descending => (0..blocks).rev().collect(),
        Schedule::Shuffled(seed) => {
            Rng::new(seed, Purpose::Test, 0, 0, 0).permutation(blocks as usize)
        }
    };
    let stop = AtomicBool::new(false);
    let faults = order.par_iter().with_max_len(1).filter_map(|&linear| {
        if stop.load(Relaxed) {
            return None;
        }
        let fault = block::run(launch, launch.index(linear), launch.first_block + linear).err()?;
        stop.store(true, Relaxed);
        Some((linear, fault))
    });
    let Some((linear, fault)) = faults.min_by_key(|f| f.0) else { return Ok(()) };
    let [bx, by, bz] = launch.index(linear);
    let [x, y, _] = launch.config.block;
    let (tx, ty, tz) = (fault.thread % x, fault.thread / x % y, fault.thread / x / y);
    Err(Error::Device(format!(
        "kernel {}, block ({bx}, {by}, {bz}), thread ({tx}, {ty}, {tz}), {}: {}",
        launch.kernel.name,
        launch.locate(fault.pc),
        fault.message
    )))
}
