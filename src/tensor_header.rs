//! What a safetensors file declares: names, types and shapes of its tensors. The header is checked
//! against the size of the file before anything is allocated for it, so that a shape which stands in
//! it is one whose bytes are there.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;

use safetensors::tensor::Metadata;

use crate::{Error, Result};

/// The largest header that the format allows.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// A checked header.
#[derive(Clone, Debug)]
pub struct TensorHeader {
    pub metadata: Metadata,
    /// Where the tensors begin in the file.
    pub start: u64,
}

impl TensorHeader {
    /// Opens a file and reads its header. Errors: as [`TensorHeader::of`].
    pub fn read(path: &Path) -> Result<Self> {
        Self::of(&mut File::open(path).map_err(Error::io(path, "open"))?, path)
    }

    /// Reads the header of an open file; `path` names it in errors.
    ///
    /// Errors: [`Error::Data`] for what is no sound safetensors file; [`Error::Io`].
    pub fn of(file: &mut File, path: &Path) -> Result<Self> {
        let unsound = |why: &str| Error::data(path, format!("not a sound safetensors file: {why}"));
        let size = file.metadata().map_err(Error::io(path, "read"))?.len();
        file.rewind().map_err(Error::io(path, "read"))?;
        let mut first = Vec::new();
        file.take(8).read_to_end(&mut first).map_err(Error::io(path, "read"))?;
        let length = first.first_chunk::<8>().ok_or_else(|| unsound("shorter than 8 bytes"))?;
        let length = u64::from_le_bytes(*length);
        if length > MAX_HEADER_BYTES || length > size.saturating_sub(8) {
            return Err(unsound(&format!("a header of {length} bytes in a file of {size}")));
        }
        let mut header = Vec::new();
        file.take(length).read_to_end(&mut header).map_err(Error::io(path, "read"))?;
        let metadata: Metadata =
            serde_json::from_slice(&header).map_err(|e| unsound(&format!("its header: {e}")))?;
        let (start, data) = (8 + length, metadata.data_len() as u64);
        if start.checked_add(data) != Some(size) {
            let found = size - start;
            return Err(unsound(&format!("{found} bytes of tensors, its header says {data}")));
        }
        Ok(Self { metadata, start })
    }

    /// Names in alphabetical order.
    pub fn names(&self) -> Vec<String> {
        let mut names = self.metadata.offset_keys();
        names.sort_unstable();
        names
    }

    /// Shape of a tensor, if it is there.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        Some(&self.metadata.info(name)?.shape)
    }

    /// A line of the file's own metadata.
    pub fn note(&self, key: &str) -> Option<&str> {
        self.metadata.metadata().as_ref()?.get(key).map(String::as_str)
    }
}
