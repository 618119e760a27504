//! `cvt` (9.7.9): between integers, between floats, and from one to the other.

use super::arithmetic::needed_rounding;
use super::modifiers::Modifiers;
use super::{Decoded, Decoder, not_implemented};
use crate::arith::convert::{
    self, Half, Tf32Rounding, f32_to_f64, f32_to_tf32, f64_to_f32, integral_f32, relu_f32,
};
use crate::arith::convert_int::{IntType, f32_to_int, int_to_f32, int_to_int};
use crate::arith::round::{Rounding, ftz, saturate};
use crate::program::lanes::{Fn1, Fn2, Mix32To64, Mix64To32, lane_fn};
use crate::program::op::{Dst, Op, Pipe, Src};
use crate::ptx::ast::{Instruction, Operand, Type};

impl Decoder<'_> {
    pub(super) fn cvt(&mut self, inst: &Instruction, m: &mut Modifiers) -> Decoded {
        if m.take("pack") {
            return Err(not_implemented());
        }
        if m.take("tf32") {
            return self.to_tf32(inst, m);
        }
        let (from, to) = (m.ty()?, m.ty()?);
        if matches!(to, Type::Bf16x2 | Type::F16x2) {
            return self.pack_halves(inst, m, to, from);
        }
        self.count(inst, 2)?;
        let (d, a) = (&inst.operands[0], &inst.operands[1]);
        let pipe = Pipe::Convert;
        match (from.is_float(), to.is_float()) {
            (false, false) => {
                if m.take("sat") {
                    return Err(not_implemented());
                }
                Ok((self.integers(d, a, from, to)?, Pipe::Integer))
            }
            (false, true) => {
                let how = needed_rounding(m)?;
                let (Some(int), Type::F32) = (int_type(from), to) else {
                    return Err(not_implemented());
                };
                let d = self.dst_word(d)?;
                let op = match from.bytes() {
                    8 => Op::Narrow { f: float_of_long(how, int), d, a: self.long(a)? },
                    _ => {
                        Op::A1 { f: float_of_word(how, int), d, a: self.narrow_register(a, from)? }
                    }
                };
                Ok((op, pipe))
            }
            (true, false) => {
                let how = match m.one_of(&["rni", "rzi", "rmi", "rpi"]) {
                    Some("rni") => Rounding::Nearest,
                    Some("rzi") => Rounding::Zero,
                    Some("rmi") => Rounding::Down,
                    Some(_) => Rounding::Up,
                    None => return Err("a rounding to whole numbers is needed".into()),
                };
                let flush = m.take("ftz");
                // Conversions to whole numbers saturate anyway.
                m.ignore(&["sat"]);
                let (Type::F32, Some(int)) = (from, int_type(to)) else {
                    return Err(not_implemented());
                };
                let a = self.word(a)?;
                // A subnormal number rounds to what zero does, unless it is rounded away from it.
                if flush && matches!(how, Rounding::Down | Rounding::Up) {
                    return Err(not_implemented());
                }
                let op = match (to.bytes(), self.dst(d)?) {
                    (8, Dst::Long(d)) => Op::Widen { f: long_of_float(how, int), d, a },
                    (1 | 2, Dst::Half(d)) => Op::A1 { f: word_of_float(how, int), d, a },
                    (4, Dst::Word(d)) => Op::A1 { f: word_of_float(how, int), d, a },
                    _ => return Err(not_implemented()),
                };
                Ok((op, pipe))
            }
            (true, true) => Ok((self.floats(d, a, from, to, m)?, pipe)),
        }
    }

    /// A register of 16 or 32 bits, which has room for the type.
    fn narrow_register(&self, operand: &Operand, ty: Type) -> Result<Src, String> {
        if ty.bytes() <= 2 && self.is_half(operand) {
            self.half(operand)
        } else {
            self.word(operand)
        }
    }

    fn integers(&self, d: &Operand, a: &Operand, from: Type, to: Type) -> Result<Op, String> {
        let (Some(source), Some(target)) = (int_type(from), int_type(to)) else {
            return Err(not_implemented());
        };
        let to_register = self.dst(d)?;
        let room = match to_register {
            Dst::Half(_) => 2,
            Dst::Word(_) => 4,
            Dst::Long(_) | Dst::Sink => 8,
        };
        if to.bytes() > room {
            return Err(format!("a register of {} bits for a .{to}", 8 * room));
        }
        Ok(match (from.bytes(), to_register) {
            (8, Dst::Long(d)) => Op::L1 { f: long_of_long(target), d, a: self.long(a)? },
            (8, Dst::Word(d) | Dst::Half(d)) => {
                Op::Narrow { f: word_of_long(target), d, a: self.long(a)? }
            }
            (_, Dst::Long(d)) => {
                Op::Widen { f: long_of_word(source, target), d, a: self.narrow_register(a, from)? }
            }
            (_, Dst::Word(d)) => Op::A1 {
                f: word_of_word(source, target, false),
                d,
                a: self.narrow_register(a, from)?,
            },
            (_, Dst::Half(d)) => Op::A1 {
                f: word_of_word(source, target, true),
                d,
                a: self.narrow_register(a, from)?,
            },
            _ => return Err(not_implemented()),
        })
    }

    fn floats(
        &self,
        d: &Operand,
        a: &Operand,
        from: Type,
        to: Type,
        m: &mut Modifiers,
    ) -> Result<Op, String> {
        let (flush, sat) = (m.take("ftz"), m.take("sat"));
        let integral = m.one_of(&["rni", "rzi", "rmi", "rpi"]);
        let is_narrower = to.bytes() < from.bytes();
        let how = if is_narrower { needed_rounding(m)? } else { Rounding::Nearest };
        Ok(match (from, to) {
            (Type::F32, Type::F32) => {
                let f: Fn1<u32> = match (integral, sat, flush) {
                    (None, true, false) => {
                        lane_fn!(|a: u32| -> u32 { saturate(f32::from_bits(a)).to_bits() })
                    }
                    (None, true, true) => {
                        lane_fn!(|a: u32| -> u32 { saturate(ftz(f32::from_bits(a))).to_bits() })
                    }
                    (None, false, true) => {
                        lane_fn!(|a: u32| -> u32 { ftz(f32::from_bits(a)).to_bits() })
                    }
                    (Some(how), false, false) => match how {
                        "rni" => integral_fn(Rounding::Nearest),
                        "rzi" => integral_fn(Rounding::Zero),
                        "rmi" => integral_fn(Rounding::Down),
                        _ => integral_fn(Rounding::Up),
                    },
                    _ => return Err(not_implemented()),
                };
                Op::A1 { f, d: self.dst_word(d)?, a: self.word(a)? }
            }
            (Type::F32, Type::Bf16 | Type::F16) if integral.is_none() && !sat && !flush => {
                let f: Fn1<u32> = match (to, how) {
                    (Type::Bf16, Rounding::Nearest) => narrow_fn!(Bf16, Nearest),
                    (Type::Bf16, Rounding::Zero) => narrow_fn!(Bf16, Zero),
                    (Type::F16, Rounding::Nearest) => narrow_fn!(F16, Nearest),
                    (Type::F16, Rounding::Zero) => narrow_fn!(F16, Zero),
                    _ => return Err(not_implemented()),
                };
                Op::A1 { f, d: self.dst_half(d)?, a: self.word(a)? }
            }
            (Type::Bf16 | Type::F16, Type::F32) if integral.is_none() && !sat && !flush => {
                let f: Fn1<u32> = match from {
                    Type::Bf16 => {
                        lane_fn!(|a: u32| -> u32 { Half::Bf16.widen(a as u16).to_bits() })
                    }
                    _ => lane_fn!(|a: u32| -> u32 { Half::F16.widen(a as u16).to_bits() }),
                };
                Op::A1 { f, d: self.dst_word(d)?, a: self.half(a)? }
            }
            (Type::F32, Type::F64) if integral.is_none() && !sat && !flush => Op::Widen {
                f: lane_fn!(|a: u32| -> u64 { f32_to_f64(f32::from_bits(a)).to_bits() }),
                d: self.dst_long(d)?,
                a: self.word(a)?,
            },
            (Type::F64, Type::F32) if integral.is_none() && !sat && !flush => {
                if how != Rounding::Nearest {
                    return Err(not_implemented());
                }
                let f: Mix64To32 =
                    lane_fn!(|a: u64| -> u32 { f64_to_f32(f64::from_bits(a)).to_bits() });
                Op::Narrow { f, d: self.dst_word(d)?, a: self.long(a)? }
            }
            _ => return Err(not_implemented()),
        })
    }

    /// `cvt.rn.bf16x2.f32 d, a, b`: `a` becomes the upper half.
    fn pack_halves(&self, inst: &Instruction, m: &mut Modifiers, to: Type, from: Type) -> Decoded {
        self.count(inst, 3)?;
        let how = needed_rounding(m)?;
        let relu = m.take("relu");
        if from != Type::F32 {
            return Err(not_implemented());
        }
        let f: Fn2<u32> = match (to, how, relu) {
            (Type::Bf16x2, Rounding::Nearest, false) => pack_fn!(Bf16, Nearest, |x| x),
            (Type::Bf16x2, Rounding::Nearest, true) => pack_fn!(Bf16, Nearest, |x| relu_f32(x)),
            (Type::Bf16x2, Rounding::Zero, false) => pack_fn!(Bf16, Zero, |x| x),
            (Type::F16x2, Rounding::Nearest, false) => pack_fn!(F16, Nearest, |x| x),
            (Type::F16x2, Rounding::Nearest, true) => pack_fn!(F16, Nearest, |x| relu_f32(x)),
            (Type::F16x2, Rounding::Zero, false) => pack_fn!(F16, Zero, |x| x),
            _ => return Err(not_implemented()),
        };
        let (a, b) = (self.word(&inst.operands[1])?, self.word(&inst.operands[2])?);
        Ok((Op::A2 { f, d: self.dst_word(&inst.operands[0])?, a, b }, Pipe::Convert))
    }

    fn to_tf32(&self, inst: &Instruction, m: &mut Modifiers) -> Decoded {
        self.count(inst, 2)?;
        if m.ty()? != Type::F32 {
            return Err(not_implemented());
        }
        let f: Fn1<u32> = match m.one_of(&["rna", "rn", "rz"]) {
            Some("rna") => tf32_fn!(NearestAway),
            Some("rn") => tf32_fn!(Nearest),
            Some(_) => tf32_fn!(Zero),
            None => return Err("a rounding is needed".into()),
        };
        let (d, a) = (self.dst_word(&inst.operands[0])?, self.word(&inst.operands[1])?);
        Ok((Op::A1 { f, d, a }, Pipe::Convert))
    }
}

