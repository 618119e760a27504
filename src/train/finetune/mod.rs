//! Fine-tuning for segmentation: UNETR around a pre-trained encoder.

pub mod program;
pub mod state;
