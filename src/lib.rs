//! GL-MAE, the global-local masked autoencoder for 3D medical volumes (arXiv 2306.08913), on
//! hand-written kernels. `docs/architecture.md` is the map of the house.

pub mod atomic;
pub mod checkpoint;
pub mod config;
pub mod data;
pub mod device;
pub mod error;
pub mod glmae;
pub mod infer;
pub mod interchange;
pub mod lab;
pub mod limits;
pub mod nn;
pub mod ops;
pub mod parallel;
pub mod param_layout;
pub mod report;
pub mod rng;
pub mod seg;
pub mod study;
pub mod tape;
pub mod tensor_header;
pub mod train;

pub use error::{Error, Result};
