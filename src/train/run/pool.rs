//! The threads of a run.

use crate::config::cores;
use crate::{Error, Result};

/// Runs `work` on `threads` threads of its own (0: all cores). Results do not depend on how many there are.
///
/// Errors: [`Error::Config`] when there cannot be so many.
pub fn in_pool<T: Send>(threads: usize, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(cores::threads(threads))
        .thread_name(|i| format!("cpu {i}"))
        .build()
        .map_err(|e| Error::Config(format!("train.threads = {threads}: {e}")))?;
    pool.install(work)
}
