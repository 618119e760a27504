//! Uploads that do not stop the host: the bytes are copied into pinned memory at once, and from there
//! to the device in the order of the stream.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaEvent, CudaStream, result};

use super::fault::driver;
use crate::device::launch::DevicePtr;
use crate::error::Result;

/// Two buffers: one is filled while the device reads the other.
const BUFFERS: usize = 2;
const BUFFER_BYTES: usize = 16 << 20;
/// Pieces start at multiples of this, for the copy engine.
const ALIGN: usize = 256;

struct Buffer {
    host: *mut u8,
    used: usize,
    /// Passed when the device has read all of the buffer.
    read: CudaEvent,
}

/// A ring of pinned buffers.
pub struct Staging {
    context: Arc<CudaContext>,
    buffers: Vec<Buffer>,
    current: usize,
}

// SAFETY: the pinned memory belongs to this value alone, and it is used behind a lock.
unsafe impl Send for Staging {}

impl Staging {
    pub fn new(context: &Arc<CudaContext>) -> Result<Self> {
        let mut staging =
            Self { context: context.clone(), buffers: Vec::with_capacity(BUFFERS), current: 0 };
        context.bind_to_thread().map_err(driver("bind context"))?;
        for _ in 0..BUFFERS {
            let read = context.new_event(None).map_err(driver("event"))?;
            // SAFETY: the context is current. Plain flags: cached memory that the host may read, too.
            let host = unsafe { result::malloc_host(BUFFER_BYTES, 0) }
                .map_err(driver("pinned host memory"))?;
            staging.buffers.push(Buffer { host: host.cast(), used: 0, read });
        }
        Ok(staging)
    }

    /// Starts the copy of `from`; its bytes may be changed as soon as this returns.
    pub fn upload(&mut self, stream: &Arc<CudaStream>, to: DevicePtr, from: &[u8]) -> Result<()> {
        let mut to = to;
        let mut left = from;
        while !left.is_empty() {
            let place = self.buffers[self.current].used.next_multiple_of(ALIGN);
            if place >= BUFFER_BYTES {
                self.next(stream)?;
                continue;
            }
            let buffer = &mut self.buffers[self.current];
            let (now, later) = left.split_at(left.len().min(BUFFER_BYTES - place));
            // SAFETY: `place + now.len()` is within the buffer; the device has read what lay there
            // before, for `next` waited for that.
            let piece = unsafe {
                let piece = buffer.host.add(place);
                std::ptr::copy_nonoverlapping(now.as_ptr(), piece, now.len());
                std::slice::from_raw_parts(piece.cast_const(), now.len())
            };
            // SAFETY: the piece is not written again before `read` has passed.
            unsafe { result::memcpy_htod_async(to.0, piece, stream.cu_stream()) }
                .map_err(driver("upload"))?;
            buffer.used = place + now.len();
            to = to.offset(now.len());
            left = later;
        }
        Ok(())
    }

    /// Goes on to the next buffer, once the device has read it.
    fn next(&mut self, stream: &Arc<CudaStream>) -> Result<()> {
        self.buffers[self.current].read.record(stream).map_err(driver("event"))?;
        self.current = (self.current + 1) % self.buffers.len();
        let buffer = &mut self.buffers[self.current];
        buffer.read.synchronize().map_err(driver("upload"))?;
        buffer.used = 0;
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Copies may be under way; without a working context there is nothing left to free.
        let ready = self.context.bind_to_thread().and_then(|()| self.context.synchronize());
        if ready.is_err() {
            return;
        }
        for buffer in &self.buffers {
            // SAFETY: from malloc_host, and no copy is under way any more.
            let _ = unsafe { result::free_host(buffer.host.cast()) };
        }
    }
}
