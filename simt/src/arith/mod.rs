//! What the arithmetic instructions of PTX compute, as pure functions of their operands.
//!
//! Everything here is scalar, without state, and marked `#[inline(always)]`: a caller loops over the 32 lanes
//! of a warp inside a function compiled with the features `avx2` and `fma`, and the compiler makes vector code
//! of the loop. Options such as the rounding, a format or a modifier are arguments: it does so only where they
//! are constants, for example generic ones. Section numbers in comments are those of the PTX ISA manual,
//! version 9.0.

pub mod approx;
pub mod convert;
pub mod convert_int;
pub mod half;
pub mod integer;
pub mod minmax;
pub mod mma;
pub mod round;

/// The bits of one register in every lane of a warp.
pub type Register = [u32; 32];
