//! Weights from and for other programs: names, shapes and files of their state dicts.
//!
//! docs/interchange.md has the tables and says what each way loses.

pub mod encoder;
pub mod export;
pub mod file;
mod foreign;
pub mod monai;
mod names;
mod own;
mod patch;
mod positions;
mod said;
pub mod segmenter;

pub use encoder::{
    Encoder, EncoderConfig, ImportOptions, ImportReport, read_encoder, read_encoder_with,
};
