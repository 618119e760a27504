//! Training: what a run is, and the two kinds of runs there are.

pub mod finetune;
pub mod pretrain;
pub mod run;
