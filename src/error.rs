//! The library's one error type. Every variant names the file, tensor or key it is about, and says
//! what to do next; its class decides the exit code of the program.

use std::path::{Path, PathBuf};

use glmae_simt::error::MemoryError;

/// Result of every fallible function of the library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong and where, with the remedy if one is known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Two shapes, dtypes or devices do not go together.
    #[error("{op}: expected {expected}, got {got}")]
    Shape { op: &'static str, expected: String, got: String },
    /// A configuration value or a command-line value is wrong.
    #[error("configuration: {0}")]
    Config(String),
    /// A file holds what it must not hold (a broken NIfTI file, a checkpoint of another model, ...).
    #[error("{}: {reason}", path.display())]
    Data { path: PathBuf, reason: String },
    /// The operating system refused to read or write a file.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io { path: PathBuf, action: &'static str, source: std::io::Error },
    /// The device has no room for what a step needs.
    #[error("out of memory: {0}")]
    OutOfMemory(String),
    /// The device or its driver failed; its context cannot be used any more.
    #[error("device: {0}")]
    Device(String),
    /// This binary or this device has no implementation of what was asked for.
    #[error("not supported: {0}")]
    Unsupported(String),
    /// The numbers of a run are not finite any more.
    #[error("not finite: {0}")]
    NotFinite(String),
    /// A signal ended the run after its checkpoint was written.
    #[error(
        "stopped by {signal}; the checkpoint of step {step} is written, resume with --resume auto"
    )]
    Stopped { signal: &'static str, step: u64 },
}

/// Exit codes of the program (documented in the README).
pub mod exit {
    pub const OK: u8 = 0;
    pub const FAILURE: u8 = 1;
    pub const USAGE: u8 = 2;
    pub const DATA: u8 = 3;
    pub const OUT_OF_MEMORY: u8 = 4;
    pub const DEVICE: u8 = 5;
    /// `EX_TEMPFAIL`: stopped by a signal with a checkpoint written; a scheduler may requeue the job.
    pub const STOPPED: u8 = 75;
}

impl From<MemoryError> for Error {
    fn from(error: MemoryError) -> Self {
        match error {
            MemoryError::OutOfMemory(message) => Self::OutOfMemory(message),
            MemoryError::Fault(message) => Self::Device(message),
        }
    }
}

impl Error {
    /// A shape, dtype or device that `op` cannot take.
    pub fn shape(op: &'static str, expected: impl Into<String>, got: impl Into<String>) -> Self {
        Self::Shape { op, expected: expected.into(), got: got.into() }
    }

    /// A file whose contents are refused.
    pub fn data(path: impl AsRef<Path>, reason: impl Into<String>) -> Self {
        Self::Data { path: path.as_ref().to_owned(), reason: reason.into() }
    }

    /// For `map_err` on I/O: `.map_err(Error::io(path, "read"))`.
    pub fn io(path: impl AsRef<Path>, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Io { path, action, source }
    }

    /// For threads that cannot be started: the system has no room for a stack, or forbids more of them.
    pub fn threads(source: &std::io::Error) -> Self {
        Self::OutOfMemory(format!(
            "cannot start a thread: {source} (its stack needs memory; `ulimit -u` limits the number)"
        ))
    }

    /// The exit code that tells a script or a scheduler what kind of failure this was.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) => exit::USAGE,
            Self::Data { .. } => exit::DATA,
            Self::OutOfMemory(_) => exit::OUT_OF_MEMORY,
            Self::Device(_) => exit::DEVICE,
            Self::Stopped { .. } => exit::STOPPED,
            Self::Unsupported(_) => exit::USAGE,
            Self::Shape { .. } | Self::Io { .. } | Self::NotFinite(_) => exit::FAILURE,
        }
    }
}
