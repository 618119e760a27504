//! Per-thread scratch memory that is kept between calls, so that a step neither allocates nor takes
//! page faults for packing buffers.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

const LANES: usize = 16;

/// One cache line, so that buffers start on one.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; LANES]);

thread_local! {
    // A stack: a task that rayon runs while another one of the same thread waits takes its own.
    static FREE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer of `len` floats with arbitrary (initialised) contents, aligned to 64 bytes; it returns
/// to its thread's store on drop.
pub(crate) struct Scratch {
    lines: Vec<Line>,
    len: usize,
}

impl Scratch {
    pub(crate) fn new(len: usize) -> Self {
        let mut lines = FREE.with(|free| {
            let mut free = free.borrow_mut();
            let need = len.div_ceil(LANES);
            // The smallest that fits, else the largest, which then grows.
            let best = (0..free.len()).min_by_key(|&i| {
                let have = free[i].len();
                if have >= need { (0, have) } else { (1, usize::MAX - have) }
            });
            best.map(|i| free.swap_remove(i)).unwrap_or_default()
        });
        if lines.len() * LANES < len {
            lines.resize(len.div_ceil(LANES), Line([0.0; LANES]));
        }
        Self { lines, len }
    }

    /// As [`Scratch::new`], filled with zeros.
    pub(crate) fn zeroed(len: usize) -> Self {
        let mut scratch = Self::new(len);
        scratch.fill(0.0);
        scratch
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        // At thread exit the store may be gone already; then the memory is simply freed.
        let _ = FREE.try_with(|free| free.borrow_mut().push(lines));
    }
}

impl Deref for Scratch {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: `Line` is 16 floats without padding, and `new` made room for `len` floats.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `deref`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}
