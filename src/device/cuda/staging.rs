//! Uploads that do not stop the host: the bytes are copied into pinned memory at once, and from there
//! to the device. Small ones (tables, scalars) go in the order of the compute stream; large ones
//! (volumes) cross the bus on a stream of their own while kernels run, see [`upload`].

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaEvent, CudaStream, result, sys};

use super::fault::driver;
use crate::device::launch::DevicePtr;
use crate::device::upload::{self, PIECE, Pieces, SLOTS, Step};
use crate::error::Result;

/// Uploads from this size on go over the copy stream.
const LARGE: usize = 256 << 10;
/// A pinned buffer for small uploads.
const SMALL_BYTES: usize = 1 << 20;
/// Pieces start at multiples of this, for the copy engine.
const ALIGN: usize = 256;

/// Pinned host memory, and the event that passes when the device has read it.
struct Pinned {
    context: Arc<CudaContext>,
    host: *mut u8,
    bytes: usize,
    read: CudaEvent,
}

// SAFETY: the pinned memory belongs to this value alone, and it is used behind a lock.
unsafe impl Send for Pinned {}

impl Pinned {
    /// The context must be current.
    fn new(context: &Arc<CudaContext>, bytes: usize) -> Result<Self> {
        let read = context.new_event(None).map_err(driver("event"))?;
        // SAFETY: the context is current. Plain flags: cached memory that the host may read, too.
        let host =
            unsafe { result::malloc_host(bytes, 0) }.map_err(driver("pinned host memory"))?;
        Ok(Self { context: context.clone(), host: host.cast(), bytes, read })
    }

    /// Copies `from` to byte `at` and returns it there. `None` when it does not fit.
    ///
    /// # Safety
    /// The device must have read what lay there, and the piece must not outlive `self`.
    unsafe fn put<'p>(&mut self, at: usize, from: &[u8]) -> Option<&'p [u8]> {
        if at.checked_add(from.len()).is_none_or(|end| end > self.bytes) {
            return None;
        }
        // SAFETY: within the buffer by the check above; the device does not read it (caller's promise).
        unsafe {
            let piece = self.host.add(at);
            std::ptr::copy_nonoverlapping(from.as_ptr(), piece, from.len());
            Some(std::slice::from_raw_parts(piece.cast_const(), from.len()))
        }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // Copies may be under way; without a working context there is nothing left to free.
        let ready = self.context.bind_to_thread().and_then(|()| self.context.synchronize());
        if ready.is_ok() {
            // SAFETY: from malloc_host, and no copy is under way any more.
            let _ = unsafe { result::free_host(self.host.cast()) };
        }
    }
}

/// Both ways of an upload.
pub struct Staging {
    context: Arc<CudaContext>,
    small: Vec<Pinned>,
    current: usize,
    used: usize,
    large: Option<Large>,
    /// The device had no room for landings: then large uploads go the way of the small ones.
    is_full: bool,
}

impl Staging {
    pub fn new(context: &Arc<CudaContext>) -> Result<Self> {
        context.bind_to_thread().map_err(driver("bind context"))?;
        let small = (0..2).map(|_| Pinned::new(context, SMALL_BYTES)).collect::<Result<_>>()?;
        let context = context.clone();
        Ok(Self { context, small, current: 0, used: 0, large: None, is_full: false })
    }

    /// Starts the copy of `from`; its bytes may be changed as soon as this returns. What is started on
    /// `compute` later finds them at `to`, what was started before does not see them.
    pub fn upload(&mut self, compute: &Arc<CudaStream>, to: DevicePtr, from: &[u8]) -> Result<()> {
        if from.len() < LARGE || self.is_full {
            return self.upload_in_order(compute, to, from);
        }
        let large = match &mut self.large {
            Some(large) => large,
            none => match Large::new(&self.context)? {
                Some(large) => none.insert(large),
                None => {
                    self.is_full = true;
                    return self.upload_in_order(compute, to, from);
                }
            },
        };
        large.upload(compute, to, from)
    }

    fn upload_in_order(
        &mut self,
        compute: &Arc<CudaStream>,
        to: DevicePtr,
        from: &[u8],
    ) -> Result<()> {
        let mut to = to;
        let mut left = from;
        while !left.is_empty() {
            let place = self.used.next_multiple_of(ALIGN);
            if place >= SMALL_BYTES {
                self.next(compute)?;
                continue;
            }
            let (now, later) = left.split_at(left.len().min(SMALL_BYTES - place));
            // SAFETY: what lay there was read, for `next` waited for that. The piece is not written
            // again before `read` has passed.
            unsafe {
                let Some(piece) = self.small[self.current].put(place, now) else { break };
                result::memcpy_htod_async(to.0, piece, compute.cu_stream())
            }
            .map_err(driver("upload"))?;
            self.used = place + now.len();
            to = to.offset(now.len());
            left = later;
        }
        Ok(())
    }

