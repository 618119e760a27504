//! Arithmetic: which function over the lanes an instruction is. Integers (9.7.1), floating point (9.7.3), logic
//! and shifts (9.7.8); what approximates is in `special`.

use super::modifiers::Modifiers;
use super::{Decoded, Decoder, not_implemented};
use crate::arith::convert::Half;
use crate::arith::half::{self, HalfMode};
use crate::arith::integer::{
    self, b16, b32, b64, field32, field64, product16, product32, product64,
};
use crate::arith::minmax::{
    MinMax, Which, abs_f32, abs_f64, copysign_f32, copysign_f64, min_max_f64, neg_f32, neg_f64,
};
use crate::arith::round::{self, Mode, Rounding};
use crate::program::lanes::{Fn1, Fn2, Fn3, Shift64, lane_fn, register_fn};
use crate::program::op::{BoolOp, Op, Pipe};
use crate::ptx::ast::{Instruction, Operand, Type};

/// A number of 16 bits in the lower half of a register.
macro_rules! half_fn {
    (|$($x:ident),+| $body:expr) => {
        lane_fn!(|$($x: u32),+| -> u32 { $(let $x = $x as u16;)+ u32::from($body) })
    };
}

/// A number of 32 bits.
macro_rules! word_fn {
    (|$($x:ident),+| $body:expr) => { lane_fn!(|$($x: u32),+| -> u32 { $body }) };
}

/// A number of 64 bits.
macro_rules! long_fn {
    (|$($x:ident),+| $body:expr) => { lane_fn!(|$($x: u64),+| -> u64 { $body }) };
}

/// A number of f32, from and to bits.
macro_rules! float_fn {
    (|$($x:ident),+| $body:expr) => {
        lane_fn!(|$($x: u32),+| -> u32 { $(let $x = f32::from_bits($x);)+ ($body).to_bits() })
    };
}

pub(super) use float_fn;

macro_rules! double_fn {
    (|$($x:ident),+| $body:expr) => {
        lane_fn!(|$($x: u64),+| -> u64 { $(let $x = f64::from_bits($x);)+ ($body).to_bits() })
    };
}

