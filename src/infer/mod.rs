//! Floor 5: using what a run has learnt.

pub mod classify;
pub mod judge;
pub mod predict;
mod probabilities;
pub mod reconstruct;
pub mod segment;
pub mod tiles;
