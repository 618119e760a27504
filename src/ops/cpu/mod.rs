//! The f32 fast paths of the CPU device: matrix products, attention, normalisation and the
//! elementwise loops of a training step, vectorised at run time for the CPU at hand.
//!
//! Every function is deterministic: the bits of a result depend on the inputs and on the
//! instruction set, never on the number of threads. Parallel functions use rayon's current pool;
//! a whole step should run inside one `ThreadPool::install`, because entering the pool from outside
//! costs a thread wake-up per call.

pub mod attention;
pub mod conv;
pub mod conv_transpose;
pub mod gemm;
pub mod math;
pub mod norm;
pub mod optim;
pub mod par;
pub mod reduce;
pub mod simd;

mod epilogue;
mod kernel;
mod pack;
mod scratch;
mod view;

#[cfg(test)]
mod testing;
