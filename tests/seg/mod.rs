//! The device-free side of segmentation as a user meets it, on volumes of the reference's cases and on real
//! data. MONAI's numbers: `unetr_parity.rs`.

mod prep;
mod task;

use std::path::Path;

use safetensors::{Dtype, SafeTensors};

/// A reference file in memory: tensors as f64, metadata as JSON.
pub struct Reference {
    bytes: Vec<u8>,
}

impl Reference {
    /// The file of a part (`metrics`, `window`, `prep`), when it is at hand.
    pub fn open(part: &str) -> Option<Self> {
        let path = crate::support::shared(&format!("peer/cases/unetr_{part}.safetensors"))?;
        Some(Self { bytes: std::fs::read(Path::new(&path)).unwrap() })
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).unwrap()
    }

    /// A metadata entry that holds JSON.
    pub fn json(&self, key: &str) -> serde_json::Value {
        let (_, header) = SafeTensors::read_metadata(&self.bytes).unwrap();
        serde_json::from_str(&header.metadata().as_ref().unwrap()[key]).unwrap()
    }

    /// Names of the cases and what the file says about each.
    pub fn cases(&self) -> Vec<(String, serde_json::Value)> {
        let cases = self.json("cases");
        cases.as_object().unwrap().iter().map(|(k, v)| (k.clone(), v.clone())).collect()
    }

    /// A tensor of any type: shape and values.
    pub fn get(&self, name: &str) -> (Vec<usize>, Vec<f64>) {
        let all = self.tensors();
        let t = all.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        macro_rules! values {
            ($ty:ty) => {
                t.data()
                    .chunks_exact(size_of::<$ty>())
                    .map(|b| f64::from(<$ty>::from_le_bytes(b.try_into().unwrap())))
                    .collect()
            };
        }
        let values = match t.dtype() {
            Dtype::F64 => values!(f64),
            Dtype::F32 => values!(f32),
            Dtype::I32 => values!(i32),
            Dtype::I16 => values!(i16),
            Dtype::U8 => values!(u8),
            other => panic!("{name}: {other:?}"),
        };
        (t.shape().to_vec(), values)
    }

    pub fn values(&self, name: &str) -> Vec<f64> {
        self.get(name).1
    }

    /// The last three sizes of a tensor.
    pub fn dims(&self, name: &str) -> [usize; 3] {
        let shape = self.get(name).0;
        shape[shape.len() - 3..].try_into().unwrap()
    }
}

/// `|ours - want| / |want|`, in norms; infinite and NaN values must be the same.
pub fn distance(ours: &[f64], want: &[f64]) -> f64 {
    assert_eq!(ours.len(), want.len());
    let (mut gap, mut size) = (0.0, 0.0);
    for (a, b) in ours.iter().zip(want) {
        if !b.is_finite() || !a.is_finite() {
            if !(a == b || a.is_nan() && b.is_nan()) {
                return f64::INFINITY;
            }
            continue;
        }
        gap += (a - b) * (a - b);
        size += b * b;
    }
    if size > 0.0 { (gap / size).sqrt() } else { gap.sqrt() }
}
