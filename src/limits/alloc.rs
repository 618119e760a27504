//! Memory that may be refused, and the allocator that knows which refusals nobody handles.
//!
//! The standard library aborts when an allocation fails that cannot be refused: a signal 6, which a
//! scheduler takes for a crash, and no advice. [`Checked`] ends the process with code 4 and a message
//! instead. What was written before is whole (files appear by renaming), and a run goes on from its
//! newest checkpoint.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Write;
use std::sync::OnceLock;

use crate::error::exit;
use crate::{Error, Result};

thread_local! {
    /// Whether this thread handles a refusal itself.
    static HANDLES: Cell<bool> = const { Cell::new(false) };
}

/// The limit that binds, in words.
static BINDS: OnceLock<String> = OnceLock::new();

/// Only the first note stays.
pub(super) fn note(text: String) {
    let _ = BINDS.set(text);
}

/// Runs `ask`, which deals with refused memory itself.
fn handling<T>(ask: impl FnOnce() -> T) -> T {
    let before = HANDLES.replace(true);
    let got = ask();
    HANDLES.set(before);
    got
}

/// `len` zeroed elements for `what`. Pages that nobody touches are never backed.
///
/// Errors: [`Error::OutOfMemory`] when there is no room.
pub fn zeroed<T: bytemuck::Zeroable>(len: usize, what: &str) -> Result<Vec<T>> {
    handling(|| bytemuck::allocation::try_zeroed_vec(len)).map_err(|()| {
        let size = super::bytes((len as u64).saturating_mul(size_of::<T>() as u64));
        // Asked anew: what binds may have changed since the start.
        let bounds = super::bounds();
        let bound = super::tightest(&bounds).map(|b| format!(" ({b})")).unwrap_or_default();
        Error::OutOfMemory(format!("{what}: no room for {size}{bound}"))
    })
}

/// The allocator of the system, whose refusals end the process with code 4 unless they are handled.
pub struct Checked;

impl Checked {
    /// What the caller is given for `memory`: itself, if it is memory or its lack is handled.
    fn settle(memory: *mut u8, bytes: usize) -> *mut u8 {
        if memory.is_null() && !HANDLES.get() {
            refuse(bytes);
        }
        memory
    }
}

// SAFETY: every call is answered by the allocator of the system; nothing is done to its memory.
unsafe impl GlobalAlloc for Checked {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `alloc`, which is the same.
        Self::settle(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        Self::settle(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: as above.
        Self::settle(unsafe { System.realloc(memory, layout, bytes) }, bytes)
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// Ends the process. Nothing here asks for memory.
#[cold]
fn refuse(bytes: usize) -> ! {
    let mut text = [0; 1024];
    let mut rest = &mut text[..];
    let binds = BINDS.get().map_or("limit unknown", String::as_str);
    // What does not fit is cut off.
    let _ = write!(
        rest,
        "error: out of memory: no room for {bytes} bytes more (at the start, {binds})\n  try: {}\n",
        super::need::REMEDY
    );
    let left = rest.len();
    let length = text.len() - left;
    print(text.get(..length).unwrap_or_default());
    signal_hook::low_level::exit(i32::from(exit::OUT_OF_MEMORY))
}

/// To stderr, whose lock this thread may hold.
#[cfg(unix)]
fn print(text: &[u8]) {
    use std::os::fd::FromRawFd;
    // SAFETY: the descriptor is not closed: the file is never dropped.
    let mut stderr = std::mem::ManuallyDrop::new(unsafe { std::fs::File::from_raw_fd(2) });
    let _ = stderr.write_all(text);
}

#[cfg(not(unix))]
fn print(text: &[u8]) {
    let _ = std::io::stderr().write_all(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_zeros_or_an_error_that_says_for_what() {
        assert_eq!(zeroed::<f32>(5, "x").unwrap(), [0.0; 5]);
        assert!(zeroed::<u8>(0, "x").unwrap().is_empty());
        for len in [1 << 58, usize::MAX] {
            let error = zeroed::<f32>(len, "the volume a.nii").unwrap_err();
            assert_eq!(error.exit_code(), exit::OUT_OF_MEMORY);
            assert!(error.to_string().contains("the volume a.nii: no room for"), "{error}");
        }
        assert!(!HANDLES.get());
    }
}
