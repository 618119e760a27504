//! Fine-tuning for segmentation: UNETR around a pre-trained encoder.

pub mod crops;
pub mod encoder;
pub mod program;
pub mod state;
