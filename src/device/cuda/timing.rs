//! Time on the device, and the brackets of profilers.

use cudarc::driver::{CudaEvent, sys};

use super::Cuda;
use super::fault::driver;
use crate::error::Result;

/// A point in the stream of a device.
pub struct Mark(CudaEvent);

impl Cuda {
    /// Marks the point behind all work started so far.
    pub fn mark(&self) -> Result<Mark> {
        let flags = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
        let event = self.context.new_event(flags).map_err(driver("event"))?;
        event.record(&self.stream).map_err(driver("event"))?;
        Ok(Mark(event))
    }

    /// Starts (or stops) collection by `nsys -c cudaProfilerApi` or `ncu --profile-from-start off`;
    /// without a profiler nothing happens. Waits for the work under way first.
    pub fn profile(&self, on: bool) -> Result<()> {
        self.synchronize()?;
        if on { cudarc::driver::profiler_start() } else { cudarc::driver::profiler_stop() }
            .map_err(driver("profiler"))
    }
}

impl Mark {
    /// Seconds from this point to a later one; waits until that has passed.
    pub fn seconds_to(&self, end: &Self) -> Result<f64> {
        Ok(f64::from(self.0.elapsed_ms(&end.0).map_err(driver("event"))?) * 1e-3)
    }
}
