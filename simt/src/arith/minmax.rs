//! The least and the greatest of two or three numbers, signs, and tests of one number.

use super::round::{canonical, ftz, quiet};

/// `min` or `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Which {
    /// `min`.
    Min,
    /// `max`.
    Max,
}

/// A `min` or `max` of floating-point numbers with its modifiers (9.7.3.11, 9.7.3.12, 9.7.4.7, 9.7.4.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MinMax {
    /// `min` or `max`.
    pub which: Which,
    /// `.ftz`.
    pub ftz: bool,
    /// `.NaN`: the result is NaN if an operand is, not only if all are.
    pub nan: bool,
    /// `.abs`: magnitudes are compared.
    pub abs: bool,
    /// `.xorsign`: the result's sign is the exclusive or of the signs of two operands. It comes with `.abs`.
    pub xorsign: bool,
}

impl MinMax {
    /// `-0` is less than `+0`: "if values of both inputs are 0.0, then +0.0 > -0.0".
    #[inline(always)]
    fn choose_f32(self, a: f32, b: f32) -> f32 {
        let a_is_less = (a < b) | ((a == b) & a.is_sign_negative());
        let chosen = if a_is_less == (self.which == Which::Min) { a } else { b };
        let is_nan = a.is_nan() | b.is_nan();
        let number = if a.is_nan() { b } else { a };
        let with_nan = if self.nan { f32::NAN } else { number };
        if is_nan { with_nan } else { chosen }
    }

    #[inline(always)]
    fn operand(self, x: f32) -> f32 {
        let x = if self.ftz { ftz(x) } else { x };
        if self.abs { x.abs() } else { x }
    }

    /// `min.f32`, `max.f32` of two.
    #[inline(always)]
    pub fn two_f32(self, a: f32, b: f32) -> f32 {
        let sign = (a.to_bits() ^ b.to_bits()) & 1 << 31;
        let chosen = canonical(self.choose_f32(self.operand(a), self.operand(b)));
        if self.xorsign && !chosen.is_nan() {
            f32::from_bits(chosen.to_bits() & !(1 << 31) | sign)
        } else {
            chosen
        }
    }

    /// `min.f32`, `max.f32` of three. They have no `.xorsign`.
    #[inline(always)]
    pub fn three_f32(self, a: f32, b: f32, c: f32) -> f32 {
        let first = self.choose_f32(self.operand(a), self.operand(b));
        canonical(self.choose_f32(first, self.operand(c)))
    }
}

/// `min.f64`, `max.f64` (9.7.3.11, 9.7.3.12). If both are NaN, the first, quiet.
#[inline(always)]
pub fn min_max_f64(which: Which, a: f64, b: f64) -> f64 {
    let a_is_less = a < b || (a == b && a.is_sign_negative());
    let chosen = if a_is_less == (which == Which::Min) { a } else { b };
    match (a.is_nan(), b.is_nan()) {
        (false, false) => chosen,
        (true, false) => b,
        (false, true) => a,
        (true, true) => quiet(a),
    }
}

/// `abs.f32` (9.7.3.9). NaN becomes the canonical one, as in all of single precision.
#[inline(always)]
pub fn abs_f32(a: f32) -> f32 {
    canonical(a.abs())
}

/// `neg.f32` (9.7.3.10). NaN becomes the canonical one, as in all of single precision.
#[inline(always)]
pub fn neg_f32(a: f32) -> f32 {
    canonical(-a)
}

/// `abs.f64` (9.7.3.9): only the sign changes, of NaN, too.
#[inline(always)]
pub fn abs_f64(a: f64) -> f64 {
    f64::from_bits(a.to_bits() & !(1 << 63))
}

/// `neg.f64` (9.7.3.10): only the sign changes, of NaN, too.
#[inline(always)]
pub fn neg_f64(a: f64) -> f64 {
    f64::from_bits(a.to_bits() ^ 1 << 63)
}

/// `copysign.f32 d, a, b` (9.7.3.2): the sign of `a`, the rest of `b`, of bits.
#[inline(always)]
pub fn copysign_f32(a: u32, b: u32) -> u32 {
    a & 1 << 31 | b & !(1 << 31)
}

/// `copysign.f64 d, a, b` (9.7.3.2).
#[inline(always)]
pub fn copysign_f64(a: u64, b: u64) -> u64 {
    a & 1 << 63 | b & !(1 << 63)
}

/// What `testp` asks (9.7.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Property {
    /// Neither infinite nor NaN.
    Finite,
    /// Infinite.
    Infinite,
    /// Not NaN.
    Number,
    /// NaN.
    NotANumber,
    /// Neither subnormal, infinite nor NaN. Zeros count as normal.
    Normal,
    /// Subnormal.
    Subnormal,
}

/// `testp.f32` (9.7.3.1).
#[inline(always)]
pub fn test_f32(property: Property, a: f32) -> bool {
    let magnitude = a.abs();
    match property {
        Property::Finite => magnitude < f32::INFINITY,
        Property::Infinite => magnitude == f32::INFINITY,
        Property::Number => !a.is_nan(),
        Property::NotANumber => a.is_nan(),
        Property::Normal => a == 0.0 || (f32::MIN_POSITIVE..f32::INFINITY).contains(&magnitude),
        Property::Subnormal => a != 0.0 && magnitude < f32::MIN_POSITIVE,
    }
}

/// `testp.f64` (9.7.3.1).
#[inline(always)]
pub fn test_f64(property: Property, a: f64) -> bool {
    let magnitude = a.abs();
    match property {
        Property::Finite => magnitude < f64::INFINITY,
        Property::Infinite => magnitude == f64::INFINITY,
        Property::Number => !a.is_nan(),
        Property::NotANumber => a.is_nan(),
        Property::Normal => a == 0.0 || (f64::MIN_POSITIVE..f64::INFINITY).contains(&magnitude),
        Property::Subnormal => a != 0.0 && magnitude < f64::MIN_POSITIVE,
    }
}
