//! Fine-tuning for segmentation: UNETR around a pre-trained encoder.

pub mod cases;
pub mod checkpoint;
pub mod crops;
pub mod encoder;
pub mod memory;
pub mod options;
mod pictures;
pub mod program;
pub mod run;
pub mod state;
