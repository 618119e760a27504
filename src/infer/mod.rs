//! Floor 5: using what a run has learnt.

pub mod predict;
pub mod reconstruct;
pub mod segment;
pub mod tiles;