macro_rules! narrow_fn {
    ($format:ident, $rounding:ident) => {
        lane_fn!(|a: u32| -> u32 {
            Half::$format.narrow(Rounding::$rounding, f32::from_bits(a)).into()
        })
    };
}
use narrow_fn;

macro_rules! pack_fn {
    ($format:ident, $rounding:ident, |$x:ident| $before:expr) => {
        lane_fn!(|a: u32, b: u32| -> u32 {
            let of = |bits: u32| {
                let $x = f32::from_bits(bits);
                Half::$format.narrow(Rounding::$rounding, $before)
            };
            convert::pack(of(a), of(b))
        })
    };
}
use pack_fn;

macro_rules! tf32_fn {
    ($rounding:ident) => {
        lane_fn!(|a: u32| -> u32 { f32_to_tf32(Tf32Rounding::$rounding, f32::from_bits(a)) })
    };
}
use tf32_fn;

fn int_type(ty: Type) -> Option<IntType> {
    Some(match ty {
        Type::U8 | Type::B8 => IntType::U8,
        Type::S8 => IntType::S8,
        Type::U16 | Type::B16 => IntType::U16,
        Type::S16 => IntType::S16,
        Type::U32 | Type::B32 => IntType::U32,
        Type::S32 => IntType::S32,
        Type::U64 | Type::B64 => IntType::U64,
        Type::S64 => IntType::S64,
        _ => return None,
    })
}

