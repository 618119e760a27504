//! Checkpoints of fine-tuning: folders as those of pre-training, with the network's sizes, the task and
//! the best validation in their `state.json`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::folder::{folder_name, list};
use super::info::whose_fault;
use super::load::{expected, file_info};
use super::moments;
use super::publish::{Owner, publish};
use super::save::named;
use super::seal::{read_state, seal, unseal};
use super::{
    Counters, DataFingerprint, FOLDER, FORMAT, FileInfo, FinetuneState, MODEL, OPTIMIZER, STATE,
    TensorFile, inference_dtype, write_tensors,
};
use crate::atomic::{Disk, Storage};
use crate::config::finetune::FinetuneConfig;
use crate::device::{DType, Device, Tensor};
use crate::nn::network::{CLASSIFIER, NetworkConfig, UNETR};
use crate::nn::segmenter::Segmenter;
use crate::nn::sizes::Claims;
use crate::nn::vit::ENCODER;
use crate::seg::Task;
use crate::tensor_header::TensorHeader;
use crate::{Error, Result};

/// Folder of the checkpoint with the best validation.
pub const BEST: &str = "best";
/// What tells a fine-tuned network from other checkpoints.
const KINDS: [&str; 2] = [UNETR, CLASSIFIER];
/// The position rows in the model file, `[1, tokens, dim]`.
const POSITIONS: &str = "positions";

/// The best validation so far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    pub epoch: u64,
    /// Mean Dice, or accuracy.
    pub score: f64,
}

/// What the weights of a run were before its first step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// All drawn from the seed.
    Scratch,
    /// The encoder that was read from `path`; `crc32c` is that of its tensors.
    Encoder { path: String, crc32c: u32 },
}

impl Start {
    /// Whether both mean the same weights, wherever they lie.
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Encoder { crc32c: a, .. }, Self::Encoder { crc32c: b, .. }) => a == b,
            (a, b) => a == b,
        }
    }
}

impl std::fmt::Display for Start {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Scratch => f.write_str("no encoder (--scratch)"),
            Self::Encoder { path, crc32c } => write!(f, "the encoder {path} (CRC {crc32c:08x})"),
        }
    }
}

/// What a checkpoint says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FinetuneInfo {
    format: u32,
    kind: String,
    pub version: String,
    step: u64,
    updates: u64,
    bad_in_a_row: u32,
    #[serde(default)]
    bad_steps: u64,
    pub data: DataFingerprint,
    /// The run that wrote it, and how that began; absent in checkpoints of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Start>,
    /// Validation, where there was one. As text: JSON numbers would not keep every bit.
    best: Option<(u64, String)>,
    /// TOML texts: the run's configuration, the network's sizes, the task.
    config: String,
    network: String,
    task: String,
    files: BTreeMap<String, FileInfo>,
}

impl FinetuneInfo {
    pub fn counters(&self) -> Counters {
        Counters {
            step: self.step,
            updates: self.updates,
            // No layer waits.
            last_layer_updates: self.updates,
            bad_steps: self.bad_steps,
            bad_in_a_row: self.bad_in_a_row,
        }
    }

    pub fn best(&self) -> Option<Best> {
        let (epoch, score) = self.best.as_ref()?;
        Some(Best { epoch: *epoch, score: score.parse().ok()? })
    }

    pub fn network(&self) -> Result<NetworkConfig> {
        NetworkConfig::parse(&self.kind, &self.network)
    }

    pub fn task(&self) -> Result<Task> {
        Task::parse(&self.task, "checkpoint")
    }

    /// The description of the task, word for word.
    pub fn task_text(&self) -> &str {
        &self.task
    }

    pub fn config(&self) -> Result<FinetuneConfig> {
        FinetuneConfig::parse(&self.config, "checkpoint", &[])
    }

    /// Errors: [`Error::Data`] for a text that is none, naming the number that does not fit the weights, or the
    /// weights if they are damaged.
    fn check(&self, file: &Path) -> Result<()> {
        self.check_claims(file).map_err(|e| whose_fault(e, file, &self.files))
    }

    fn check_claims(&self, file: &Path) -> Result<()> {
        let in_file = |error: Error| Error::data(file, error.to_string());
        self.config().map_err(in_file)?;
        self.task().map_err(in_file)?;
        let network = self.network().map_err(in_file)?;
        network.check().map_err(in_file)?;
        let header = TensorHeader::read(&file.with_file_name(MODEL))?;
        let claims = Claims::new(file, &header);
        let others = [("updates", self.updates), ("bad_in_a_row", self.bad_in_a_row.into())];
        claims.steps(self.step, &others)?;
        match &network {
            NetworkConfig::Unetr(config) => claims.unetr(config, POSITIONS),
            NetworkConfig::Classifier(config) => claims.classifier(config, POSITIONS),
        }
    }
}

