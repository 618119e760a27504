//! Arithmetic: which function over the lanes an instruction is. Integers (9.7.1), floating point (9.7.3); logic and
//! shifts are in `bits`, what approximates in `special`.

use super::functions::{
    double_fn, float_fn, float2, fused, least, long_fn, long1, long2, packed_fma, packed1, packed2,
    word_fn, word1, word2, word3,
};
use super::modifiers::Modifiers;
use super::{Decoded, Decoder, not_implemented};
use crate::arith::integer::{b64, product16, product32};
use crate::arith::minmax::{
    Which, abs_f32, abs_f64, copysign_f32, copysign_f64, min_max_f64, neg_f32, neg_f64,
};
use crate::arith::round::{self, Mode, Rounding};
use crate::program::lanes::{Fn2, lane_fn};
use crate::program::op::{Op, Pipe};
use crate::ptx::ast::{Instruction, Type};

/// `.rn`, `.rz`, `.rm`, `.rp`; to nearest without.
pub(super) fn rounding(m: &mut Modifiers) -> Rounding {
    match m.one_of(&["rn", "rz", "rm", "rp"]) {
        Some("rz") => Rounding::Zero,
        Some("rm") => Rounding::Down,
        Some("rp") => Rounding::Up,
        _ => Rounding::Nearest,
    }
}

/// The rounding of an instruction that has no default.
pub(super) fn needed_rounding(m: &mut Modifiers) -> Result<Rounding, String> {
    Ok(match m.one_of(&["rn", "rz", "rm", "rp"]).ok_or("a rounding is needed")? {
        "rz" => Rounding::Zero,
        "rm" => Rounding::Down,
        "rp" => Rounding::Up,
        _ => Rounding::Nearest,
    })
}

/// The rounding of these instructions; others have none.
fn rounding_of(name: &str, m: &mut Modifiers) -> Result<Rounding, String> {
    match name {
        "add" | "sub" | "mul" => Ok(rounding(m)),
        "fma" | "mad" | "div" => needed_rounding(m),
        _ => Ok(Rounding::Nearest),
    }
}

