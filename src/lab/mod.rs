//! What measures the engine. Parity with reference cases, checks and benchmarks of ops,
//! the timing of whole steps.

pub mod bench_kernels;
pub mod bench_step;
pub mod bench_unetr;
pub mod case;
pub mod check;
mod clock;
pub mod judge;
pub mod opcheck;
pub mod products;
#[cfg(feature = "cuda")]
pub mod profile;
pub mod tensors;
pub mod tune;
pub mod unetr;
pub mod verify;
