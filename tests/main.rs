//! The one integration-test binary, so that it links once and can be carried to a GPU machine.

mod cli;
#[cfg(feature = "cuda")]
mod compiled_faults;
mod data;
mod emulator;
mod examples;
mod interchange;
mod kernel_edges;
mod ops;
mod parity;
mod seg;
mod segmentation_edges;
mod step_gradient;
mod structure;
mod support;
mod train;
mod unetr_parity;
