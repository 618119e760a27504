//! Logic, shifts and bit fields (9.7.1, 9.7.8).

use super::functions::{half_fn, long_fn, word_fn};
use super::modifiers::Modifiers;
use super::{Decoded, Decoder, not_implemented};
use crate::arith::integer::{self, b16, b32, b64, field32, field64};
use crate::program::lanes::{Fn2, Fn3, Shift64, lane_fn};
use crate::program::op::{BoolOp, Op, Pipe};
use crate::ptx::ast::{Instruction, Operand, Type};

impl Decoder<'_> {
    pub(super) fn logic(&self, inst: &Instruction, m: &mut Modifiers) -> Decoded {
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

    pub(super) fn shift(&self, inst: &Instruction, m: &mut Modifiers) -> Decoded {
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

    pub(super) fn bits(&self, inst: &Instruction, m: &mut Modifiers) -> Decoded {
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

fn funnel_shift(direction: Option<&str>, wraps: bool) -> Option<Fn3<u32>> {
    use integer::Overflow::{Clamp, Wrap};
    Some(match (direction?, wraps) {
        ("l", true) => word_fn!(|a, b, n| integer::funnel_shift_left(a, b, n, Wrap)),
        ("l", false) => word_fn!(|a, b, n| integer::funnel_shift_left(a, b, n, Clamp)),
        (_, true) => word_fn!(|a, b, n| integer::funnel_shift_right(a, b, n, Wrap)),
        (_, false) => word_fn!(|a, b, n| integer::funnel_shift_right(a, b, n, Clamp)),
    })
}
