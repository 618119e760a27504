//! Segmentation without a device: what a label map means, where the pairs of a task are, how windows
//! cover a volume, and how good a result is. Knows nothing of tapes, ops or networks.
//!
//! The way of a case: a [`task`](task::Task) says which classes, grid and split there are,
//! [`dataset`] finds image and label, [`labels`] turns stored values into class indices,
//! [`metrics`] judges the result and [`report`] tells it. Images that
//! have one class each go by [`class_table`] and [`classes`].
//!
//! Volume axes are those of [`Volume`](crate::data::Volume): `(d, h, w)` is nibabel's `[i, j, k]`, so
//! the first axis here is MONAI's first spatial axis, and nothing is swapped on the way.

// Formulas over the three axes read best with their indices.
#![allow(clippy::needless_range_loop)]

pub mod class_table;
pub mod classes;
pub mod dataset;
pub mod evaluate;
pub mod labels;
pub mod match_files;
pub mod metrics;
pub mod presence;
pub mod region;
pub mod report;
pub mod task;

pub use labels::{ClassImage, LabelRules};
pub use region::Region;
pub use task::Task;
