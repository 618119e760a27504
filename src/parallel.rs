//! Loops over arrays on all cores. Short ones run on the spot: handing work to other threads costs more
//! than thousands of elements.

use rayon::prelude::*;

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
