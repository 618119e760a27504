//! Which matrix products a piece of work consists of, and which kernels were chosen for them: written down while it runs,
//! also on a device that only counts memory.

use std::cell::RefCell;

use serde::Serialize;

use super::hopper::{Follows, MADS, SMS};
use super::{Choice, Wanted};
use crate::device::DType;

/// A product and its kernel.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Product {
    pub kernel: String,
    /// `[m, n] = [m, k] x [k, n]`.
    pub m: usize,
    pub n: usize,
    pub k: usize,
    /// The name of the kernel without its type and tile, and what happens to the sums, where it was chosen by that.
    pub stem: &'static str,
    pub follows: Option<Follows>,
    /// Blocks of the grid; into how many parts the sums are split; of a Hopper kernel, tiles that the block with the most
    /// has, one after the other.
    pub blocks: u64,
    pub parts: usize,
    pub turns: Option<usize>,
    /// Whether the caller can add up parts, and has kernels for small tiles only.
    #[serde(skip)]
    pub may_split: bool,
    #[serde(skip)]
    pub is_small: bool,
    /// What the model of the choice says, of a Hopper kernel: cycles, those of the second best tile, and the share of the
    /// tensor cores' rate.
    pub model: Option<Model>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Model {
    pub cycles: f64,
    pub share: f64,
    /// What binds the products of a tile: `tensor`, `shared` or `l2`.
    pub bound: &'static str,
    /// Bytes of the operands that L2 gives, and that pass through shared memory.
    pub l2_bytes: u64,
    pub shared_bytes: u64,
    pub second: String,
    pub second_cycles: f64,
}

thread_local! {
    static NOTES: RefCell<Option<Vec<Product>>> = const { RefCell::new(None) };
}

/// The products that `work` asks for on this thread, in order.
pub fn record<T>(work: impl FnOnce() -> T) -> (T, Vec<Product>) {
    let outer = NOTES.replace(Some(Vec::new()));
    let result = work();
    (result, NOTES.replace(outer).unwrap_or_default())
}

pub(super) fn note(wanted: &Wanted<'_>, dtype: DType, choice: Choice) {
    NOTES.with_borrow_mut(|notes| {
        if let Some(notes) = notes {
            notes.push(product(wanted, dtype, choice));
        }
    });
}

fn product(wanted: &Wanted<'_>, dtype: DType, choice: Choice) -> Product {
    let [m, n, k] = wanted.size;
    let follows = wanted.follows.filter(|_| matches!(choice, Choice::Hopper(_)));
    let (kernel, launch, turns) = match choice {
        Choice::Portable(plan) => (plan.kernel(wanted.stem, dtype), plan.launch, None),
        Choice::Hopper(plan) => (plan.kernel(wanted.stem), plan.launch, Some(plan.turns)),
    };
    let model = match (choice, follows) {
        (Choice::Hopper(plan), Some(follows)) => {
            let cycles = plan.time([m, n], follows);
            let (second, second_cycles) =
                plan.second(wanted.size, wanted.tiles(), follows, wanted.may_split);
            let share = (m * n * k) as f64 / MADS / SMS as f64 / cycles;
            let [l2_bytes, shared_bytes] = plan.traffic(wanted.size);
            let bound = plan.bound();
            Some(Model { cycles, share, bound, l2_bytes, shared_bytes, second, second_cycles })
        }
        _ => None,
    };
    let (blocks, parts) = (launch.blocks(), choice.parts());
    let &Wanted { stem, may_split, is_small, .. } = wanted;
    Product { kernel, m, n, k, stem, follows, blocks, parts, turns, may_split, is_small, model }
}
