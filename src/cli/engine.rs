//! What the run verbs call, in one place.

pub use glmae::infer::reconstruct::{ReconstructOptions, ReconstructReport, reconstruct};
pub use glmae::train::memory::MemoryPlan;
pub use glmae::train::pretrain::{Resume, RunOptions, Summary, pretrain};
