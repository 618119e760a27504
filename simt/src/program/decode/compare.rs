//! `setp` and `set` (9.7.6, 9.7.8): comparisons of numbers of every type.

use super::modifiers::Modifiers;
use super::{Decoded, Decoder, not_implemented};
use crate::program::lanes::{Compare32, Compare64, lane_test};
use crate::program::op::{Op, Pipe};
use crate::ptx::ast::{Instruction, Operand, Type};

const COMPARISONS: &[&str] = &[
    "eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu", "leu", "gtu",
    "geu", "num", "nan",
];

impl Decoder<'_> {
    pub(super) fn setp(&mut self, inst: &Instruction, m: &mut Modifiers) -> Decoded {
        let comparison = m.one_of(COMPARISONS).ok_or("a comparison is needed")?;
        let ftz = m.take("ftz");
        let ty = m.ty()?;
        if ftz && ty != Type::F32 {
            return Err(not_implemented());
        }
        let combine = m.bool_op();
        let n = if combine.is_some() { 4 } else { 3 };
        self.count(inst, n)?;
        let (a, b) = (&inst.operands[1], &inst.operands[2]);
        let with = match combine {
            Some(op) => Some((op, self.pred(&inst.operands[3])?)),
            None => None,
        };
        let pipe = if ty.is_float() { Pipe::Fma } else { Pipe::Integer };
        if inst.opcode == "set" {
            let yes = match m.ty()? {
                Type::F32 => 1f32.to_bits(),
                Type::U32 | Type::S32 => u32::MAX,
                _ => return Err(not_implemented()),
            };
            let f = compare32(comparison, ty, ftz).ok_or_else(not_implemented)?;
            if with.is_some() {
                return Err(not_implemented());
            }
            let (a, b) = (self.narrow(a, ty)?, self.narrow(b, ty)?);
            let d = self.dst_word(&inst.operands[0])?;
            return Ok((Op::Set { f, d, yes, a, b }, pipe));
        }
        let (d, inverse) = match &inst.operands[0] {
            Operand::Pair(p, q) => {
                let of = |o: &Operand| match o {
                    Operand::Sink => Ok(None),
                    o => self.dst_pred(o).map(Some),
                };
                (of(p)?, of(q)?)
            }
            one => (Some(self.dst_pred(one)?), None),
        };
        // Without the first result the second is written over it.
        let d = d.or(inverse).ok_or("one of two results is needed")?;
        if ty.bytes() == 8 {
            let f = compare64(comparison, ty).ok_or_else(not_implemented)?;
            let (a, b) = (self.long(a)?, self.long(b)?);
            return Ok((Op::Setp64 { f, d, inverse, a, b, with }, pipe));
        }
        let f = compare32(comparison, ty, ftz).ok_or_else(not_implemented)?;
        let (a, b) = (self.narrow(a, ty)?, self.narrow(b, ty)?);
        Ok((Op::Setp { f, d, inverse, a, b, with }, pipe))
    }
}

/// Six comparisons by the words of a type.
macro_rules! ordered {
    ($name:expr, $bits:ty, $of:expr) => {
        match $name {
            "eq" => lane_test!(|a: $bits, b: $bits| $of(a) == $of(b)),
            "ne" => lane_test!(|a: $bits, b: $bits| $of(a) != $of(b)),
            "lt" | "lo" => lane_test!(|a: $bits, b: $bits| $of(a) < $of(b)),
            "le" | "ls" => lane_test!(|a: $bits, b: $bits| $of(a) <= $of(b)),
            "gt" | "hi" => lane_test!(|a: $bits, b: $bits| $of(a) > $of(b)),
            "ge" | "hs" => lane_test!(|a: $bits, b: $bits| $of(a) >= $of(b)),
            _ => return None,
        }
    };
}

