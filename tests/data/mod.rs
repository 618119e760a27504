//! The data floor against real files, files that are odd, and files that are broken on purpose.

mod crate_check;
mod expectations;
mod fuzz;
mod limits;
mod names;
mod prepared;

use std::path::PathBuf;

/// The folder of the shared test volumes: `$GLMAE_SHARED/data`, or `../shared/data` beside the
/// crate. `None`, with a line on the output, when it is not there.
pub fn shared_data(test: &str) -> Option<PathBuf> {
    let shared = std::env::var_os("GLMAE_SHARED")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    let data = shared.join("data");
    if data.is_dir() {
        return Some(data);
    }
    println!("skipped: {test}: no shared test volumes at {} (set GLMAE_SHARED)", data.display());
    None
}
