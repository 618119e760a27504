//! Integers against the programs that the manual gives, bit by bit, and against 128-bit arithmetic.

use glmae_simt::arith::integer::{
    self, Overflow, PermuteMode, Sign, b16, b32, b64, field32, field64, product16, product32,
    product64,
};

use crate::random::Random;

fn bit(x: u64, index: u32) -> u64 {
    x >> index & 1
}

/// The manual's program for `bfe` (9.7.1.19).
fn bfe(a: u64, b: u32, c: u32, msb: u32, is_signed: bool) -> u64 {
    let (pos, len) = (b & 0xff, c & 0xff);
    let sbit = if !is_signed || len == 0 { 0 } else { bit(a, (pos + len - 1).min(msb)) };
    (0..=msb).fold(0, |d, i| {
        let value = if i < len && pos + i <= msb { bit(a, pos + i) } else { sbit };
        d | value << i
    })
}

/// The manual's program for `bfi` (9.7.1.20).
fn bfi(a: u64, b: u64, c: u32, d: u32, msb: u32) -> u64 {
    let (pos, len) = (c & 0xff, d & 0xff);
    let mut f = b;
    let mut i = 0;
    while i < len && pos + i <= msb {
        f = f & !(1 << (pos + i)) | bit(a, i) << (pos + i);
        i += 1;
    }
    f
}

/// The manual's program for `bfind` (9.7.1.16).
fn bfind(a: u64, msb: u32, is_signed: bool, is_shift: bool) -> u32 {
    let a = if is_signed && bit(a, msb) != 0 { !a } else { a };
    let found = (0..=msb).rev().find(|&i| bit(a, i) != 0);
    found.map_or(u32::MAX, |i| if is_shift { msb - i } else { i })
}

#[test]
fn bit_fields_are_those_of_the_manual() {
    let mut random = Random::new(11);
    for _ in 0..200_000 {
        let (a, b) = (random.bits(), random.bits());
        let count = |random: &mut Random| match random.below(3) {
            0 => random.below(70) as u32,
            1 => random.below(256) as u32,
            _ => random.word(),
        };
        let (start, length) = (count(&mut random), count(&mut random));
        let context = format_args!("{a:x} {b:x} {start} {length}");
        let (low_a, low_b) = (a as u32, b as u32);
        let narrow = u64::from(low_a);
        assert_eq!(
            field64::extract_unsigned(a, start, length),
            bfe(a, start, length, 63, false),
            "{context}"
        );
        assert_eq!(
            field64::extract_signed(a, start, length),
            bfe(a, start, length, 63, true),
            "{context}"
        );
        assert_eq!(
            u64::from(field32::extract_unsigned(low_a, start, length)),
            bfe(narrow, start, length, 31, false),
            "{context}"
        );
        assert_eq!(
            u64::from(field32::extract_signed(low_a, start, length)),
            bfe(narrow, start, length, 31, true),
            "{context}"
        );
        assert_eq!(field64::insert(a, b, start, length), bfi(a, b, start, length, 63), "{context}");
        assert_eq!(
            u64::from(field32::insert(low_a, low_b, start, length)),
            bfi(narrow, low_b.into(), start, length, 31),
            "{context}"
        );
        for is_shift in [false, true] {
            assert_eq!(
                field64::find_unsigned(a, is_shift),
                bfind(a, 63, false, is_shift),
                "{context}"
            );
            assert_eq!(
                field64::find_signed(a, is_shift),
                bfind(a, 63, true, is_shift),
                "{context}"
            );
            assert_eq!(field32::find_unsigned(low_a, is_shift), bfind(narrow, 31, false, is_shift));
            assert_eq!(field32::find_signed(low_a, is_shift), bfind(narrow, 31, true, is_shift));
        }
        let ones = (0..64).map(|i| bit(a, i) as u32).sum::<u32>();
        assert_eq!(field64::count_ones(a), ones);
        let low_ones = (0..32).map(|i| bit(a, i) as u32).sum::<u32>();
        assert_eq!(field32::count_ones(low_a), low_ones);
        let zeros = (0..64).rev().take_while(|&i| bit(a, i) == 0).count();
        assert_eq!(field64::leading_zeros(a) as usize, zeros);
        let low_zeros = (0..32).rev().take_while(|&i| bit(a, i) == 0).count();
        assert_eq!(field32::leading_zeros(low_a) as usize, low_zeros);
        assert_eq!(field64::reverse(a), (0..64).fold(0, |d, i| d | bit(a, 63 - i) << i));
        let reversed = (0..32).fold(0, |d, i| d | bit(narrow, 31 - i) << i);
        assert_eq!(u64::from(field32::reverse(low_a)), reversed);
    }
}

