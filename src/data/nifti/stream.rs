//! Bytes of a file, unzipped on the way when they are gzip. Which files belong to a volume.

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use super::ReadLimits;
use crate::data::text::{between, joined, readable};
use crate::{Error, Result};

const BUFFER_BYTES: usize = 256 << 10;

/// A file opened for reading from its first (unzipped) byte.
pub(super) struct Stream {
    path: PathBuf,
    reader: Reader,
    file_bytes: u64,
    position: u64,
}

enum Reader {
    Plain(BufReader<File>),
    Gzip(Box<MultiGzDecoder<BufReader<File>>>),
}

impl Stream {
    /// Opens `path`. Gzip is recognised by its first two bytes, never by the name.
    pub fn open(path: &Path) -> Result<Self> {
        // Asked before opening: to open a pipe waits for its writer.
        let meta = fs::metadata(path).map_err(Error::io(path, "open"))?;
        if !meta.is_file() {
            return Err(Error::data(path, "not a regular file"));
        }
        let file = File::open(path).map_err(Error::io(path, "open"))?;
        let mut reader = BufReader::with_capacity(BUFFER_BYTES, file);
        let start = std::io::BufRead::fill_buf(&mut reader).map_err(Error::io(path, "read"))?;
        let reader = if start.starts_with(&[0x1f, 0x8b]) {
            Reader::Gzip(Box::new(MultiGzDecoder::new(reader)))
        } else {
            Reader::Plain(reader)
        };
        Ok(Self { path: path.to_owned(), reader, file_bytes: meta.len(), position: 0 })
    }

    pub fn is_gzip(&self) -> bool {
        matches!(self.reader, Reader::Gzip(_))
    }

    /// Refuses the file when `bytes` unzipped bytes cannot be in it, or only as a gzip bomb. Called
    /// before memory for the voxels is asked for.
    pub fn require(&self, bytes: u64, limits: &ReadLimits) -> Result<()> {
        let size = self.file_bytes;
        if !self.is_gzip() {
            if bytes > size {
                return Err(Error::data(
                    &self.path,
                    format!("truncated: the header asks for {bytes} bytes, the file has {size}"),
                ));
            }
            return Ok(());
        }
        let allowed = limits.gz_free_bytes.saturating_add(size.saturating_mul(limits.max_gz_ratio));
        if bytes > allowed {
            return Err(Error::data(
                &self.path,
                format!(
                    "{size} bytes of gzip would expand to {bytes}: more than limits.max_gz_ratio = \
                     {} beyond limits.gz_free_bytes = {}",
                    limits.max_gz_ratio, limits.gz_free_bytes
                ),
            ));
        }
        Ok(())
    }

    /// Reads until `buffer` is full or the data end; returns the bytes read.
    pub fn fill(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let read = match &mut self.reader {
                Reader::Plain(reader) => reader.read(rest),
                Reader::Gzip(reader) => reader.read(rest),
            };
            match read {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) if self.is_gzip() && e.raw_os_error().is_none() => {
                    let at = self.position + done as u64;
                    return Err(Error::data(
                        &self.path,
                        format!(
                            "the gzip data are damaged or cut off after {at} unzipped bytes: {e}"
                        ),
                    ));
                }
                Err(e) => return Err(Error::io(&self.path, "read")(e)),
            }
        }
        self.position += done as u64;
        Ok(done)
    }

    /// Fills `buffer` or names the missing bytes.
    pub fn read_exact(&mut self, buffer: &mut [u8]) -> Result<()> {
        let read = self.fill(buffer)?;
        if read == buffer.len() {
            return Ok(());
        }
        let reason = format!(
            "truncated: the data end after {} bytes, {} more were needed here",
            self.position,
            buffer.len() - read
        );
        Err(Error::data(&self.path, reason))
    }

    /// Skips to the unzipped byte `target`, which must lie ahead.
    pub fn skip_to(&mut self, target: u64) -> Result<()> {
        let mut scratch = [0; 4096];
        while self.position < target {
            let step = (target - self.position).min(scratch.len() as u64) as usize;
            self.read_exact(scratch.get_mut(..step).unwrap_or_default())?;
        }
        Ok(())
    }

    /// Reads on to the end of the gzip stream (at most 64 KiB), so that its checksum is verified.
    /// Padding after a sound stream, as tapes and some archives leave it, is no damage.
    pub fn verify_end(&mut self) -> Result<()> {
        if !self.is_gzip() {
            return Ok(());
        }
        match self.fill(&mut vec![0; 64 << 10]) {
            // What flate2 says of bytes after a finished member that begin no other.
            Err(Error::Data { reason, .. }) if reason.ends_with("invalid gzip header") => Ok(()),
            result => result.map(drop),
        }
    }
}

/// Whether a name ends like a NIfTI file that opens by itself: `.nii`, `.nii.gz`, `.hdr`,
/// `.hdr.gz`, in any case. An `.img` is found through its `.hdr`.
pub(crate) fn is_nifti_name(path: &Path) -> bool {
    strip_nifti(path).is_some()
}

/// The file name without its NIfTI ending, as text: see [`readable`].
pub(crate) fn strip_nifti(path: &Path) -> Option<String> {
    let name = readable(path.file_name()?);
    let lower = name.to_ascii_lowercase();
    let ending = [".nii.gz", ".nii", ".hdr.gz", ".hdr"].into_iter().find(|e| lower.ends_with(e))?;
    // Endings are ASCII, so this is a character boundary.
    name.get(..name.len() - ending.len()).filter(|stem| !stem.is_empty()).map(str::to_owned)
}

/// The file beside `path` whose name ends in one of `endings` instead.
fn sibling(path: &Path, from: &[&str], to: &[&str]) -> Option<PathBuf> {
    let name = path.file_name()?;
    let stem = from.iter().find_map(|ending| between(name, "", ending))?;
    to.iter().map(|ending| path.with_file_name(joined("", &stem, ending))).find(|p| p.is_file())
}

/// The header file of `path`: itself, or the `.hdr` of an `.img`.
///
/// Errors: [`Error::Data`] for an `.img` without its `.hdr`.
pub fn header_path(path: &Path) -> Result<PathBuf> {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    if !(name.ends_with(b".img") || name.ends_with(b".img.gz")) {
        return Ok(path.to_owned());
    }
    sibling(path, &[".img.gz", ".img"], &[".hdr", ".hdr.gz"])
        .ok_or_else(|| Error::data(path, "there is no .hdr beside this .img"))
}

/// The `.img` of a pair's header file.
pub(super) fn image_path(header: &Path) -> Result<PathBuf> {
    let from = [".hdr.gz", ".hdr"];
    let name = header.file_name().unwrap_or_default().as_encoded_bytes();
    if !from.iter().any(|e| name.ends_with(e.as_bytes())) {
        return Err(Error::data(
            header,
            "the header belongs to a .hdr/.img pair (magic \"ni1\" or \"ni2\"), but the file is \
             not named .hdr, so its .img cannot be found",
        ));
    }
    sibling(header, &from, &[".img", ".img.gz"])
        .ok_or_else(|| Error::data(header, "a header without voxels: its .img file is missing"))
}