/// The function `$make` of a constant mode, for the modes that are supported.
macro_rules! by_mode {
    ($mode:expr, |$m:ident| $make:expr) => {{
        const fn of_mode(rounding: Rounding, ftz: bool, sat: bool) -> Mode {
            Mode { rounding, ftz, sat }
        }
        macro_rules! case {
            ($r:ident, $ftz:literal, $sat:literal) => {{
                const $m: Mode = of_mode(Rounding::$r, $ftz, $sat);
                $make
            }};
        }
        match ($mode.rounding, $mode.ftz, $mode.sat) {
            (Rounding::Nearest, false, false) => Some(case!(Nearest, false, false)),
            (Rounding::Nearest, true, false) => Some(case!(Nearest, true, false)),
            (Rounding::Nearest, false, true) => Some(case!(Nearest, false, true)),
            (Rounding::Nearest, true, true) => Some(case!(Nearest, true, true)),
            (Rounding::Zero, false, false) => Some(case!(Zero, false, false)),
            (Rounding::Zero, true, false) => Some(case!(Zero, true, false)),
            (Rounding::Down, false, false) => Some(case!(Down, false, false)),
            (Rounding::Down, true, false) => Some(case!(Down, true, false)),
            (Rounding::Up, false, false) => Some(case!(Up, false, false)),
            (Rounding::Up, true, false) => Some(case!(Up, true, false)),
            _ => None,
        }
    }};
}

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
        const N: Rounding = Rounding::Nearest;
        Ok(match (name, rest.len()) {
            ("neg", 1) => Op::L1 { f: double_fn!(|a| neg_f64(a)), d, a: long(0)? },
            ("abs", 1) => Op::L1 { f: double_fn!(|a| abs_f64(a)), d, a: long(0)? },
            ("fma" | "mad", 3) => {
                let f = double_fn!(|a, b, c| round::fma_f64(N, a, b, c));
                Op::L3 { f, d, a: long(0)?, b: long(1)?, c: long(2)? }
            }
            (_, 2) => {
                let f: Fn2<u64> = match name {
                    "add" => double_fn!(|a, b| round::add_f64(N, a, b)),
                    "sub" => double_fn!(|a, b| round::sub_f64(N, a, b)),
                    "mul" => double_fn!(|a, b| round::mul_f64(N, a, b)),
                    "div" => double_fn!(|a, b| round::div_f64(N, a, b)),
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

    fn logic(&self, inst: &Instruction, m: &mut Modifiers) -> Decoded {
        let name = inst.opcode.as_str();
        let ty = m.ty()?;
        let one = matches!(name, "not" | "cnot");
        self.count(inst, if one { 2 } else { 3 })?;
        let (d, a) = (&inst.operands[0], &inst.operands[1]);
        let b = inst.operands.get(2).unwrap_or(a);
        let bool_op = match name {
            "and" => BoolOp::And,
            "or" => BoolOp::Or,
            _ => BoolOp::Xor,
        };
        let op = match (ty, one) {
            (Type::Pred, true) if name == "not" => {
                Op::NotPred { d: self.dst_pred(d)?, a: self.pred(a)? }
            }
            (Type::Pred, false) => {
                Op::Pred { op: bool_op, d: self.dst_pred(d)?, a: self.pred(a)?, b: self.pred(b)? }
            }
            (Type::B64, true) => {
                let f = match name {
                    "not" => long_fn!(|a| !a),
                    _ => long_fn!(|a| b64::is_zero(a)),
                };
                Op::L1 { f, d: self.dst_long(d)?, a: self.long(a)? }
            }
            (Type::B64, false) => {
                let f = match name {
                    "and" => long_fn!(|a, b| a & b),
                    "or" => long_fn!(|a, b| a | b),
                    _ => long_fn!(|a, b| a ^ b),
                };
                Op::L2 { f, d: self.dst_long(d)?, a: self.long(a)?, b: self.long(b)? }
            }
            (Type::B16 | Type::B32, true) => {
                let is_half = ty == Type::B16;
                let f = match (name, is_half) {
                    ("not", true) => half_fn!(|a| !a),
                    ("not", false) => word_fn!(|a| !a),
                    (_, true) => half_fn!(|a| b16::is_zero(a)),
                    (_, false) => word_fn!(|a| b32::is_zero(a)),
                };
                let d = if is_half { self.dst_half(d)? } else { self.dst_word(d)? };
                Op::A1 { f, d, a: self.narrow(a, ty)? }
            }
            (Type::B16 | Type::B32, false) => {
                let f = match name {
                    "and" => word_fn!(|a, b| a & b),
                    "or" => word_fn!(|a, b| a | b),
                    _ => word_fn!(|a, b| a ^ b),
                };
                let d = if ty == Type::B16 { self.dst_half(d)? } else { self.dst_word(d)? };
                Op::A2 { f, d, a: self.narrow(a, ty)?, b: self.narrow(b, ty)? }
            }
            _ => return Err(not_implemented()),
        };
        Ok((op, Pipe::Integer))
    }

    fn shift(&self, inst: &Instruction, m: &mut Modifiers) -> Decoded {
        let ty = m.ty()?;
        self.count(inst, 3)?;
        let [d, a, b] = &inst.operands[..] else { return Err(not_implemented()) };
        let left = inst.opcode == "shl";
        let is_bits = matches!(ty, Type::B16 | Type::B32 | Type::B64);
        if ty.is_float() || left && !is_bits {
            return Err(not_implemented());
        }
        // A number as the count may be larger than what it is put into.
        let count = match b {
            Operand::Integer(n) => {
                crate::program::op::Src::Value(u32::try_from(*n).unwrap_or(u32::MAX))
            }
            register => self.word(register)?,
        };
        let op = match ty.bytes() {
            8 => {
                let f: Shift64 = match (left, ty.is_signed()) {
                    (true, _) => lane_fn!(|a: u64, n: u32| -> u64 { b64::shift_left(a, n) }),
                    (false, true) => {
                        lane_fn!(|a: u64, n: u32| -> u64 { b64::shift_right_signed(a, n) })
                    }
                    (false, false) => {
                        lane_fn!(|a: u64, n: u32| -> u64 { b64::shift_right_unsigned(a, n) })
                    }
                };
                Op::Shift64 { f, d: self.dst_long(d)?, a: self.long(a)?, b: count }
            }
            2 => {
                let f: Fn2<u32> = match (left, ty.is_signed()) {
                    (true, _) => {
                        lane_fn!(|a: u32, n: u32| -> u32 { b16::shift_left(a as u16, n).into() })
                    }
                    (false, true) => {
                        lane_fn!(|a: u32, n: u32| -> u32 {
                            b16::shift_right_signed(a as u16, n).into()
                        })
                    }
                    (false, false) => lane_fn!(|a: u32, n: u32| -> u32 {
                        b16::shift_right_unsigned(a as u16, n).into()
                    }),
                };
                Op::A2 { f, d: self.dst_half(d)?, a: self.half(a)?, b: count }
            }
            4 => {
                let f = match (left, ty.is_signed()) {
                    (true, _) => word_fn!(|a, n| b32::shift_left(a, n)),
                    (false, true) => word_fn!(|a, n| b32::shift_right_signed(a, n)),
                    (false, false) => word_fn!(|a, n| b32::shift_right_unsigned(a, n)),
                };
                Op::A2 { f, d: self.dst_word(d)?, a: self.word(a)?, b: count }
            }
            _ => return Err(not_implemented()),
        };
        Ok((op, Pipe::Integer))
    }

    fn bits(&self, inst: &Instruction, m: &mut Modifiers) -> Decoded {
        let name = inst.opcode.as_str();
        let amount = name == "bfind" && m.take("shiftamt");
        let (mut funnel, mut overflow) = (None, None);
        if name == "shf" {
            funnel = Some(m.one_of(&["l", "r"]).ok_or("a direction is needed")?);
            overflow = Some(m.one_of(&["wrap", "clamp"]).ok_or(".wrap or .clamp is needed")?);
        }
        let ty = m.ty()?;
        let is_typed = match name {
            "bfe" | "bfind" => !ty.is_float() && !matches!(ty, Type::B32 | Type::B64),
            _ => matches!(ty, Type::B32 | Type::B64),
        };
        if !is_typed {
            return Err(not_implemented());
        }
        let word = |i: usize| self.word(self.operand(inst, i)?);
        let d = self.operand(inst, 0)?;
        let op = match (name, ty.bytes()) {
            ("lop3", 4) => {
                self.count(inst, 5)?;
                let table = self.constant(&inst.operands[4])?;
                let table = u8::try_from(table).map_err(|_| format!("table {table}"))?;
                Op::Lop3 { table, d: self.dst_word(d)?, a: word(1)?, b: word(2)?, c: word(3)? }
            }
            ("prmt", 4) => {
                self.count(inst, 4)?;
                Op::Prmt { d: self.dst_word(d)?, a: word(1)?, b: word(2)?, c: word(3)? }
            }
            ("shf", 4) => {
                self.count(inst, 4)?;
                let f =
                    funnel_shift(funnel, overflow == Some("wrap")).ok_or_else(not_implemented)?;
                Op::A3 { f, d: self.dst_word(d)?, a: word(1)?, b: word(2)?, c: word(3)? }
            }
            ("bfe", 4) => {
                self.count(inst, 4)?;
                let f = match ty.is_signed() {
                    true => word_fn!(|a, start, n| field32::extract_signed(a, start, n)),
                    false => word_fn!(|a, start, n| field32::extract_unsigned(a, start, n)),
                };
                Op::A3 { f, d: self.dst_word(d)?, a: word(1)?, b: word(2)?, c: word(3)? }
            }
            ("bfi", 4) => {
                self.count(inst, 5)?;
                let (start, n) =
                    (self.constant(&inst.operands[3]), self.constant(&inst.operands[4]));
                let (Ok(start), Ok(n)) = (start, n) else { return Err(not_implemented()) };
                let packed = (start as u32 & 0xff) | (n as u32 & 0xff) << 8;
                let f = word_fn!(|a, b, packed| field32::insert(a, b, packed & 0xff, packed >> 8));
                let c = crate::program::op::Src::Value(packed);
                Op::A3 { f, d: self.dst_word(d)?, a: word(1)?, b: word(2)?, c }
            }
            ("bfind", 4) => {
                self.count(inst, 2)?;
                let f = match (ty.is_signed(), amount) {
                    (true, true) => word_fn!(|a| field32::find_signed(a, true)),
                    (true, false) => word_fn!(|a| field32::find_signed(a, false)),
                    (false, true) => word_fn!(|a| field32::find_unsigned(a, true)),
                    (false, false) => word_fn!(|a| field32::find_unsigned(a, false)),
                };
                Op::A1 { f, d: self.dst_word(d)?, a: word(1)? }
            }
            ("clz" | "popc" | "brev", 4) => {
                self.count(inst, 2)?;
                let f = match name {
                    "clz" => word_fn!(|a| field32::leading_zeros(a)),
                    "popc" => word_fn!(|a| field32::count_ones(a)),
                    _ => word_fn!(|a| field32::reverse(a)),
                };
                Op::A1 { f, d: self.dst_word(d)?, a: word(1)? }
            }
            ("clz" | "popc", 8) => {
                self.count(inst, 2)?;
                let f = match name {
                    "clz" => lane_fn!(|a: u64| -> u32 { field64::leading_zeros(a) }),
                    _ => lane_fn!(|a: u64| -> u32 { field64::count_ones(a) }),
                };
                let a = self.long(self.operand(inst, 1)?)?;
                Op::Narrow { f, d: self.dst_word(d)?, a }
            }
            _ => return Err(not_implemented()),
        };
        Ok((op, Pipe::Integer))
    }
}

fn word1(name: &str, ty: Type) -> Option<Fn1<u32>> {
    Some(match (name, ty) {
        ("neg", Type::S16) => half_fn!(|a| b16::neg(a)),
        ("abs", Type::S16) => half_fn!(|a| b16::abs(a)),
        ("neg", Type::S32) => word_fn!(|a| b32::neg(a)),
        ("abs", Type::S32) => word_fn!(|a| b32::abs(a)),
        _ => return None,
    })
}

fn long1(name: &str, ty: Type) -> Option<Fn1<u64>> {
    Some(match (name, ty) {
        ("neg", Type::S64) => long_fn!(|a| b64::neg(a)),
        ("abs", Type::S64) => long_fn!(|a| b64::abs(a)),
        _ => return None,
    })
}

fn word2(name: &str, ty: Type, high: bool, sat: bool) -> Option<Fn2<u32>> {
    let is_signed = ty.is_signed();
    Some(match (ty.bytes(), name, is_signed) {
        (2, "add", _) => half_fn!(|a, b| b16::add(a, b)),
        (2, "sub", _) => half_fn!(|a, b| b16::sub(a, b)),
        (2, "mul", _) if !high => half_fn!(|a, b| b16::mul_low(a, b)),
        (2, "mul", true) => half_fn!(|a, b| product16::high_signed(a, b)),
        (2, "mul", false) => half_fn!(|a, b| product16::high_unsigned(a, b)),
        (2, "min", true) => half_fn!(|a, b| b16::min_signed(a, b)),
        (2, "min", false) => half_fn!(|a, b| b16::min_unsigned(a, b)),
        (2, "max", true) => half_fn!(|a, b| b16::max_signed(a, b)),
        (2, "max", false) => half_fn!(|a, b| b16::max_unsigned(a, b)),
        (2, "div", true) => half_fn!(|a, b| b16::div_signed(a, b)),
        (2, "div", false) => half_fn!(|a, b| b16::div_unsigned(a, b)),
        (2, "rem", true) => half_fn!(|a, b| b16::rem_signed(a, b)),
        (2, "rem", false) => half_fn!(|a, b| b16::rem_unsigned(a, b)),
        (4, "add", _) if sat => word_fn!(|a, b| b32::add_saturating_signed(a, b)),
        (4, "sub", _) if sat => word_fn!(|a, b| b32::sub_saturating_signed(a, b)),
        (4, "add", _) => word_fn!(|a, b| b32::add(a, b)),
        (4, "sub", _) => word_fn!(|a, b| b32::sub(a, b)),
        (4, "mul", _) if !high => word_fn!(|a, b| b32::mul_low(a, b)),
        (4, "mul", true) => word_fn!(|a, b| product32::high_signed(a, b)),
        (4, "mul", false) => word_fn!(|a, b| product32::high_unsigned(a, b)),
        (4, "min", true) => word_fn!(|a, b| b32::min_signed(a, b)),
        (4, "min", false) => word_fn!(|a, b| b32::min_unsigned(a, b)),
        (4, "max", true) => word_fn!(|a, b| b32::max_signed(a, b)),
        (4, "max", false) => word_fn!(|a, b| b32::max_unsigned(a, b)),
        (4, "div", true) => word_fn!(|a, b| b32::div_signed(a, b)),
        (4, "div", false) => word_fn!(|a, b| b32::div_unsigned(a, b)),
        (4, "rem", true) => word_fn!(|a, b| b32::rem_signed(a, b)),
        (4, "rem", false) => word_fn!(|a, b| b32::rem_unsigned(a, b)),
        _ => return None,
    })
}

fn word3(ty: Type, high: bool) -> Option<Fn3<u32>> {
    Some(match (ty, high) {
        (Type::S16 | Type::U16, false) => half_fn!(|a, b, c| b16::add(b16::mul_low(a, b), c)),
        (Type::S32 | Type::U32, false) => word_fn!(|a, b, c| b32::add(b32::mul_low(a, b), c)),
        (Type::S32, true) => word_fn!(|a, b, c| b32::add(product32::high_signed(a, b), c)),
        (Type::U32, true) => word_fn!(|a, b, c| b32::add(product32::high_unsigned(a, b), c)),
        _ => return None,
    })
}

fn long2(name: &str, ty: Type, high: bool) -> Option<Fn2<u64>> {
    Some(match (name, ty.is_signed()) {
        ("add", _) => long_fn!(|a, b| b64::add(a, b)),
        ("sub", _) => long_fn!(|a, b| b64::sub(a, b)),
        ("mul", _) if !high => long_fn!(|a, b| b64::mul_low(a, b)),
        ("mul", true) => long_fn!(|a, b| product64::high_signed(a, b)),
        ("mul", false) => long_fn!(|a, b| product64::high_unsigned(a, b)),
        ("min", true) => long_fn!(|a, b| b64::min_signed(a, b)),
        ("min", false) => long_fn!(|a, b| b64::min_unsigned(a, b)),
        ("max", true) => long_fn!(|a, b| b64::max_signed(a, b)),
        ("max", false) => long_fn!(|a, b| b64::max_unsigned(a, b)),
        ("div", true) => long_fn!(|a, b| b64::div_signed(a, b)),
        ("div", false) => long_fn!(|a, b| b64::div_unsigned(a, b)),
        ("rem", true) => long_fn!(|a, b| b64::rem_signed(a, b)),
        ("rem", false) => long_fn!(|a, b| b64::rem_unsigned(a, b)),
        _ => return None,
    })
}

fn float2(name: &str, mode: Mode) -> Option<Fn2<u32>> {
    match name {
        "add" => by_mode!(mode, |M| float_fn!(|a, b| M.add(a, b))),
        "sub" => by_mode!(mode, |M| float_fn!(|a, b| M.sub(a, b))),
        "mul" => by_mode!(mode, |M| float_fn!(|a, b| M.mul(a, b))),
        "div" => by_mode!(mode, |M| float_fn!(|a, b| M.div(a, b))),
        _ => None,
    }
}

fn fused(mode: Mode) -> Option<Fn3<u32>> {
    by_mode!(mode, |M| float_fn!(|a, b, c| M.fma(a, b, c)))
}

fn least(is_min: bool, ftz: bool, nan: bool) -> Fn2<u32> {
    const fn of(which: Which, ftz: bool, nan: bool) -> MinMax {
        MinMax { which, ftz, nan, abs: false, xorsign: false }
    }
    macro_rules! case {
        ($which:ident, $ftz:literal, $nan:literal) => {{
            const HOW: MinMax = of(Which::$which, $ftz, $nan);
            float_fn!(|a, b| HOW.two_f32(a, b))
        }};
    }
    match (is_min, ftz, nan) {
        (true, false, false) => case!(Min, false, false),
        (true, false, true) => case!(Min, false, true),
        (true, true, false) => case!(Min, true, false),
        (true, true, true) => case!(Min, true, true),
        (false, false, false) => case!(Max, false, false),
        (false, false, true) => case!(Max, false, true),
        (false, true, false) => case!(Max, true, false),
        (false, true, true) => case!(Max, true, true),
    }
}

const BF16: HalfMode = HalfMode { format: Half::Bf16, ftz: false, sat: false, relu: false };
const F16: HalfMode = HalfMode { format: Half::F16, ftz: false, sat: false, relu: false };

/// A function of halves, done for both halves of a register. Of `.bf16` and `.f16` the upper one is not read.
macro_rules! pair_fn {
    (|$a:ident| $body:expr) => {
        register_fn!(|a| half::packed1(a, |$a| $body))
    };
    (|$a:ident, $b:ident| $body:expr) => {
        register_fn!(|a, b| half::packed2(a, b, |$a, $b| $body))
    };
    (|$a:ident, $b:ident, $c:ident| $body:expr) => {
        register_fn!(|a, b, c| half::packed3(a, b, c, |$a, $b, $c| $body))
    };
}

fn packed1(name: &str, is_bf16: bool) -> Option<Fn1<u32>> {
    Some(match (name, is_bf16) {
        ("neg", true) => pair_fn!(|a| BF16.neg(a)),
        ("neg", false) => pair_fn!(|a| F16.neg(a)),
        ("abs", true) => pair_fn!(|a| BF16.abs(a)),
        ("abs", false) => pair_fn!(|a| F16.abs(a)),
        _ => return None,
    })
}

fn packed2(name: &str, is_bf16: bool) -> Option<Fn2<u32>> {
    const fn choice(which: Which) -> MinMax {
        MinMax { which, ftz: false, nan: false, abs: false, xorsign: false }
    }
    const MIN: MinMax = choice(Which::Min);
    const MAX: MinMax = choice(Which::Max);
    Some(match (name, is_bf16) {
        ("add", true) => pair_fn!(|a, b| BF16.add(a, b)),
        ("add", false) => pair_fn!(|a, b| F16.add(a, b)),
        ("sub", true) => pair_fn!(|a, b| BF16.sub(a, b)),
        ("sub", false) => pair_fn!(|a, b| F16.sub(a, b)),
        ("mul", true) => pair_fn!(|a, b| BF16.mul(a, b)),
        ("mul", false) => pair_fn!(|a, b| F16.mul(a, b)),
        ("min", true) => pair_fn!(|a, b| BF16.min_max(MIN, a, b)),
        ("min", false) => pair_fn!(|a, b| F16.min_max(MIN, a, b)),
        ("max", true) => pair_fn!(|a, b| BF16.min_max(MAX, a, b)),
        ("max", false) => pair_fn!(|a, b| F16.min_max(MAX, a, b)),
        _ => return None,
    })
}

fn packed_fma(is_bf16: bool) -> Fn3<u32> {
    match is_bf16 {
        true => pair_fn!(|a, b, c| BF16.fma(a, b, c)),
        false => pair_fn!(|a, b, c| F16.fma(a, b, c)),
    }
}

fn funnel_shift(direction: Option<&str>, wraps: bool) -> Option<Fn3<u32>> {
    use integer::Overflow::{Clamp, Wrap};
    Some(match (direction?, wraps) {
        ("l", true) => word_fn!(|a, b, n| integer::funnel_shift_left(a, b, n, Wrap)),
        ("l", false) => word_fn!(|a, b, n| integer::funnel_shift_left(a, b, n, Clamp)),
        (_, true) => word_fn!(|a, b, n| integer::funnel_shift_right(a, b, n, Wrap)),
        (_, false) => word_fn!(|a, b, n| integer::funnel_shift_right(a, b, n, Clamp)),
    })
}