/// The manual's program for `bmsk` (9.7.1.22).
fn bmsk(a: u32, b: u32, is_clamp: bool) -> u32 {
    let a1 = a & 0x1f;
    let mut mask0 = u32::MAX << a1;
    let b1 = b & 0x1f;
    let sum = a1 + b1;
    let mut is_overflow = sum >= 32;
    if is_clamp {
        if a >= 32 {
            is_overflow = true;
            mask0 = 0;
        }
        is_overflow |= b >= 32;
    }
    let mask1 = if is_overflow {
        0
    } else if b1 == 0 {
        u32::MAX
    } else {
        u32::MAX << sum
    };
    mask0 & !mask1
}

/// The manual's program for `szext` (9.7.1.21).
fn szext(a: u32, b: u32, is_signed: bool, is_clamp: bool) -> u32 {
    let b1 = b & 0x1f;
    let is_too_large = b >= 32 && is_clamp;
    let mask = if is_too_large { 0 } else { u32::MAX << b1 };
    let sign_pos = b1.wrapping_sub(1) & 0x1f;
    let sign = b1 != 0 && !is_too_large && is_signed && a >> sign_pos & 1 != 0;
    a & !mask | if sign { mask } else { 0 }
}

#[test]
fn masks_and_extensions_are_those_of_the_manual() {
    let mut random = Random::new(12);
    for b in (0..70).chain([255, 256, 1 << 31, u32::MAX]) {
        for _ in 0..2000 {
            let a = random.bits() as u32;
            for (overflow, is_clamp) in [(Overflow::Clamp, true), (Overflow::Wrap, false)] {
                let start = if a & 1 == 0 { a } else { a % 40 };
                // The manual's program and its text differ for `.wrap` with a sum of 32 or more only in words.
                assert_eq!(
                    integer::bit_mask(start, b, overflow),
                    bmsk(start, b, is_clamp),
                    "{start} {b}"
                );
                for is_signed in [false, true] {
                    let extended = integer::extend(a, b, is_signed, overflow);
                    assert_eq!(extended, szext(a, b, is_signed, is_clamp), "{a:x} {b}");
                }
            }
        }
    }
    // The manual's examples.
    assert_eq!(integer::bit_mask(1, 2, Overflow::Wrap), 0x0000_0006);
    assert_eq!(integer::extend(u32::MAX, 0, false, Overflow::Wrap), 0);
}

/// The manual's program for `fns` (9.7.1.17).
fn fns(mask: u32, base: i64, offset: i32) -> u32 {
    if offset == 0 {
        return if mask >> base & 1 == 1 { base as u32 } else { u32::MAX };
    }
    let mut pos = base;
    let mut count = i64::from(offset).abs() - 1;
    while (0..32).contains(&pos) {
        if mask >> pos & 1 == 1 {
            if count == 0 {
                return pos as u32;
            }
            count -= 1;
        }
        pos += if offset > 0 { 1 } else { -1 };
    }
    u32::MAX
}

#[test]
fn the_nth_set_bit_is_the_one_of_the_manual() {
    let mut random = Random::new(13);
    for _ in 0..20_000 {
        let mask = random.bits() as u32;
        for base in 0..32 {
            let offset = random.below(71) as i32 - 35;
            let found = integer::find_nth_set(mask, base, offset);
            assert_eq!(found, fns(mask, base.into(), offset), "{mask:x} {base} {offset}");
        }
    }
    assert_eq!(integer::find_nth_set(u32::MAX, 5, i32::MIN), u32::MAX);
    assert_eq!(integer::find_nth_set(u32::MAX, 32, 0), u32::MAX);
    for (base, offset, expected) in [(3, 1, 3), (3, -1, 3), (2, 1, 3), (2, -1, 1)] {
        assert_eq!(integer::find_nth_set(0xaaaa_aaaa, base, offset), expected);
    }
}

