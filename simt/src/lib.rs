//! A GPU without a GPU: the PTX that nvcc made of a CUDA kernel is parsed, decoded once and executed warp by
//! warp on the host. Every access is checked, and what the hardware would be asked to do is counted.

pub mod arith;
pub mod blocks;
pub mod bound;
pub mod clocks;
pub mod count;
pub mod error;
pub mod hopper;
pub mod machine;
pub mod memory;
pub mod occupancy;
pub mod profile;
pub mod program;
pub mod ptx;
pub mod random;
pub mod shadow;
