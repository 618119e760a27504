//! Loops over arrays on all cores. Short ones run on the spot: handing work to other threads costs more
//! than thousands of elements.

use std::error::Error as _;

use rayon::prelude::*;
use rayon::{ThreadPoolBuildError, ThreadPoolBuilder};

use crate::{Error, Result};

/// Runs `work` on `threads` threads of its own (0: all cores). Results do not depend on how many there are.
///
/// Errors: those of `work`; [`Error::OutOfMemory`] when the threads cannot be started.
pub fn in_pool<T: Send>(threads: usize, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let pool = ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|i| format!("cpu {i}"))
        .build()
        .map_err(|e| refused(&e))?;
    pool.install(work)
}

/// Starts the threads of everything that has no pool of its own. Without it they start at their first use,
/// where a failure is a panic.
///
/// Errors: [`Error::OutOfMemory`] when they cannot be started.
pub fn start() -> Result<()> {
    match ThreadPoolBuilder::new().build_global() {
        Err(e) if e.source().is_some() => Err(refused(&e)),
        // Somebody has started them already.
        _ => Ok(()),
    }
}

fn refused(error: &ThreadPoolBuildError) -> Error {
    match error.source().and_then(|e| e.downcast_ref()) {
        Some(source) => Error::threads(source),
        None => Error::Device(error.to_string()),
    }
}

/// Elements from which on other threads help.
const LARGE: usize = 1 << 14;

/// Changes every element.
pub fn update<T: Send>(data: &mut [T], change: impl Fn(&mut T) + Sync + Send) {
    if data.len() < LARGE {
        data.iter_mut().for_each(change);
    } else {
        data.par_iter_mut().for_each(change);
    }
}

/// A new array of `f` of every element.
pub fn map<T: Copy + Sync, U: Send>(data: &[T], f: impl Fn(T) -> U + Sync + Send) -> Vec<U> {
    if data.len() < LARGE {
        data.iter().map(|&x| f(x)).collect()
    } else {
        data.par_iter().map(|&x| f(x)).collect()
    }
}
