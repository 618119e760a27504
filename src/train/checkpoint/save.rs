//! Writing a checkpoint, and removing old ones.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{
    CheckpointInfo, DataFingerprint, FOLDER, FORMAT, LATEST, MODEL, OPTIMIZER, STATE, TEACHER,
    folder_name, list, write_tensors,
};
use crate::atomic::{Disk, Storage, write_to};
use crate::config::Config;
use crate::device::Tensor;
use crate::glmae::batch::{BatchShape, ViewKind};
use crate::glmae::model::Networks;
use crate::nn::params::Params;
use crate::train::state::State;
use crate::{Error, Result};

/// What a checkpoint is made of.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot<'a> {
    pub config: &'a Config,
    pub nets: &'a Networks,
    pub state: &'a State,
    pub data: DataFingerprint,
}

/// Writes the checkpoint of `snapshot` into the run folder `run` and returns its folder.
///
/// Errors: [`Error::Io`]; nothing of the new checkpoint is left then, older ones stay.
pub fn save(run: &Path, snapshot: &Snapshot<'_>) -> Result<PathBuf> {
    save_to(&Disk, run, snapshot)
}

/// [`save`] through another storage.
pub fn save_to(storage: &dyn Storage, run: &Path, snapshot: &Snapshot<'_>) -> Result<PathBuf> {
    let name = folder_name(snapshot.state.counters.step);
    let target = publish(storage, run, &name, |temp| {
        let files = write_files(storage, temp, snapshot)?;
        let info = CheckpointInfo {
            format: FORMAT,
            version: format!("glmae {}", env!("CARGO_PKG_VERSION")),
            step: snapshot.state.counters.step,
            counters: snapshot.state.counters,
            config: snapshot.config.clone(),
            seed: snapshot.config.train.seed,
            data: snapshot.data,
            files,
        };
        info.to_json()
    })?;
    write_to(storage, &run.join(LATEST), |w| writeln!(w, "{FOLDER}/{name}"))?;
    Ok(target)
}

/// Makes the folder `checkpoints/NAME` of a run appear whole: `write` puts files into a hidden folder
/// and returns the text of its `state.json`. What was there under this name goes.
pub(crate) fn publish(
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

fn write_files(
    storage: &dyn Storage,
    folder: &Path,
    snapshot: &Snapshot<'_>,
) -> Result<BTreeMap<String, super::FileInfo>> {
    let Snapshot { config, nets, state, .. } = snapshot;
    let notes = [
        ("format", "pt".to_owned()),
        ("glmae.step", state.counters.step.to_string()),
        ("glmae.version", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    let mut files = BTreeMap::new();
    let mut write = |name: &str, tensors: &[(String, Tensor)]| -> Result<()> {
        let info = write_tensors(storage, &folder.join(name), tensors, &notes)?;
        files.insert(name.to_owned(), info);
        Ok(())
    };
    let mut model = named("", &state.weights.student, state.weights.student.flat())?;
    model.extend(tables(config, nets)?);
    write(MODEL, &model)?;
    if let Some(teacher) = &state.weights.teacher {
        write(TEACHER, &named("", teacher, teacher.flat())?)?;
    }
    let mut optimizer = named("m.", &state.weights.student, &state.m)?;
    optimizer.extend(named("v.", &state.weights.student, &state.v)?);
    optimizer.extend(state.weights.center.iter().map(|c| ("center".to_owned(), c.clone())));
    write(OPTIMIZER, &optimizer)?;
    Ok(files)
}

/// Views of a flat buffer under the names of `params`.
pub(crate) fn named(prefix: &str, params: &Params, flat: &Tensor) -> Result<Vec<(String, Tensor)>> {
    let entries = params.layout().entries().iter();
    entries.map(|e| Ok((format!("{prefix}{}", e.name), flat.view(e.offset, &e.shape)?))).collect()
}

/// The fixed tables of the local grid, as the official checkpoint has them: `[1, 1 + N, width]`.
pub(super) fn tables(config: &Config, nets: &Networks) -> Result<Vec<(String, Tensor)>> {
    let rows = 1 + BatchShape::new(config, 1).tokens(ViewKind::Local);
    let first = nets.tables.first(ViewKind::Local);
    let table = |name: &str, table: &Tensor, dim: usize| -> Result<_> {
        Ok((name.to_owned(), table.view(first * dim, &[1, rows, dim])?))
    };
    Ok(vec![
        table("pos_embed", &nets.tables.encoder, config.model.dim)?,
        table("decoder_pos_embed", &nets.tables.decoder, config.model.dec_dim)?,
    ])
}

/// Removes old checkpoints: the newest `keep_last` stay, and those of steps that are multiples of
/// `keep_every` (0: none). Returns the removed steps.
///
/// A checkpoint is renamed before it is removed, so that a kill leaves no half of one.
pub fn prune(run: &Path, keep_last: usize, keep_every: u64) -> Result<Vec<u64>> {
    let all = list(run)?;
    let old = all.len().saturating_sub(keep_last.max(1));
    let mut removed = Vec::new();
    for (step, path) in all.into_iter().take(old) {
        if keep_every > 0 && step % keep_every == 0 {
            continue;
        }
        let aside = TempFolder::create(&run.join(FOLDER), &folder_name(step))?;
        fs::rename(&path, &aside.path).map_err(Error::io(&path, "remove"))?;
        removed.push(step);
    }
    Ok(removed)
}