/// The expression with `$t` for the constant that is the value of `$of`.
macro_rules! by_int {
    ($of:expr, |$t:ident| $make:expr) => {{
        macro_rules! case {
            ($which:ident) => {{
                const $t: IntType = IntType::$which;
                $make
            }};
        }
        match $of {
            IntType::U8 => case!(U8),
            IntType::S8 => case!(S8),
            IntType::U16 => case!(U16),
            IntType::S16 => case!(S16),
            IntType::U32 => case!(U32),
            IntType::S32 => case!(S32),
            IntType::U64 => case!(U64),
            IntType::S64 => case!(S64),
        }
    }};
}

macro_rules! by_rounding {
    ($of:expr, |$r:ident| $make:expr) => {{
        macro_rules! case {
            ($which:ident) => {{
                const $r: Rounding = Rounding::$which;
                $make
            }};
        }
        match $of {
            Rounding::Nearest => case!(Nearest),
            Rounding::Zero => case!(Zero),
            Rounding::Down => case!(Down),
            Rounding::Up => case!(Up),
        }
    }};
}

fn integral_fn(how: Rounding) -> Fn1<u32> {
    by_rounding!(how, |R| lane_fn!(|a: u32| -> u32 {
        integral_f32(R, f32::from_bits(a)).to_bits()
    }))
}

