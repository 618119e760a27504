//! Dot products of the bytes and halves of registers.

/// The signs of packed numbers: `.u32` or `.s32` of the operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sign {
    /// `.u32`.
    Unsigned,
    /// `.s32`.
    Signed,
}

#[inline(always)]
fn byte(x: u32, index: u32, sign: Sign) -> i32 {
    let byte = (x >> (8 * index)) as u8;
    match sign {
        Sign::Unsigned => i32::from(byte),
        Sign::Signed => i32::from(byte as i8),
    }
}

#[inline(always)]
fn half(x: u32, index: u32, sign: Sign) -> i32 {
    let half = (x >> (16 * index)) as u16;
    match sign {
        Sign::Unsigned => i32::from(half),
        Sign::Signed => i32::from(half as i16),
    }
}

/// `dp4a` (9.7.1.23): `c` and the four products of bytes, wrapping.
#[inline(always)]
pub fn dot_bytes(a: u32, a_sign: Sign, b: u32, b_sign: Sign, c: u32) -> u32 {
    (0..4).fold(c, |sum, i| {
        sum.wrapping_add(byte(a, i, a_sign).wrapping_mul(byte(b, i, b_sign)) as u32)
    })
}

/// `dp2a` (9.7.1.24): `c` and two products of halves of `a` with the low (`.lo`) or high (`.hi`) two bytes of
/// `b`, wrapping.
#[inline(always)]
pub fn dot_halves(a: u32, a_sign: Sign, b: u32, b_sign: Sign, is_high: bool, c: u32) -> u32 {
    let first = if is_high { 2 } else { 0 };
    (0..2).fold(c, |sum, i| {
        sum.wrapping_add(half(a, i, a_sign).wrapping_mul(byte(b, first + i, b_sign)) as u32)
    })
}
