//! Conversions between floating-point formats (`cvt`, 9.7.9).
//!
//! NaN becomes the canonical NaN of the result's format: `0x7fffffff` of `.f32` and `.tf32`, `0x7fff` of `.f16`
//! and `.bf16`; `.f64` keeps the payload. The manual leaves most of this open.

use super::round::{NAN_F32, Rounding, canonical};

/// The bits of the NaN of `.f16` and of `.bf16`.
pub const NAN_HALF: u16 = 0x7fff;

/// A format of 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Half {
    /// `.f16`: 5 bits of exponent, 10 of fraction.
    F16,
    /// `.bf16`: 8 bits of exponent, 7 of fraction.
    Bf16,
}

impl Half {
    /// The bits of infinity.
    #[inline(always)]
    pub fn infinity(self) -> u16 {
        match self {
            Half::F16 => 0x7c00,
            Half::Bf16 => 0x7f80,
        }
    }

    /// `cvt.f32.f16`, `cvt.f32.bf16`: exact.
    #[inline(always)]
    pub fn widen(self, bits: u16) -> f32 {
        canonical(self.widen_any_nan(bits))
    }

    /// The value; of NaN, some NaN.
    #[inline(always)]
    pub(super) fn widen_any_nan(self, bits: u16) -> f32 {
        match self {
            Half::F16 => f16_to_f32_any_nan(bits),
            Half::Bf16 => f32::from_bits(u32::from(bits) << 16),
        }
    }

    /// `cvt.rn`, `.rz`, `.rm`, `.rp` to the format from `.f32`.
    #[inline(always)]
    pub fn narrow(self, rounding: Rounding, x: f32) -> u16 {
        let nearest = match self {
            Half::F16 => f32_to_f16_nearest(x),
            Half::Bf16 => f32_to_bf16_nearest(x),
        };
        let moved = match rounding {
            Rounding::Nearest => nearest,
            _ => {
                let sign = nearest & 0x8000;
                let magnitude = nearest & 0x7fff;
                let back = self.widen(magnitude);
                let is_away = match rounding {
                    Rounding::Nearest | Rounding::Zero => false,
                    Rounding::Down => sign != 0,
                    Rounding::Up => sign == 0,
                };
                let is_too_small = is_away & (back < x.abs());
                let is_too_large = !is_away & (back > x.abs());
                sign | (magnitude + u16::from(is_too_small) - u16::from(is_too_large))
            }
        };
        if x.is_nan() { NAN_HALF } else { moved }
    }
}

/// The value of f16 bits; some NaN if they are one.
#[inline(always)]
fn f16_to_f32_any_nan(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let magnitude = u32::from(bits & 0x7fff);
    // The exponents differ by 112. A product does what is needed for subnormal numbers, too.
    let finite = (f32::from_bits(magnitude << 13) * f32::from_bits((112 + 127) << 23)).to_bits();
    let special = 0x7f80_0000 | magnitude << 13;
    f32::from_bits(sign | if magnitude < 0x7c00 { finite } else { special })
}

/// To nearest; what becomes of NaN is open.
#[inline(always)]
fn f32_to_bf16_nearest(x: f32) -> u16 {
    let bits = x.to_bits();
    (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// To nearest; what becomes of NaN is open.
#[inline(always)]
fn f32_to_f16_nearest(x: f32) -> u16 {
    let sign = (x.to_bits() >> 16) as u16 & 0x8000;
    let bits = x.to_bits() & 0x7fff_ffff;
    // Below 2^-14 the last place is 2^-24, as that of a single-precision number of about one half: adding such
    // a number rounds.
    let one_half = 0.5_f32;
    let small = (f32::from_bits(bits) + one_half).to_bits().wrapping_sub(one_half.to_bits());
    // From there on, an integer sum rounds, and the exponents differ by 112.
    let odd = bits >> 13 & 1;
    let normal = bits.wrapping_add(0xfff + odd).wrapping_sub(112 << 23) >> 13;
    // 65520 is halfway between the greatest number and 2^16.
    let large = if bits < 0x477f_f000 { normal } else { 0x7c00 };
    let magnitude = if bits < (127 - 14) << 23 { small } else { large };
    sign | magnitude as u16
}

/// `.rn.bf16x2.f32 d, a, b` and the like: `a` becomes the upper half.
#[inline(always)]
pub fn pack(high: u16, low: u16) -> u32 {
    u32::from(high) << 16 | u32::from(low)
}

/// `cvt.rn.f32.f64`.
#[inline(always)]
pub fn f64_to_f32(x: f64) -> f32 {
    canonical(x as f32)
}

/// Conversion from `.f32` to `.f64`: exact. NaN keeps its payload and becomes quiet.
#[inline(always)]
pub fn f32_to_f64(x: f32) -> f64 {
    let bits = u64::from(x.to_bits());
    let nan = (bits >> 31) << 63 | 0x7ff8 << 48 | (bits & 0x007f_ffff) << 29;
    if x.is_nan() { f64::from_bits(nan) } else { f64::from(x) }
}

/// How numbers become `.tf32`, which has the exponent of `.f32` and 10 bits of fraction. The low 13 bits of
/// the register are zeros; of NaN, ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tf32Rounding {
    /// `.rna`: to nearest, ties away from zero.
    NearestAway,
    /// `.rn`: to nearest, ties to even.
    Nearest,
    /// `.rz`.
    Zero,
}

/// `cvt.rna.tf32.f32`, `cvt.rn.tf32.f32`, `cvt.rz.tf32.f32`.
#[inline(always)]
pub fn f32_to_tf32(rounding: Tf32Rounding, x: f32) -> u32 {
    let bits = x.to_bits();
    let added = match rounding {
        Tf32Rounding::NearestAway => 0x1000,
        Tf32Rounding::Nearest => 0xfff + (bits >> 13 & 1),
        Tf32Rounding::Zero => 0,
    };
    if x.is_nan() { NAN_F32 } else { bits.wrapping_add(added) & !0x1fff }
}

/// `.relu`: negative numbers and negative zero become zero.
#[inline(always)]
pub fn relu_f32(x: f32) -> f32 {
    if x.is_sign_negative() & !x.is_nan() { 0.0 } else { x }
}

/// `cvt.rni.f32.f32`, `.rzi`, `.rmi`, `.rpi`: to an integral value, with the sign of `x` if that is zero.
#[inline(always)]
pub fn integral_f32(rounding: Rounding, x: f32) -> f32 {
    canonical(match rounding {
        Rounding::Nearest => x.round_ties_even(),
        Rounding::Zero => x.trunc(),
        Rounding::Down => x.floor(),
        Rounding::Up => x.ceil(),
    })
}
