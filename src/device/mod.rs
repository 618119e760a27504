//! Devices (the lead replaces this file).
pub mod abi;
pub mod emulated;
pub mod launch;
