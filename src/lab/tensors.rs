//! The file of a reference case: metadata as text, tensors as f64.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};

use crate::device::Element;
use crate::{Error, Result};

/// The contents of a case file. It remembers which tensors were not read: [`CaseTensors::unread`].
pub struct CaseTensors {
    path: PathBuf,
    metadata: HashMap<String, String>,
    tensors: BTreeMap<String, Stored>,
}

struct Stored {
    shape: Vec<usize>,
    data: Vec<f64>,
    dtype: Dtype,
    is_read: Cell<bool>,
}

/// What a file says it is: `format` of its metadata. Errors: no safetensors file, no case.
pub fn format_of(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
    let metadata = metadata(path, &bytes)?;
    let found = metadata.get("format").cloned();
    found.ok_or_else(|| {
        Error::data(path, "no reference case: the metadata has no 'format'".to_owned())
    })
}

fn metadata(path: &Path, bytes: &[u8]) -> Result<HashMap<String, String>> {
    let (_, metadata) = SafeTensors::read_metadata(bytes)
        .map_err(|e| Error::data(path, format!("not a safetensors file: {e}")))?;
    Ok(metadata.metadata().clone().unwrap_or_default())
}

impl CaseTensors {
    /// Reads a case of this format. Errors: a file that is no safetensors file or no such case, a
    /// tensor of another type than u8, i16, i32, i64, f32 or f64.
    pub fn load(path: &Path, format: &str) -> Result<Self> {
        let bad = |reason: String| Error::data(path, reason);
        let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
        let metadata = metadata(path, &bytes)?;
        match metadata.get("format") {
            Some(found) if found == format => {}
            Some(other) => return Err(bad(format!("a case of format '{other}', not '{format}'"))),
            None => return Err(bad("no reference case: the metadata has no 'format'".into())),
        }
        let file = SafeTensors::deserialize(&bytes).map_err(|e| bad(e.to_string()))?;
        let mut tensors = BTreeMap::new();
        for (name, view) in file.tensors() {
            let data = match view.dtype() {
                Dtype::U8 => view.data().iter().map(|&x| f64::from(x)).collect(),
                Dtype::I16 => numbers::<i16, 2>(view.data(), i16::from_le_bytes),
                Dtype::I32 => numbers::<i32, 4>(view.data(), i32::from_le_bytes),
                Dtype::I64 => numbers::<i64, 8>(view.data(), i64::from_le_bytes),
                Dtype::F32 => numbers::<f32, 4>(view.data(), f32::from_le_bytes),
                Dtype::F64 => numbers::<f64, 8>(view.data(), f64::from_le_bytes),
                other => return Err(bad(format!("tensor '{name}' has dtype {other:?}"))),
            };
            let (shape, dtype) = (view.shape().to_vec(), view.dtype());
            tensors.insert(name, Stored { shape, data, dtype, is_read: Cell::new(false) });
        }
        Ok(Self { path: path.to_owned(), metadata, tensors })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A text of the metadata.
    pub fn text(&self, key: &str) -> Result<&str> {
        let found = self.metadata.get(key).map(String::as_str);
        found.ok_or_else(|| self.bad(format!("the metadata has no '{key}'")))
    }

    /// A JSON text of the metadata.
    pub fn json<T: serde::de::DeserializeOwned>(&self, key: &str) -> Result<T> {
        serde_json::from_str(self.text(key)?)
            .map_err(|e| self.bad(format!("metadata '{key}': {e}")))
    }

    /// An error about this file.
    pub fn bad(&self, reason: impl Into<String>) -> Error {
        Error::data(&self.path, reason)
    }

    /// Whether the metadata have this key.
    pub fn has_text(&self, key: &str) -> bool {
        self.metadata.contains_key(key)
    }

    /// What the metadata `cases` say of each case, by its name.
    ///
    /// Errors: no such metadata, or no case in them: then there is nothing to check.
    pub fn cases<T: serde::de::DeserializeOwned>(&self) -> Result<BTreeMap<String, T>> {
        let cases: BTreeMap<String, T> = self.json("cases")?;
        match cases.is_empty() {
            true => Err(self.bad("the metadata 'cases' name no case: nothing to check")),
            false => Ok(cases),
        }
    }

    /// Shape and values of a tensor.
    pub fn get(&self, name: &str) -> Result<(&[usize], &[f64])> {
        self.find(name).ok_or_else(|| self.bad(format!("no tensor '{name}'")))
    }

    /// Values of a tensor that must have this shape.
    pub fn shaped(&self, name: &str, expected: &[usize]) -> Result<&[f64]> {
        let (shape, data) = self.get(name)?;
        match shape == expected {
            true => Ok(data),
            false => {
                Err(self.bad(format!("tensor '{name}' has shape {shape:?}, expected {expected:?}")))
            }
        }
    }

    /// Shape and values of a tensor with `N` axes, none of them empty.
    pub fn axes<const N: usize>(&self, name: &str) -> Result<([usize; N], &[f64])> {
        let (shape, data) = self.get(name)?;
        match <[usize; N]>::try_from(shape) {
            Ok(sizes) if !sizes.contains(&0) => Ok((sizes, data)),
            _ => {
                let axes = format!("{N} axes of at least 1 are expected");
                Err(self.bad(format!("tensor '{name}' has shape {shape:?}, {axes}")))
            }
        }
    }

    /// Values of a tensor of this shape as whole numbers from 0 to 255.
    pub fn labels(&self, name: &str, expected: &[usize]) -> Result<Vec<u8>> {
        let data = self.shaped(name, expected)?;
        if let Some(v) = data.iter().find(|v| v.fract() != 0.0 || !(0.0..=255.0).contains(*v)) {
            return Err(self.bad(format!("tensor '{name}' holds {v}: no label from 0 to 255")));
        }
        Ok(data.iter().map(|&v| v as u8).collect())
    }

    /// As [`CaseTensors::get`], `None` when it is absent.
    pub fn find(&self, name: &str) -> Option<(&[usize], &[f64])> {
        let tensor = self.tensors.get(name)?;
        tensor.is_read.set(true);
        Some((&tensor.shape, &tensor.data))
    }

    /// The type a tensor is stored in.
    pub fn dtype(&self, name: &str) -> Option<Dtype> {
        self.tensors.get(name).map(|t| t.dtype)
    }

    /// Names with a prefix, without it.
    pub fn names<'c>(&'c self, prefix: &'c str) -> impl Iterator<Item = &'c str> {
        self.tensors.keys().filter_map(move |k| k.strip_prefix(prefix))
    }

    /// Tensors that were not read so far.
    pub fn unread(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().filter(|(_, t)| !t.is_read.get()).map(|(name, _)| name.as_str())
    }
}

fn numbers<T: Element, const N: usize>(bytes: &[u8], read: fn([u8; N]) -> T) -> Vec<f64> {
    let (chunks, _) = bytes.as_chunks::<N>();
    chunks.iter().map(|&b| read(b).to_f64()).collect()
}
