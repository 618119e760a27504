//! Checkpoints: folders `checkpoints/step_00001200` that are there whole or not at all.
//!
//! A folder holds `model.safetensors` (the student, under its official PyTorch names, with the fixed
//! tables `pos_embed` and `decoder_pos_embed` of the local grid), `teacher.safetensors`,
//! `optimizer.safetensors` (`m.NAME`, `v.NAME`, `center`) and `state.json`: format number, counters,
//! configuration, seed, a fingerprint of the data, and size and CRC-32C of every file and tensor.
//! `state.json` ends with a checksum of itself. It names no paths: files are known by fixed names.
//!
//! Writing goes to a hidden folder which is renamed when all of it is durable, so that a kill at any
//! moment leaves the older checkpoints and at most a stray hidden folder ([`remove_strays`]).

mod load;
mod save;
mod tensors;

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use load::{Resumed, Student, load_state, load_student, resume_latest};
pub(crate) use load::{expected, file_info};
pub use save::{Snapshot, prune, save, save_to};
pub(crate) use save::{named, publish};
pub use tensors::{FileInfo, TensorFile, Tensors, write_tensors};

use super::state::Counters;
use crate::config::Config;
use crate::data::Case;
use crate::nn::sizes::Claims;
use crate::tensor_header::TensorHeader;
use crate::{Error, Result};

/// The format this version writes; it reads formats 1 to this.
pub const FORMAT: u32 = 1;
/// Folder of the checkpoints within a run folder.
pub const FOLDER: &str = "checkpoints";
/// The file that names the newest checkpoint, for people and scripts.
pub const LATEST: &str = "latest";
pub const MODEL: &str = "model.safetensors";
pub const TEACHER: &str = "teacher.safetensors";
pub const OPTIMIZER: &str = "optimizer.safetensors";
pub const STATE: &str = "state.json";

/// The last line of `state.json` begins with this.
const SEAL: &str = ",\n  \"crc32c\": \"";
/// A `state.json` larger than this is none.
const MAX_STATE_BYTES: u64 = 64 << 20;

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
    /// Sizes and checksums by file name.
    pub files: BTreeMap<String, FileInfo>,
}

/// Which cases a run was trained on, without their names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataFingerprint {
    pub cases: u64,
    /// CRC-32C of the case ids, each followed by a line break.
    pub crc32c: u32,
}

impl DataFingerprint {
    pub fn new(cases: &[Case]) -> Self {
        let crc = cases.iter().fold(0, |crc, case| {
            crc32c::crc32c_append(crc32c::crc32c_append(crc, case.id.as_bytes()), b"\n")
        });
        Self { cases: cases.len() as u64, crc32c: crc }
    }

    /// The warning of a run that goes on with other cases than `then`.
    pub fn changed_since(&self, then: &Self) -> String {
        format!(
            "the training cases changed ({} then, {} now, or other names): the run goes on, but not bit \
             for bit as before",
            then.cases, self.cases
        )
    }
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
    files: BTreeMap<String, FileInfo>,
    config: String,
}

impl CheckpointInfo {
    fn to_json(&self) -> Result<String> {
        let state = StateFile {
            format: self.format,
            version: self.version.clone(),
            counters: self.counters,
            seed: self.seed,
            data: self.data,
            files: self.files.clone(),
            config: self.config.to_toml()?,
        };
        seal(&state)
    }

    /// Errors: [`Error::Data`] naming the number that does not fit the weights.
    fn check(&self, file: &Path) -> Result<()> {
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

    fn parse(text: &str, path: &Path) -> Result<Self> {
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
            files: state.files,
        })
    }
}

/// JSON text with a checksum of itself as its last entry.
pub(crate) fn seal(state: &impl Serialize) -> Result<String> {
    let json = serde_json::to_string_pretty(state)
        .map_err(|e| Error::Config(format!("checkpoint: {e}")))?;
    let body = json.strip_suffix("\n}").unwrap_or(&json);
    Ok(format!("{body}{SEAL}{:08x}\"\n}}\n", crc32c::crc32c(body.as_bytes())))
}

