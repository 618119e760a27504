//! Parameters and networks, built from tape calls.
//!
//! A module holds parameter ids, never tensors: the same module runs with the student's and with
//! the teacher's parameters.

pub mod block;
pub mod classifier;
pub mod conv_block;
pub mod decoder;
pub mod encoder;
pub mod head;
pub mod init;
pub mod network;
pub mod params;
pub mod pos_embed;
pub mod segmenter;
pub mod sizes;
pub mod unetr;
pub mod vit;

/// Layer norm epsilon of every norm in the model (timm 0.3.2 as GL-MAE uses it).
pub const NORM_EPS: f64 = 1e-6;
