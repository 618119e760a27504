//! From which checkpoint a run goes on, and what has changed since.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::folder::RunFolder;
use super::options::Resume;
use crate::checkpoint::{self, STATE, glance};
use crate::{Error, Result};

/// A state to go on from.
#[derive(Debug)]
pub struct Resumed<S> {
    pub path: PathBuf,
    pub step: u64,
    pub state: S,
    /// Newer checkpoints that could not be used, and why.
    pub warnings: Vec<String>,
}

/// Finds and loads what `how` says; `None`: the run starts anew. `load` gives the step and the state of a
/// checkpoint; what it refuses as damaged ([`Error::Data`], [`Error::Io`]) makes the next older one be tried.
///
/// Errors: those of `load`; [`Error::Data`] when there are checkpoints and none can be used;
/// [`Error::Config`] when a checkpoint is named and the folder holds a later one.
pub fn resume<S>(
    folder: &mut RunFolder,
    how: &Resume,
    mut load: impl FnMut(&Path) -> Result<(u64, S)>,
) -> Result<Option<Resumed<S>>> {
    let found = match how {
        Resume::Never => None,
        Resume::Auto => newest(folder.path(), folder.checkpoints(), &mut load)?,
        Resume::From(path) => {
            let resumed = named(path, &mut load)?;
            refuse_later(folder, resumed.step)?;
            Some(resumed)
        }
    };
    if let Some(found) = &found {
        folder.adopt(glance(&found.path)?.run);
    }
    Ok(found)
}

/// The newest sound checkpoint of a list.
fn newest<S>(
    run: &Path,
    checkpoints: &[(u64, PathBuf)],
    load: &mut impl FnMut(&Path) -> Result<(u64, S)>,
) -> Result<Option<Resumed<S>>> {
    let (mut warnings, mut first) = (Vec::new(), None);
    for (_, path) in checkpoints.iter().rev() {
        match glance(path).and_then(|_| load(path)) {
            Ok((step, state)) => {
                let path = path.clone();
                return Ok(Some(Resumed { path, step, state, warnings }));
            }
            Err(e @ (Error::Data { .. } | Error::Io { .. })) => {
                warnings.push(format!("checkpoint not used: {e}"));
                first.get_or_insert(e);
            }
            Err(e) => return Err(e),
        }
    }
    first.map_or(Ok(None), |e| Err(none_of(run, checkpoints.len(), &e)))
}

/// The error of a run folder whose checkpoints are all damaged, `newest` the newest of them.
pub fn none_of(run: &Path, count: usize, newest: &Error) -> Error {
    let reason = format!(
        "none of its {count} checkpoints can be used (the newest: {newest}); bring one back from a backup, or \
         start anew in another --out"
    );
    Error::data(run, reason)
}

/// The checkpoint that a path means: its folder, a file in it, or the newest sound one of a run folder.
fn named<S>(path: &Path, load: &mut impl FnMut(&Path) -> Result<(u64, S)>) -> Result<Resumed<S>> {
    let folder = if path.is_file() { path.parent().unwrap_or(path) } else { path };
    if folder.join(STATE).is_file() {
        let (step, state) = load(folder)?;
        return Ok(Resumed { path: folder.to_owned(), step, state, warnings: Vec::new() });
    }
    newest(path, &checkpoint::list(path)?, load)?.ok_or_else(|| {
        let reason = "there is no checkpoint here; give the folder of one, or of a run";
        Error::data(path, reason)
    })
}

/// A run that went back would find the later checkpoints the next time, and go on from those.
fn refuse_later(folder: &RunFolder, step: u64) -> Result<()> {
    let later = folder.checkpoints().iter().rev();
    match later.into_iter().find(|(s, path)| *s > step && glance(path).is_ok()) {
        None => Ok(()),
        Some((later, _)) => Err(Error::Config(format!(
            "{} holds a checkpoint of step {later}, later than step {step} that is resumed from; \
             choose another --out or delete the later ones",
            folder.path().display()
        ))),
    }
}

/// Keys whose values differ between two configurations (TOML texts), with the line `key: old -> new`.
pub fn changes(old: &str, new: &str) -> Result<Vec<(String, String)>> {
    let flat = |text: &str| -> Result<BTreeMap<String, String>> {
        let table: toml::Table =
            text.parse().map_err(|e: toml::de::Error| Error::Config(e.to_string()))?;
        let sections = table.iter().filter_map(|(s, v)| Some((s, v.as_table()?)));
        let keys = sections.flat_map(|(s, t)| t.iter().map(move |(k, v)| (format!("{s}.{k}"), v)));
        Ok(keys.map(|(k, v)| (k, v.to_string())).collect())
    };
    let (old, new) = (flat(old)?, flat(new)?);
    let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let show = |v: Option<&String>| v.cloned().unwrap_or_else(|| "absent".into());
    let differing = keys.into_iter().filter(|k| old.get(*k) != new.get(*k));
    Ok(differing
        .map(|k| (k.clone(), format!("{k}: {} -> {}", show(old.get(k)), show(new.get(k)))))
        .collect())
}
