//! Bits and bit fields of 32-bit registers.

const WIDTH: u32 = 32;

/// A mask of the low `count` bits.
#[inline(always)]
fn ones(count: u32) -> u32 {
    if count < WIDTH { !(u32::MAX << (count % WIDTH)) } else { u32::MAX }
}

/// `bfe` of unsigned types (9.7.1.19).
#[inline(always)]
pub fn extract_unsigned(a: u32, start: u32, count: u32) -> u32 {
    let (start, count) = (start & 0xff, count & 0xff);
    let shifted = if start < WIDTH { a >> (start % WIDTH) } else { 0 };
    shifted & ones(count)
}

/// `bfe` of signed types (9.7.1.19): filled with the field's highest bit, or with the one of `a` if the field
/// extends beyond it.
#[inline(always)]
pub fn extract_signed(a: u32, start: u32, count: u32) -> u32 {
    let (start, count) = (start & 0xff, count & 0xff);
    // The bits that remain on the right of the field's highest bit, as the top of a word.
    let above = WIDTH - (start + count).min(WIDTH);
    let top = if above < WIDTH { a << (above % WIDTH) } else { 0 };
    let extended = top as i32 >> (above + start).min(WIDTH - 1);
    if count == 0 { 0 } else { extended as u32 }
}

/// `bfi` (9.7.1.20): the low `count` bits of `a` into `b` at `start`.
#[inline(always)]
pub fn insert(a: u32, b: u32, start: u32, count: u32) -> u32 {
    let (start, count) = (start & 0xff, count & 0xff);
    if start >= WIDTH {
        return b;
    }
    let mask = ones(count) << (start % WIDTH);
    a << (start % WIDTH) & mask | b & !mask
}

/// `bfind` of unsigned types (9.7.1.16): the place of the highest set bit, or `0xffffffff`.
#[inline(always)]
pub fn find_unsigned(a: u32, is_shift: bool) -> u32 {
    let zeros = a.leading_zeros();
    let place = if is_shift { zeros } else { (WIDTH - 1).wrapping_sub(zeros) };
    if a == 0 { u32::MAX } else { place }
}

/// `bfind` of signed types (9.7.1.16): the place of the highest bit that is not the sign, or `0xffffffff`. With
/// `is_shift` (`.shiftamt`), how far it is from the top.
#[inline(always)]
pub fn find_signed(a: u32, is_shift: bool) -> u32 {
    find_unsigned(a ^ (a as i32 >> (WIDTH - 1)) as u32, is_shift)
}

/// `clz` (9.7.1.15).
#[inline(always)]
pub fn leading_zeros(a: u32) -> u32 {
    a.leading_zeros()
}

/// `popc` (9.7.1.14).
#[inline(always)]
pub fn count_ones(a: u32) -> u32 {
    a.count_ones()
}

/// `brev` (9.7.1.18).
#[inline(always)]
pub fn reverse(a: u32) -> u32 {
    a.reverse_bits()
}
