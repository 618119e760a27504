//! The moments of AdamW in `optimizer.safetensors`: `m.NAME` and `v.NAME` of every parameter.

use super::load::expected;
use super::save::named;
use super::tensors::Tensors;
use crate::Result;
use crate::device::{Tensor, TensorMut};
use crate::nn::params::Params;
use crate::param_layout::ParamLayout;

const PREFIXES: [&str; 2] = ["m.", "v."];

/// Views of the flat moments `[m, v]` under their names.
pub fn of(params: &Params, [m, v]: [&Tensor; 2]) -> Result<Vec<(String, Tensor)>> {
    let mut all = named(PREFIXES[0], params, m)?;
    all.extend(named(PREFIXES[1], params, v)?);
    Ok(all)
}

/// Names and shapes that a file must have.
pub fn names(layout: &ParamLayout) -> Vec<(String, Vec<usize>)> {
    PREFIXES.iter().flat_map(|prefix| expected(prefix, layout)).collect()
}

/// Copies them into the flat moments `[m, v]`.
pub fn copy(tensors: &Tensors<'_>, layout: &ParamLayout, flat: [&mut Tensor; 2]) -> Result<()> {
    for (prefix, flat) in PREFIXES.into_iter().zip(flat) {
        for entry in layout.entries() {
            let mut out = TensorMut::new(flat, entry.offset, &entry.shape)?;
            tensors.copy(&format!("{prefix}{}", entry.name), &mut out)?;
        }
    }
    Ok(())
}
