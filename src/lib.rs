//! GL-MAE, the global-local masked autoencoder for 3D medical volumes (arXiv 2306.08913), on
//! hand-written kernels. `docs/architecture.md` is the map of the house.

pub mod error;
pub mod ops {
    pub mod cpu;
}
pub mod rng;

pub use error::{Error, Result};
