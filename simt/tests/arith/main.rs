//! The arithmetic of PTX against slow and independent computations.

mod big;
mod integer;
mod mma;
mod random;
mod round;
