//! A launch on the executor of `glmae_simt`.

use glmae_simt::count::Counts;
use glmae_simt::machine;
use glmae_simt::program::Program;

use super::Options;
use crate::device::on_host::Launch;
use crate::error::{Error, Result};

/// Runs a launch to its end; what it did. `params` are its arguments as they lie in the space of parameters.
///
/// Errors: `Device` for whatever the executor reports.
pub(super) fn run(
    program: &Program,
    options: &Options,
    launch: &Launch,
    params: &[u8],
) -> Result<Counts> {
    let launch = machine::Launch {
        program,
        grid: launch.config.grid,
        block: launch.config.block,
        cluster: program.cluster.unwrap_or([1; 3]),
        shared_bytes: launch.config.shared_bytes,
        params,
        memory: launch.map.clone(),
        is_checked: options.checked,
        schedule: options.schedule,
    };
    machine::run(&launch).map_err(|fault| Error::Device(fault.to_string()))
}
