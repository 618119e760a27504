//! One process per run folder: a lock of the operating system on `run.lock`, which ends with the process,
//! however that ends. The file names its holder, for people and for the message.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use crate::{Error, Result};

/// Name of the lock file within a run folder. It stays when the run is over.
pub const LOCK_FILE: &str = "run.lock";

/// Held for the life of a run.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
}

impl RunLock {
    /// Takes the lock of `folder`, which must exist.
    ///
    /// Errors: [`Error::Config`] when another run holds it; [`Error::Io`].
    pub fn acquire(folder: &Path) -> Result<Self> {
        let path = folder.join(LOCK_FILE);
        let options =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).clone();
        let mut file = options.open(&path).map_err(Error::io(&path, "open"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.take(4096).read_to_string(&mut holder);
                let holder = holder.trim().replace(char::is_control, " ");
                let who = if holder.is_empty() { "another process" } else { &holder };
                return Err(Error::Config(format!(
                    "{who} is using the run folder {}; wait for it, or choose another --out",
                    folder.display()
                )));
            }
            // Some network file systems have no locks; a run must be possible there, too.
            Err(TryLockError::Error(e)) if e.kind() == std::io::ErrorKind::Unsupported => {
                tracing::warn!(
                    "{}: no locks on this file system; start one run only",
                    path.display()
                );
            }
            Err(TryLockError::Error(e)) => return Err(Error::io(&path, "lock")(e)),
        }
        let me = format!("process {} on host {}\n", std::process::id(), host());
        file.set_len(0)
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .and_then(|_| file.write_all(me.as_bytes()))
            .map_err(Error::io(&path, "write"))?;
        Ok(Self { _file: file })
    }
}

/// Name of this machine.
pub fn host() -> String {
    let read = |path| fs::read_to_string(path).ok().map(|s| s.trim().to_owned());
    let named = read("/proc/sys/kernel/hostname").or_else(|| std::env::var("HOSTNAME").ok());
    named.filter(|h| !h.is_empty() && !h.contains(char::is_whitespace)).unwrap_or("unknown".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_lock_is_refused_and_a_dropped_one_is_free() {
        let folder = tempfile::tempdir().unwrap();
        let lock = RunLock::acquire(folder.path()).unwrap();
        let error = RunLock::acquire(folder.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        assert!(error.contains(&host()) && error.contains("--out"), "{error}");
        drop(lock);
        RunLock::acquire(folder.path()).unwrap();
    }

    /// Whatever a dead process, or a person, left in the file.
    #[test]
    fn the_contents_of_the_file_decide_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(LOCK_FILE);
        for left in ["1 elsewhere 1\n", "garbage\n", "", "process 1 on host elsewhere\n\n\n"] {
            fs::write(&path, left).unwrap();
            drop(RunLock::acquire(folder.path()).unwrap());
            let text = fs::read_to_string(&path).unwrap();
            assert_eq!(text, format!("process {} on host {}\n", std::process::id(), host()));
        }
    }
}
