//! Conversions to, from and between integers (`cvt`, 9.7.9).
//!
//! Integers travel as 64 bits: extended by their sign if their type is signed, by zeros if not, which is how
//! `cvt` extends results to wider registers. Of operands only the bits of their type count.

use super::convert::integral_f32;
use super::round::{Rounding, to_f32};

/// An integer type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum IntType {
    U8,
    S8,
    U16,
    S16,
    U32,
    S32,
    U64,
    S64,
}

impl IntType {
    /// The width of the type.
    #[inline(always)]
    pub fn bits(self) -> u32 {
        match self {
            IntType::U8 | IntType::S8 => 8,
            IntType::U16 | IntType::S16 => 16,
            IntType::U32 | IntType::S32 => 32,
            IntType::U64 | IntType::S64 => 64,
        }
    }

    /// Whether the type has a sign.
    #[inline(always)]
    pub fn is_signed(self) -> bool {
        matches!(self, IntType::S8 | IntType::S16 | IntType::S32 | IntType::S64)
    }

    /// The value of the low bits, extended to 64.
    #[inline(always)]
    pub fn extend(self, bits: u64) -> u64 {
        match self {
            IntType::U8 => u64::from(bits as u8),
            IntType::S8 => i64::from(bits as i8) as u64,
            IntType::U16 => u64::from(bits as u16),
            IntType::S16 => i64::from(bits as i16) as u64,
            IntType::U32 => u64::from(bits as u32),
            IntType::S32 => i64::from(bits as i32) as u64,
            IntType::U64 | IntType::S64 => bits,
        }
    }
}

macro_rules! to_int {
    ($x:expr, $to:expr) => {
        match $to {
            IntType::U8 => u64::from($x as u8),
            IntType::S8 => i64::from($x as i8) as u64,
            IntType::U16 => u64::from($x as u16),
            IntType::S16 => i64::from($x as i16) as u64,
            IntType::U32 => u64::from($x as u32),
            IntType::S32 => i64::from($x as i32) as u64,
            IntType::U64 => $x as u64,
            IntType::S64 => $x as i64 as u64,
        }
    };
}

/// What NaN becomes of a type other than zero: `1 << (BitWidth(dst) - 1)`.
#[inline(always)]
fn nan_integer(to: IntType) -> u64 {
    to.extend(1 << (to.bits() - 1))
}

/// From `.f32`, rounded and clamped to the type's range. NaN becomes zero, but `1 << 63` of 64-bit types.
#[inline(always)]
pub fn f32_to_int(rounding: Rounding, x: f32, to: IntType) -> u64 {
    let integral = integral_f32(rounding, x);
    let clamped = to_int!(integral, to);
    if to.bits() == 64 && x.is_nan() { nan_integer(to) } else { clamped }
}

/// The integer as a double: exact up to 53 bits, else rounded to odd. Good for rounding on to 51 bits or fewer.
#[inline(always)]
fn to_odd_f64(bits: u64, from: IntType) -> f64 {
    let value = from.extend(bits);
    if from.bits() < 64 {
        return value as i64 as f64;
    }
    let is_negative = from.is_signed() && (value as i64) < 0;
    let magnitude = if is_negative { value.wrapping_neg() } else { value };
    let cut = magnitude >> 11 | u64::from(magnitude & 0x7ff != 0);
    let large = cut as f64 * 2048.0;
    let exact = if magnitude >> 53 == 0 { magnitude as f64 } else { large };
    if is_negative { -exact } else { exact }
}

/// To `.f32`.
#[inline(always)]
pub fn int_to_f32(rounding: Rounding, bits: u64, from: IntType) -> f32 {
    if rounding == Rounding::Nearest {
        return match from {
            IntType::S64 => bits as i64 as f32,
            IntType::U64 => bits as f32,
            IntType::S32 => bits as i32 as f32,
            IntType::U32 => bits as u32 as f32,
            _ => from.extend(bits) as i32 as f32,
        };
    }
    to_f32(rounding, to_odd_f64(bits, from), 0.0)
}

/// Between integers: the low bits.
#[inline(always)]
pub fn int_to_int(bits: u64, from: IntType, to: IntType) -> u64 {
    to.extend(from.extend(bits))
}
