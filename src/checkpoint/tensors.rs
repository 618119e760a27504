//! One safetensors file with its checksums.
//!
//! The format: length of the header (u64, little-endian), header (JSON, padded with spaces to a
//! multiple of 8), then the tensors one after another. Written here as a stream, so that a file
//! needs no second copy of its tensors in memory; read through the `safetensors` crate.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::atomic::{Crc32cWriter, Storage, write_to};
use crate::device::{DType, Device, Tensor, TensorMut, with_real};
use crate::{Error, Result};

/// Size and checksums of a file of a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileInfo {
    pub bytes: u64,
    /// CRC-32C of the whole file.
    pub crc32c: u32,
    /// CRC-32C of every tensor's bytes.
    pub tensors: BTreeMap<String, u32>,
}

fn dtype_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "F32",
        DType::F64 => "F64",
        DType::Bf16 => "BF16",
        DType::U8 => "U8",
        DType::I16 => "I16",
        DType::I32 => "I32",
        DType::I64 => "I64",
    }
}

/// Little-endian bytes of a tensor.
fn bytes_of(tensor: &Tensor) -> Result<Vec<u8>> {
    if cfg!(target_endian = "big") {
        return Err(Error::Unsupported("checkpoints on big-endian machines".into()));
    }
    Ok(match tensor.dtype() {
        DType::F32 => bytemuck::cast_slice(&tensor.to_vec::<f32>()?).to_vec(),
        DType::F64 => bytemuck::cast_slice(&tensor.to_vec::<f64>()?).to_vec(),
        DType::Bf16 => bytemuck::cast_slice(&tensor.to_vec::<half::bf16>()?).to_vec(),
        DType::U8 => tensor.to_vec::<u8>()?,
        DType::I16 => bytemuck::cast_slice(&tensor.to_vec::<i16>()?).to_vec(),
        DType::I32 => bytemuck::cast_slice(&tensor.to_vec::<i32>()?).to_vec(),
        DType::I64 => bytemuck::cast_slice(&tensor.to_vec::<i64>()?).to_vec(),
    })
}

/// Writes named tensors as a safetensors file, atomically and synced.
///
/// Errors: [`Error::Io`], a full disk named as such.
pub fn write_tensors(
    storage: &dyn Storage,
    path: &Path,
    tensors: &[(String, Tensor)],
    metadata: &[(&str, String)],
) -> Result<FileInfo> {
    let mut header = serde_json::Map::new();
    let notes: serde_json::Map<String, Value> =
        metadata.iter().map(|(k, v)| ((*k).to_owned(), v.clone().into())).collect();
    header.insert("__metadata__".into(), notes.into());
    let mut offset = 0;
    for (name, tensor) in tensors {
        let end = offset + tensor.len() * tensor.dtype().size();
        let entry = json!({
            "dtype": dtype_name(tensor.dtype()),
            "shape": tensor.shape(),
            "data_offsets": [offset, end],
        });
        header.insert(name.clone(), entry);
        offset = end;
    }
    let mut header = Value::Object(header).to_string();
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    let mut info = FileInfo::default();
    write_to(storage, path, |w| {
        let mut w = Crc32cWriter::new(w);
        w.write_all(&(header.len() as u64).to_le_bytes())?;
        w.write_all(header.as_bytes())?;
        for (name, tensor) in tensors {
            let bytes = bytes_of(tensor).map_err(io::Error::other)?;
            info.tensors.insert(name.clone(), crc32c::crc32c(&bytes));
            w.write_all(&bytes)?;
        }
        (info.bytes, info.crc32c) = (w.bytes(), w.crc());
        Ok(())
    })?;
    Ok(info)
}

