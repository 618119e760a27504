//! Products of warpgroups, and who else touches their registers.

use super::operand::{Src, Src64, SrcPred};
use crate::hopper::descriptor::Major;
use crate::hopper::wgmma::Input;

/// A of a product of a warpgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FactorA {
    Registers([Src; 4]),
    /// A descriptor.
    Shared(Src64),
}

/// A product of a warpgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Product {
    pub input: Input,
    pub n: u32,
    /// The accumulators, which are results as well.
    pub d: Vec<u32>,
    pub a: FactorA,
    pub b: Src64,
    pub scale_d: SrcPred,
    pub negate_a: bool,
    pub negate_b: bool,
    pub a_major: Major,
    pub b_major: Major,
}

impl Product {
    /// Registers that are not to be touched while it is under way, and whether each holds A.
    pub fn registers(&self) -> impl Iterator<Item = (u32, bool)> {
        let a: &[Src] = match &self.a {
            FactorA::Registers(sources) => sources,
            FactorA::Shared(_) => &[],
        };
        let a = a.iter().filter_map(|source| match source {
            Src::Slot(slot) => Some((*slot, true)),
            Src::Value(_) => None,
        });
        self.d.iter().map(|slot| (*slot, false)).chain(a)
    }
}

/// Registers of products that another instruction touches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touch {
    pub reads: Vec<u32>,
    pub writes: Vec<u32>,
    /// A mere copy: to and from.
    pub copy: Option<(u32, u32)>,
}
