//! What is special about Hopper, as pure functions: no threads, no schedule, no memory of its own.
//!
//! - [`swizzle`]: how bulk tensor copies and wgmma permute shared memory;
//! - [`tensor_map`]: what a bulk tensor copy is told about the tensor;
//! - [`tile`]: which bytes such a copy moves;
//! - [`descriptor`]: where wgmma finds an operand in shared memory;
//! - [`wgmma`]: what wgmma computes;
//! - [`mbarrier`]: the barrier object and its phases.
//!
//! Sections are those of the PTX ISA manual, version 9.0.

pub mod descriptor;
pub mod mbarrier;
pub mod swizzle;
pub mod tensor_map;
pub mod tile;
pub mod wgmma;

#[cfg(test)]
mod random;
#[cfg(test)]
mod round_trip;
