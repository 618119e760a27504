//! The C++ side of the emulator (`kernels/emulate/runtime.cpp`).

use std::ffi::c_void;

use crate::device::abi::{EmuCallbacks, EmuThread};

unsafe extern "C" {
    pub fn glmae_emu_install(callbacks: *const EmuCallbacks);
    pub fn glmae_emu_this_thread() -> *mut EmuThread;
    pub fn glmae_emu_poison(at: *const c_void, bytes: u64, poisoned: u32);
    pub fn glmae_emu_leave_stack(fake: *mut *mut c_void, low: u64, bytes: u64);
    pub fn glmae_emu_arrive_on_stack(fake: *mut c_void, low: *mut u64, bytes: *mut u64);
}
