//! Folders of checkpoints appear and go as a whole.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::folder::STEP;
use super::segmenter::{self, BEST};
use super::{FOLDER, LATEST, STATE, glance};
use crate::atomic::{Storage, write_to};
use crate::{Error, Result};

/// What ends the name of a checkpoint that was in the way of one of another run.
const OTHER: &str = "of-another-run";

/// Makes the folder `checkpoints/NAME` of a run appear whole: `write` puts files into a hidden folder
/// and returns the text of its `state.json`. What was there under this name goes, unless another run than `owner`
/// wrote it: that is renamed. A checkpoint of a step is the newest one then, and the file `latest` says so.
///
/// Errors: [`Error::Io`]; what was there is there again.
pub(super) fn publish(
    storage: &dyn Storage,
    run: &Path,
    name: &str,
    owner: Owner<'_>,
    write: impl FnOnce(&Path) -> Result<String>,
) -> Result<PathBuf> {
    let folder = run.join(FOLDER);
    fs::create_dir_all(&folder).map_err(Error::io(&folder, "create"))?;
    let target = folder.join(name);
    let mut temp = TempFolder::create(&folder, name)?;
    let json = write(&temp.path)?;
    write_to(storage, &temp.path.join(STATE), |w| w.write_all(json.as_bytes()))?;
    storage.sync_dir(&temp.path).map_err(Error::io(&temp.path, "sync"))?;
    if target.exists() && owner.is_another(&target) {
        let aside = free_name(&folder, name);
        storage.rename(&target, &aside).map_err(Error::io(&target, "move aside"))?;
    }
    let mut in_the_way = None;
    if target.exists() {
        let aside = TempFolder::create(&folder, name)?;
        storage.rename(&target, &aside.path).map_err(Error::io(&target, "move aside"))?;
        in_the_way = Some(aside);
    }
    if let Err(e) = storage.rename(&temp.path, &target) {
        if let Some(aside) = &mut in_the_way {
            // Where it cannot go back, it stays hidden, and whole.
            aside.armed = false;
            let _ = storage.rename(&aside.path, &target);
        }
        return Err(Error::io(&target, "create")(e));
    }
    temp.armed = false;
    storage.sync_dir(&folder).map_err(Error::io(&folder, "sync"))?;
    drop(in_the_way);
    if name.starts_with(STEP) {
        write_to(storage, &run.join(LATEST), |w| writeln!(w, "{FOLDER}/{name}"))?;
    }
    Ok(target)
}

/// Who writes a checkpoint.
#[derive(Clone, Copy)]
pub(super) struct Owner<'a> {
    pub run: &'a str,
    /// Whether it is a fine-tuning.
    pub tunes: bool,
}

impl Owner<'_> {
    /// Whether a checkpoint is that of another run or another kind of run, as far as it says so.
    fn is_another(&self, checkpoint: &Path) -> bool {
        glance(checkpoint).is_ok_and(|seen| {
            seen.kind.is_some() != self.tunes || seen.run.is_some_and(|run| run != self.run)
        })
    }
}

/// Where a checkpoint that is in the way can be seen and is in nobody's way.
fn free_name(folder: &Path, name: &str) -> PathBuf {
    let numbered = (2u64..).map(|n| folder.join(format!("{name}.{OTHER}-{n}")));
    let mut names = std::iter::once(folder.join(format!("{name}.{OTHER}"))).chain(numbered);
    names.find(|path| !path.exists()).unwrap_or_else(|| folder.join(name))
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

/// Removes hidden folders that killed writers left in `checkpoints/`. One that was killed while it replaced the
/// best checkpoint may have left that there: it gets its name back. Call it with the run's lock held. Returns how
/// many were removed.
pub fn remove_strays(run: &Path) -> Result<usize> {
    let folder = run.join(FOLDER);
    let entries = match fs::read_dir(&folder) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(0),
        other => other.map_err(Error::io(&folder, "list"))?,
    };
    let mut strays = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::io(&folder, "list"))?;
        if stem(&entry.file_name().to_string_lossy()).is_some() {
            strays.push(entry.path());
        }
    }
    let best = folder.join(BEST);
    if !best.exists() {
        let of_best = strays.iter().filter(|path| {
            path.file_name().is_some_and(|name| stem(&name.to_string_lossy()) == Some(BEST))
        });
        let whole = of_best.filter_map(|path| {
            glance(path).ok()?;
            Some((segmenter::read_info(path).ok()?.counters().step, path.clone()))
        });
        if let Some((_, newest)) = whole.max() {
            fs::rename(&newest, &best).map_err(Error::io(&best, "bring back"))?;
            strays.retain(|path| *path != newest);
        }
    }
    for path in &strays {
        fs::remove_dir_all(path).map_err(Error::io(path, "remove"))?;
    }
    Ok(strays.len())
}

/// The name of the checkpoint that a [`TempFolder`] was made for.
fn stem(hidden: &str) -> Option<&str> {
    let (stem, _) = hidden.strip_prefix('.')?.split_once(".tmp-")?;
    (stem == BEST || stem.starts_with(STEP)).then_some(stem)
}
