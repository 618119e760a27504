//! A GPU without a GPU: the PTX that nvcc made of a CUDA kernel is parsed, decoded once and executed warp by
//! warp on the host. Every access is checked, and what the hardware would be asked to do is counted.

pub mod hopper;
pub mod ptx;
