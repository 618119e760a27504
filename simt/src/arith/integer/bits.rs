//! Bits of 32-bit registers: masks, permutations of bytes, logic of three operands, funnel shifts.

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

/// `bmsk` (9.7.1.22): `count` set bits from bit `start` on, as far as they fit. No bits if `count` is zero, or
/// if `start` is 32 or more (`.clamp`); all from `start` on if `count` is 32 or more (`.clamp`).
#[inline(always)]
pub fn bit_mask(start: u32, count: u32, overflow: Overflow) -> u32 {
    let (start, count) = match overflow {
        Overflow::Clamp => (start.min(32), count.min(32)),
        Overflow::Wrap => (start & 31, count & 31),
    };
    // A register of 64 bits has room for the clamped numbers.
    (((1_u64 << count) - 1) << start) as u32
}

/// `szext` (9.7.1.21): the low `count` bits, extended by their sign or by zeros.
#[inline(always)]
pub fn extend(a: u32, count: u32, is_signed: bool, overflow: Overflow) -> u32 {
    let count = match overflow {
        Overflow::Clamp => count.min(32),
        Overflow::Wrap => count & 31,
    };
    if count == 0 {
        return 0;
    }
    let shift = 32 - count;
    if is_signed { ((a << shift) as i32 >> shift) as u32 } else { a << shift >> shift }
}

/// `fns` (9.7.1.17): the place of the `offset`th set bit from `base` on, downwards if `offset` is negative;
/// with zero, `base` itself if its bit is set. `0xffffffff` if there is none, and if `base` exceeds 31, for
/// which the behaviour is undefined.
#[inline(always)]
pub fn find_nth_set(mask: u32, base: u32, offset: i32) -> u32 {
    if base > 31 {
        return u32::MAX;
    }
    if offset == 0 {
        return if mask >> base & 1 != 0 { base } else { u32::MAX };
    }
    let mut left = offset.unsigned_abs();
    let mut place = base;
    while place < 32 {
        left -= mask >> place & 1;
        if left == 0 {
            return place;
        }
        place = if offset > 0 { place + 1 } else { place.wrapping_sub(1) };
    }
    u32::MAX
}

/// The modes of `prmt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PermuteMode {
    /// None: four bits of the selector for each byte.
    Generic,
    /// `.f4e`: four bytes upwards.
    Forward4,
    /// `.b4e`: four bytes downwards, around the end.
    Backward4,
    /// `.rc8`: one byte four times.
    Replicate8,
    /// `.ecl`: bytes below the selected one become it.
    EdgeClampLeft,
    /// `.ecr`: bytes above the selected one become it.
    EdgeClampRight,
    /// `.rc16`: one half twice.
    Replicate16,
}

/// `prmt` (9.7.9.7): bytes of `[b, a]`, chosen by `selector`.
#[inline(always)]
pub fn byte_permute(a: u32, b: u32, selector: u32, mode: PermuteMode) -> u32 {
    let both = u64::from(b) << 32 | u64::from(a);
    let first = selector & 3;
    let mut result = 0;
    for place in 0..4 {
        let (index, is_sign) = match mode {
            PermuteMode::Generic => {
                let bits = selector >> (4 * place);
                (bits & 7, bits & 8 != 0)
            }
            PermuteMode::Forward4 => (first + place, false),
            PermuteMode::Backward4 => (first.wrapping_sub(place) & 7, false),
            PermuteMode::Replicate8 => (first, false),
            PermuteMode::EdgeClampLeft => (place.max(first), false),
            PermuteMode::EdgeClampRight => (place.min(first), false),
            PermuteMode::Replicate16 => (2 * (first & 1) + (place & 1), false),
        };
        let byte = (both >> (8 * index)) as u8;
        let byte = if is_sign { (byte as i8 >> 7) as u8 } else { byte };
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