/// The manual's table of `prmt` (9.7.9.7): the sources of bytes 3, 2, 1, 0 for selectors 0 to 3.
const PERMUTE: [(PermuteMode, [[u32; 4]; 4]); 6] = [
    (PermuteMode::Forward4, [[3, 2, 1, 0], [4, 3, 2, 1], [5, 4, 3, 2], [6, 5, 4, 3]]),
    (PermuteMode::Backward4, [[5, 6, 7, 0], [6, 7, 0, 1], [7, 0, 1, 2], [0, 1, 2, 3]]),
    (PermuteMode::Replicate8, [[0; 4], [1; 4], [2; 4], [3; 4]]),
    (PermuteMode::EdgeClampLeft, [[3, 2, 1, 0], [3, 2, 1, 1], [3, 2, 2, 2], [3; 4]]),
    (PermuteMode::EdgeClampRight, [[0; 4], [1, 1, 1, 0], [2, 2, 1, 0], [3, 2, 1, 0]]),
    (PermuteMode::Replicate16, [[1, 0, 1, 0], [3, 2, 3, 2], [1, 0, 1, 0], [3, 2, 3, 2]]),
];

#[test]
fn bytes_are_permuted_as_in_the_manual() {
    let mut random = Random::new(14);
    for _ in 0..2000 {
        let (a, b) = (random.word(), random.word());
        let bytes = [a.to_le_bytes(), b.to_le_bytes()].concat();
        for (mode, table) in PERMUTE {
            for (selector, sources) in table.iter().enumerate() {
                let expected = sources.map(|source| bytes[source as usize]);
                let selector = selector as u32 | random.word() << 2;
                let found = integer::byte_permute(a, b, selector, mode);
                assert_eq!(found, u32::from_be_bytes(expected), "{mode:?} {selector}");
            }
        }
    }
    let (a, b) = (0x8321_7fa5, 0x80c4_0501);
    let bytes = [a, b].map(u32::to_le_bytes).concat();
    for selector in 0..0x1_0000_u32 {
        let byte = |place: u32| {
            let bits = selector >> (4 * place) & 15;
            let byte = bytes[(bits & 7) as usize];
            match (bits & 8, byte & 0x80) {
                (0, _) => byte,
                (_, 0) => 0,
                _ => 0xff,
            }
        };
        let expected = u32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)]);
        let selector = selector | selector << 16;
        assert_eq!(integer::byte_permute(a, b, selector, PermuteMode::Generic), expected);
    }
}

#[test]
fn logic_of_three_is_what_the_table_says() {
    let mut random = Random::new(15);
    for table in 0..=255_u8 {
        let (a, b, c) = (random.word(), random.word(), random.word());
        let found = integer::logic3(a, b, c, table);
        for i in 0..32 {
            // 0xf0, 0xcc and 0xaa are the operands: row r of the table has their bits r.
            let row = (a >> i & 1) << 2 | (b >> i & 1) << 1 | (c >> i & 1);
            assert_eq!(found >> i & 1, u32::from(table) >> row & 1, "{table:x}");
        }
        assert_eq!(integer::logic3(0xf0, 0xcc, 0xaa, table) as u8, table);
    }
    // The manual's examples.
    let (a, b, c) = (0x1234_5678, 0x9abc_def0, 0x0f1e_2d3c);
    assert_eq!(integer::logic3(a, b, c, 0x80), a & b & c);
    assert_eq!(integer::logic3(a, b, c, 0xfe), a | b | c);
    assert_eq!(integer::logic3(a, b, c, 0x40), a & b & !c);
    assert_eq!(integer::logic3(a, b, c, 0x1a), (a & b | c) ^ a);
}

#[test]
fn shifts_clamp_or_wrap_their_counts() {
    let mut random = Random::new(16);
    for _ in 0..100_000 {
        let (a, b) = (random.bits(), random.bits());
        let count = if random.below(2) == 0 { random.below(70) as u32 } else { random.word() };
        let exact = count.min(120);
        assert_eq!(b64::shift_left(a, count), (u128::from(a) << exact.min(64)) as u64);
        assert_eq!(b64::shift_right_unsigned(a, count), (u128::from(a) >> exact) as u64);
        assert_eq!(b64::shift_right_signed(a, count), (i128::from(a as i64) >> exact) as u64);
        let low = a as u32;
        assert_eq!(b32::shift_left(low, count), (u128::from(low) << exact.min(32)) as u32);
        assert_eq!(b32::shift_right_unsigned(low, count), (u128::from(low) >> exact) as u32);
        assert_eq!(b32::shift_right_signed(low, count), (i128::from(low as i32) >> exact) as u32);
        let short = a as u16;
        assert_eq!(b16::shift_left(short, count), (u128::from(short) << exact.min(16)) as u16);
        assert_eq!(b16::shift_right_unsigned(short, count), (u128::from(short) >> exact) as u16);
        assert_eq!(
            b16::shift_right_signed(short, count),
            (i128::from(short as i16) >> exact) as u16
        );
        // The manual's program for `shf` (9.7.8.7), whose shifts by 32 give zero.
        let high = b as u32;
        let shl = |x: u32, n: u32| x.checked_shl(n).unwrap_or(0);
        let shr = |x: u32, n: u32| x.checked_shr(n).unwrap_or(0);
        for (overflow, n) in [(Overflow::Clamp, count.min(32)), (Overflow::Wrap, count & 31)] {
            let left = integer::funnel_shift_left(low, high, count, overflow);
            assert_eq!(left, if n == 32 { low } else { shl(high, n) | shr(low, 32 - n) });
            let right = integer::funnel_shift_right(low, high, count, overflow);
            assert_eq!(right, if n == 32 { high } else { shl(high, 32 - n) | shr(low, n) });
        }
    }
}

