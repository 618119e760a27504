//! The method. Views and masks, the plan of a pass over them, student and teacher, the
//! objective.

pub mod batch;
pub mod inputs;
pub mod losses;
pub mod mask;
pub mod model;
pub mod objective;
pub mod patch_order;
pub mod plan;
mod targets;
pub mod views;