impl Decoder<'_> {
    /// What no other decoder took: arithmetic.
    pub(super) fn arithmetic(&mut self, inst: &Instruction, m: &mut Modifiers) -> Decoded {
        match inst.opcode.as_str() {
            "mul" | "mad" if m.take("wide") => self.wide(inst, m),
            "and" | "or" | "xor" | "not" | "cnot" => self.logic(inst, m),
            "shl" | "shr" => self.shift(inst, m),
            "lop3" | "prmt" | "shf" | "bfe" | "bfi" | "bfind" | "clz" | "popc" | "brev" => {
                self.bits(inst, m)
            }
            "ex2" | "lg2" | "rcp" | "rsqrt" | "sqrt" | "sin" | "cos" | "tanh" => {
                self.special_function(inst, m)
            }
            "div" if m.take("approx") => self.divide_nearly(inst, m, false),
            "div" if m.take("full") => self.divide_nearly(inst, m, true),
            "add" | "sub" | "mul" | "mad" | "fma" | "div" | "rem" | "min" | "max" | "neg"
            | "abs" | "copysign" => self.number(inst, m),
            _ => Err(not_implemented()),
        }
    }

    fn number(&mut self, inst: &Instruction, m: &mut Modifiers) -> Decoded {
        let name = inst.opcode.as_str();
        let ty = m.ty()?;
        let n = inst.operands.len();
        if ty.is_float() {
            return match ty {
                Type::F32 => {
                    let op = self.float(inst, m)?;
                    let pipe = if name == "div" { Pipe::Special } else { Pipe::Fma };
                    Ok((op, pipe))
                }
                Type::F64 => Ok((self.double(inst, m)?, Pipe::Fma)),
                _ => Ok((self.packed(inst, m, ty)?, Pipe::Fma)),
            };
        }
        let is_bits = matches!(ty, Type::Pred | Type::B8 | Type::B16 | Type::B32 | Type::B64);
        if is_bits || ty.bytes() == 1 {
            return Err(not_implemented());
        }
        let is_product = matches!(name, "mul" | "mad");
        let half = if is_product { m.one_of(&["hi", "lo"]) } else { None };
        if is_product && half.is_none() {
            return Err(".lo or .hi or .wide is needed".into());
        }
        let high = half == Some("hi");
        let sat = matches!(name, "add" | "sub") && m.take("sat");
        if sat && ty != Type::S32 {
            return Err(not_implemented());
        }
        let pipe = Pipe::Integer;
        let [d, rest @ ..] = &inst.operands[..] else { return Err(not_implemented()) };
        let op = match (ty.bytes(), n) {
            (8, 2) => {
                let f = long1(name, ty).ok_or_else(not_implemented)?;
                Op::L1 { f, d: self.dst_long(d)?, a: self.long(&rest[0])? }
            }
            (8, 3) => {
                let f = long2(name, ty, high).ok_or_else(not_implemented)?;
                let (d, a, b) = (self.dst_long(d)?, self.long(&rest[0])?, self.long(&rest[1])?);
                match name {
                    "div" | "rem" => Op::Divide64 { f, d, a, b },
                    _ => Op::L2 { f, d, a, b },
                }
            }
            (8, 4) if name == "mad" && !high => {
                let f = long_fn!(|a, b, c| b64::add(b64::mul_low(a, b), c));
                let [a, b, c] = rest else { return Err(not_implemented()) };
                Op::L3 {
                    f,
                    d: self.dst_long(d)?,
                    a: self.long(a)?,
                    b: self.long(b)?,
                    c: self.long(c)?,
                }
            }
            (2 | 4, _) => {
                let d = if ty.bytes() == 2 { self.dst_half(d)? } else { self.dst_word(d)? };
                let word = |i: usize| -> Result<_, String> {
                    self.narrow(rest.get(i).ok_or("an operand is missing")?, ty)
                };
                match n {
                    2 => Op::A1 { f: word1(name, ty).ok_or_else(not_implemented)?, d, a: word(0)? },
                    3 => {
                        let f = word2(name, ty, high, sat).ok_or_else(not_implemented)?;
                        let (a, b) = (word(0)?, word(1)?);
                        match name {
                            "div" | "rem" => Op::Divide { f, d, a, b },
                            _ => Op::A2 { f, d, a, b },
                        }
                    }
                    4 if name == "mad" && !sat => {
                        let f = word3(ty, high).ok_or_else(not_implemented)?;
                        Op::A3 { f, d, a: word(0)?, b: word(1)?, c: word(2)? }
                    }
                    _ => return Err(not_implemented()),
                }
            }
            _ => return Err(not_implemented()),
        };
        Ok((op, pipe))
    }

    fn float(&self, inst: &Instruction, m: &mut Modifiers) -> Result<Op, String> {
        let name = inst.opcode.as_str();
        let sat = matches!(name, "add" | "sub" | "mul" | "fma" | "mad") && m.take("sat");
        let ftz = name != "copysign" && m.take("ftz");
        let mode = Mode { rounding: rounding_of(name, m)?, ftz, sat };
        let [d, rest @ ..] = &inst.operands[..] else { return Err(not_implemented()) };
        let d = self.dst_word(d)?;
        let word = |i: usize| self.word(rest.get(i).ok_or("an operand is missing")?);
        let expect = |n: usize| self.count(inst, n + 1);
        Ok(match name {
            "fma" | "mad" => {
                expect(3)?;
                let f = fused(mode).ok_or_else(not_implemented)?;
                Op::A3 { f, d, a: word(0)?, b: word(1)?, c: word(2)? }
            }
            "neg" | "abs" => {
                expect(1)?;
                let f = match (name, mode.ftz) {
                    ("neg", false) => float_fn!(|a| neg_f32(a)),
                    ("neg", true) => float_fn!(|a| neg_f32(round::ftz(a))),
                    (_, false) => float_fn!(|a| abs_f32(a)),
                    (_, true) => float_fn!(|a| abs_f32(round::ftz(a))),
                };
                Op::A1 { f, d, a: word(0)? }
            }
            "copysign" => {
                expect(2)?;
                let f = word_fn!(|a, b| copysign_f32(a, b));
                Op::A2 { f, d, a: word(0)?, b: word(1)? }
            }
            "min" | "max" => {
                expect(2)?;
                let nan = m.take("NaN");
                let f = least(name == "min", mode.ftz, nan);
                Op::A2 { f, d, a: word(0)?, b: word(1)? }
            }
            _ => {
                expect(2)?;
                let f = float2(name, mode).ok_or_else(not_implemented)?;
                Op::A2 { f, d, a: word(0)?, b: word(1)? }
            }
        })
    }

    fn double(&self, inst: &Instruction, m: &mut Modifiers) -> Result<Op, String> {
        let name = inst.opcode.as_str();
        if rounding_of(name, m)? != Rounding::Nearest {
            return Err(not_implemented());
        }
        let [d, rest @ ..] = &inst.operands[..] else { return Err(not_implemented()) };
        let d = self.dst_long(d)?;
        let long = |i: usize| self.long(rest.get(i).ok_or("an operand is missing")?);
        Ok(match (name, rest.len()) {
            ("neg", 1) => Op::L1 { f: double_fn!(|a| neg_f64(a)), d, a: long(0)? },
            ("abs", 1) => Op::L1 { f: double_fn!(|a| abs_f64(a)), d, a: long(0)? },
            ("fma" | "mad", 3) => {
                let f = double_fn!(|a, b, c| round::fma_f64(a, b, c));
                Op::L3 { f, d, a: long(0)?, b: long(1)?, c: long(2)? }
            }
            (_, 2) => {
                let f: Fn2<u64> = match name {
                    "add" => double_fn!(|a, b| round::add_f64(a, b)),
                    "sub" => double_fn!(|a, b| round::sub_f64(a, b)),
                    "mul" => double_fn!(|a, b| round::mul_f64(a, b)),
                    "div" => double_fn!(|a, b| round::div_f64(a, b)),
                    "min" => double_fn!(|a, b| min_max_f64(Which::Min, a, b)),
                    "max" => double_fn!(|a, b| min_max_f64(Which::Max, a, b)),
                    "copysign" => long_fn!(|a, b| copysign_f64(a, b)),
                    _ => return Err(not_implemented()),
                };
                Op::L2 { f, d, a: long(0)?, b: long(1)? }
            }
            _ => return Err(not_implemented()),
        })
    }

    /// Arithmetic of `.bf16`, `.bf16x2`, `.f16`, `.f16x2`, to nearest and without further modifiers.
    fn packed(&self, inst: &Instruction, m: &mut Modifiers, ty: Type) -> Result<Op, String> {
        let name = inst.opcode.as_str();
        if rounding_of(name, m)? != Rounding::Nearest {
            return Err(not_implemented());
        }
        let [d, rest @ ..] = &inst.operands[..] else { return Err(not_implemented()) };
        let is_pair = ty.bytes() == 4;
        let d = if is_pair { self.dst_word(d)? } else { self.dst_half(d)? };
        let source = |i: usize| -> Result<_, String> {
            self.narrow(rest.get(i).ok_or("an operand is missing")?, ty)
        };
        let is_bf16 = matches!(ty, Type::Bf16 | Type::Bf16x2);
        Ok(match rest.len() {
            1 => {
                let f = packed1(name, is_bf16).ok_or_else(not_implemented)?;
                Op::A1 { f, d, a: source(0)? }
            }
            2 => {
                let f = packed2(name, is_bf16).ok_or_else(not_implemented)?;
                Op::A2 { f, d, a: source(0)?, b: source(1)? }
            }
            3 if name == "fma" => {
                let f = packed_fma(is_bf16);
                Op::A3 { f, d, a: source(0)?, b: source(1)?, c: source(2)? }
            }
            _ => return Err(not_implemented()),
        })
    }

    /// `mul.wide`, `mad.wide`.
    fn wide(&self, inst: &Instruction, m: &mut Modifiers) -> Decoded {
        let ty = m.ty()?;
        let [d, a, b, rest @ ..] = &inst.operands[..] else { return Err(not_implemented()) };
        let op = match (ty, rest, inst.opcode.as_str()) {
            (Type::S16 | Type::U16, [], "mul") => {
                let f = match ty {
                    Type::S16 => {
                        lane_fn!(|a: u32, b: u32| -> u32 {
                            product16::wide_signed(a as u16, b as u16)
                        })
                    }
                    _ => lane_fn!(|a: u32, b: u32| -> u32 {
                        product16::wide_unsigned(a as u16, b as u16)
                    }),
                };
                Op::A2 { f, d: self.dst_word(d)?, a: self.half(a)?, b: self.half(b)? }
            }
            (Type::S32 | Type::U32, [], "mul") => {
                let f = match ty {
                    Type::S32 => lane_fn!(|a: u32, b: u32| -> u64 { product32::wide_signed(a, b) }),
                    _ => lane_fn!(|a: u32, b: u32| -> u64 { product32::wide_unsigned(a, b) }),
                };
                Op::MulWide { f, d: self.dst_long(d)?, a: self.word(a)?, b: self.word(b)? }
            }
            (Type::S32 | Type::U32, [c], "mad") => {
                let f = match ty {
                    Type::S32 => lane_fn!(|a: u32, b: u32, c: u64| -> u64 {
                        b64::add(product32::wide_signed(a, b), c)
                    }),
                    _ => lane_fn!(|a: u32, b: u32, c: u64| -> u64 {
                        b64::add(product32::wide_unsigned(a, b), c)
                    }),
                };
                let (a, b, c) = (self.word(a)?, self.word(b)?, self.long(c)?);
                Op::MadWide { f, d: self.dst_long(d)?, a, b, c }
            }
            _ => return Err(not_implemented()),
        };
        Ok((op, Pipe::Integer))
    }
}
