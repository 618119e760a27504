//! Does a device compute what it should? Three questions, from the ground up: the device itself, the
//! kernels of every op, whole training steps. `glmae check` asks them; on a GPU they come first.

pub mod device;
pub mod ops;
mod primitives;
pub mod step;

use serde::Serialize;

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    pub what: String,
    /// What was seen.
    pub seen: String,
    pub passed: bool,
    pub seconds: f64,
}
