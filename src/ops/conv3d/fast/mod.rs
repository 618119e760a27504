//! The f32 fast path of the 3 x 3 x 3 convolution of channels-last volumes, with zero padding, and its weight gradient.
//!
//! A task is a few lines of output. It copies the lines of input around them, with their zeros and
//! with the channels of all inputs side by side, into a panel of its own (`panel`). There the
//! three taps along w of a voxel are one run of `3 C` floats, and the run of the next voxel begins
//! `C` floats later: the rows of the im2col matrix overlap in place instead of being written down. The
//! register tiles (`tiles`) read them with that stride.
//!
//! Deterministic: tasks and groups of tasks depend on sizes alone; a sum runs over taps and channels
//! in order, the weight gradient over voxels in order within a group, and groups are added in order.

mod forward;
mod panel;
#[cfg(test)]
mod tests;
mod tiles;
mod weights;

pub use forward::{backward_x, forward};
pub use weights::backward_weight;
