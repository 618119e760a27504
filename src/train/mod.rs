//! Floor 5: training. Schedules, one update, checkpoints, the pre-training run.

pub mod schedule;
pub mod state;
pub mod update;
