//! Bits of 32-bit registers: funnel shifts, permutations of bytes, logic of three operands.

/// `.clamp` or `.wrap`: what becomes of a count that is larger than the register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Overflow {
    /// It counts as the register's width.
    Clamp,
    /// Its low five bits count.
    Wrap,
}

/// `shf.l` (9.7.8.7): the high 32 bits of `[b, a] << count`.
#[inline(always)]
pub fn funnel_shift_left(a: u32, b: u32, count: u32, overflow: Overflow) -> u32 {
    let count = shift_count(count, overflow);
    ((u64::from(b) << 32 | u64::from(a)) << count >> 32) as u32
}

/// `shf.r` (9.7.8.7): the low 32 bits of `[b, a] >> count`.
#[inline(always)]
pub fn funnel_shift_right(a: u32, b: u32, count: u32, overflow: Overflow) -> u32 {
    let count = shift_count(count, overflow);
    ((u64::from(b) << 32 | u64::from(a)) >> count) as u32
}

#[inline(always)]
fn shift_count(count: u32, overflow: Overflow) -> u32 {
    match overflow {
        Overflow::Clamp => count.min(32),
        Overflow::Wrap => count & 31,
    }
}

/// `prmt` (9.7.9.7) without a mode: bytes of `[b, a]`, chosen by four bits of the selector each.
#[inline(always)]
pub fn byte_permute(a: u32, b: u32, selector: u32) -> u32 {
    let both = u64::from(b) << 32 | u64::from(a);
    let mut result = 0;
    for place in 0..4 {
        let bits = selector >> (4 * place);
        let byte = (both >> (8 * (bits & 7))) as u8;
        let byte = if bits & 8 != 0 { (byte as i8 >> 7) as u8 } else { byte };
        result |= u32::from(byte) << (8 * place);
    }
    result
}

/// `lop3` (9.7.8.6): the function whose value for bits `a`, `b`, `c` is bit `4a + 2b + c` of `table`.
#[inline(always)]
pub fn logic3(a: u32, b: u32, c: u32, table: u8) -> u32 {
    let mut result = 0;
    for row in 0..8 {
        let of = |x: u32, bit: u32| if row >> bit & 1 != 0 { x } else { !x };
        let is_set = 0_u32.wrapping_sub(u32::from(table >> row & 1));
        result |= of(a, 2) & of(b, 1) & of(c, 0) & is_set;
    }
    result
}
