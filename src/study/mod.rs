//! The comparison that the method is for: does pre-training help, how much, with how many labels?
//! A grid of pre-trainings and fine-tunings on one labelled set, in one folder that can be resumed,
//! judged on cases that no run has seen.
//!
//! | folder | holds |
//! | --- | --- |
//! | `pretrain/OBJECTIVE` | a pre-training run |
//! | `finetune/START_labelsSHARE_seedN` | a fine-tuning run, its `predictions/` and `result.json` |
//! | `study.toml`, `results.json`, `results.csv`, `table.md`, `*.png` | what was asked, what came out |

mod config;
mod cost;
mod grid;
mod judge;
mod report;
mod result;
mod run;
mod statistics;

pub use config::{Grid, PRESETS, Recipe, StudyConfig};
pub use cost::Cost;
pub use grid::{Cell, Pretraining, Start};
pub use result::{CaseScore, CellResult, Scores};
pub use run::{StudyOptions, StudySummary, study};