/// What a checkpoint is made of, beside the state.
pub struct FinetuneSnapshot<'a> {
    pub config: &'a FinetuneConfig,
    /// The text of the task.
    pub task: &'a str,
    pub data: DataFingerprint,
    pub best: Option<Best>,
    /// The run that writes it, and how it began.
    pub run: &'a str,
    pub start: &'a Start,
}

/// Writes a checkpoint under its step, or as the best one. Errors: [`Error::Io`]; nothing of it is left
/// then, older ones stay.
pub fn save(
    run: &Path,
    state: &FinetuneState,
    snapshot: &FinetuneSnapshot<'_>,
    is_best: bool,
) -> Result<PathBuf> {
    save_to(&Disk, run, state, snapshot, is_best)
}

/// [`save`] through another storage.
pub fn save_to(
    storage: &dyn Storage,
    run: &Path,
    state: &FinetuneState,
    snapshot: &FinetuneSnapshot<'_>,
    is_best: bool,
) -> Result<PathBuf> {
    let counters = &state.counters;
    let name = if is_best { BEST.to_owned() } else { folder_name(counters.step) };
    let owner = Owner { run: snapshot.run, tunes: true };
    publish(storage, run, &name, owner, |folder| {
        let segmenter = &state.segmenter;
        let params = &segmenter.params;
        let notes = [("format", "pt".to_owned()), ("glmae.step", counters.step.to_string())];
        let mut files = BTreeMap::new();
        let mut write = |name: &str, tensors: &[(String, Tensor)]| -> Result<()> {
            let info = write_tensors(storage, &folder.join(name), tensors, &notes)?;
            files.insert(name.to_owned(), info);
            Ok(())
        };
        let mut model = named("", params, params.flat())?;
        let (n, dim) = segmenter.positions.matrix("checkpoint")?;
        let rows = segmenter.positions.to_f64_vec()?;
        let dtype = params.flat().dtype();
        let positions = Tensor::from_f64(&Device::Cpu, dtype, &rows, &[1, n, dim])?;
        model.push((POSITIONS.to_owned(), positions));
        write(MODEL, &model)?;
        // The best one is for use, not for going on.
        if !is_best {
            let (layout, moments) = (params.layout(), [&state.m, &state.v]);
            write(OPTIMIZER, &moments::of(layout, &layout.trained(), moments)?)?;
        }
        let sizes = segmenter.net.sizes();
        seal(&FinetuneInfo {
            format: FORMAT,
            kind: sizes.kind().into(),
            version: format!("glmae {}", env!("CARGO_PKG_VERSION")),
            step: counters.step,
            updates: counters.updates,
            bad_in_a_row: counters.bad_in_a_row,
            bad_steps: counters.bad_steps,
            data: snapshot.data,
            run: Some(snapshot.run.to_owned()),
            start: Some(snapshot.start.clone()),
            best: snapshot.best.map(|b| (b.epoch, b.score.to_string())),
            config: snapshot.config.to_toml()?,
            network: sizes.to_toml()?,
            task: snapshot.task.to_owned(),
            files,
        })
    })
}

/// Reads what a checkpoint folder says of itself.
///
/// Errors: [`Error::Data`] when it is damaged, or a checkpoint of pre-training; [`Error::Io`].
pub fn read_info(folder: &Path) -> Result<FinetuneInfo> {
    let file = folder.join(STATE);
    if !file.is_file() {
        return Err(Error::data(folder, "no checkpoint: there is no state.json"));
    }
    let text = read_state(&file)?;
    let value = serde_json::from_str::<serde_json::Value>(&text).ok();
    if value.is_some_and(|v| !is_known(&v)) {
        return Err(Error::data(
            folder,
            "a checkpoint of pre-training: fine-tune it first (`glmae finetune --encoder ...`)",
        ));
    }
    let info: FinetuneInfo = unseal(&text, &file)?;
    info.check(&file)?;
    Ok(info)
}

/// The newest checkpoint of a run folder whose `state.json` is sound, and what is wrong with newer ones.
pub fn latest(run: &Path) -> Result<(Option<PathBuf>, Vec<Error>)> {
    let mut damaged = Vec::new();
    for (_, path) in list(run)?.into_iter().rev() {
        match read_info(&path) {
            Ok(_) => return Ok((Some(path), damaged)),
            Err(e) => damaged.push(e),
        }
    }
    Ok((None, damaged))
}

/// The checkpoint to go on from that a path means: its folder, or the newest of a run.
///
/// Errors: [`Error::Data`] when there is none.
pub fn newest(path: &Path) -> Result<PathBuf> {
    if path.join(STATE).is_file() {
        return Ok(path.to_owned());
    }
    let (found, damaged) = latest(path)?;
    found.ok_or_else(|| {
        let why = damaged.first().map_or("it has no checkpoints".to_owned(), Error::to_string);
        Error::data(path, format!("no checkpoint of a fine-tuned network: {why}"))
    })
}

