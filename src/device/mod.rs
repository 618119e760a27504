//! Devices (the lead replaces this file).
pub mod abi;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod emulated;
pub mod launch;
