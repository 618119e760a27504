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
mod sanitizer;
mod symbols;
mod sync;

use std::collections::{HashMap, HashSet};
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, Once};

use glmae_simt::memory::{self, Map};
use glmae_simt::shadow;
use rayon::prelude::*;

use self::access::SharedMap;
use self::symbols::Symbols;
use super::arena;
use super::launch::{DeviceLimits, Kernel, LaunchConfig, SANITIZED, Slots};
use super::on_host::{self, Engine, OnHost, lock};
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
pub type Emulated = OnHost<Fibres>;

/// Executes kernels that the host's C++ compiler compiled, with a fibre per thread.
pub struct Fibres {
    options: Options,
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

impl OnHost<Fibres> {
    pub fn new(options: Options) -> Self {
        Self::with(Fibres::new(options))
    }

    pub fn options(&self) -> &Options {
        &self.engine().options
    }
}

impl Fibres {
    pub fn new(mut options: Options) -> Self {
        if SANITIZED {
            // The sanitizers do the checking.
            options.mode = Mode::Plain;
        }
        static INSTALL: Once = Once::new();
        // SAFETY: the table is a static of the layout that the layout test checks.
        INSTALL.call_once(|| unsafe { ffi::glmae_emu_install(&sync::CALLBACKS) });
        Self { options }
    }
}

impl Engine for Fibres {
    fn limits(&self) -> &DeviceLimits {
        &self.options.limits
    }

    fn memory(&self) -> memory::Options {
        memory::Options {
            device: "emulated device",
            checked: self.options.mode == Mode::Checked,
            unit: arena::UNIT,
            poison: sanitizer::poison,
        }
    }

    /// Without a symbol table nothing is known to be static.
    fn static_bytes(&self, kernel: &'static Kernel) -> Result<u32> {
        Ok(SharedMap::get().bytes_of(kernel))
    }

    /// Errors: `Unsupported` for a checked launch in a stripped executable or without checked kernels.
    fn run(&self, launch: &on_host::Launch) -> Result<()> {
        let on_host::Launch { kernel, config, args, .. } = *launch;
        if kernel.needs_hopper() {
            return Err(Error::Unsupported(format!(
                "kernel {} on the emulated device: its instructions are those of sm_90a, which --device ptx:90a \
                 executes",
                kernel.name
            )));
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
                "checked emulation in a build with the feature `sanitize`".into(),
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
            map: launch.map.clone(),
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
        run(&launch, blocks)
    }
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
