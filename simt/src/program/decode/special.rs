//! Special functions (9.7.3): what approximates, and the roots and reciprocals that round properly.

use super::arithmetic::rounding;
use super::modifiers::Modifiers;
use super::{Decoded, Decoder, not_implemented};
use crate::ptx::ast::Instruction;

impl Decoder<'_> {
    pub(super) fn special_function(&mut self, _inst: &Instruction, m: &mut Modifiers) -> Decoded {
        _ = rounding(m);
        Err(not_implemented())
    }

    /// `div.approx`, `div.full`.
    pub(super) fn divide_nearly(
        &mut self,
        _: &Instruction,
        _: &mut Modifiers,
        _full: bool,
    ) -> Decoded {
        Err(not_implemented())
    }
}
