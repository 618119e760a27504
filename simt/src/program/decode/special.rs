//! Special functions (9.7.3): what approximates, and the roots and reciprocals that round properly.

use super::arithmetic::needed_rounding;
use super::functions::float_fn;
use super::modifiers::Modifiers;
use super::{Decoded, Decoder, not_implemented};
use crate::arith::approx::{
    self,
    Accuracy::{Nearest, Perturbed},
};
use crate::arith::round::{self, Rounding, ftz};
use crate::program::lanes::{Fn1, Fn2, lane_fn};
use crate::program::op::{Op, Pipe};
use crate::ptx::ast::{Instruction, Type};

impl Decoder<'_> {
    pub(super) fn special_function(&mut self, inst: &Instruction, m: &mut Modifiers) -> Decoded {
        let is_approximate = m.take("approx");
        let flush = m.take("ftz");
        let how = if is_approximate { Rounding::Nearest } else { needed_rounding(m)? };
        if m.ty()? != Type::F32 {
            return Err(not_implemented());
        }
        self.count(inst, 2)?;
        let f = match is_approximate {
            true => approximation(&inst.opcode, flush, self.numerics.is_perturbed),
            false => proper(&inst.opcode, flush, how),
        };
        let f = f.ok_or_else(not_implemented)?;
        let (d, a) = (self.dst_word(&inst.operands[0])?, self.word(&inst.operands[1])?);
        Ok((Op::A1 { f, d, a }, Pipe::Special))
    }

    /// `div.approx`, `div.full`.
    pub(super) fn divide_nearly(
        &mut self,
        inst: &Instruction,
        m: &mut Modifiers,
        is_full: bool,
    ) -> Decoded {
        let flush = m.take("ftz");
        if m.ty()? != Type::F32 {
            return Err(not_implemented());
        }
        self.count(inst, 3)?;
        let f = quotient(is_full, flush, self.numerics.is_perturbed);
        let (a, b) = (self.word(&inst.operands[1])?, self.word(&inst.operands[2])?);
        Ok((Op::A2 { f, d: self.dst_word(&inst.operands[0])?, a, b }, Pipe::Special))
    }
}

fn proper(name: &str, flush: bool, how: Rounding) -> Option<Fn1<u32>> {
    if how != Rounding::Nearest {
        return None;
    }
    Some(match (name, flush) {
        ("rcp", false) => float_fn!(|a| round::rcp_f32(a)),
        ("rcp", true) => float_fn!(|a| ftz(round::rcp_f32(ftz(a)))),
        ("sqrt", false) => float_fn!(|a| round::sqrt_f32(a)),
        ("sqrt", true) => float_fn!(|a| ftz(round::sqrt_f32(ftz(a)))),
        _ => return None,
    })
}

fn approximation(name: &str, flush: bool, is_perturbed: bool) -> Option<Fn1<u32>> {
    macro_rules! case {
        ($f:ident) => {
            match (flush, is_perturbed) {
                (false, false) => float_fn!(|a| approx::$f(Nearest, false, a)),
                (true, false) => float_fn!(|a| approx::$f(Nearest, true, a)),
                (false, true) => float_fn!(|a| approx::$f(Perturbed, false, a)),
                (true, true) => float_fn!(|a| approx::$f(Perturbed, true, a)),
            }
        };
    }
    Some(match name {
        "ex2" => case!(ex2),
        "lg2" => case!(lg2),
        "rcp" => case!(rcp),
        "sqrt" => case!(sqrt),
        "rsqrt" => case!(rsqrt),
        "sin" => case!(sin),
        "cos" => case!(cos),
        "tanh" if !flush => match is_perturbed {
            false => float_fn!(|a| approx::tanh(Nearest, a)),
            true => float_fn!(|a| approx::tanh(Perturbed, a)),
        },
        _ => return None,
    })
}

fn quotient(is_full: bool, flush: bool, is_perturbed: bool) -> Fn2<u32> {
    macro_rules! case {
        ($f:ident) => {
            match (flush, is_perturbed) {
                (false, false) => float_fn!(|a, b| approx::$f(Nearest, false, a, b)),
                (true, false) => float_fn!(|a, b| approx::$f(Nearest, true, a, b)),
                (false, true) => float_fn!(|a, b| approx::$f(Perturbed, false, a, b)),
                (true, true) => float_fn!(|a, b| approx::$f(Perturbed, true, a, b)),
            }
        };
    }
    if is_full { case!(div_full) } else { case!(div_approx) }
}
