//! Writing a checkpoint of pre-training.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::moments;
use super::publish::{Owner, publish};
use super::{
    CheckpointInfo, DataFingerprint, FORMAT, FileInfo, MODEL, OPTIMIZER, State, TEACHER,
    folder_name, write_tensors,
};
use crate::Result;
use crate::atomic::{Disk, Storage};
use crate::config::{Config, ViewKind};
use crate::device::Tensor;
use crate::glmae::batch::BatchShape;
use crate::glmae::model::Networks;
use crate::nn::params::Params;

/// What a checkpoint is made of.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot<'a> {
    pub config: &'a Config,
    pub nets: &'a Networks,
    pub state: &'a State,
    pub data: DataFingerprint,
    /// The run that writes it.
    pub run: &'a str,
}

/// Writes the checkpoint of `snapshot` into the run folder `run` and returns its folder.
///
/// Errors: [`crate::Error::Io`]; nothing of the new checkpoint is left then, older ones stay.
pub fn save(run: &Path, snapshot: &Snapshot<'_>) -> Result<PathBuf> {
    save_to(&Disk, run, snapshot)
}

/// [`save`] through another storage.
pub fn save_to(storage: &dyn Storage, run: &Path, snapshot: &Snapshot<'_>) -> Result<PathBuf> {
    let name = folder_name(snapshot.state.counters.step);
    let owner = Owner { run: snapshot.run, tunes: false };
    publish(storage, run, &name, owner, |temp| {
        let files = write_files(storage, temp, snapshot)?;
        let info = CheckpointInfo {
            format: FORMAT,
            version: format!("glmae {}", env!("CARGO_PKG_VERSION")),
            step: snapshot.state.counters.step,
            counters: snapshot.state.counters,
            config: snapshot.config.clone(),
            seed: snapshot.config.train.seed,
            data: snapshot.data,
            run: Some(snapshot.run.to_owned()),
            files,
        };
        info.to_json()
    })
}

fn write_files(
    storage: &dyn Storage,
    folder: &Path,
    snapshot: &Snapshot<'_>,
) -> Result<BTreeMap<String, FileInfo>> {
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
    let layout = state.weights.student.layout();
    let mut optimizer = moments::of(layout, &(0..layout.len()), [&state.m, &state.v])?;
    optimizer.extend(state.weights.center.iter().map(|c| ("center".to_owned(), c.clone())));
    write(OPTIMIZER, &optimizer)?;
    Ok(files)
}

/// Views of a flat buffer under the names of `params`.
pub(super) fn named(prefix: &str, params: &Params, flat: &Tensor) -> Result<Vec<(String, Tensor)>> {
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
