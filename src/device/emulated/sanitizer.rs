//! What AddressSanitizer has to be told when the kernels run under it (feature `sanitize`): which memory
//! is out of bounds, and that fibres change the stack. Without the feature these functions do nothing.

use std::ffi::c_void;
use std::ptr::null_mut;

use super::ffi;
use crate::device::launch::SANITIZED;

/// Lowest address and bytes of a stack.
pub type Stack = (u64, u64);

/// Nobody may touch these bytes from now on, or anybody may again.
pub fn poison(at: *const u8, bytes: usize, poisoned: bool) {
    if SANITIZED {
        // SAFETY: changes the shadow of these addresses, not the memory.
        unsafe { ffi::glmae_emu_poison(at.cast(), bytes as u64, u32::from(poisoned)) }
    }
}

/// To be called just before a switch to another stack; what it returns belongs to [`arrive`], once
/// this stack runs again.
pub fn leave(to: Stack) -> *mut c_void {
    let mut fake = null_mut();
    if SANITIZED {
        // SAFETY: `to` is the stack that runs next.
        unsafe { ffi::glmae_emu_leave_stack(&raw mut fake, to.0, to.1) }
    }
    fake
}

/// As [`leave`], for a stack that never runs again.
pub fn leave_for_good(to: Stack) {
    if SANITIZED {
        // SAFETY: as above.
        unsafe { ffi::glmae_emu_leave_stack(null_mut(), to.0, to.1) }
    }
}

/// To be called just after a switch, with what [`leave`] gave on this stack (null on a new one).
/// Returns the stack that ran before.
pub fn arrive(fake: *mut c_void) -> Stack {
    let mut from = (0, 0);
    if SANITIZED {
        // SAFETY: `fake` is that of this stack.
        unsafe { ffi::glmae_emu_arrive_on_stack(fake, &raw mut from.0, &raw mut from.1) }
    }
    from
}
