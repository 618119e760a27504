//! Work sharing whose partition never changes a result.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

/// Runs `task(0..tasks)` over the threads of rayon's current pool, each thread taking the next
/// unclaimed number: put the longest tasks first. The caller takes part.
pub fn for_each_task(tasks: usize, task: impl Fn(usize) + Sync) {
    let threads = rayon::current_num_threads().min(tasks);
    if threads <= 1 {
        return (0..tasks).for_each(task);
    }
    let next = AtomicUsize::new(0);
    let drain = || {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= tasks {
                break;
            }
            task(i);
        }
    };
    rayon::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|_| drain());
        }
        drain();
    });
}

/// Splits `0..rows` into ranges of `block` rows (the last may be shorter) and runs them as tasks.
pub fn for_each_block(rows: usize, block: usize, task: impl Fn(usize, Range<usize>) + Sync) {
    let block = block.max(1);
    for_each_task(rows.div_ceil(block), |i| task(i, i * block..rows.min((i + 1) * block)));
}

/// Elements per task of elementwise loops.
pub(in crate::ops) const ELEMENTS: usize = 1 << 14;

/// Calls `f(row, destination)` for every row of `out`, blocks of rows in parallel.
pub(in crate::ops) fn for_each_row<T: Send>(
    out: &mut [T],
    width: usize,
    f: impl Fn(usize, &mut [T]) + Sync,
) {
    let width = width.max(1);
    let rows = (ELEMENTS / width).max(1);
    out.par_chunks_mut(rows * width).enumerate().for_each(|(block, part)| {
        for (i, row) in part.chunks_exact_mut(width).enumerate() {
            f(block * rows + i, row);
        }
    });
}

/// A slice whose disjoint parts are handed to different threads.
pub(crate) struct Shared<'a> {
    start: *mut f32,
    len: usize,
    borrow: std::marker::PhantomData<&'a mut [f32]>,
}

// SAFETY: access goes through `part`, whose callers promise disjoint ranges.
unsafe impl Send for Shared<'_> {}
// SAFETY: as above.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    pub(crate) fn new(slice: &'a mut [f32]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), borrow: std::marker::PhantomData }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Pointer to element `at`.
    ///
    /// # Safety
    /// What is reached through it must not be reached by another thread meanwhile.
    pub(crate) unsafe fn at(&self, at: usize) -> *mut f32 {
        assert!(at <= self.len);
        // SAFETY: within the slice, or one past its end.
        unsafe { self.start.add(at) }
    }

    /// The elements of `range`; panics when it is out of bounds.
    ///
    /// # Safety
    /// No two parts that are alive at the same time may overlap.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &'a mut [f32] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: in bounds by the line above, exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}
