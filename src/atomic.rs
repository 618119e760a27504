//! Files that are either the old one or the whole new one, whatever happens in between: a full
//! disk, a kill, a crash of the machine. Checkpoints, pictures and rewritten logs all go through
//! [`write()`]: temporary file in the same folder, write, fsync, rename, fsync of the folder.
//!
//! Nothing here locks. Two processes writing one path leave one of the two files whole.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Bytes gathered before a write reaches the operating system.
const BUFFER_BYTES: usize = 1 << 20;

/// Where files go. Production code uses [`Disk`]; tests put a storage in its place that fails on
/// purpose, so that fault injection needs no global state.
pub trait Storage {
    /// Creates a file that must not exist yet, with permissions 0666 less the umask.
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn SyncWrite>>;
    /// Replaces `to` by `from` in one step.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Makes the entries of a folder durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
}

/// A writer whose bytes can be forced onto the disk.
pub trait SyncWrite: Write {
    /// Returns once everything written is durable (fsync).
    fn sync(&mut self) -> io::Result<()>;
}

impl SyncWrite for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

/// The file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk;

impl Storage for Disk {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn SyncWrite>> {
        // The default creation mode is 0666 and the kernel applies the umask (tempfile's is 0600,
        // which makes checkpoints unreadable for the rest of a group).
        Ok(Box::new(OpenOptions::new().write(true).create_new(true).open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        match File::open(dir)?.sync_all() {
            // Some network and FUSE file systems cannot sync a folder; there is nothing more to do.
            Err(e) if matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => {
                Ok(())
            }
            other => other,
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }
}

/// Writes `path` atomically: `fill` writes the contents (buffered, 1 MiB), the file becomes
/// visible under its name only when all of it is on the disk. Returns the number of bytes.
///
/// On an error, or a panic of `fill`, the temporary file is removed and the old file stays. The one
/// exception is a failing fsync of the folder: the new file is then in place, but a power cut may
/// bring the old one back.
///
/// Errors: [`Error::Io`] with the path; a full disk reads "disk full: N bytes needed".
pub fn write(
    path: impl AsRef<Path>,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<u64> {
    write_to(&Disk, path.as_ref(), fill)
}

/// [`write()`] of contents that are at hand.
pub fn write_bytes(path: impl AsRef<Path>, bytes: &[u8]) -> Result<u64> {
    write(path, |w| w.write_all(bytes))
}

/// [`write()`] of indented JSON and a line break.
pub fn write_json(path: impl AsRef<Path>, value: &impl serde::Serialize) -> Result<u64> {
    let path = path.as_ref();
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Error::Config(format!("{}: {e}", path.display())))?;
    write_bytes(path, (text + "\n").as_bytes())
}

/// The first of `written` that would replace one of `read`, or something in it when that is a folder; by
/// whatever names they go.
pub fn replaced<W: AsRef<Path>, R: AsRef<Path>>(
    written: impl IntoIterator<Item = W>,
    read: impl IntoIterator<Item = R>,
) -> Option<W> {
    let read: HashSet<PathBuf> =
        read.into_iter().filter_map(|path| path.as_ref().canonicalize().ok()).collect();
    let is_read = |path: PathBuf| path.ancestors().any(|folder| read.contains(folder));
    written.into_iter().find(|path| path.as_ref().canonicalize().is_ok_and(is_read))
}

/// [`write()`] through another [`Storage`].
pub fn write_to(
    storage: &dyn Storage,
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<u64> {
    let (mut temp, file) = Temp::create(storage, path)?;
    let failed = |full: &Option<Full>, e: io::Error| {
        let source = match full {
            Some(full) => full.clone().into_error(),
            None if is_full(&e) => Full { needed: 0, written: 0 }.into_error(),
            None => e,
        };
        Error::Io { path: path.to_owned(), action: "write", source }
    };
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, Sink { file, bytes: 0, full: None });
    let filled = fill(&mut out).and_then(|()| out.flush());
    // `into_parts` never writes: what a failed `fill` left in the buffer is not wanted.
    let (mut sink, _) = out.into_parts();
    match filled {
        Ok(()) if sink.full.is_none() => {}
        Ok(()) => return Err(failed(&sink.full, io::Error::from(ErrorKind::StorageFull))),
        Err(e) => return Err(failed(&sink.full, e)),
    }
    // Delayed allocation may find the disk full only now.
    sink.file.sync().map_err(|e| {
        let full = is_full(&e).then_some(Full { needed: sink.bytes, written: 0 });
        failed(&full, e)
    })?;
    let bytes = sink.bytes;
    drop(sink);
    storage.rename(&temp.path, path).map_err(Error::io(path, "replace"))?;
    temp.armed = false;
    storage.sync_dir(parent(path)).map_err(Error::io(parent(path), "sync"))?;
    Ok(bytes)
}

/// Removes the temporary files that killed writers left in `dir` (not in folders below it), and
/// returns their paths. Call it at the start of a run, before anything is written there: it cannot
/// tell a dead writer from a living one, because process numbers repeat across hosts and containers.
pub fn remove_stale(dir: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
    let dir = dir.as_ref();
    let mut removed = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::io(dir, "list"))? {
        let entry = entry.map_err(Error::io(dir, "list"))?;
        let is_file = entry.file_type().map_err(Error::io(entry.path(), "inspect"))?.is_file();
        if is_file && is_temp_name(&entry.file_name().to_string_lossy()) {
            match fs::remove_file(entry.path()) {
                Err(e) if e.kind() != ErrorKind::NotFound => {
                    return Err(Error::io(entry.path(), "remove")(e));
                }
                _ => removed.push(entry.path()),
            }
        }
    }
    removed.sort();
    Ok(removed)
}

/// `.<name>.tmp-<pid>-<n>`
fn is_temp_name(name: &str) -> bool {
    let number = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    name.strip_prefix('.')
        .and_then(|rest| rest.rsplit_once(".tmp-"))
        .and_then(|(stem, tail)| tail.split_once('-').map(|(pid, n)| (stem, pid, n)))
        .is_some_and(|(stem, pid, n)| !stem.is_empty() && number(pid) && number(n))
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The temporary file; dropping it while armed removes it, also on the way of a panic.
struct Temp<'a> {
    storage: &'a dyn Storage,
    path: PathBuf,
    armed: bool,
}

impl<'a> Temp<'a> {
    fn create(storage: &'a dyn Storage, target: &Path) -> Result<(Self, Box<dyn SyncWrite>)> {
        let name = target
            .file_name()
            .ok_or_else(|| Error::Config(format!("{}: not a file name", target.display())))?;
        // The number is searched, not counted: it must also get past the leftovers of an earlier
        // process with the same pid (always 1 in many containers).
        for n in 0u64.. {
            let mut temp_name = OsString::from(".");
            temp_name.push(name);
            temp_name.push(format!(".tmp-{}-{n}", std::process::id()));
            let path = parent(target).join(temp_name);
            match storage.create_new(&path) {
                Ok(file) => return Ok((Self { storage, path, armed: true }, file)),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(Error::io(target, "write")(e)),
            }
        }
        Err(Error::io(target, "write")(ErrorKind::AlreadyExists.into()))
    }
}

impl Drop for Temp<'_> {
    fn drop(&mut self) {
        if self.armed {
            // Nothing better can be done about a failure here; `remove_stale` comes later.
            let _ = self.storage.remove(&self.path);
        }
    }
}

fn is_full(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

#[derive(Clone, Debug)]
struct Full {
    needed: u64,
    written: u64,
}

impl Full {
    fn into_error(self) -> io::Error {
        let Self { needed, written } = self;
        let text = match needed {
            0 => "disk full".to_owned(),
            _ => format!("disk full: {needed} bytes needed, {written} bytes of them written"),
        };
        io::Error::new(ErrorKind::StorageFull, text)
    }
}

/// Counts what goes to the file. Once the disk is full it only counts, so that the error can say
/// how much room the whole file needs.
struct Sink {
    file: Box<dyn SyncWrite>,
    bytes: u64,
    full: Option<Full>,
}

impl Write for Sink {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let n = match &mut self.full {
            Some(full) => {
                full.needed += data.len() as u64;
                data.len()
            }
            None => match self.file.write(data) {
                Err(e) if is_full(&e) => {
                    let needed = self.bytes + data.len() as u64;
                    self.full = Some(Full { needed, written: self.bytes });
                    data.len()
                }
                other => other?,
            },
        };
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Passes bytes on and keeps their CRC-32C (Castagnoli) and their number.
#[derive(Debug)]
pub struct Crc32cWriter<W> {
    inner: W,
    crc: u32,
    bytes: u64,
}

impl<W: Write> Crc32cWriter<W> {
    /// Starts with the checksum of nothing.
    pub fn new(inner: W) -> Self {
        Self { inner, crc: 0, bytes: 0 }
    }

    /// Checksum of all bytes the inner writer has accepted.
    pub fn crc(&self) -> u32 {
        self.crc
    }

    /// Number of those bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Gives the inner writer back (not flushed).
    pub fn into_inner(self) -> W {
        self.inner
    }
}

impl<W: Write> Write for Crc32cWriter<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(data)?;
        self.crc = crc32c::crc32c_append(self.crc, data.get(..n).unwrap_or(data));
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests;