fn long_of_long(to: IntType) -> crate::program::lanes::Fn1<u64> {
    by_int!(to, |T| lane_fn!(|a: u64| -> u64 { int_to_int(a, IntType::U64, T) }))
}

/// To a register of 32 bits, extended there as the type says; the executor keeps 16 bits of a smaller one.
fn word_of_long(to: IntType) -> Mix64To32 {
    by_int!(to, |T| lane_fn!(|a: u64| -> u32 { int_to_int(a, IntType::U64, T) as u32 }))
}

fn long_of_word(from: IntType, to: IntType) -> Mix32To64 {
    by_int!(from, |F| by_int_long!(to, F))
}

macro_rules! by_int_long {
    ($to:expr, $from:ident) => {
        match $to {
            IntType::U64 | IntType::S64 => {
                lane_fn!(|a: u32| -> u64 { int_to_int(a.into(), $from, IntType::U64) })
            }
            IntType::U32 => {
                lane_fn!(|a: u32| -> u64 { int_to_int(a.into(), $from, IntType::U32) })
            }
            IntType::S32 => {
                lane_fn!(|a: u32| -> u64 { int_to_int(a.into(), $from, IntType::S32) })
            }
            IntType::U16 => {
                lane_fn!(|a: u32| -> u64 { int_to_int(a.into(), $from, IntType::U16) })
            }
            IntType::S16 => {
                lane_fn!(|a: u32| -> u64 { int_to_int(a.into(), $from, IntType::S16) })
            }
            IntType::U8 => {
                lane_fn!(|a: u32| -> u64 { int_to_int(a.into(), $from, IntType::U8) })
            }
            IntType::S8 => {
                lane_fn!(|a: u32| -> u64 { int_to_int(a.into(), $from, IntType::S8) })
            }
        }
    };
}
use by_int_long;

