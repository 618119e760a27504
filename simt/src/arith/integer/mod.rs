//! Integer arithmetic, shifts and bits (9.7.1, 9.7.2, 9.7.8).
//!
//! Values are bits in unsigned integers of the width of the instruction type. `b16`, `b32` and `b64` hold the
//! same functions for each width; where the sign matters a function's name ends in `_signed` or `_unsigned`.

mod bits;
mod dot;

pub use bits::{
    Overflow, PermuteMode, bit_mask, byte_permute, extend, find_nth_set, funnel_shift_left,
    funnel_shift_right, logic3,
};
pub use dot::{Sign, dot_bytes, dot_halves};

/// Whether `div` or `rem` by `divisor` has no defined result: "division by zero yields an unspecified,
/// machine-specific value" (9.7.1.8, 9.7.1.9). The functions here return all ones, and for the remainder the
/// dividend; callers should report it.
#[inline(always)]
pub fn is_division_fault(divisor: u64) -> bool {
    divisor == 0
}

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

            /// `add.sat.s32` (9.7.1.1).
            #[inline(always)]
            pub fn add_saturating_signed(a: $unsigned, b: $unsigned) -> $unsigned {
                (a as $signed).saturating_add(b as $signed) as $unsigned
            }

            /// `sub`: `a - b`, wrapping (9.7.1.2).
            #[inline(always)]
            pub fn sub(a: $unsigned, b: $unsigned) -> $unsigned {
                a.wrapping_sub(b)
            }

            /// `sub.sat.s32` (9.7.1.2).
            #[inline(always)]
            pub fn sub_saturating_signed(a: $unsigned, b: $unsigned) -> $unsigned {
                (a as $signed).saturating_sub(b as $signed) as $unsigned
            }

            /// `add.cc`, `addc` (9.7.2.1, 9.7.2.2): `a + b + carry`, and the carry out. The same for signed
            /// types.
            #[inline(always)]
            pub fn add_carry(a: $unsigned, b: $unsigned, carry: bool) -> ($unsigned, bool) {
                let (sum, first) = a.overflowing_add(b);
                let (sum, second) = sum.overflowing_add(carry as $unsigned);
                (sum, first | second)
            }

            /// `sub.cc`, `subc` (9.7.2.3, 9.7.2.4): `a - (b + borrow)`, and the borrow out. The same for signed
            /// types.
            #[inline(always)]
            pub fn sub_borrow(a: $unsigned, b: $unsigned, borrow: bool) -> ($unsigned, bool) {
                let (difference, first) = a.overflowing_sub(b);
                let (difference, second) = difference.overflowing_sub(borrow as $unsigned);
                (difference, first | second)
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

            /// Whether the quotient of signed `a` and `b` does not fit: the least number divided by -1. The
            /// manual says nothing of it.
            #[inline(always)]
            pub fn is_quotient_overflow(a: $unsigned, b: $unsigned) -> bool {
                a as $signed == <$signed>::MIN && b == <$unsigned>::MAX
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

            /// `.relu` of signed types: no less than zero.
            #[inline(always)]
            pub fn relu(a: $unsigned) -> $unsigned {
                (a as $signed).max(0) as $unsigned
            }

            /// `sad` of unsigned types (9.7.1.7): `c + |a - b|`.
            #[inline(always)]
            pub fn sad_unsigned(a: $unsigned, b: $unsigned, c: $unsigned) -> $unsigned {
                let distance = if a < b { b.wrapping_sub(a) } else { a.wrapping_sub(b) };
                c.wrapping_add(distance)
            }

            /// `sad` of signed types (9.7.1.7): `c + |a - b|`.
            #[inline(always)]
            pub fn sad_signed(a: $unsigned, b: $unsigned, c: $unsigned) -> $unsigned {
                let is_less = (a as $signed) < b as $signed;
                let distance = if is_less { b.wrapping_sub(a) } else { a.wrapping_sub(b) };
                c.wrapping_add(distance)
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

/// The low 24 bits, extended to 48 by their sign or by zeros.
#[inline(always)]
fn low24(a: u32, is_signed: bool) -> i64 {
    if is_signed { i64::from((a << 8) as i32 >> 8) } else { i64::from(a & 0x00ff_ffff) }
}

/// `mul24.lo` (9.7.1.5): bits 31..0 of the product of the low 24 bits.
#[inline(always)]
pub fn mul24_low(a: u32, b: u32, is_signed: bool) -> u32 {
    (low24(a, is_signed) * low24(b, is_signed)) as u32
}

/// `mul24.hi` (9.7.1.5): bits 47..16 of the product of the low 24 bits.
#[inline(always)]
pub fn mul24_high(a: u32, b: u32, is_signed: bool) -> u32 {
    ((low24(a, is_signed) * low24(b, is_signed)) >> 16) as u32
}

macro_rules! fields {
    ($name:ident, $doc:literal, $unsigned:ty, $signed:ty) => {
        #[doc = $doc]
        pub mod $name {
            const WIDTH: u32 = <$unsigned>::BITS;

            /// A mask of the low `count` bits.
            #[inline(always)]
            fn ones(count: u32) -> $unsigned {
                if count < WIDTH {
                    !(<$unsigned>::MAX << (count % WIDTH))
                } else {
                    <$unsigned>::MAX
                }
            }

            /// `bfe` of unsigned types (9.7.1.19).
            #[inline(always)]
            pub fn extract_unsigned(a: $unsigned, start: u32, count: u32) -> $unsigned {
                let (start, count) = (start & 0xff, count & 0xff);
                let shifted = if start < WIDTH { a >> (start % WIDTH) } else { 0 };
                shifted & ones(count)
            }

            /// `bfe` of signed types (9.7.1.19): filled with the field's highest bit, or with the one of `a` if
            /// the field extends beyond it.
            #[inline(always)]
            pub fn extract_signed(a: $unsigned, start: u32, count: u32) -> $unsigned {
                let (start, count) = (start & 0xff, count & 0xff);
                // The bits that remain on the right of the field's highest bit, as the top of a word.
                let above = WIDTH - (start + count).min(WIDTH);
                let top = if above < WIDTH { a << (above % WIDTH) } else { 0 };
                let extended = top as $signed >> (above + start).min(WIDTH - 1);
                if count == 0 { 0 } else { extended as $unsigned }
            }

            /// `bfi` (9.7.1.20): the low `count` bits of `a` into `b` at `start`.
            #[inline(always)]
            pub fn insert(a: $unsigned, b: $unsigned, start: u32, count: u32) -> $unsigned {
                let (start, count) = (start & 0xff, count & 0xff);
                if start >= WIDTH {
                    return b;
                }
                let mask = ones(count) << (start % WIDTH);
                a << (start % WIDTH) & mask | b & !mask
            }

            /// `bfind` of unsigned types (9.7.1.16): the place of the highest set bit, or `0xffffffff`.
            #[inline(always)]
            pub fn find_unsigned(a: $unsigned, is_shift: bool) -> u32 {
                let zeros = a.leading_zeros();
                let place = if is_shift { zeros } else { (WIDTH - 1).wrapping_sub(zeros) };
                if a == 0 { u32::MAX } else { place }
            }

            /// `bfind` of signed types (9.7.1.16): the place of the highest bit that is not the sign, or
            /// `0xffffffff`. With `is_shift` (`.shiftamt`), how far it is from the top.
            #[inline(always)]
            pub fn find_signed(a: $unsigned, is_shift: bool) -> u32 {
                find_unsigned(a ^ (a as $signed >> (WIDTH - 1)) as $unsigned, is_shift)
            }

            /// `clz` (9.7.1.15).
            #[inline(always)]
            pub fn leading_zeros(a: $unsigned) -> u32 {
                a.leading_zeros()
            }

            /// `popc` (9.7.1.14).
            #[inline(always)]
            pub fn count_ones(a: $unsigned) -> u32 {
                a.count_ones()
            }

            /// `brev` (9.7.1.18).
            #[inline(always)]
            pub fn reverse(a: $unsigned) -> $unsigned {
                a.reverse_bits()
            }
        }
    };
}

fields!(field32, "Bits and bit fields of 32-bit registers.", u32, i32);
fields!(field64, "Bits and bit fields of 64-bit registers.", u64, i64);

/// Does for the low and the high half of two registers what `operation` does for 16 bits: `.u16x2`, `.s16x2`.
#[inline(always)]
pub fn per_half(a: u32, b: u32, operation: impl Fn(u16, u16) -> u16) -> u32 {
    let low = operation(a as u16, b as u16);
    let high = operation((a >> 16) as u16, (b >> 16) as u16);
    u32::from(high) << 16 | u32::from(low)
}