/// The checkpoint of a fine-tuned network that a path means: its folder, a file in it, or a run folder (as
/// [`resolve`]). `None` for everything else, checkpoints of pre-training among it.
///
/// Errors: as [`resolve`] for a run of fine-tuning without a sound checkpoint.
pub fn find(path: &Path) -> Result<Option<PathBuf>> {
    let beside = path.parent().filter(|_| path.is_file());
    let folder = beside.unwrap_or(path);
    if folder.join(STATE).is_file() {
        return Ok(is_one(folder).then(|| folder.to_owned()));
    }
    let best = std::iter::once(folder.join(FOLDER).join(BEST));
    match best.chain(list(folder)?.into_iter().map(|(_, path)| path)).any(|path| is_one(&path)) {
        true => resolve(folder).map(Some),
        false => Ok(None),
    }
}

/// Whether a checkpoint folder says that it holds a fine-tuned network.
fn is_one(folder: &Path) -> bool {
    let text = read_state(&folder.join(STATE)).unwrap_or_default();
    let value = serde_json::from_str::<serde_json::Value>(&text).unwrap_or_default();
    is_known(&value)
}

fn is_known(state: &serde_json::Value) -> bool {
    state.get("kind").and_then(|kind| kind.as_str()).is_some_and(|kind| KINDS.contains(&kind))
}

/// The checkpoint folder that a user's path means for prediction: the folder itself, or the best, else
/// the newest of a run.
pub fn resolve(path: &Path) -> Result<PathBuf> {
    if path.join(STATE).is_file() {
        return Ok(path.to_owned());
    }
    if !path.is_dir() {
        return Err(Error::data(path, "no such checkpoint; give its folder or a run folder"));
    }
    let best = path.join(FOLDER).join(BEST);
    if best.join(STATE).is_file() {
        return Ok(best);
    }
    newest(path)
}

/// Loads a network for prediction on `device`, in the precision it was trained in where the device has
/// it. Errors: as [`load_segmenter`].
pub fn load_predictor(folder: &Path, device: &Device) -> Result<(FinetuneInfo, Segmenter)> {
    let precision = read_info(folder)?.config()?.train.precision;
    load_segmenter(folder, device, inference_dtype(precision, device)?)
}

/// Loads a network. Errors: as [`read_info`]; a damaged file.
pub fn load_segmenter(
    folder: &Path,
    device: &Device,
    dtype: DType,
) -> Result<(FinetuneInfo, Segmenter)> {
    let info = read_info(folder)?;
    let sizes = info.network()?;
    let network = sizes.vit();
    let zeros = vec![0.0; network.tokens() * network.dim];
    let mut segmenter = Segmenter::zeros(device, dtype, &sizes, &zeros)?;
    let file = TensorFile::read(&folder.join(MODEL), file_info(folder, &info.files, MODEL)?)?;
    let mut names = expected("", segmenter.params.layout());
    names.push((POSITIONS.to_owned(), vec![1, network.tokens(), network.dim]));
    let tensors = file.open(&names)?;
    for e in segmenter.params.layout().entries().to_vec() {
        tensors.copy(&e.name, &mut segmenter.params.value_mut(&e.name)?)?;
    }
    let mut rows = Tensor::zeros(
        &Device::Cpu,
        segmenter.params.flat().dtype(),
        &[network.tokens(), network.dim],
    )?;
    tensors.copy(POSITIONS, &mut rows.as_mut())?;
    segmenter.positions.as_mut().upload_f64(&rows.to_f64_vec()?)?;
    segmenter.params.refresh_half()?;
    Ok((info, segmenter))
}

/// Loads everything a run needs to go on, with a `frozen` encoder or not, whatever the run had that saved it:
/// an encoder that was frozen then has moments of 0, as before its first update.
///
/// Errors: as [`load_segmenter`].
pub fn load_state(
    folder: &Path,
    device: &Device,
    dtype: DType,
    frozen: bool,
) -> Result<(FinetuneInfo, FinetuneState)> {
    let (info, mut segmenter) = load_segmenter(folder, device, dtype)?;
    let mut then = segmenter.params.layout().clone();
    if info.config()?.model.frozen_encoder {
        then.freeze_all(|name| name.starts_with(ENCODER));
    }
    if frozen {
        segmenter.freeze_encoder();
    }
    let mut state = FinetuneState::new(segmenter)?;
    let info_of = file_info(folder, &info.files, OPTIMIZER)?;
    let file = TensorFile::read(&folder.join(OPTIMIZER), info_of)?;
    let saved = match moments::are_complete(info_of, &then) {
        true => 0..then.len(),
        false => then.trained(),
    };
    let tensors = file.open(&moments::names(&then, &saved))?;
    let now = state.segmenter.params.layout().trained();
    moments::copy(&tensors, &then, [&saved, &now], [&mut state.m, &mut state.v])?;
    state.counters = info.counters();
    Ok((info, state))
}