/// Those of floating point. `ne` is ordered as well: false for NaN; the forms with `u` are true for NaN.
macro_rules! floating {
    ($name:expr, $bits:ty, $of:expr) => {
        match $name {
            "eq" => lane_test!(|a: $bits, b: $bits| $of(a) == $of(b)),
            "ne" => lane_test!(|a: $bits, b: $bits| ($of(a) < $of(b)) | ($of(a) > $of(b))),
            "lt" => lane_test!(|a: $bits, b: $bits| $of(a) < $of(b)),
            "le" => lane_test!(|a: $bits, b: $bits| $of(a) <= $of(b)),
            "gt" => lane_test!(|a: $bits, b: $bits| $of(a) > $of(b)),
            "ge" => lane_test!(|a: $bits, b: $bits| $of(a) >= $of(b)),
            "equ" => {
                lane_test!(|a: $bits, b: $bits| ($of(a) == $of(b)) | unordered($of(a), $of(b)))
            }
            "neu" => lane_test!(|a: $bits, b: $bits| $of(a) != $of(b)),
            "ltu" => lane_test!(|a: $bits, b: $bits| ($of(a) < $of(b)) | unordered($of(a), $of(b))),
            "leu" => {
                lane_test!(|a: $bits, b: $bits| ($of(a) <= $of(b)) | unordered($of(a), $of(b)))
            }
            "gtu" => lane_test!(|a: $bits, b: $bits| ($of(a) > $of(b)) | unordered($of(a), $of(b))),
            "geu" => {
                lane_test!(|a: $bits, b: $bits| ($of(a) >= $of(b)) | unordered($of(a), $of(b)))
            }
            "num" => lane_test!(|a: $bits, b: $bits| !unordered($of(a), $of(b))),
            "nan" => lane_test!(|a: $bits, b: $bits| unordered($of(a), $of(b))),
            _ => return None,
        }
    };
}

fn signed16(a: u32) -> i16 {
    a as i16
}

fn unsigned16(a: u32) -> u16 {
    a as u16
}

fn signed(a: u32) -> i32 {
    a as i32
}

fn unsigned(a: u32) -> u32 {
    a
}

fn signed64(a: u64) -> i64 {
    a as i64
}

fn unsigned64(a: u64) -> u64 {
    a
}

/// Whether one of two numbers is NaN.
fn unordered<T: PartialOrd>(a: T, b: T) -> bool {
    a.partial_cmp(&b).is_none()
}

/// A subnormal counts as zero under `.ftz`.
fn flushed(a: u32) -> f32 {
    let kept = if a & 0x7f80_0000 == 0 { a & 0x8000_0000 } else { a };
    f32::from_bits(kept)
}

fn compare32(name: &str, ty: Type, ftz: bool) -> Option<Compare32> {
    let is_unsigned_word = matches!(name, "lo" | "ls" | "hi" | "hs");
    Some(match ty {
        Type::F32 if ftz => floating!(name, u32, flushed),
        Type::F32 => floating!(name, u32, f32::from_bits),
        Type::B16 | Type::B32 if !matches!(name, "eq" | "ne") => return None,
        Type::S16 | Type::S32 if is_unsigned_word => return None,
        Type::S16 => ordered!(name, u32, signed16),
        Type::U16 | Type::B16 => ordered!(name, u32, unsigned16),
        Type::S32 => ordered!(name, u32, signed),
        Type::U32 | Type::B32 => ordered!(name, u32, unsigned),
        _ => return None,
    })
}

fn compare64(name: &str, ty: Type) -> Option<Compare64> {
    let is_unsigned_word = matches!(name, "lo" | "ls" | "hi" | "hs");
    Some(match ty {
        Type::B64 if !matches!(name, "eq" | "ne") => return None,
        Type::S64 if is_unsigned_word => return None,
        Type::S64 => ordered!(name, u64, signed64),
        Type::U64 | Type::B64 => ordered!(name, u64, unsigned64),
        Type::F64 => floating!(name, u64, f64::from_bits),
        _ => return None,
    })
}