/// A file of a checkpoint in memory, verified.
pub struct TensorFile {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl TensorFile {
    /// Reads a file and checks its size and checksum.
    ///
    /// Errors: [`Error::Data`] naming the damaged tensors; [`Error::Io`].
    pub fn read(path: &Path, info: &FileInfo) -> Result<Self> {
        let found = fs::metadata(path).map_err(Error::io(path, "read"))?.len();
        if found != info.bytes {
            return Err(Error::data(
                path,
                format!("damaged: {found} bytes instead of {}", info.bytes),
            ));
        }
        let file =
            Self { path: path.into(), bytes: fs::read(path).map_err(Error::io(path, "read"))? };
        if crc32c::crc32c(&file.bytes) != info.crc32c {
            return Err(Error::data(path, file.damage(info)));
        }
        Ok(file)
    }

    /// Says what is damaged.
    fn damage(&self, info: &FileInfo) -> String {
        let Ok(tensors) = SafeTensors::deserialize(&self.bytes) else {
            return "damaged: its header does not fit its checksum".to_owned();
        };
        let damaged: Vec<&str> = info
            .tensors
            .iter()
            .filter(|(name, crc)| {
                !tensors.tensor(name).is_ok_and(|t| crc32c::crc32c(t.data()) == **crc)
            })
            .map(|(name, _)| name.as_str())
            .collect();
        match damaged[..] {
            [] => "damaged: its header does not fit its checksum".to_owned(),
            [one] => format!("damaged: tensor '{one}' does not fit its checksum"),
            [first, ..] => format!(
                "damaged: {} tensors do not fit their checksums, the first is '{first}'",
                damaged.len()
            ),
        }
    }

    /// Opens the tensors, which must be exactly `expected` (names and shapes).
    ///
    /// Errors: [`Error::Data`] "of another model" with the first difference.
    pub fn open(&self, expected: &[(String, Vec<usize>)]) -> Result<Tensors<'_>> {
        let tensors = SafeTensors::deserialize(&self.bytes)
            .map_err(|e| Error::data(&self.path, format!("not a safetensors file: {e}")))?;
        let other =
            |what: String| Err(Error::data(&self.path, format!("of another model: {what}")));
        for (name, shape) in expected {
            match tensors.tensor(name) {
                Err(_) => return other(format!("tensor '{name}' {shape:?} is missing")),
                Ok(t) if t.shape() != shape => {
                    return other(format!(
                        "tensor '{name}' is {:?} in the file, {shape:?} in the configuration",
                        t.shape()
                    ));
                }
                Ok(_) => {}
            }
        }
        let mut names = tensors.names();
        names.sort_unstable();
        let known: std::collections::BTreeSet<&str> =
            expected.iter().map(|(name, _)| name.as_str()).collect();
        if let Some(extra) = names.into_iter().find(|name| !known.contains(name)) {
            return other(format!("the file has a tensor '{extra}', the configuration has none"));
        }
        Ok(Tensors { path: &self.path, tensors })
    }
}

/// The tensors of a verified file.
pub struct Tensors<'a> {
    path: &'a Path,
    tensors: SafeTensors<'a>,
}

impl Tensors<'_> {
    /// Copies a tensor, bit for bit.
    pub fn copy(&self, name: &str, out: &mut TensorMut<'_>) -> Result<()> {
        let tensor = self
            .tensors
            .tensor(name)
            .map_err(|e| Error::data(self.path, format!("tensor '{name}': {e}")))?;
        let (found, wanted) = (format!("{:?}", tensor.dtype()), dtype_name(out.dtype()));
        if found != wanted {
            return Err(Error::data(
                self.path,
                format!("tensor '{name}' is {found} in the file, {wanted} is needed"),
            ));
        }
        with_real!("checkpoint", out.dtype(), T => {
            if out.len() * size_of::<T>() != tensor.data().len() {
                let reason = format!("tensor '{name}' has another size");
                return Err(Error::data(self.path, reason));
            }
            match out.device() {
                Device::Cpu => {
                    bytemuck::cast_slice_mut(out.host_mut::<T>()?).copy_from_slice(tensor.data());
                    Ok(())
                }
                // The bytes in the file need not be aligned.
                _ => out.upload(&bytemuck::pod_collect_to_vec::<u8, T>(tensor.data())),
            }
        })
    }
}
