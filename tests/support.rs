//! What several test modules need.

use std::path::PathBuf;

/// The folder of shared reference data (cases, volumes), when this checkout has it beside it.
/// `GLMAE_SHARED` names another place.
pub fn shared(part: &str) -> Option<PathBuf> {
    let root = std::env::var_os("GLMAE_SHARED")
        .map(PathBuf::from)
        .unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared"));
    let path = root.join(part);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {} is not there", path.display());
    None
}
