//! Floor 5: training. Schedules, one update, checkpoints, the pre-training run.

pub mod checkpoint;
pub mod heldout;
mod inputs;
pub mod lock;
pub mod memory;
mod options;
pub mod order;
pub mod pictures;
pub mod pretrain;
pub mod program;
pub mod report;
pub mod run_folder;
pub mod schedule;
pub mod signals;
pub mod state;
mod volumes;
pub mod watch;
