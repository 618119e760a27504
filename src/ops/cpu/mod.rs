//! What the f32 fast paths of the ops are built from: matrix products, row reductions, elementary
//! functions and work sharing, vectorised at run time for the CPU at hand. The fast path of an op
//! stands beside the op (`src/ops/<op>/fast.rs`), and the op itself chooses it.
//!
//! Every function is deterministic: the bits of a result depend on the inputs and on the
//! instruction set, never on the number of threads. Parallel functions use rayon's current pool;
//! a whole step should run inside one `ThreadPool::install`, because entering the pool from outside
//! costs a thread wake-up per call.

pub mod gemm;
pub mod math;
pub mod par;
pub mod reduce;
pub mod simd;

mod epilogue;
pub(super) mod kernel;
mod pack;
pub(super) mod scratch;
mod view;

#[cfg(test)]
pub(super) mod testing;
