//! The moments of AdamW in `optimizer.safetensors`: `m.NAME` and `v.NAME` of every parameter that trains.

use std::ops::Range;

use super::tensors::{FileInfo, Tensors};
use crate::Result;
use crate::device::{Tensor, TensorMut};
use crate::param_layout::{ParamEntry, ParamLayout};

const PREFIXES: [&str; 2] = ["m.", "v."];

/// The parameters that begin in a piece of the flat buffer.
fn within<'l>(
    layout: &'l ParamLayout,
    piece: &Range<usize>,
) -> impl Iterator<Item = &'l ParamEntry> {
    let piece = piece.clone();
    layout.entries().iter().filter(move |e| piece.contains(&e.offset))
}

/// Views of the moments `[m, v]` of a piece of the flat buffer under their names.
pub fn of(
    layout: &ParamLayout,
    piece: &Range<usize>,
    moments: [&Tensor; 2],
) -> Result<Vec<(String, Tensor)>> {
    let mut all = Vec::new();
    for (prefix, flat) in PREFIXES.into_iter().zip(moments) {
        for e in within(layout, piece) {
            all.push((format!("{prefix}{}", e.name), flat.view(e.offset - piece.start, &e.shape)?));
        }
    }
    Ok(all)
}

/// Names and shapes that a file with the moments of a piece must have.
pub fn names(layout: &ParamLayout, piece: &Range<usize>) -> Vec<(String, Vec<usize>)> {
    let of = |prefix: &'static str| {
        within(layout, piece).map(move |e| (format!("{prefix}{}", e.name), e.shape.clone()))
    };
    PREFIXES.into_iter().flat_map(of).collect()
}

/// Whether a file lists moments of every parameter, as older versions wrote those of frozen ones as well.
pub fn are_complete(info: &FileInfo, layout: &ParamLayout) -> bool {
    let names = names(layout, &(0..layout.len()));
    names.iter().all(|(name, _)| info.tensors.contains_key(name))
}

/// Copies the moments of a piece that the file has `saved` into `[m, v]` of the piece `into`, as far as they
/// meet.
pub fn copy(
    tensors: &Tensors<'_>,
    layout: &ParamLayout,
    [saved, into]: [&Range<usize>; 2],
    moments: [&mut Tensor; 2],
) -> Result<()> {
    for (prefix, flat) in PREFIXES.into_iter().zip(moments) {
        for e in within(layout, saved).filter(|e| into.contains(&e.offset)) {
            let mut out = TensorMut::new(flat, e.offset - into.start, &e.shape)?;
            tensors.copy(&format!("{prefix}{}", e.name), &mut out)?;
        }
    }
    Ok(())
}
