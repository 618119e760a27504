//! Floor 5: training. Schedules, one update, checkpoints, the pre-training run.

mod accumulation;
mod captured;
pub mod checkpoint;
pub mod finetune;
pub mod heldout;
mod inputs;
pub mod lock;
pub mod memory;
pub mod options;
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