/// To a register of 32 bits, or of 16 whose upper half stays zero.
fn word_of_word(from: IntType, to: IntType, is_half: bool) -> Fn1<u32> {
    let keep = match (is_half, to) {
        (true, IntType::S8) => 2,
        (true, IntType::U8) => 1,
        (true, _) => 0,
        (false, IntType::U8) => 1,
        (false, IntType::S8) => 3,
        (false, IntType::U16) => 0,
        (false, IntType::S16) => 4,
        (false, _) => 5,
    };
    by_int!(from, |F| match keep {
        0 => lane_fn!(|a: u32| -> u32 { F.extend(a.into()) as u32 & 0xffff }),
        1 => lane_fn!(|a: u32| -> u32 { a & 0xff }),
        2 => lane_fn!(|a: u32| -> u32 { a as i8 as u32 & 0xffff }),
        3 => lane_fn!(|a: u32| -> u32 { a as i8 as u32 }),
        4 => lane_fn!(|a: u32| -> u32 { F.extend(a.into()) as i16 as u32 }),
        _ => lane_fn!(|a: u32| -> u32 { F.extend(a.into()) as u32 }),
    })
}

fn float_of_word(how: Rounding, from: IntType) -> Fn1<u32> {
    by_rounding!(how, |R| float_of!(from, R, u32))
}

fn float_of_long(how: Rounding, from: IntType) -> Mix64To32 {
    by_rounding!(how, |R| float_of!(from, R, u64))
}

macro_rules! float_of {
    ($from:expr, $r:ident, $word:ty) => {
        match $from {
            IntType::U8 => float_case!(U8, $r, $word),
            IntType::S8 => float_case!(S8, $r, $word),
            IntType::U16 => float_case!(U16, $r, $word),
            IntType::S16 => float_case!(S16, $r, $word),
            IntType::U32 => float_case!(U32, $r, $word),
            IntType::S32 => float_case!(S32, $r, $word),
            IntType::U64 => float_case!(U64, $r, $word),
            IntType::S64 => float_case!(S64, $r, $word),
        }
    };
}
use float_of;

macro_rules! float_case {
    ($t:ident, $r:ident, $word:ty) => {
        lane_fn!(|a: $word| -> u32 { int_to_f32($r, a as u64, IntType::$t).to_bits() })
    };
}
use float_case;

fn word_of_float(how: Rounding, to: IntType) -> Fn1<u32> {
    by_rounding!(how, |R| match to {
        IntType::U8 => lane_fn!(|a: u32| -> u32 {
            f32_to_int(R, f32::from_bits(a), IntType::U8) as u32 & 0xff
        }),
        IntType::S8 => lane_fn!(|a: u32| -> u32 {
            f32_to_int(R, f32::from_bits(a), IntType::S8) as u32 & 0xffff
        }),
        IntType::U16 => lane_fn!(|a: u32| -> u32 {
            f32_to_int(R, f32::from_bits(a), IntType::U16) as u32 & 0xffff
        }),
        IntType::S16 => lane_fn!(|a: u32| -> u32 {
            f32_to_int(R, f32::from_bits(a), IntType::S16) as u32 & 0xffff
        }),
        IntType::S32 =>
            lane_fn!(|a: u32| -> u32 { f32_to_int(R, f32::from_bits(a), IntType::S32) as u32 }),
        _ => lane_fn!(|a: u32| -> u32 { f32_to_int(R, f32::from_bits(a), IntType::U32) as u32 }),
    })
}

fn long_of_float(how: Rounding, to: IntType) -> Mix32To64 {
    by_rounding!(how, |R| match to {
        IntType::S64 =>
            lane_fn!(|a: u32| -> u64 { f32_to_int(R, f32::from_bits(a), IntType::S64) }),
        _ => lane_fn!(|a: u32| -> u64 { f32_to_int(R, f32::from_bits(a), IntType::U64) }),
    })
}
