//! Arithmetic of `.f16` and `.bf16` (9.7.4).
//!
//! Without modifiers. Every operation holds its exact result as the sum of two doubles and rounds it once. NaN
//! results are `0x7fff`: "half-precision instructions return an unspecified NaN".

use super::Register;
use super::convert::{Half, NAN_HALF};
use super::minmax::{MinMax, Which};
use super::round::{Rounding, exact_sum, to_odd_f32};

impl Half {
    #[inline(always)]
    fn operand(self, bits: u16) -> f64 {
        f64::from(self.widen(bits))
    }

    #[inline(always)]
    fn result(self, high: f64, low: f64) -> u16 {
        self.narrow(Rounding::Nearest, to_odd_f32(high, low))
    }

    /// `add.rn` (9.7.4.1).
    #[inline(always)]
    pub fn add(self, a: u16, b: u16) -> u16 {
        let (high, low) = exact_sum(self.operand(a), self.operand(b));
        self.result(high, low)
    }

    /// `sub.rn` (9.7.4.2).
    #[inline(always)]
    pub fn sub(self, a: u16, b: u16) -> u16 {
        let (high, low) = exact_sum(self.operand(a), -self.operand(b));
        self.result(high, low)
    }

    /// `mul.rn` (9.7.4.3).
    #[inline(always)]
    pub fn mul(self, a: u16, b: u16) -> u16 {
        self.result(self.operand(a) * self.operand(b), 0.0)
    }

    /// `fma.rn` (9.7.4.4).
    #[inline(always)]
    pub fn fma(self, a: u16, b: u16, c: u16) -> u16 {
        let (high, low) = exact_sum(self.operand(a) * self.operand(b), self.operand(c));
        self.result(high, low)
    }

    /// `neg` (9.7.4.5).
    #[inline(always)]
    pub fn neg(self, a: u16) -> u16 {
        self.without_payload(a ^ 0x8000)
    }

    /// `abs` (9.7.4.6).
    #[inline(always)]
    pub fn abs(self, a: u16) -> u16 {
        self.without_payload(a & 0x7fff)
    }

    #[inline(always)]
    fn without_payload(self, bits: u16) -> u16 {
        if bits & 0x7fff > self.infinity() { NAN_HALF } else { bits }
    }

    /// `min`, `max` (9.7.4.7, 9.7.4.8).
    #[inline(always)]
    pub fn min_max(self, which: Which, a: u16, b: u16) -> u16 {
        let [a, b] = [a, b].map(|bits| self.widen_any_nan(bits));
        let choice = MinMax { which, ftz: false, nan: false };
        self.narrow(Rounding::Nearest, choice.two_f32(a, b))
    }
}

/// `.f16x2` and `.bf16x2` of one operand: what `operation` does, for both halves of the register of every lane.
/// One half after the other, since the compiler makes vector code of such loops only; for the same reason, give
/// it a closure that is marked `#[inline(always)]`.
#[inline(always)]
pub fn packed1(a: &Register, operation: impl Fn(u16) -> u16) -> Register {
    let mut result = [0; 32];
    for lane in 0..32 {
        result[lane] = u32::from(operation(a[lane] as u16));
    }
    for lane in 0..32 {
        result[lane] |= u32::from(operation((a[lane] >> 16) as u16)) << 16;
    }
    result
}

/// `.f16x2` and `.bf16x2` of two operands, as `packed1`.
#[inline(always)]
pub fn packed2(a: &Register, b: &Register, operation: impl Fn(u16, u16) -> u16) -> Register {
    let mut result = [0; 32];
    for lane in 0..32 {
        result[lane] = u32::from(operation(a[lane] as u16, b[lane] as u16));
    }
    for lane in 0..32 {
        let high = operation((a[lane] >> 16) as u16, (b[lane] >> 16) as u16);
        result[lane] |= u32::from(high) << 16;
    }
    result
}

/// `.f16x2` and `.bf16x2` of three operands, as `packed1`.
#[inline(always)]
pub fn packed3(
    a: &Register,
    b: &Register,
    c: &Register,
    operation: impl Fn(u16, u16, u16) -> u16,
) -> Register {
    let mut result = [0; 32];
    for lane in 0..32 {
        result[lane] = u32::from(operation(a[lane] as u16, b[lane] as u16, c[lane] as u16));
    }
    for lane in 0..32 {
        let high =
            operation((a[lane] >> 16) as u16, (b[lane] >> 16) as u16, (c[lane] >> 16) as u16);
        result[lane] |= u32::from(high) << 16;
    }
    result
}
