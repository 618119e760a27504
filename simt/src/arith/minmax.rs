//! The least and the greatest of two numbers, and signs.

use super::round::{canonical, ftz, quiet};

/// `min` or `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Which {
    /// `min`.
    Min,
    /// `max`.
    Max,
}

/// A `min` or `max` of floating-point numbers with its modifiers (9.7.3.11, 9.7.3.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MinMax {
    /// `min` or `max`.
    pub which: Which,
    /// `.ftz`.
    pub ftz: bool,
    /// `.NaN`: the result is NaN if an operand is, not only if all are.
    pub nan: bool,
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
        if self.ftz { ftz(x) } else { x }
    }

    /// `min.f32`, `max.f32`.
    #[inline(always)]
    pub fn two_f32(self, a: f32, b: f32) -> f32 {
        canonical(self.choose_f32(self.operand(a), self.operand(b)))
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
