//! Names and shapes of other programs' state dicts.

pub mod monai;
