//! What a run shows of itself: metric files, TensorBoard events, pictures, progress.
//!
//! Everything that is appended (`metrics`, `tensorboard`) is opened with the step up to which
//! earlier entries are kept, so that a run resumed from a checkpoint has no step twice.

pub mod canvas;
pub mod curve;
pub mod font;
pub mod metrics;
pub mod panel;
pub mod progress;
pub mod slice;
pub mod stderr;
pub mod tensorboard;
