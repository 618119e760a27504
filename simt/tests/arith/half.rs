//! Arithmetic of 16-bit formats, rounded as defined.

use glmae_simt::arith::convert::Half;
use glmae_simt::arith::half::{packed1, packed2, packed3};
use glmae_simt::arith::minmax::{MinMax, Which};
use glmae_simt::arith::round::Rounding;

use crate::convert::{BF16, F16, value};
use crate::random::Random;
use crate::round::check_sum;

const FORMATS: [Half; 2] = [Half::F16, Half::Bf16];

/// Halves with many zeros, subnormal numbers, short numbers, infinities and NaN.
fn half_bits(random: &mut Random) -> u16 {
    match random.below(4) {
        0 => random.word() as u16 & 0x8fff & (u16::MAX << random.below(16)),
        1 => random.word() as u16 & (u16::MAX << random.below(16)),
        _ => random.word() as u16,
    }
}

#[test]
fn halves_are_rounded_once() {
    let mut random = Random::new(41);
    for round in 0..30_000 {
        for format in FORMATS {
            let definition = if format == Half::F16 { &F16 } else { &BF16 };
            let (a, b) = (half_bits(&mut random), half_bits(&mut random));
            // A product that nearly cancels, or a sum that decides a tie.
            let c = if round % 4 == 0 { format.mul(a, b) ^ 0x8000 } else { half_bits(&mut random) };
            let results =
                [format.add(a, b), format.sub(a, b), format.mul(a, b), format.fma(a, b, c)];
            let [x, y, z] = [a, b, c].map(|bits| value(format, bits));
            let zero = if x.is_sign_negative() == y.is_sign_negative() { 0.0 } else { -0.0 };
            let terms = [[x, 1.0, y], [x, 1.0, -y], [x, y, zero], [x, y, z]];
            for (terms, result) in terms.into_iter().zip(results) {
                if terms.iter().all(|x| x.is_finite()) {
                    check_sum(definition, Rounding::Nearest, terms, value(format, result));
                } else {
                    // Infinities and NaN come out as in any other format.
                    let expected = terms[0].mul_add(terms[1], terms[2]);
                    if expected.is_nan() {
                        assert_eq!(result, 0x7fff);
                    } else {
                        assert_eq!(value(format, result), expected);
                    }
                }
            }
        }
    }
}

#[test]
fn subnormal_halves_and_signs() {
    for (format, one, least) in [(Half::F16, 0x3c00, 0x0400), (Half::Bf16, 0x3f80, 0x0080)] {
        let tiny = 0x8001;
        assert_eq!(format.mul(tiny, one), tiny);
        // The difference of two normal numbers may be subnormal.
        assert_eq!(format.sub(least + 1, least), 1);
        assert_eq!((format.neg(tiny), format.abs(tiny)), (1, 1));
        assert_eq!((format.neg(0xffff), format.abs(0xffff)), (0x7fff, 0x7fff));
        assert_eq!((format.neg(0), format.abs(0x8000)), (0x8000, 0));
    }
}

#[test]
fn min_and_max_of_halves_agree_with_single_precision() {
    let mut random = Random::new(42);
    for _ in 0..200_000 {
        let (a, b) = (half_bits(&mut random), half_bits(&mut random));
        let b = if random.below(4) == 0 { a ^ 0x8000 } else { b };
        let which = if random.word() & 1 == 0 { Which::Min } else { Which::Max };
        let choice = MinMax { which, ftz: false, nan: false };
        for format in FORMATS {
            let [x, y] = [a, b].map(|bits| value(format, bits) as f32);
            let result = format.min_max(which, a, b);
            // The rule itself is checked in single precision; a half is chosen, not rounded.
            let expected = choice.two_f32(x, y);
            if expected.is_nan() {
                assert_eq!(result, 0x7fff);
            } else {
                assert_eq!(value(format, result), f64::from(expected));
                assert_eq!(result >> 15 != 0, expected.is_sign_negative());
                assert!([a, b].contains(&result));
            }
        }
    }
    // A subnormal number below zero is less than zero.
    assert_eq!(Half::F16.min_max(Which::Min, 0x8001, 0), 0x8001);
}

#[test]
fn packed_halves_do_not_mix() {
    let mut random = Random::new(43);
    let mut register = || std::array::from_fn(|_| random.word());
    let (a, b, c): ([u32; 32], [u32; 32], [u32; 32]) = (register(), register(), register());
    let one = packed1(&a, |x| x ^ 0x0101);
    let two = packed2(&a, &b, |x, y| x.wrapping_mul(3) ^ y);
    let three = packed3(&a, &b, &c, |x, y, z| x.wrapping_mul(3) ^ y.wrapping_mul(5) ^ z);
    for lane in 0..32 {
        for shift in [0, 16] {
            let half = |x: &[u32; 32]| (x[lane] >> shift) as u16;
            let (x, y, z) = (half(&a), half(&b), half(&c));
            assert_eq!(half(&one), x ^ 0x0101);
            assert_eq!(half(&two), x.wrapping_mul(3) ^ y);
            assert_eq!(half(&three), x.wrapping_mul(3) ^ y.wrapping_mul(5) ^ z);
        }
    }
}
