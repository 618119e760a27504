//! Safetensors files of unknown origin: the header is checked before anything is allocated for it,
//! tensors are read one by one.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::Dtype;

use crate::atomic::Disk;
use crate::checkpoint::write_tensors;
use crate::device::{Device, Tensor};
use crate::tensor_header::TensorHeader;
use crate::{Error, Result};

/// Shape and values, row-major.
pub type Values = (Vec<usize>, Vec<f32>);

/// An open file.
pub struct TensorSource {
    path: PathBuf,
    file: File,
    header: TensorHeader,
}

impl TensorSource {
    /// Opens a file and checks that its header and its size agree.
    ///
    /// Errors: [`Error::Data`] for pickles (`.pth`) and whatever else is no sound safetensors file;
    /// [`Error::Io`].
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(Error::io(path, "open"))?;
        let size = file.metadata().map_err(Error::io(path, "read"))?.len();
        let mut first = Vec::new();
        (&mut file).take(8).read_to_end(&mut first).map_err(Error::io(path, "read"))?;
        if is_pickle(path, &first, size) {
            return Err(Error::data(path, PICKLE));
        }
        let header = TensorHeader::of(&mut file, path)?;
        Ok(Self { path: path.to_owned(), file, header })
    }

    pub fn header(&self) -> &TensorHeader {
        &self.header
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names in alphabetical order.
    pub fn names(&self) -> Vec<String> {
        self.header.names()
    }

    /// Shape of a tensor, if it is there.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.header.shape(name)
    }

    /// A line of the file's own metadata.
    pub fn note(&self, key: &str) -> Option<&str> {
        self.header.note(key)
    }

    /// Shape and values of a tensor of dtype f16, bf16, f32 or f64.
    ///
    /// Errors: [`Error::Data`] for a tensor that is not there, of another dtype, or with a value
    /// that is not finite as f32; [`Error::Io`].
    pub fn read(&mut self, name: &str) -> Result<Values> {
        let shown = shown(name);
        let bad = |path: &Path, what: String| Error::data(path, format!("tensor '{shown}' {what}"));
        let Some(info) = self.header.metadata.info(name) else {
            return Err(bad(&self.path, "is missing".into()));
        };
        let (begin, end) = info.data_offsets;
        let (dtype, shape) = (info.dtype, info.shape.clone());
        let at = self.header.start + begin as u64;
        self.file.seek(SeekFrom::Start(at)).map_err(Error::io(&self.path, "read"))?;
        let mut bytes = Vec::new();
        let mut part = (&mut self.file).take((end - begin) as u64);
        part.read_to_end(&mut bytes).map_err(Error::io(&self.path, "read"))?;
        if bytes.len() != end - begin {
            return Err(bad(&self.path, "ends too early".into()));
        }
        let values: Vec<f32> = match dtype {
            Dtype::F16 => numbers(&bytes, |b| f16::from_le_bytes(b).to_f32()),
            Dtype::BF16 => numbers(&bytes, |b| bf16::from_le_bytes(b).to_f32()),
            Dtype::F32 => numbers(&bytes, f32::from_le_bytes),
            Dtype::F64 => numbers(&bytes, |b| f64::from_le_bytes(b) as f32),
            other => {
                let what = format!("is {other:?}; weights are F16, BF16, F32 or F64");
                return Err(bad(&self.path, what));
            }
        };
        if let Some(i) = values.iter().position(|v| !v.is_finite()) {
            let count = values.iter().filter(|v| !v.is_finite()).count();
            let what = format!(
                "has {count} values that are not finite in f32, the first is element {i}: the \
                 training that made it diverged, or the file is damaged"
            );
            return Err(bad(&self.path, what));
        }
        Ok((shape, values))
    }
}

const PICKLE: &str = "a PyTorch pickle, which could run any code when it is opened; turn it into \
                      safetensors first: docs/interchange.md, \"From .pth to safetensors\", has \
                      the script";

/// By its first bytes (a zip archive, a pickle), or by its name where they are no header's length.
fn is_pickle(path: &Path, first: &[u8], size: u64) -> bool {
    let name = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    let sounds_so = ["pth", "pt", "ckpt", "pkl", "tar", "bin"].contains(&name.as_str());
    let Some(chunk) = first.first_chunk::<8>() else { return sounds_so };
    let length = u64::from_le_bytes(*chunk);
    // A sound length has zeros in its upper half: the first two bytes alone could be a length's.
    let is_magic = first.starts_with(b"PK\x03\x04") || matches!(first, [0x80, 2..=5, ..]);
    (is_magic && length > u64::from(u32::MAX)) || (sounds_so && length > size)
}

fn numbers<const N: usize>(bytes: &[u8], of: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes.as_chunks::<N>().0.iter().map(|chunk| of(*chunk)).collect()
}

/// A name from a file as a message shows it: no control characters, not too long.
pub(super) fn shown(name: &str) -> String {
    let clean = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let text: String = name.chars().take(120).map(clean).collect();
    if text.chars().count() < name.chars().count() { text + "..." } else { text }
}

/// Writes f32 tensors, in order of their names, atomically.
///
/// Errors: [`Error::Io`]; [`Error::Shape`] when a shape does not fit its values.
pub fn write(
    path: &Path,
    tensors: &BTreeMap<String, Values>,
    notes: &[(&str, String)],
) -> Result<()> {
    let tensors = tensors
        .iter()
        .map(|(name, (shape, values))| {
            Ok((name.clone(), Tensor::from_slice(&Device::Cpu, values, shape)?))
        })
        .collect::<Result<Vec<_>>>()?;
    write_tensors(&Disk, path, &tensors, notes).map(|_| ())
}
