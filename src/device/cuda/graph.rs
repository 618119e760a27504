//! A whole step as one CUDA graph: its launches are recorded once and started together again and
//! again, which costs the host one call instead of hundreds.
//!
//! What changes from step to step must come from device memory (see the scalars of `abi.h`); data is
//! uploaded between replays, into tensors made before the capture.

use std::sync::Arc;

use cudarc::driver::{CudaGraph, sys};

use super::Cuda;
use super::fault::driver;
use crate::device::arena::Owner;
use crate::error::Result;

/// A recorded sequence of kernels, copies and fills on one device. While it lives, the memory that
/// its launches use is not given to other tensors.
pub struct Graph {
    // Declared first, so that it is destroyed before its memory is given away.
    graph: Option<CudaGraph>,
    device: Arc<Cuda>,
    owner: Owner,
}

// SAFETY: CudaGraph has no thread affinity; the driver wants calls on one graph serialised, and
// `replay` takes `&mut self`.
unsafe impl Send for Graph {}

impl Graph {
    /// Starts everything that was recorded, in its order, behind the work under way.
    pub fn replay(&mut self) -> Result<()> {
        match &self.graph {
            Some(graph) => graph.launch().map_err(driver("graph launch")),
            None => Ok(()),
        }
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // A launch may be under way.
        let _ = self.device.synchronize();
        self.graph = None;
        self.device.arena().disown(self.owner);
    }
}

impl Cuda {
    /// Records what `record` starts, without running it. Run the same once before, so that modules are
    /// loaded and shared memory is allowed. Tensors that `record` returns get their values at each
    /// [`Graph::replay`].
    ///
    /// Errors: those of `record`, among them `Unsupported` when it uploads, downloads or waits.
    pub fn capture<T>(self: &Arc<Self>, record: impl FnOnce() -> Result<T>) -> Result<(Graph, T)> {
        let capture = self.capturing.begin()?;
        let private = Private::begin(self);
        // Relaxed: the arena may have to ask the driver for a segment meanwhile.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        let begun = self.stream.begin_capture(mode).map_err(driver("begin capture"));
        let recorded = begun.and_then(|()| {
            let recorded = record();
            let flags = sys::CUgraphInstantiate_flags(0);
            // A capture has to end, whatever became of its contents.
            let ended = self.stream.end_capture(flags).map_err(driver("end capture"));
            recorded.and_then(|value| Ok((ended?, value)))
        });
        let owner = private.owner;
        drop((private, capture));
        // On an error this gives the memory back at once.
        let mut graph = Graph { graph: None, device: self.clone(), owner };
        let (recorded, value) = recorded?;
        if let Some(recorded) = &recorded {
            recorded.upload().map_err(driver("graph upload"))?;
        }
        graph.graph = recorded;
        Ok((graph, value))
    }
}

/// While it lives, allocations come from memory of the graph's own.
struct Private<'a> {
    device: &'a Cuda,
    owner: Owner,
}

impl<'a> Private<'a> {
    fn begin(device: &'a Cuda) -> Self {
        Self { device, owner: device.arena().begin_private() }
    }
}

impl Drop for Private<'_> {
    fn drop(&mut self) {
        self.device.arena().end_private();
    }
}
