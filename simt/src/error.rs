//! What can go wrong with the memory of a device.

use std::error::Error;
use std::fmt;

/// An error of [`crate::memory::Memory`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemoryError {
    /// The host has no room for an allocation.
    OutOfMemory(String),
    /// A range that is not there, bytes that were never written, or a damaged guard zone.
    Fault(String),
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::OutOfMemory(message) | Self::Fault(message)) = self;
        f.write_str(message)
    }
}

impl Error for MemoryError {}
