//! Fine-tuning around a pre-trained encoder: UNETR for segmentation, a linear layer for classes of
//! images.

pub mod cases;
pub mod checkpoint;
pub mod crops;
pub mod encoder;
pub mod memory;
pub mod network;
pub mod options;
mod pictures;
pub mod program;
pub mod run;
pub mod state;
