//! Which checkpoints a folder has.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::seal::read_state;
use super::{CheckpointInfo, FOLDER, STATE};
use crate::{Error, Result};

/// Folders of checkpoints are named so, and by their step.
pub(super) const STEP: &str = "step_";

/// The checkpoint folder that a user's path means; see [`super::read_info`].
pub fn resolve(path: &Path) -> Result<PathBuf> {
    if path.join(STATE).is_file() {
        return Ok(path.to_owned());
    }
    if path.is_dir() {
        return latest(path)?.ok_or_else(|| {
            Error::data(
                path,
                "neither a checkpoint (no state.json) nor a run folder with a checkpoint in \
                 checkpoints/",
            )
        });
    }
    match path.parent() {
        Some(folder) if path.is_file() && folder.join(STATE).is_file() => Ok(folder.to_owned()),
        _ if path.exists() => {
            Err(Error::data(path, "not part of a checkpoint: there is no state.json beside it"))
        }
        _ => Err(Error::data(path, "no such checkpoint; give its folder or a run folder")),
    }
}

/// The newest checkpoint of a run folder whose `state.json` is sound; `None` when there is none.
pub fn latest(run: &Path) -> Result<Option<PathBuf>> {
    // Weights that do not go with it are told when they are read.
    let is_sound = |file: &Path| CheckpointInfo::parse(&read_state(file)?, file).map(|_| ());
    let mut found = list(run)?.into_iter().rev().map(|(_, path)| path);
    Ok(found.find(|path| path.join(STATE).is_file() && is_sound(&path.join(STATE)).is_ok()))
}

/// All checkpoints of a run folder in rising order of their steps, sound or not.
pub fn list(run: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let folder = run.join(FOLDER);
    let entries = match fs::read_dir(&folder) {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        other => other.map_err(Error::io(&folder, "list"))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::io(&folder, "list"))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let digits = name.strip_prefix(STEP).filter(|d| d.bytes().all(|b| b.is_ascii_digit()));
        if let Some(step) = digits.and_then(|d| d.parse().ok()) {
            found.push((step, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// Name of the folder of a step.
pub fn folder_name(step: u64) -> String {
    format!("{STEP}{step:08}")
}
