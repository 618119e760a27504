//! The file of a reference case: metadata as text, tensors as f64.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};

use crate::device::Element;
use crate::{Error, Result};

/// The contents of a case file.
pub struct CaseTensors {
    path: PathBuf,
    metadata: HashMap<String, String>,
    tensors: BTreeMap<String, (Vec<usize>, Vec<f64>)>,
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
            tensors.insert(name, (view.shape().to_vec(), data));
        }
        Ok(Self { path: path.to_owned(), metadata, tensors })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A text of the metadata.
    pub fn text(&self, key: &str) -> Result<&str> {
        let found = self.metadata.get(key).map(String::as_str);
        found.ok_or_else(|| Error::data(&self.path, format!("the metadata has no '{key}'")))
    }

    /// A JSON text of the metadata.
    pub fn json<T: serde::de::DeserializeOwned>(&self, key: &str) -> Result<T> {
        serde_json::from_str(self.text(key)?)
            .map_err(|e| Error::data(&self.path, format!("metadata '{key}': {e}")))
    }

    /// Shape and values of a tensor.
    pub fn get(&self, name: &str) -> Result<(&[usize], &[f64])> {
        self.find(name).ok_or_else(|| Error::data(&self.path, format!("no tensor '{name}'")))
    }

    /// As [`CaseTensors::get`], `None` when it is absent.
    pub fn find(&self, name: &str) -> Option<(&[usize], &[f64])> {
        self.tensors.get(name).map(|(shape, data)| (&shape[..], &data[..]))
    }

    /// Names with a prefix, without it.
    pub fn names<'c>(&'c self, prefix: &'c str) -> impl Iterator<Item = &'c str> {
        self.tensors.keys().filter_map(move |k| k.strip_prefix(prefix))
    }
}

fn numbers<T: Element, const N: usize>(bytes: &[u8], read: fn([u8; N]) -> T) -> Vec<f64> {
    let (chunks, _) = bytes.as_chunks::<N>();
    chunks.iter().map(|&b| read(b).to_f64()).collect()
}
