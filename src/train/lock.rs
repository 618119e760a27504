//! One run per folder. The lock file names process and host, so that a lock whose process is dead
//! is recovered and every other one is explained.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Name of the lock file within a run folder.
pub const LOCK_FILE: &str = "run.lock";

/// Held for the life of a run; dropping it removes the file.
#[derive(Debug)]
pub struct RunLock {
    path: PathBuf,
}

/// Who holds a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Holder {
    pid: u32,
    host: String,
    /// Start of the process in clock ticks after boot: a number of process may come again, together
    /// with its start it does not. 0 where the system does not tell.
    started: u64,
}

impl Holder {
    fn this_process() -> Self {
        let pid = std::process::id();
        Self { pid, host: host(), started: start_of(pid).unwrap_or(0) }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let (pid, host, started) = (words.next()?, words.next()?, words.next()?);
        Some(Self { pid: pid.parse().ok()?, host: host.into(), started: started.parse().ok()? })
    }

    /// Certainly dead: on this host, and gone or replaced by a later process of the same number.
    fn is_dead(&self) -> bool {
        self.host == host()
            && Path::new("/proc/self/stat").exists()
            && match start_of(self.pid) {
                None => true,
                Some(started) => self.started != 0 && started != self.started,
            }
    }
}

impl RunLock {
    /// Takes the lock of `folder`, which must exist.
    ///
    /// Errors: [`Error::Config`] when another run holds it; [`Error::Io`].
    pub fn acquire(folder: &Path) -> Result<Self> {
        let path = folder.join(LOCK_FILE);
        let me = Holder::this_process();
        loop {
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(mut file) => {
                    let lock = Self { path };
                    writeln!(file, "{} {} {}", me.pid, me.host, me.started)
                        .and_then(|()| file.sync_all())
                        .map_err(Error::io(&lock.path, "write"))?;
                    return Ok(lock);
                }
                Err(e) if e.kind() == ErrorKind::AlreadyExists => recover(&path)?,
                Err(e) => return Err(Error::io(&path, "create")(e)),
            }
        }
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        // A lock that stays is recovered by the next run.
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes a dead process's lock. Renaming comes first: of two processes that find the same dead
/// lock only one can rename it, so none removes the other's new one.
fn recover(path: &Path) -> Result<()> {
    let text = match fs::read_to_string(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        other => other.map_err(Error::io(path, "read"))?,
    };
    let holder = Holder::parse(&text);
    if holder.as_ref().is_some_and(Holder::is_dead) {
        let aside = path.with_file_name(format!(".{LOCK_FILE}.tmp-{}-0", std::process::id()));
        match fs::rename(path, &aside) {
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            other => other.map_err(Error::io(path, "rename"))?,
        }
        // Somebody else may have renamed first and taken the lock anew.
        let moved = fs::read_to_string(&aside).unwrap_or_default();
        if !moved.is_empty() && moved != text {
            let _ = fs::rename(&aside, path);
        } else {
            let _ = fs::remove_file(&aside);
        }
        return Ok(());
    }
    let who = match holder {
        Some(h) => format!("process {} on host {}", h.pid, h.host),
        None => "another process (its lock cannot be read)".to_owned(),
    };
    Err(Error::Config(format!(
        "{who} is using this run folder; wait for it, choose another --out, or delete {} if that \
         process is gone",
        path.display()
    )))
}

/// Name of this machine.
pub fn host() -> String {
    let read = |path| fs::read_to_string(path).ok().map(|s| s.trim().to_owned());
    let named = read("/proc/sys/kernel/hostname").or_else(|| std::env::var("HOSTNAME").ok());
    named.filter(|h| !h.is_empty() && !h.contains(char::is_whitespace)).unwrap_or("unknown".into())
}

/// Start of a living process in clock ticks after boot (`/proc/PID/stat`, field 22).
fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in field 2 may hold anything, also spaces and parentheses; fields count after it.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // A zombie has ended; only its exit code is still kept.
    if matches!(fields.first(), Some(&"Z" | &"X")) {
        return None;
    }
    fields.get(19)?.parse().ok()
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

    #[test]
    fn only_the_lock_of_a_dead_process_on_this_host_is_recovered() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(LOCK_FILE);
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let dead = child.id();
        child.wait().unwrap();
        fs::write(&path, format!("{dead} {} 1\n", host())).unwrap();
        drop(RunLock::acquire(folder.path()).unwrap());
        // The number of a living process that started at another time.
        fs::write(&path, format!("{} {} 1\n", std::process::id(), host())).unwrap();
        drop(RunLock::acquire(folder.path()).unwrap());
        for held in [format!("{dead} elsewhere 1\n"), "garbage\n".to_owned(), String::new()] {
            fs::write(&path, &held).unwrap();
            assert!(RunLock::acquire(folder.path()).is_err(), "{held:?}");
            assert_eq!(fs::read_to_string(&path).unwrap(), held);
        }
    }
}