/// Two registers against 128-bit arithmetic, for one width.
macro_rules! check_width {
    ($module:ident, $products:ident, $unsigned:ty, $signed:ty, $a:expr, $b:expr, $c:expr) => {{
        let (a, b, c) = ($a as $unsigned, $b as $unsigned, $c as $unsigned);
        let context = format_args!("{a:x} {b:x} {c:x}");
        let (ua, ub) = (a as u128, b as u128);
        let (sa, sb) = (a as $signed as i128, b as $signed as i128);
        let (least, most) = (<$signed>::MIN as i128, <$signed>::MAX as i128);
        assert_eq!($module::add(a, b), (ua + ub) as $unsigned, "{context}");
        assert_eq!($module::sub(a, b), ua.wrapping_sub(ub) as $unsigned, "{context}");
        let sum = (sa + sb).clamp(least, most) as $unsigned;
        assert_eq!($module::add_saturating_signed(a, b), sum, "{context}");
        let difference = (sa - sb).clamp(least, most) as $unsigned;
        assert_eq!($module::sub_saturating_signed(a, b), difference, "{context}");
        for carry in [false, true] {
            let sum = ua + ub + u128::from(carry);
            let expected = (sum as $unsigned, sum > <$unsigned>::MAX as u128);
            assert_eq!($module::add_carry(a, b, carry), expected, "{context}");
            let taken = ub + u128::from(carry);
            let expected = (ua.wrapping_sub(taken) as $unsigned, ua < taken);
            assert_eq!($module::sub_borrow(a, b, carry), expected, "{context}");
        }
        assert_eq!($module::mul_low(a, b), ua.wrapping_mul(ub) as $unsigned, "{context}");
        let high = ua.wrapping_mul(ub) >> <$unsigned>::BITS;
        assert_eq!($products::high_unsigned(a, b), high as $unsigned, "{context}");
        let high = (sa * sb) >> <$unsigned>::BITS;
        assert_eq!($products::high_signed(a, b), high as $unsigned, "{context}");
        assert_eq!($products::wide_unsigned(a, b) as u128, ua * ub, "{context}");
        // Of the bits of a signed product as many count as the register has.
        assert_eq!(
            $products::wide_signed(a, b) as u128,
            (sa * sb) as u128 & (u128::MAX >> (128 - 2 * <$unsigned>::BITS)),
            "{context}"
        );
        if b != 0 {
            assert_eq!($module::div_unsigned(a, b), (ua / ub) as $unsigned, "{context}");
            assert_eq!($module::rem_unsigned(a, b), (ua % ub) as $unsigned, "{context}");
            assert_eq!($module::div_signed(a, b), (sa / sb) as $unsigned, "{context}");
            assert_eq!($module::rem_signed(a, b), (sa % sb) as $unsigned, "{context}");
            assert_eq!($module::is_quotient_overflow(a, b), sa / sb > most, "{context}");
        }
        assert_eq!($module::abs(a), sa.unsigned_abs() as $unsigned, "{context}");
        assert_eq!($module::neg(a), (-sa) as $unsigned, "{context}");
        assert_eq!($module::min_unsigned(a, b) as u128, ua.min(ub), "{context}");
        assert_eq!($module::max_unsigned(a, b) as u128, ua.max(ub), "{context}");
        assert_eq!($module::min_signed(a, b), sa.min(sb) as $unsigned, "{context}");
        assert_eq!($module::max_signed(a, b), sa.max(sb) as $unsigned, "{context}");
        assert_eq!($module::relu(a), sa.max(0) as $unsigned, "{context}");
        let distance = c as u128 + ua.abs_diff(ub);
        assert_eq!($module::sad_unsigned(a, b, c), distance as $unsigned, "{context}");
        let distance = c as u128 + sa.abs_diff(sb);
        assert_eq!($module::sad_signed(a, b, c), distance as $unsigned, "{context}");
        assert_eq!($module::is_zero(a) != 0, a == 0);
    }};
}