/// Checks what [`seal`] made, and reads it. Errors: damage, another format, other fields.
pub(crate) fn unseal<T: serde::de::DeserializeOwned>(text: &str, path: &Path) -> Result<T> {
    let damaged = |why: &str| Error::data(path, format!("damaged: {why}"));
    let (body, seal) = text.rsplit_once(SEAL).ok_or_else(|| damaged("no checksum"))?;
    let crc = seal.strip_suffix("\"\n}\n").ok_or_else(|| damaged("its end is missing"))?;
    if crc != format!("{:08x}", crc32c::crc32c(body.as_bytes())) {
        return Err(damaged("its checksum does not fit its contents"));
    }
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let Format { format } =
        serde_json::from_str(text).map_err(|e| Error::data(path, e.to_string()))?;
    if format == 0 || format > FORMAT {
        return Err(Error::data(
            path,
            format!("checkpoint format {format}; this version reads 1 to {FORMAT}"),
        ));
    }
    serde_json::from_str(text).map_err(|e| Error::data(path, e.to_string()))
}

/// The text of a `state.json`. Errors: one that is too large or no text; [`Error::Io`].
pub(crate) fn read_state(file: &Path) -> Result<String> {
    let bytes = fs::metadata(file).map_err(Error::io(file, "read"))?.len();
    if bytes > MAX_STATE_BYTES {
        return Err(Error::data(file, format!("{bytes} bytes are too many for a {STATE}")));
    }
    let bytes = fs::read(file).map_err(Error::io(file, "read"))?;
    String::from_utf8(bytes).map_err(|_| Error::data(file, "damaged: not UTF-8 text"))
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

/// The checkpoint folder that a user's path means; see [`read_info`].
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
        let digits = name.strip_prefix("step_").filter(|d| d.bytes().all(|b| b.is_ascii_digit()));
        if let Some(step) = digits.and_then(|d| d.parse().ok()) {
            found.push((step, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// Name of the folder of a step.
pub fn folder_name(step: u64) -> String {
    format!("step_{step:08}")
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

/// Keys whose values differ, as `key: old -> new`.
pub fn config_diff(old: &Config, new: &Config) -> Result<Vec<(String, String)>> {
    let flatten = |config: &Config| -> Result<BTreeMap<String, String>> {
        let table: toml::Table =
            config.to_toml()?.parse().map_err(|e: toml::de::Error| Error::Config(e.to_string()))?;
        let sections = table.iter().filter_map(|(s, v)| Some((s, v.as_table()?)));
        let keys = sections.flat_map(|(s, t)| t.iter().map(move |(k, v)| (format!("{s}.{k}"), v)));
        Ok(keys.map(|(k, v)| (k, v.to_string())).collect())
    };
    let (old, new) = (flatten(old)?, flatten(new)?);
    let keys: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let show = |v: Option<&String>| v.cloned().unwrap_or_else(|| "absent".into());
    let differing = keys.into_iter().filter(|k| old.get(*k) != new.get(*k));
    Ok(differing
        .map(|k| (k.clone(), format!("{k}: {} -> {}", show(old.get(k)), show(new.get(k)))))
        .collect())
}

/// Whether a key makes another model: its parameters, its tables, or which networks there are.
fn is_model_key(key: &str) -> bool {
    key != "model.recompute"
        && (key.starts_with("model.")
            || key.starts_with("head.")
            || ["views.global_size", "views.local_size", "loss.objective"].contains(&key))
}

/// What a resume changes, as lines for the log.
///
/// Errors: [`Error::Config`] when the model itself differs, with the keys and both values.
pub fn check_same_model(saved: &Config, now: &Config) -> Result<Vec<String>> {
    let diff = config_diff(saved, now)?;
    let (model, other): (Vec<_>, Vec<_>) = diff.into_iter().partition(|(key, _)| is_model_key(key));
    if model.is_empty() {
        return Ok(other.into_iter().map(|(_, line)| line).collect());
    }
    let lines: Vec<String> = model.into_iter().map(|(_, line)| line).collect();
    Err(Error::Config(format!(
        "the checkpoint is of another model (checkpoint -> configuration): {}; set these back, or \
         start a new run with another --out",
        lines.join("; ")
    )))
}
