//! The C++ side of the emulator (`kernels/emulate/runtime.cpp`).

use crate::device::abi::{EmuCallbacks, EmuThread};

unsafe extern "C" {
    pub fn glmae_emu_install(callbacks: *const EmuCallbacks);
    pub fn glmae_emu_this_thread() -> *mut EmuThread;
}
