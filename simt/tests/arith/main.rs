//! The arithmetic of PTX against slow and independent computations.

mod approx;
mod big;
mod convert;
mod half;
mod integer;
mod mma;
mod random;
mod round;
