//! How a matrix product is cut into blocks: the tile, and into how many parts its sum is split.
//!
//! The choice decides the order of the sums, so it depends on the sizes, on which kernels a device has, and on a file of
//! measurements where one is asked for (`tuning`), never on anything else of the device at hand.

pub(super) mod hopper;
pub(super) mod portable;
pub mod products;
pub mod trial;
pub mod tuning;

use self::hopper::Follows;
pub(super) use self::portable::{Plan, plan, plan_small};

use crate::device::Tensor;
use crate::device::tensor_map::allows_boxes;
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

/// A product that a kernel is chosen for.
pub(super) struct Wanted<'a> {
    /// Of the names of its kernels, e.g. `linear_fwd`.
    pub stem: &'static str,
    /// Rows and columns of the result, and the length of the sums.
    pub size: [usize; 3],
    /// Both operands, each with its number of columns.
    pub operands: [(&'a Tensor, usize); 2],
    /// Other matrices that go in or out.
    pub others: Vec<(&'a Tensor, usize)>,
    pub bias: Option<&'a Tensor>,
    /// What follows; nothing where Hopper's kernels cannot do it.
    pub follows: Option<Follows>,
    /// Whether the caller can add up parts of the sums.
    pub may_split: bool,
    /// Whether the op has small tiles only, and adds up parts even of one part.
    pub is_small: bool,
}

impl Wanted<'_> {
    /// The tiles that Hopper's kernels of the op have.
    fn tiles(&self) -> &'static [hopper::Tile] {
        hopper::tiles(self.is_small)
    }

    pub fn choose(&self) -> Choice {
        let &Self { size, ref operands, may_split, is_small, .. } = self;
        let matrices = [&operands[..], &self.others].concat();
        // Nothing is no tensor for the copy engine.
        let is_some = !size.contains(&0);
        let takes = is_some && hopper::takes(&matrices) && hopper::takes_bias(self.bias);
        let follows = self.follows.filter(|_| takes);
        let (dtype, vectors) = (operands[0].0.dtype(), vectors(operands));
        let choice = match (follows, is_small) {
            (Some(follows), _) => {
                Choice::Hopper(hopper::plan(self.stem, self.tiles(), size, follows, may_split))
            }
            (None, false) => Choice::Portable(plan(dtype, size, vectors, may_split)),
            (None, true) => Choice::Portable(plan_small(dtype, size, vectors, may_split)),
        };
        products::note(self, dtype, choice);
        choice
    }
}

/// Whether each operand of a pass lies in memory with k inside, as the names of kernels say.
pub(super) fn is_k_major(stem: &str) -> [bool; 2] {
    [!stem.ends_with("_bwd_params"), stem.ends_with("_fwd")]
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
    operands.iter().all(|(t, columns)| allows_boxes(*columns, t.dtype()) && t.is_aligned(16))
}
