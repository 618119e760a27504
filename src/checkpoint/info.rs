//! What a checkpoint of pre-training says of itself.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::folder::resolve;
use super::seal::{read_state, seal, unseal};
use super::{Counters, DataFingerprint, FileInfo, MODEL, STATE, TensorFile};
use crate::config::Config;
use crate::nn::sizes::Claims;
use crate::tensor_header::TensorHeader;
use crate::{Error, Result};

/// What a checkpoint says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckpointInfo {
    pub format: u32,
    /// Program and version that wrote it.
    pub version: String,
    /// Steps done.
    pub step: u64,
    pub counters: Counters,
    pub config: Config,
    pub seed: u64,
    pub data: DataFingerprint,
    /// The run that wrote it; absent in checkpoints of older versions.
    pub run: Option<String>,
    /// Sizes and checksums by file name.
    pub files: BTreeMap<String, FileInfo>,
}

/// `state.json` as it is written. The configuration is TOML text: JSON numbers would not keep every
/// bit of an f64.
#[derive(Serialize, Deserialize)]
struct StateFile {
    format: u32,
    version: String,
    counters: Counters,
    seed: u64,
    data: DataFingerprint,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    run: Option<String>,
    files: BTreeMap<String, FileInfo>,
    config: String,
}

impl CheckpointInfo {
    pub(super) fn to_json(&self) -> Result<String> {
        let state = StateFile {
            format: self.format,
            version: self.version.clone(),
            counters: self.counters,
            seed: self.seed,
            data: self.data,
            run: self.run.clone(),
            files: self.files.clone(),
            config: self.config.to_toml()?,
        };
        seal(&state)
    }

    /// Errors: [`Error::Data`] naming the number that does not fit the weights, or the weights if they are damaged.
    fn check(&self, file: &Path) -> Result<()> {
        self.check_claims(file).map_err(|e| whose_fault(e, file, &self.files))
    }

    fn check_claims(&self, file: &Path) -> Result<()> {
        let header = TensorHeader::read(&file.with_file_name(MODEL))?;
        let (claims, c) = (Claims::new(file, &header), &self.counters);
        let updates = [
            ("updates", c.updates),
            ("last_layer_updates", c.last_layer_updates),
            ("bad_steps", c.bad_steps),
            ("bad_in_a_row", c.bad_in_a_row.into()),
        ];
        claims.steps(self.step, &updates)?;
        claims.pretraining(&self.config)
    }

    pub(super) fn parse(text: &str, path: &Path) -> Result<Self> {
        let state: StateFile = unseal(text, path)?;
        let config = Config::parse(&state.config, "checkpoint", &[])
            .map_err(|e| Error::data(path, e.to_string()))?;
        Ok(Self {
            format: state.format,
            version: state.version,
            step: state.counters.step,
            counters: state.counters,
            config,
            seed: state.seed,
            data: state.data,
            run: state.run,
            files: state.files,
        })
    }
}

/// Why `state.json` at `file` and the weights beside it do not go together: `error`, unless the weights are damaged.
pub(super) fn whose_fault(error: Error, file: &Path, files: &BTreeMap<String, FileInfo>) -> Error {
    let model = file.with_file_name(MODEL);
    let damage = files.get(MODEL).and_then(|info| TensorFile::read(&model, info).err());
    damage.unwrap_or(error)
}

/// Reads what a checkpoint says of itself, without its tensors. `path` may be a checkpoint folder,
/// a file in it, or a run folder (its newest checkpoint).
///
/// Errors: [`Error::Data`] when there is none or it is damaged; [`Error::Io`].
pub fn read_info(path: &Path) -> Result<CheckpointInfo> {
    let file = resolve(path)?.join(STATE);
    let info = CheckpointInfo::parse(&read_state(&file)?, &file)?;
    info.check(&file)?;
    Ok(info)
}
