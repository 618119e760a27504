//! How a matrix product is cut into blocks: the tile, and into how many parts its sum is split.
//!
//! The choice decides the order of the sums, so it depends on the sizes and on which kernels a device has, never on anything
//! else of the device at hand.

pub(super) mod hopper;
pub(super) mod portable;

pub(super) use self::portable::{Plan, plan, plan_small};

use crate::device::Tensor;
use crate::{Error, Result};

/// What a product runs on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Choice {
    Portable(Plan),
    Hopper(hopper::Plan),
}

impl Choice {
    /// Into how many parts the sum is split.
    pub fn parts(&self) -> usize {
        match self {
            Self::Portable(plan) => plan.parts,
            Self::Hopper(plan) => plan.parts,
        }
    }
}

/// Sizes as kernels take them; errors as those of [`size`].
pub(super) fn sizes(op: &'static str, sizes: [usize; 3]) -> Result<[i32; 3]> {
    let [a, b, c] = sizes;
    Ok([size(op, a)?, size(op, b)?, size(op, c)?])
}

/// A size as kernels take it.
///
/// Errors: `Unsupported` beyond 2^31.
pub(in crate::ops) fn size(op: &'static str, n: usize) -> Result<i32> {
    i32::try_from(n).map_err(|_| Error::Unsupported(format!("{op}: a matrix side of {n}")))
}

/// Whether matrices with `columns` columns allow 16-byte loads of every line.
pub(in crate::ops) fn vectors(operands: &[(&Tensor, usize)]) -> bool {
    operands
        .iter()
        .all(|(t, columns)| (columns * t.dtype().size()).is_multiple_of(16) && t.is_aligned(16))
}

