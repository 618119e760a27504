//! Addresses of the block's own shared memory that instructions take as plain values (`mov.u32 %r1, tile;`). They hold
//! the block's rank in its cluster, so that they are values of a warp and not of the program: each has a slot, as a
//! register has.

use super::layout::{Layout, SlotCounts};
use crate::ptx::ast::{Function, Operand, Space};

/// A place in shared memory, and the slots that its address is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnAddress {
    name: String,
    more: i64,
    /// Its offset in the block.
    pub offset: u32,
    pub word: u32,
    pub long: u32,
}

/// Every one that the function names outside of accesses; `counts` grows by their slots.
pub fn find(function: &Function, layout: &Layout, counts: &mut SlotCounts) -> Vec<OwnAddress> {
    let mut all: Vec<OwnAddress> = Vec::new();
    for operand in function.instructions.iter().flat_map(|i| &i.operands) {
        let Operand::Symbol(name, more) = operand else { continue };
        let Some((Space::Shared, at)) = layout.symbol(name) else { continue };
        if slots(&all, name, *more).is_none() {
            let offset = at.wrapping_add_signed(*more) as u32;
            let (word, long) = (counts.words, counts.longs);
            all.push(OwnAddress { name: name.clone(), more: *more, offset, word, long });
            (counts.words, counts.longs) = (word + 1, long + 1);
        }
    }
    all
}

/// The one of this name, so many bytes further on.
pub fn slots<'a>(all: &'a [OwnAddress], name: &str, more: i64) -> Option<&'a OwnAddress> {
    all.iter().find(|own| own.name == name && own.more == more)
}
