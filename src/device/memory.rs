//! Host memory of CPU tensors: cache-line aligned, pooled by size class, counted.
//!
//! A step allocates the same sizes again and again. Handing the same pages back avoids the page
//! faults of fresh ones (a third of the time of a small step) and makes addresses repeat.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::{Result, limits};

/// One cache line: the unit of allocation, so that every tensor starts aligned for vector loads.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

static POOL: Mutex<BTreeMap<usize, Vec<Vec<Line>>>> = Mutex::new(BTreeMap::new());
static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// Pooled host memory; goes back to the pool when dropped.
pub struct HostMemory {
    lines: Vec<Line>,
}

/// Rounds up to one of eight classes per power of two: at most 12.5 % is wasted.
fn size_class(lines: usize) -> usize {
    if lines <= 8 {
        return lines.max(1);
    }
    let step = 1usize << (lines.ilog2() - 3);
    lines.div_ceil(step) * step
}

/// Memory of the system; what the pool keeps of other sizes makes room first.
fn fresh(lines: usize) -> Result<Vec<Line>> {
    let ask = || limits::zeroed(lines, "a tensor on the CPU");
    ask().or_else(|_| {
        empty_pool();
        ask()
    })
}

/// Gives pooled memory back to the system.
pub(super) fn empty_pool() {
    if let Ok(mut pool) = POOL.lock() {
        pool.clear();
    }
}

impl HostMemory {
    /// At least `bytes` of memory with unspecified (but initialised) contents. In builds with
    /// debug assertions they are NaN patterns, so that an op that reads what it did not write shows.
    ///
    /// Errors: [`crate::Error::OutOfMemory`] when there is no room, not even with the pool given back.
    pub fn new(bytes: usize) -> Result<Self> {
        let class = size_class(bytes.div_ceil(64));
        let pooled = POOL.lock().ok().and_then(|mut pool| pool.get_mut(&class)?.pop());
        #[allow(unused_mut)]
        let mut lines = match pooled {
            Some(lines) => lines,
            None => fresh(class)?,
        };
        #[cfg(debug_assertions)]
        lines.fill(Line([0xFF; 64]));
        let live = LIVE.fetch_add(class * 64, Relaxed) + class * 64;
        PEAK.fetch_max(live, Relaxed);
        Ok(Self { lines })
    }

    pub fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.lines)
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.lines)
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        LIVE.fetch_sub(lines.len() * 64, Relaxed);
        if let Ok(mut pool) = POOL.lock() {
            pool.entry(lines.len()).or_default().push(lines);
        }
    }
}

/// Bytes of tensors alive now, and the most there ever were since the last [`reset_peak`].
pub fn live_and_peak_bytes() -> (usize, usize) {
    (LIVE.load(Relaxed), PEAK.load(Relaxed))
}

/// Starts a new measurement of the peak, and gives pooled memory back to the system.
pub fn reset_peak() {
    empty_pool();
    PEAK.store(LIVE.load(Relaxed), Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_machine_has_is_an_error() {
        let refused = HostMemory::new(1 << 60).err().unwrap();
        assert!(matches!(refused, crate::Error::OutOfMemory(_)), "{refused}");
        assert!(refused.to_string().contains("a tensor on the CPU"), "{refused}");
    }

    #[test]
    fn size_classes_waste_little_and_never_shrink() {
        for lines in 1..100_000 {
            let class = size_class(lines);
            assert!(class >= lines && class <= lines + lines / 8 + 1, "{lines} -> {class}");
            assert_eq!(size_class(class), class);
        }
    }
}
