//! What each start costs: time of a step and memory, with and without teacher, global and local views.

use serde::{Deserialize, Serialize};

use super::config::StudyConfig;
use crate::Result;
use crate::checkpoint::activation_dtype;
use crate::config::{Config, OBJECTIVES, Objective};
use crate::device::Device;
use crate::lab::bench_step::{StepBenchOptions, bench_step};
use crate::train::pretrain::memory::plan;
use crate::train::run::Launches;

/// Steps that are timed.
const REPEATS: usize = 3;

/// One row of the table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    pub objective: String,
    pub has_teacher: bool,
    /// Masked views per volume that are encoded and reconstructed.
    pub global_views: usize,
    pub local_views: usize,
    /// Median milliseconds of a step, on the device of the study.
    pub step_ms: f64,
    /// Peak of live tensors in a step, in bytes.
    pub peak_bytes: u64,
}

/// Every objective, and the full method with a single local view: what teacher, global views and local
/// views add. Errors: as [`bench_step`].
pub fn costs(study: &StudyConfig, device: &Device, threads: usize) -> Result<Vec<Cost>> {
    let mut config = study.pretrain_config()?;
    let mut rows = Vec::new();
    for row in &OBJECTIVES {
        config.loss.objective = row.objective;
        rows.push(cost(&config, device, threads)?);
    }
    if config.views.n_local > 1 {
        config.loss.objective = Objective::GlMae;
        config.views.n_local = 1;
        rows.push(cost(&config, device, threads)?);
    }
    Ok(rows)
}

fn cost(config: &Config, device: &Device, threads: usize) -> Result<Cost> {
    let options = StepBenchOptions {
        device: device.clone(),
        dtype: activation_dtype(config, device)?,
        launches: Launches::Graph,
        threads,
        warmup: 1,
        repeats: REPEATS,
    };
    let objective = config.loss.objective;
    let globals = if objective.has_global_views() { config.views.n_global } else { 0 };
    Ok(Cost {
        objective: objective.name().to_owned(),
        has_teacher: objective.has_teacher(),
        global_views: globals,
        local_views: config.views.n_local,
        step_ms: bench_step(config, &options)?.ms,
        peak_bytes: plan(config, device)?.peak_bytes,
    })
}
