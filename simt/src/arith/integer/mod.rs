//! Integer arithmetic, shifts and bits (9.7.1, 9.7.2, 9.7.8).
//!
//! Values are bits in unsigned integers of the width of the instruction type. `b16`, `b32` and `b64` hold the
//! same functions for each width; where the sign matters a function's name ends in `_signed` or `_unsigned`.

mod bits;
pub mod field32;

pub use bits::{Overflow, byte_permute, funnel_shift_left, funnel_shift_right, logic3};

macro_rules! width {
    ($name:ident, $doc:literal, $unsigned:ty, $signed:ty) => {
        #[doc = $doc]
        pub mod $name {
            const WIDTH: u32 = <$unsigned>::BITS;

            /// `add`: `a + b`, wrapping (9.7.1.1).
            #[inline(always)]
            pub fn add(a: $unsigned, b: $unsigned) -> $unsigned {
                a.wrapping_add(b)
            }

            /// `sub`: `a - b`, wrapping (9.7.1.2).
            #[inline(always)]
            pub fn sub(a: $unsigned, b: $unsigned) -> $unsigned {
                a.wrapping_sub(b)
            }

            /// `mul.lo` (9.7.1.3). The same for signed types.
            #[inline(always)]
            pub fn mul_low(a: $unsigned, b: $unsigned) -> $unsigned {
                a.wrapping_mul(b)
            }

            /// `div` of unsigned types (9.7.1.8). All ones if `b` is zero.
            #[inline(always)]
            pub fn div_unsigned(a: $unsigned, b: $unsigned) -> $unsigned {
                a.checked_div(b).unwrap_or(<$unsigned>::MAX)
            }

            /// `div` of signed types (9.7.1.8), rounded towards zero. All ones if `b` is zero. The least number
            /// divided by -1 wraps around to itself.
            #[inline(always)]
            pub fn div_signed(a: $unsigned, b: $unsigned) -> $unsigned {
                if b == 0 {
                    <$unsigned>::MAX
                } else {
                    (a as $signed).wrapping_div(b as $signed) as $unsigned
                }
            }

            /// `rem` of unsigned types (9.7.1.9). The dividend if `b` is zero.
            #[inline(always)]
            pub fn rem_unsigned(a: $unsigned, b: $unsigned) -> $unsigned {
                a.checked_rem(b).unwrap_or(a)
            }

            /// `rem` of signed types (9.7.1.9), with the sign of the dividend: it "depends on whether divide
            /// rounds towards zero", which it does. The dividend if `b` is zero.
            #[inline(always)]
            pub fn rem_signed(a: $unsigned, b: $unsigned) -> $unsigned {
                if b == 0 { a } else { (a as $signed).wrapping_rem(b as $signed) as $unsigned }
            }

            /// `shl` (9.7.8.8): "shift amounts greater than the register width N are clamped to N".
            #[inline(always)]
            pub fn shift_left(a: $unsigned, count: u32) -> $unsigned {
                if count < WIDTH { a << (count % WIDTH) } else { 0 }
            }

            /// `shr` of untyped and unsigned types (9.7.8.9), clamped as `shl`.
            #[inline(always)]
            pub fn shift_right_unsigned(a: $unsigned, count: u32) -> $unsigned {
                if count < WIDTH { a >> (count % WIDTH) } else { 0 }
            }

            /// `shr` of signed types (9.7.8.9), clamped as `shl`.
            #[inline(always)]
            pub fn shift_right_signed(a: $unsigned, count: u32) -> $unsigned {
                (a as $signed >> count.min(WIDTH - 1)) as $unsigned
            }

            /// `abs` (9.7.1.10). The least number stays itself.
            #[inline(always)]
            pub fn abs(a: $unsigned) -> $unsigned {
                (a as $signed).wrapping_abs() as $unsigned
            }

            /// `neg` (9.7.1.11). The least number stays itself.
            #[inline(always)]
            pub fn neg(a: $unsigned) -> $unsigned {
                a.wrapping_neg()
            }

            /// `min` of unsigned types (9.7.1.12).
            #[inline(always)]
            pub fn min_unsigned(a: $unsigned, b: $unsigned) -> $unsigned {
                a.min(b)
            }

            /// `min` of signed types (9.7.1.12).
            #[inline(always)]
            pub fn min_signed(a: $unsigned, b: $unsigned) -> $unsigned {
                (a as $signed).min(b as $signed) as $unsigned
            }

            /// `max` of unsigned types (9.7.1.13).
            #[inline(always)]
            pub fn max_unsigned(a: $unsigned, b: $unsigned) -> $unsigned {
                a.max(b)
            }

            /// `max` of signed types (9.7.1.13).
            #[inline(always)]
            pub fn max_signed(a: $unsigned, b: $unsigned) -> $unsigned {
                (a as $signed).max(b as $signed) as $unsigned
            }

            /// `cnot` (9.7.8.5): whether all bits are zero.
            #[inline(always)]
            pub fn is_zero(a: $unsigned) -> $unsigned {
                (a == 0) as $unsigned
            }
        }
    };
}

width!(b16, "Arithmetic of 16 bits.", u16, i16);
width!(b32, "Arithmetic of 32 bits.", u32, i32);
width!(b64, "Arithmetic of 64 bits.", u64, i64);

macro_rules! products {
    ($name:ident, $doc:literal, $unsigned:ty, $signed:ty, $wide:ty, $wide_signed:ty) => {
        #[doc = $doc]
        pub mod $name {
            const WIDTH: u32 = <$unsigned>::BITS;

            /// `mul.wide` of unsigned types (9.7.1.3): the whole product. For 64 bits no instruction has it.
            #[inline(always)]
            pub fn wide_unsigned(a: $unsigned, b: $unsigned) -> $wide {
                a as $wide * b as $wide
            }

            /// `mul.wide` of signed types (9.7.1.3): the whole product. For 64 bits no instruction has it.
            #[inline(always)]
            pub fn wide_signed(a: $unsigned, b: $unsigned) -> $wide {
                (a as $signed as $wide_signed * b as $signed as $wide_signed) as $wide
            }

            /// `mul.hi` of unsigned types (9.7.1.3).
            #[inline(always)]
            pub fn high_unsigned(a: $unsigned, b: $unsigned) -> $unsigned {
                (wide_unsigned(a, b) >> WIDTH) as $unsigned
            }

            /// `mul.hi` of signed types (9.7.1.3).
            #[inline(always)]
            pub fn high_signed(a: $unsigned, b: $unsigned) -> $unsigned {
                (wide_signed(a, b) >> WIDTH) as $unsigned
            }
        }
    };
}

products!(product16, "Products of numbers of 16 bits.", u16, i16, u32, i32);
products!(product32, "Products of numbers of 32 bits.", u32, i32, u64, i64);
products!(product64, "Products of numbers of 64 bits.", u64, i64, u128, i128);

/// `add.sat.s32` (9.7.1.1).
#[inline(always)]
pub fn add_saturating(a: u32, b: u32) -> u32 {
    (a as i32).saturating_add(b as i32) as u32
}

/// `sub.sat.s32` (9.7.1.2).
#[inline(always)]
pub fn sub_saturating(a: u32, b: u32) -> u32 {
    (a as i32).saturating_sub(b as i32) as u32
}

/// Bits of 64-bit registers.
pub mod field64 {
    /// `clz` (9.7.1.15).
    #[inline(always)]
    pub fn leading_zeros(a: u64) -> u32 {
        a.leading_zeros()
    }

    /// `popc` (9.7.1.14).
    #[inline(always)]
    pub fn count_ones(a: u64) -> u32 {
        a.count_ones()
    }
}
