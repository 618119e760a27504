//! A run folder belongs to one kind of run and to one run.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::lock::{RunLock, host};
use super::options::Resume;
use crate::checkpoint::segmenter::BEST;
use crate::checkpoint::{self, FOLDER, glance};
use crate::{Error, Result, atomic};

/// The file that says what a folder is of.
pub const IDENTITY: &str = "run.json";

/// What a folder can be of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunKind {
    Pretrain,
    Finetune,
    Study,
}

impl fmt::Display for RunKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pretrain => "pre-training",
            Self::Finetune => "fine-tuning",
            Self::Study => "study",
        })
    }
}

/// `run.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Identity {
    kind: RunKind,
    /// The name of the run. Its checkpoints bear it, so that a run never removes those of another.
    run: String,
}

/// The folder of a run that is about to begin.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    kind: RunKind,
    run: String,
    /// Whether the name comes from the folder, or was made up just now.
    is_known: bool,
    checkpoints: Vec<(u64, PathBuf)>,
    lock: Option<RunLock>,
}

impl RunFolder {
    /// Looks at `path`, which need not exist. Writes nothing.
    ///
    /// Errors: [`Error::Data`] for a file; [`Error::Config`] for the folder of another kind of run, and for
    /// one that holds checkpoints when `resume` says never.
    pub fn look(path: &Path, kind: RunKind, resume: &Resume) -> Result<Self> {
        if path.exists() && !path.is_dir() {
            return Err(Error::data(path, "is a file; --out must be a folder"));
        }
        let checkpoints = checkpoint::list(path)?;
        if let Some(other) = kind_of(path, &checkpoints).filter(|other| *other != kind) {
            let at = checkpoints
                .last()
                .map_or(String::new(), |(step, _)| format!(" with checkpoints up to step {step}"));
            return Err(Error::Config(format!(
                "{} is the folder of a {other}{at}; a {kind} would overwrite what it holds: choose another \
                 --out",
                path.display()
            )));
        }
        if *resume == Resume::Never && !checkpoints.is_empty() {
            return Err(Error::Config(format!(
                "{} holds checkpoints of an earlier run; go on with --resume auto, or choose \
                 another --out",
                path.display()
            )));
        }
        // What begins anew is another run: it removes nothing that the one before it left.
        let known = identity(path).filter(|_| !checkpoints.is_empty()).map(|identity| identity.run);
        let is_known = known.is_some();
        let run = known.unwrap_or_else(new_name);
        Ok(Self { path: path.to_owned(), kind, run, is_known, checkpoints, lock: None })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The name of the run.
    pub fn run(&self) -> &str {
        &self.run
    }

    /// All its checkpoints in rising order of their steps, sound or not, as they were when it was looked at.
    pub fn checkpoints(&self) -> &[(u64, PathBuf)] {
        &self.checkpoints
    }

    /// Takes the lock if the folder exists. Call it before anything that is read there is believed.
    pub fn lock(&mut self) -> Result<()> {
        if self.lock.is_none() && self.path.is_dir() {
            self.lock = Some(RunLock::acquire(&self.path)?);
            self.checkpoints = checkpoint::list(&self.path)?;
        }
        Ok(())
    }

    /// The run that a checkpoint of this folder bears goes on under its name.
    pub(super) fn adopt(&mut self, run: Option<String>) {
        if let Some(run) = run.filter(|_| !self.is_known) {
            (self.run, self.is_known) = (run, true);
        }
    }

    /// Makes the folder this run's: creates and locks it, removes what killed writers left, writes
    /// `run.json`.
    pub fn claim(&mut self) -> Result<()> {
        fs::create_dir_all(&self.path).map_err(Error::io(&self.path, "create"))?;
        self.lock()?;
        checkpoint::remove_strays(&self.path)?;
        atomic::remove_stale(&self.path)?;
        let identity = Identity { kind: self.kind, run: self.run.clone() };
        atomic::write_json(self.path.join(IDENTITY), &identity)?;
        Ok(())
    }
}

fn identity(path: &Path) -> Option<Identity> {
    serde_json::from_str(&fs::read_to_string(path.join(IDENTITY)).ok()?).ok()
}

/// What a folder is of: what it says, else (older versions wrote no `run.json`) what its checkpoints are, else
/// what its configuration describes. `None`: nothing shows.
fn kind_of(path: &Path, checkpoints: &[(u64, PathBuf)]) -> Option<RunKind> {
    if let Some(identity) = identity(path) {
        return Some(identity.kind);
    }
    let newest_first = checkpoints.iter().rev().map(|(_, path)| path.clone());
    let best = path.join(FOLDER).join(BEST);
    let seen = newest_first.chain([best]).find_map(|checkpoint| glance(&checkpoint).ok());
    if let Some(seen) = seen {
        return Some(if seen.kind.is_some() { RunKind::Finetune } else { RunKind::Pretrain });
    }
    let config = fs::read_to_string(path.join("config.toml")).unwrap_or_default();
    let config: toml::Table = config.parse().unwrap_or_default();
    match () {
        () if config.contains_key("views") => Some(RunKind::Pretrain),
        () if config.contains_key("infer") => Some(RunKind::Finetune),
        () if path.join("study.toml").is_file() => Some(RunKind::Study),
        () => None,
    }
}

/// A name that no other run has: of this process at this moment.
fn new_name() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    let process = format!("{} {}", host(), std::process::id());
    format!("{now:016x}{:08x}", crc32c::crc32c(process.as_bytes()))
}