    /// Goes on to the next small buffer, once the device has read it.
    fn next(&mut self, compute: &Arc<CudaStream>) -> Result<()> {
        self.small[self.current].read.record(compute).map_err(driver("event"))?;
        self.current = (self.current + 1) % self.small.len();
        self.used = 0;
        self.small[self.current].read.synchronize().map_err(driver("upload"))
    }
}

/// A place on the device where a piece arrives.
struct Slot {
    at: DevicePtr,
    arrived: CudaEvent,
    taken: CudaEvent,
}

/// The way of large uploads.
struct Large {
    copies: Arc<CudaStream>,
    pinned: Vec<Pinned>,
    slots: Vec<Slot>,
    landing: u64,
    pieces: Pieces,
}

impl Large {
    /// `None` when the device has no memory for landings.
    fn new(context: &Arc<CudaContext>) -> Result<Option<Self>> {
        context.bind_to_thread().map_err(driver("bind context"))?;
        let copies = context.new_stream().map_err(driver("new stream"))?;
        let pinned =
            (0..upload::BUFFERS).map(|_| Pinned::new(context, PIECE)).collect::<Result<_>>()?;
        let events = (0..SLOTS)
            .map(|_| {
                let event = || context.new_event(None).map_err(driver("event"));
                Ok((event()?, event()?))
            })
            .collect::<Result<Vec<_>>>()?;
        // SAFETY: the context is current.
        let landing = match unsafe { result::malloc_sync(SLOTS * PIECE) } {
            Ok(landing) => landing,
            Err(e) if e.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => return Ok(None),
            Err(e) => return Err(driver("landings of uploads")(e)),
        };
        let slots = events.into_iter().enumerate().map(|(i, (arrived, taken))| Slot {
            at: DevicePtr(landing).offset(i * PIECE),
            arrived,
            taken,
        });
        let slots = slots.collect();
        Ok(Some(Self { copies, pinned, slots, landing, pieces: Pieces::default() }))
    }

    fn upload(&mut self, compute: &Arc<CudaStream>, to: DevicePtr, from: &[u8]) -> Result<()> {
        let mut piece: &[u8] = &[];
        for step in self.pieces.steps(from.len()) {
            match step {
                Step::AwaitRead { buffer } => self.pinned[buffer].read.synchronize(),
                Step::Fill { buffer, from: first, bytes } => {
                    // SAFETY: the step before has waited until the device had read the buffer, and
                    // the piece is used until `Send` alone.
                    let put = unsafe {
                        self.pinned[buffer].put(0, &from[first..first + bytes]).unwrap_or_default()
                    };
                    piece = put;
                    Ok(())
                }
                Step::AwaitTaken { slot } => self.copies.wait(&self.slots[slot].taken),
                Step::Send { buffer, slot, .. } => {
                    let (slot, copies) = (&self.slots[slot], &self.copies);
                    // SAFETY: the piece is not written again before `read` has passed; a slot has
                    // room for a piece, and what lay there was taken.
                    unsafe { result::memcpy_htod_async(slot.at.0, piece, copies.cu_stream()) }
                        .and_then(|()| self.pinned[buffer].read.record(copies))
                        .and_then(|()| slot.arrived.record(copies))
                }
                Step::AwaitArrived { slot } => compute.wait(&self.slots[slot].arrived),
                Step::Take { slot, to: first, bytes } => {
                    let (slot, to) = (&self.slots[slot], to.offset(first));
                    // SAFETY: the driver checks the ranges.
                    unsafe {
                        result::memcpy_dtod_async(to.0, slot.at.0, bytes, compute.cu_stream())
                    }
                    .and_then(|()| slot.taken.record(compute))
                }
            }
            .map_err(driver("upload"))?;
        }
        Ok(())
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        let context = self.copies.context();
        // Copies may be under way; without a working context there is nothing left to free.
        let ready = context.bind_to_thread().and_then(|()| context.synchronize());
        if ready.is_ok() {
            // SAFETY: from malloc_sync, and no copy is under way any more.
            let _ = unsafe { result::free_sync(self.landing) };
        }
    }
}