#[test]
fn arithmetic_is_that_of_wider_integers() {
    let mut random = Random::new(17);
    for _ in 0..300_000 {
        let (a, b, c) = (random.bits(), random.bits(), random.bits());
        check_width!(b16, product16, u16, i16, a, b, c);
        check_width!(b32, product32, u32, i32, a, b, c);
        check_width!(b64, product64, u64, i64, a, b, c);

        let (a, b) = (a as u32, b as u32);
        let (ua, ub) = (u64::from(a) & 0xff_ffff, u64::from(b) & 0xff_ffff);
        let sign = |x: u64| if x >> 23 != 0 { x as i64 - (1 << 24) } else { x as i64 };
        let (sa, sb) = (sign(ua), sign(ub));
        assert_eq!(integer::mul24_low(a, b, false), (ua * ub) as u32);
        assert_eq!(integer::mul24_low(a, b, true), (sa * sb) as u32);
        assert_eq!(integer::mul24_high(a, b, false), ((ua * ub) >> 16) as u32);
        assert_eq!(integer::mul24_high(a, b, true), ((sa * sb) >> 16) as u32);
        let sum = integer::per_half(a, b, b16::add);
        assert_eq!(sum as u16, (a as u16).wrapping_add(b as u16));
        assert_eq!((sum >> 16) as u16, ((a >> 16) as u16).wrapping_add((b >> 16) as u16));
    }
    assert!(integer::is_division_fault(0));
    assert!(!integer::is_division_fault(1 << 63));
    assert_eq!(b32::div_signed(7, 0), u32::MAX);
    assert_eq!(b32::rem_unsigned(7, 0), 7);
}

#[test]
fn dot_products_wrap() {
    let mut random = Random::new(18);
    // All pairs of bytes, in every place and with every sign.
    for x in 0..=255_u8 {
        for y in 0..=255_u8 {
            let c = random.word();
            let place = 8 * (random.below(4) as u32);
            let (a, b) = (u32::from(x) << place, u32::from(y) << place);
            for a_sign in [Sign::Unsigned, Sign::Signed] {
                for b_sign in [Sign::Unsigned, Sign::Signed] {
                    let value = |byte: u8, sign| match sign {
                        Sign::Unsigned => i64::from(byte),
                        Sign::Signed => i64::from(byte as i8),
                    };
                    let exact = i64::from(c) + value(x, a_sign) * value(y, b_sign);
                    assert_eq!(integer::dot_bytes(a, a_sign, b, b_sign, c), exact as u32);
                }
            }
        }
    }
    for _ in 0..100_000 {
        let (a, b, c) = (random.bits() as u32, random.bits() as u32, random.word());
        let (bytes_a, bytes_b) = (a.to_le_bytes(), b.to_le_bytes());
        let exact: i64 = (0..4).map(|i| i64::from(bytes_a[i]) * i64::from(bytes_b[i] as i8)).sum();
        let found = integer::dot_bytes(a, Sign::Unsigned, b, Sign::Signed, c);
        assert_eq!(found, (exact + i64::from(c)) as u32);
        let halves = [a as i16, (a >> 16) as i16].map(i64::from);
        for (is_high, first) in [(false, 0), (true, 2)] {
            let exact =
                halves[0] * i64::from(bytes_b[first]) + halves[1] * i64::from(bytes_b[first + 1]);
            let found = integer::dot_halves(a, Sign::Signed, b, Sign::Unsigned, is_high, c);
            assert_eq!(found, (exact + i64::from(c)) as u32);
        }
        let halves = [a as u16, (a >> 16) as u16].map(i64::from);
        let exact =
            halves[0] * i64::from(bytes_b[0] as i8) + halves[1] * i64::from(bytes_b[1] as i8);
        let found = integer::dot_halves(a, Sign::Unsigned, b, Sign::Signed, false, c);
        assert_eq!(found, (exact + i64::from(c)) as u32);
    }
}
