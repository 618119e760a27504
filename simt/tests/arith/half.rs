//! Arithmetic of 16-bit formats, rounded as defined.

use glmae_simt::arith::convert::Half;
use glmae_simt::arith::half::{HalfMode, packed1, packed2, packed3};
use glmae_simt::arith::minmax::{MinMax, Which};
use glmae_simt::arith::round::Rounding;

use crate::convert::{BF16, F16, value};
use crate::random::Random;
use crate::round::check_sum;

const PLAIN: [HalfMode; 2] = [
    HalfMode { format: Half::F16, ftz: false, sat: false, relu: false },
    HalfMode { format: Half::Bf16, ftz: false, sat: false, relu: false },
];

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
        for mode in PLAIN {
            let format = mode.format;
            let definition = if format == Half::F16 { &F16 } else { &BF16 };
            let (a, b) = (half_bits(&mut random), half_bits(&mut random));
            // A product that nearly cancels, or a sum that decides a tie.
            let c = if round % 4 == 0 { mode.mul(a, b) ^ 0x8000 } else { half_bits(&mut random) };
            let results = [mode.add(a, b), mode.sub(a, b), mode.mul(a, b), mode.fma(a, b, c)];
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
fn modifiers_of_halves() {
    for plain in PLAIN {
        let (one, tiny, least) = match plain.format {
            Half::F16 => (0x3c00, 0x8001, 0x0400),
            Half::Bf16 => (0x3f80, 0x8001, 0x0080),
        };
        let ftz = HalfMode { ftz: true, ..plain };
        assert_eq!(plain.mul(tiny, one), tiny);
        assert_eq!(ftz.mul(tiny, one), 0x8000);
        assert_eq!(ftz.add(least, 0), least);
        // The difference of two normal numbers may be subnormal.
        assert_eq!(plain.sub(least + 1, least), 1);
        assert_eq!(ftz.sub(least + 1, least), 0);
        assert_eq!(ftz.sub(least, least + 1), 0x8000);
        assert_eq!((ftz.neg(tiny), ftz.abs(tiny)), (0, 0));
        assert_eq!((plain.neg(tiny), plain.abs(tiny)), (1, 1));
        assert_eq!((plain.neg(0xffff), plain.abs(0xffff)), (0x7fff, 0x7fff));
        assert_eq!((plain.neg(0), plain.abs(0x8000)), (0x8000, 0));

        let sat = HalfMode { sat: true, ..plain };
        assert_eq!(sat.add(one, one), one);
        assert_eq!(sat.sub(tiny, one), 0);
        assert_eq!(sat.add(0x7fff, one), 0);
        assert_eq!(sat.mul(one, one - 1), one - 1);
        let relu = HalfMode { relu: true, ..plain };
        assert_eq!(relu.fma(one, one | 0x8000, 0), 0);
        assert_eq!(relu.fma(one, one, 0), one);
        assert_eq!(relu.fma(0x7fff, one, 0), 0x7fff);
        assert_eq!(relu.mul(0x8000, one), 0);
    }
}

#[test]
fn min_and_max_of_halves_agree_with_single_precision() {
    let mut random = Random::new(42);
    for _ in 0..200_000 {
        let (a, b) = (half_bits(&mut random), half_bits(&mut random));
        let b = if random.below(4) == 0 { a ^ 0x8000 } else { b };
        let options = random.word();
        let choice = MinMax {
            which: if options & 1 == 0 { Which::Min } else { Which::Max },
            ftz: false,
            nan: options & 2 != 0,
            abs: options & 4 != 0,
            xorsign: options & 12 == 12,
        };
        for mode in PLAIN {
            let [x, y] = [a, b].map(|bits| value(mode.format, bits) as f32);
            let result = mode.min_max(choice, a, b);
            // The rule itself is checked in single precision; a half is chosen, not rounded.
            let expected = choice.two_f32(x, y);
            if expected.is_nan() {
                assert_eq!(result, 0x7fff);
            } else {
                assert_eq!(value(mode.format, result), f64::from(expected));
                assert_eq!(result >> 15 != 0, expected.is_sign_negative());
                assert!([a, b].iter().any(|operand| (operand ^ result) & 0x7fff == 0));
            }
        }
    }
    let min = MinMax { which: Which::Min, ftz: false, nan: false, abs: false, xorsign: false };
    let ftz = HalfMode { ftz: true, ..PLAIN[0] };
    // Flushed, -1 subnormal is -0, and that is less than +0.
    assert_eq!(ftz.min_max(min, 0x8001, 0), 0x8000);
    assert_eq!(PLAIN[0].min_max(min, 0x8001, 0), 0x8001);
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
