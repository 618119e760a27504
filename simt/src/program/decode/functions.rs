//! Functions over the lanes of a warp, by the name and type of an instruction.

use crate::arith::convert::Half;
use crate::arith::half;
use crate::arith::integer::{self, b16, b32, b64, product16, product32, product64};
use crate::arith::minmax::{MinMax, Which};
use crate::arith::round::{Mode, Rounding};
use crate::program::lanes::{Fn1, Fn2, Fn3, lane_fn, register_fn};
use crate::ptx::ast::Type;

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
pub(super) use {double_fn, float_fn, half_fn, long_fn, word_fn};

pub fn word1(name: &str, ty: Type) -> Option<Fn1<u32>> {
    Some(match (name, ty) {
        ("neg", Type::S16) => half_fn!(|a| b16::neg(a)),
        ("abs", Type::S16) => half_fn!(|a| b16::abs(a)),
        ("neg", Type::S32) => word_fn!(|a| b32::neg(a)),
        ("abs", Type::S32) => word_fn!(|a| b32::abs(a)),
        _ => return None,
    })
}

pub fn long1(name: &str, ty: Type) -> Option<Fn1<u64>> {
    Some(match (name, ty) {
        ("neg", Type::S64) => long_fn!(|a| b64::neg(a)),
        ("abs", Type::S64) => long_fn!(|a| b64::abs(a)),
        _ => return None,
    })
}

pub fn word2(name: &str, ty: Type, high: bool, sat: bool) -> Option<Fn2<u32>> {
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
        (4, "add", _) if sat => word_fn!(|a, b| integer::add_saturating(a, b)),
        (4, "sub", _) if sat => word_fn!(|a, b| integer::sub_saturating(a, b)),
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

pub fn word3(ty: Type, high: bool) -> Option<Fn3<u32>> {
    Some(match (ty, high) {
        (Type::S16 | Type::U16, false) => half_fn!(|a, b, c| b16::add(b16::mul_low(a, b), c)),
        (Type::S32 | Type::U32, false) => word_fn!(|a, b, c| b32::add(b32::mul_low(a, b), c)),
        (Type::S32, true) => word_fn!(|a, b, c| b32::add(product32::high_signed(a, b), c)),
        (Type::U32, true) => word_fn!(|a, b, c| b32::add(product32::high_unsigned(a, b), c)),
        _ => return None,
    })
}

pub fn long2(name: &str, ty: Type, high: bool) -> Option<Fn2<u64>> {
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

pub fn float2(name: &str, mode: Mode) -> Option<Fn2<u32>> {
    match name {
        "add" => by_mode!(mode, |M| float_fn!(|a, b| M.add(a, b))),
        "sub" => by_mode!(mode, |M| float_fn!(|a, b| M.sub(a, b))),
        "mul" => by_mode!(mode, |M| float_fn!(|a, b| M.mul(a, b))),
        "div" => by_mode!(mode, |M| float_fn!(|a, b| M.div(a, b))),
        _ => None,
    }
}

pub fn fused(mode: Mode) -> Option<Fn3<u32>> {
    by_mode!(mode, |M| float_fn!(|a, b, c| M.fma(a, b, c)))
}

pub fn least(is_min: bool, ftz: bool, nan: bool) -> Fn2<u32> {
    const fn of(which: Which, ftz: bool, nan: bool) -> MinMax {
        MinMax { which, ftz, nan }
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

const BF16: Half = Half::Bf16;
const F16: Half = Half::F16;

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

pub fn packed1(name: &str, is_bf16: bool) -> Option<Fn1<u32>> {
    Some(match (name, is_bf16) {
        ("neg", true) => pair_fn!(|a| BF16.neg(a)),
        ("neg", false) => pair_fn!(|a| F16.neg(a)),
        ("abs", true) => pair_fn!(|a| BF16.abs(a)),
        ("abs", false) => pair_fn!(|a| F16.abs(a)),
        _ => return None,
    })
}

pub fn packed2(name: &str, is_bf16: bool) -> Option<Fn2<u32>> {
    Some(match (name, is_bf16) {
        ("add", true) => pair_fn!(|a, b| BF16.add(a, b)),
        ("add", false) => pair_fn!(|a, b| F16.add(a, b)),
        ("sub", true) => pair_fn!(|a, b| BF16.sub(a, b)),
        ("sub", false) => pair_fn!(|a, b| F16.sub(a, b)),
        ("mul", true) => pair_fn!(|a, b| BF16.mul(a, b)),
        ("mul", false) => pair_fn!(|a, b| F16.mul(a, b)),
        ("min", true) => pair_fn!(|a, b| BF16.min_max(Which::Min, a, b)),
        ("min", false) => pair_fn!(|a, b| F16.min_max(Which::Min, a, b)),
        ("max", true) => pair_fn!(|a, b| BF16.min_max(Which::Max, a, b)),
        ("max", false) => pair_fn!(|a, b| F16.min_max(Which::Max, a, b)),
        _ => return None,
    })
}

pub fn packed_fma(is_bf16: bool) -> Fn3<u32> {
    match is_bf16 {
        true => pair_fn!(|a, b, c| BF16.fma(a, b, c)),
        false => pair_fn!(|a, b, c| F16.fma(a, b, c)),
    }
}
