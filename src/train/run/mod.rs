//! What a run is, whatever it trains: its folder, lock and logs, the loop over the steps, checkpoints and
//! resume, signals, the order of the cases, the capture of a step.
//!
//! A kind of training ([`crate::train::pretrain`], [`crate::train::finetune`]) implements [`Training`] and
//! gives the engine the rest to do.

mod accumulation;
mod captured;
mod describe;
mod engine;
mod folder;
mod journal;
pub mod lock;
mod logs;
mod memory;
mod options;
pub mod order;
mod resume;
mod retention;
pub mod signals;
mod training;

pub(in crate::train) use accumulation::Accumulation;
pub use captured::Launches;
pub(in crate::train) use captured::{Captured, run_piece};
pub(in crate::train) use engine::{Engine, Opening};
pub use folder::{IDENTITY, RunFolder, RunKind};
pub use journal::Journal;
pub use memory::MemoryPlan;
pub(in crate::train) use memory::Reads;
pub use options::{Resume, RunOptions, Summary};
pub use resume::{Resumed, resume};
pub(in crate::train) use resume::{changes, none_of};
pub use training::{Pace, StepReport, Training, Values, value};
