//! Volumes in: NIfTI files, geometry, intensity, dataset layouts, prepared cases, the loader. Knows
//! nothing of devices or of the tape.
//!
//! The way of a voxel: [`layout::discover`] finds the cases, [`nifti::read_volume`] reads a
//! [`Volume`], [`prepare`](prepare::prepare) turns it to RAS, brings it to a spacing if one is asked
//! for, maps its intensities and cuts its foreground out, and the [`Loader`] hands the [`Prepared`] cases to the training step in an order
//! that depends neither on threads nor on time. A [`CaseRecord`] knows the way back to the input.

// Formulas over the three axes read best with their indices.
#![allow(clippy::needless_range_loop)]

pub mod crop;
pub mod footprint;
pub mod geometry;
pub mod intensity;
pub mod label;
pub mod layout;
pub mod loader;
pub mod nifti;
pub mod prepare;
pub mod resample;
pub mod synthetic;
pub mod text;
pub mod volume;
pub mod window;

pub use crop::{CropRecord, Pad};
pub use footprint::{Footprint, footprint, prepared_dims};
pub use geometry::{Affine, Orientation};
pub use intensity::{Intensity, IntensityMap};
pub use label::{LabelImage, prepare_label, read_labels};
pub use layout::{Case, LeftOut, Source, discover, exclude, hold_out};
pub use loader::{Loader, LoaderConfig};
pub use nifti::{Channels, ReadLimits, ReadOptions, read_volume};
pub use prepare::{CaseRecord, NonFinite, PrepareConfig, Prepared, prepare, prepare_volume};
pub use resample::Resample;
pub use volume::Volume;
