//! Integers against the programs that the manual gives, bit by bit, and against 128-bit arithmetic.

use glmae_simt::arith::integer::{
    self, Overflow, b16, b32, b64, field32, field64, product16, product32, product64,
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
            u64::from(field32::extract_unsigned(low_a, start, length)),
            bfe(narrow, start, length, 31, false),
            "{context}"
        );
        assert_eq!(
            u64::from(field32::extract_signed(low_a, start, length)),
            bfe(narrow, start, length, 31, true),
            "{context}"
        );
        assert_eq!(
            u64::from(field32::insert(low_a, low_b, start, length)),
            bfi(narrow, low_b.into(), start, length, 31),
            "{context}"
        );
        for is_shift in [false, true] {
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
        let reversed = (0..32).fold(0, |d, i| d | bit(narrow, 31 - i) << i);
        assert_eq!(u64::from(field32::reverse(low_a)), reversed);
    }
}

#[test]
fn bytes_are_permuted_as_in_the_manual() {
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
        assert_eq!(integer::byte_permute(a, b, selector), expected);
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
    ($module:ident, $products:ident, $unsigned:ty, $signed:ty, $a:expr, $b:expr) => {{
        let (a, b) = ($a as $unsigned, $b as $unsigned);
        let context = format_args!("{a:x} {b:x}");
        let (ua, ub) = (a as u128, b as u128);
        let (sa, sb) = (a as $signed as i128, b as $signed as i128);
        assert_eq!($module::add(a, b), (ua + ub) as $unsigned, "{context}");
        assert_eq!($module::sub(a, b), ua.wrapping_sub(ub) as $unsigned, "{context}");
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
        }
        assert_eq!($module::abs(a), sa.unsigned_abs() as $unsigned, "{context}");
        assert_eq!($module::neg(a), (-sa) as $unsigned, "{context}");
        assert_eq!($module::min_unsigned(a, b) as u128, ua.min(ub), "{context}");
        assert_eq!($module::max_unsigned(a, b) as u128, ua.max(ub), "{context}");
        assert_eq!($module::min_signed(a, b), sa.min(sb) as $unsigned, "{context}");
        assert_eq!($module::max_signed(a, b), sa.max(sb) as $unsigned, "{context}");
        assert_eq!($module::is_zero(a) != 0, a == 0);
    }};
}

#[test]
fn arithmetic_is_that_of_wider_integers() {
    let mut random = Random::new(17);
    for _ in 0..300_000 {
        let (a, b) = (random.bits(), random.bits());
        check_width!(b16, product16, u16, i16, a, b);
        check_width!(b32, product32, u32, i32, a, b);
        check_width!(b64, product64, u64, i64, a, b);

        let (a, b) = (a as u32, b as u32);
        let (x, y) = (i64::from(a as i32), i64::from(b as i32));
        let clamped = |x: i64| x.clamp(i32::MIN.into(), i32::MAX.into()) as u32;
        assert_eq!(integer::add_saturating(a, b), clamped(x + y));
        assert_eq!(integer::sub_saturating(a, b), clamped(x - y));
    }
    assert_eq!(b32::div_signed(7, 0), u32::MAX);
    assert_eq!(b32::rem_unsigned(7, 0), 7);
}
