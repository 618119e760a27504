//! What every checkpoint says of itself, whatever its kind.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::seal::{read_state, unseal};
use super::{FileInfo, STATE};
use crate::{Error, Result};

/// What [`glance`] sees.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Glance {
    /// The kind of network that was fine-tuned; absent in checkpoints of pre-training.
    #[serde(default)]
    pub kind: Option<String>,
    /// The run that wrote it; absent in checkpoints of older versions.
    #[serde(default)]
    pub run: Option<String>,
    files: BTreeMap<String, FileInfo>,
}

/// Reads the seal of a checkpoint and the sizes of its files, not their contents.
///
/// Errors: [`Error::Data`] for what shows without reading the tensors: no `state.json`, a broken one, a file
/// that is missing or of another size; [`Error::Io`].
pub fn glance(folder: &Path) -> Result<Glance> {
    let file = folder.join(STATE);
    if !file.is_file() {
        return Err(Error::data(folder, format!("damaged: {STATE} is missing")));
    }
    let seen: Glance = unseal(&read_state(&file)?, &file)?;
    for (name, info) in &seen.files {
        let path = folder.join(name);
        let bytes = fs::metadata(&path).map_err(Error::io(&path, "read"))?.len();
        if bytes != info.bytes {
            let reason = format!("damaged: {bytes} bytes, {} were written", info.bytes);
            return Err(Error::data(&path, reason));
        }
    }
    Ok(seen)
}
