//! Using what a run has learnt.

pub mod classify;
pub mod heldout;
pub mod judge;
pub mod predict;
mod probabilities;
pub mod reconstruct;
pub mod reconstruct_files;
pub mod segment;
pub mod tiles;
pub mod window;
