//! A device without memory or arithmetic: it keeps the books of allocations, with the allocator of
//! the GPU ([`super::arena`]), and checks launches. A step that runs on it tells what the step will
//! need, byte for byte and by class, before a GPU is asked.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::KernelSet;
use super::arena::{Arena, Owner, Usage};
use super::launch::{Arg, DeviceLimits, DevicePtr, Kernel, LaunchConfig, Shared, check};
use crate::error::{Error, Result};

/// A device without memory that counts what is asked of it. Downloads give zeros.
#[derive(Default)]
pub struct Dry {
    books: Mutex<Books>,
    kernels: KernelSet,
}

#[derive(Default)]
struct Books {
    arena: Arena,
    /// End of the last segment.
    end: u64,
    launches: u64,
    /// Addresses that the launches of a capture under way were given.
    recorded: Option<BTreeSet<u64>>,
}

impl Dry {
    /// For a device with these kernels: which parts a sum is split into depends on them.
    pub fn new(kernels: KernelSet) -> Self {
        Self { kernels, ..Self::default() }
    }

    pub fn kernel_set(&self) -> KernelSet {
        self.kernels
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn alloc(&self, bytes: usize, class: &'static str) -> Result<DevicePtr> {
        let mut books = self.books();
        if let Some(at) = books.arena.take(bytes, class) {
            return Ok(DevicePtr(at));
        }
        let segment = Arena::segment_bytes(bytes);
        // A gap: no block may have a neighbour in another segment.
        let at = books.end + (1 << 21);
        books.end = at + segment as u64;
        books.arena.add_segment(at, segment, bytes);
        let at = books.arena.take(bytes, class);
        at.map(DevicePtr).ok_or_else(|| Error::Device("the arena lost a segment".into()))
    }

    pub(super) fn free(&self, ptr: DevicePtr) -> Result<()> {
        match self.books().arena.give(ptr.0) {
            true => Ok(()),
            false => Err(Error::Device(format!("free of {:#x}, which is no allocation", ptr.0))),
        }
    }

    pub(super) fn launch(&self, name: &str, config: &LaunchConfig, args: &[Arg]) -> Result<()> {
        check(
            Kernel::find(name)?,
            config,
            args,
            &DeviceLimits::SM_90,
            Shared { static_bytes: 0, opted_in: u32::MAX },
        )?;
        let mut books = self.books();
        books.launches += 1;
        if let Some(recorded) = &mut books.recorded {
            let pointer =
                |arg: &Arg| if let Arg::Ptr(DevicePtr(at)) = arg { Some(*at) } else { None };
            recorded.extend(args.iter().filter_map(pointer).filter(|at| *at != 0));
        }
        Ok(())
    }

    /// What a capture on a GPU does to memory.
    pub(super) fn capture<T>(
        self: &Arc<Self>,
        record: impl FnOnce() -> Result<T>,
    ) -> Result<(Graph, T)> {
        let owner = {
            let mut books = self.books();
            books.recorded = Some(BTreeSet::new());
            books.arena.begin_private()
        };
        let mut graph = Graph { device: self.clone(), owner, touched: BTreeSet::new() };
        let recorded = record();
        let mut books = self.books();
        books.arena.end_private();
        graph.touched = books.recorded.take().unwrap_or_default();
        drop(books);
        Ok((graph, recorded?))
    }

    /// See [`super::Device::release_unused`].
    pub(super) fn release_unused(&self) {
        self.books().arena.take_unused_segments();
    }

    /// Launches so far.
    pub fn launches(&self) -> u64 {
        self.books().launches
    }

    /// Bytes held by tensors now and at most so far, and what a GPU would be asked for.
    pub fn usage(&self) -> Usage {
        self.books().arena.usage()
    }

    /// Class and bytes at the moment when the most was held, the largest first.
    pub fn peak_by_class(&self) -> Vec<(&'static str, usize)> {
        self.books().arena.peak_by_class()
    }
}

/// The memory that a captured sequence would keep.
pub struct Graph {
    device: Arc<Dry>,
    owner: Owner,
    /// What its launches were given.
    touched: BTreeSet<u64>,
}

impl Graph {
    /// Starts nothing, but looks whether the memory of the recorded launches is still there.
    pub fn replay(&self) -> Result<()> {
        let books = self.device.books();
        match self.touched.iter().find(|at| !books.arena.has(**at)) {
            Some(at) => Err(Error::Device(format!(
                "a graph uses {at:#x}, which was given back to the driver"
            ))),
            None => Ok(()),
        }
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        self.device.books().arena.disown(self.owner);
    }
}
