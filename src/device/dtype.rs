//! Element types of tensors.

use std::iter::Sum;
use std::marker::PhantomData;
use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Neg, Sub, SubAssign};

/// Element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    F32,
    F64,
    Bf16,
    /// Label maps.
    U8,
    /// Voxels as scanners store them.
    I16,
    I32,
    I64,
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::Bf16 | Self::I16 => 2,
            Self::F32 | Self::I32 => 4,
            Self::F64 | Self::I64 => 8,
        }
    }

    /// What parameters are kept in when activations are of this dtype: bf16 goes with f32.
    pub const fn master(self) -> Self {
        match self {
            Self::Bf16 => Self::F32,
            other => other,
        }
    }

    /// Lower-case name, as users write it (`--dtype f32`).
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::Bf16 => "bf16",
            Self::U8 => "u8",
            Self::I16 => "i16",
            Self::I32 => "i32",
            Self::I64 => "i64",
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A Rust type that a tensor can hold.
pub trait Element: bytemuck::Pod + Send + Sync + std::fmt::Debug + PartialEq + 'static {
    const DTYPE: DType;
    /// The value as f64 (exact for every type but i64 beyond 2^53).
    fn to_f64(self) -> f64;
    /// The nearest value of this type.
    fn from_f64(x: f64) -> Self;
}

macro_rules! element {
    ($($t:ty => $d:ident, $from:expr, $to:expr;)*) => {$(
        impl Element for $t {
            const DTYPE: DType = DType::$d;
            fn to_f64(self) -> f64 { ($to)(self) }
            fn from_f64(x: f64) -> Self { ($from)(x) }
        }
    )*};
}

element! {
    f32 => F32, |x| x as f32, f64::from;
    f64 => F64, |x| x, |x| x;
    half::bf16 => Bf16, bf16_from_f64, half::bf16::to_f64;
    u8 => U8, |x| x as u8, f64::from;
    i16 => I16, |x| x as i16, f64::from;
    i32 => I32, |x| x as i32, f64::from;
    i64 => I64, |x| x as i64, |x| x as f64;
}

/// The nearest bf16, ties to even. `half::bf16::from_f64` looks at 20 bits of the mantissa only and
/// takes what lies just beside a tie for one. On the way through f32, rounding to odd keeps the bit that
/// decides a tie.
fn bf16_from_f64(x: f64) -> half::bf16 {
    let near = x as f32;
    let back = f64::from(near);
    let bits = near.to_bits();
    if back == x || !near.is_finite() || bits & 1 == 1 {
        return half::bf16::from_f32(near);
    }
    let odd = if back.abs() < x.abs() { bits + 1 } else { bits - 1 };
    half::bf16::from_f32(f32::from_bits(odd))
}

/// The arithmetic that a CPU reference is written in: f32 (the CPU backend) or f64 (the oracle).
pub trait Real:
    Element
    + Default
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + Sum
{
    fn sqrt(self) -> Self;
    fn exp(self) -> Self;
    fn ln(self) -> Self;
    fn erf(self) -> Self;
    fn max(self, other: Self) -> Self;
    /// How an op asks whether it may take its f32 fast path; `None` for other arithmetic.
    fn same_as_f32() -> Option<SameAsF32<Self>> {
        None
    }
    /// Shorthand for constants in generic code.
    fn of(x: f64) -> Self {
        Self::from_f64(x)
    }
}

/// Exists only where `T` is f32, and hands slices of `T` to code that is written for f32.
#[derive(Clone, Copy, Debug)]
pub struct SameAsF32<T>(PhantomData<T>);

impl<T: Real> SameAsF32<T> {
    /// The slice as what it is.
    pub fn of(self, x: &[T]) -> &[f32] {
        bytemuck::cast_slice(x)
    }

    /// As [`SameAsF32::of`], to write.
    pub fn of_mut(self, x: &mut [T]) -> &mut [f32] {
        bytemuck::cast_slice_mut(x)
    }
}

impl Real for f32 {
    fn sqrt(self) -> Self {
        f32::sqrt(self)
    }
    fn exp(self) -> Self {
        libm::expf(self)
    }
    fn ln(self) -> Self {
        libm::logf(self)
    }
    fn erf(self) -> Self {
        libm::erff(self)
    }
    fn max(self, other: Self) -> Self {
        f32::max(self, other)
    }
    fn same_as_f32() -> Option<SameAsF32<Self>> {
        Some(SameAsF32(PhantomData))
    }
}

impl Real for f64 {
    fn sqrt(self) -> Self {
        f64::sqrt(self)
    }
    fn exp(self) -> Self {
        libm::exp(self)
    }
    fn ln(self) -> Self {
        libm::log(self)
    }
    fn erf(self) -> Self {
        libm::erf(self)
    }
    fn max(self, other: Self) -> Self {
        f64::max(self, other)
    }
}

/// Runs a generic body with `$T` bound to the arithmetic of a dtype; other dtypes are an error
/// that names the op.
macro_rules! with_real {
    ($op:expr, $dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            $crate::device::DType::F32 => {
                type $T = f32;
                $body
            }
            $crate::device::DType::F64 => {
                type $T = f64;
                $body
            }
            other => Err($crate::Error::shape($op, "f32 or f64 on the CPU", other.name())),
        }
    };
}
pub(crate) use with_real;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_ties_are_decided_by_every_bit() {
        let ulp = 2f64.powi(-7);
        let tie = 1.0 + 1.5 * ulp; // between odd 1 + ulp and even 1 + 2 ulp
        let low = 1.0 + 0.5 * ulp; // between even 1 and odd 1 + ulp
        for tiny in [2f64.powi(-21), 2f64.powi(-23), 2f64.powi(-30), 2f64.powi(-50)] {
            for (x, expected) in [
                (tie, 1.0 + 2.0 * ulp),
                (tie - tiny, 1.0 + ulp),
                (low, 1.0),
                (low + tiny, 1.0 + ulp),
                (low - tiny, 1.0),
            ] {
                assert_eq!(bf16_from_f64(x).to_f64(), expected, "{x} {tiny}");
                assert_eq!(bf16_from_f64(-x).to_f64(), -expected, "{x} {tiny}");
            }
        }
        assert!(bf16_from_f64(f64::NAN).is_nan());
        assert_eq!(bf16_from_f64(1e300), half::bf16::INFINITY);
        assert_eq!(bf16_from_f64(0.0).to_bits(), 0);
        for bits in (0..0x7f80u16).step_by(7) {
            let exact = half::bf16::from_bits(bits);
            assert_eq!(bf16_from_f64(exact.to_f64()), exact);
        }
    }
}
