//! Folders of checkpoints appear and go as a whole.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::folder::STEP;
use super::{FOLDER, LATEST, STATE};
use crate::atomic::{Storage, write_to};
use crate::{Error, Result};

/// Makes the folder `checkpoints/NAME` of a run appear whole: `write` puts files into a hidden folder
/// and returns the text of its `state.json`. What was there under this name goes. A checkpoint of a step is the
/// newest one then, and the file `latest` says so.
pub(super) fn publish(
    storage: &dyn Storage,
    run: &Path,
    name: &str,
    write: impl FnOnce(&Path) -> Result<String>,
) -> Result<PathBuf> {
    let folder = run.join(FOLDER);
    fs::create_dir_all(&folder).map_err(Error::io(&folder, "create"))?;
    let target = folder.join(name);
    let mut temp = TempFolder::create(&folder, name)?;
    let json = write(&temp.path)?;
    write_to(storage, &temp.path.join(STATE), |w| w.write_all(json.as_bytes()))?;
    storage.sync_dir(&temp.path).map_err(Error::io(&temp.path, "sync"))?;
    let mut in_the_way = None;
    if target.exists() {
        let aside = TempFolder::create(&folder, name)?;
        storage.rename(&target, &aside.path).map_err(Error::io(&target, "move aside"))?;
        in_the_way = Some(aside);
    }
    storage.rename(&temp.path, &target).map_err(Error::io(&target, "create"))?;
    temp.armed = false;
    storage.sync_dir(&folder).map_err(Error::io(&folder, "sync"))?;
    drop(in_the_way);
    if name.starts_with(STEP) {
        write_to(storage, &run.join(LATEST), |w| writeln!(w, "{FOLDER}/{name}"))?;
    }
    Ok(target)
}

/// A hidden folder that is removed unless it was renamed.
struct TempFolder {
    path: PathBuf,
    armed: bool,
}

impl TempFolder {
    fn create(folder: &Path, name: &str) -> Result<Self> {
        for n in 0u64.. {
            let path = folder.join(format!(".{name}.tmp-{}-{n}", std::process::id()));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Self { path, armed: true }),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(Error::io(&path, "create")(e)),
            }
        }
        Err(Error::io(folder, "write")(ErrorKind::AlreadyExists.into()))
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        if self.armed {
            // A folder that stays is removed by the next run.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Removes a checkpoint: renamed first, so that a kill leaves no half of one under its name.
pub fn remove(checkpoint: &Path) -> Result<()> {
    let (Some(folder), Some(name)) = (checkpoint.parent(), checkpoint.file_name()) else {
        return Err(Error::data(checkpoint, "not a checkpoint"));
    };
    let aside = TempFolder::create(folder, &name.to_string_lossy())?;
    fs::rename(checkpoint, &aside.path).map_err(Error::io(checkpoint, "remove"))
}

/// Removes hidden folders that killed writers left in `checkpoints/`. Call it with the run's lock
/// held. Returns how many there were.
pub fn remove_strays(run: &Path) -> Result<usize> {
    let folder = run.join(FOLDER);
    let entries = match fs::read_dir(&folder) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(0),
        other => other.map_err(Error::io(&folder, "list"))?,
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry.map_err(Error::io(&folder, "list"))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(".step_") && name.contains(".tmp-") {
            fs::remove_dir_all(entry.path()).map_err(Error::io(entry.path(), "remove"))?;
            removed += 1;
        }
    }
    Ok(removed)
}
