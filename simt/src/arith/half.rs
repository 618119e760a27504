//! Arithmetic of `.f16` and `.bf16` (9.7.4).
//!
//! Every operation holds its exact result as the sum of two doubles and rounds it once. NaN results are
//! `0x7fff`: "half-precision instructions return an unspecified NaN".

use super::Register;
use super::convert::{Half, NAN_HALF};
use super::minmax::MinMax;
use super::round::{Rounding, exact_sum, saturate, to_odd_f32};

/// An instruction type and its modifiers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HalfMode {
    /// `.f16` or `.bf16`.
    pub format: Half,
    /// `.ftz`: subnormal operands and results become zeros of the same sign.
    pub ftz: bool,
    /// `.sat`: into [0, 1], NaN becomes zero.
    pub sat: bool,
    /// `.relu`: no less than zero.
    pub relu: bool,
}

impl HalfMode {
    #[inline(always)]
    fn flush(self, bits: u16) -> u16 {
        // In both formats the least normal number has the lowest bit of the exponent set.
        let least_normal = match self.format {
            Half::F16 => 0x0400,
            Half::Bf16 => 0x0080,
        };
        if self.ftz & (bits & 0x7fff < least_normal) { bits & 0x8000 } else { bits }
    }

    #[inline(always)]
    fn operand(self, bits: u16) -> f64 {
        f64::from(self.format.widen(self.flush(bits)))
    }

    #[inline(always)]
    fn result(self, high: f64, low: f64) -> u16 {
        let odd = to_odd_f32(high, low);
        // Nothing that is saturated is rounded out of [0, 1] again.
        let limited = if self.sat { saturate(odd) } else { odd };
        let bits = self.flush(self.format.narrow(Rounding::Nearest, limited));
        if self.relu { self.format.relu(bits) } else { bits }
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
        self.without_payload(self.flush(a) ^ 0x8000)
    }

    /// `abs` (9.7.4.6).
    #[inline(always)]
    pub fn abs(self, a: u16) -> u16 {
        self.without_payload(self.flush(a) & 0x7fff)
    }

    #[inline(always)]
    fn without_payload(self, bits: u16) -> u16 {
        if bits & 0x7fff > self.format.infinity() { NAN_HALF } else { bits }
    }

    /// `min`, `max` (9.7.4.7, 9.7.4.8). Their `.ftz` is the one of this mode.
    ///
    /// The manual's program for packed types looks at the NaN of the first operand before it sets the sign; its
    /// text, which is followed here, at the NaN of the result.
    #[inline(always)]
    pub fn min_max(self, choice: MinMax, a: u16, b: u16) -> u16 {
        // With the sign that NaN has: it counts for `.xorsign`.
        let [a, b] = [a, b].map(|bits| self.format.widen_any_nan(self.flush(bits)));
        // Subnormal numbers of bf16 are subnormal in single precision: already flushed if they should be.
        let choice = MinMax { ftz: false, ..choice };
        self.format.narrow(Rounding::Nearest, choice.two_f32(a, b))
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
