//! Conversions between formats and integers against their definitions.

use glmae_simt::arith::convert::{self, Half, Tf32Rounding};
use glmae_simt::arith::convert_int::{self, IntType};
use glmae_simt::arith::round::{NAN_F32, Rounding};

use crate::big::Big;
use crate::random::Random;
use crate::round::{ALL, Format, SINGLE};

pub const F16: Format = Format { digits: 11, least: -24, greatest: 65504.0 };
pub const BF16: Format =
    Format { digits: 8, least: -133, greatest: f32::from_bits(0x7f7f_0000) as f64 };
const TF32: Format =
    Format { digits: 11, least: -136, greatest: f32::from_bits(0x7f7f_e000) as f64 };
const HALVES: [(Half, &Format); 2] = [(Half::F16, &F16), (Half::Bf16, &BF16)];

const TYPES: [IntType; 8] = [
    IntType::U8,
    IntType::S8,
    IntType::U16,
    IntType::S16,
    IntType::U32,
    IntType::S32,
    IntType::U64,
    IntType::S64,
];

/// The value of a half, by another library.
pub fn value(format: Half, bits: u16) -> f64 {
    match format {
        Half::F16 => half::f16::from_bits(bits).to_f64(),
        Half::Bf16 => half::bf16::from_bits(bits).to_f64(),
    }
}

#[test]
fn all_halves_widen() {
    for (format, _) in HALVES {
        for bits in 0..=u16::MAX {
            let expected = value(format, bits);
            let found = format.widen(bits);
            if expected.is_nan() {
                assert_eq!(found.to_bits(), NAN_F32);
            } else {
                assert_eq!(f64::from(found).to_bits(), expected.to_bits(), "{bits:04x}");
            }
        }
    }
}

/// Checks the rounding of a number that is neither NaN nor zero.
fn check_narrow(format: Half, definition: &Format, rounding: Rounding, x: f64, bits: u16) {
    let result = value(format, bits);
    if x.is_infinite() {
        assert_eq!(result, x);
        return;
    }
    let context = format_args!("{format:?} {rounding:?} {x:e} = {bits:04x}");
    definition.assert_value(rounding, &Big::new(x), result, context);
}

#[test]
fn narrowing_is_rounded_as_defined() {
    let mut random = Random::new(31);
    for (format, definition) in HALVES {
        // The neighbourhoods of all halves and of the midpoints between them.
        for bits in
            (0..format.infinity()).step_by(7).chain(format.infinity() - 3..format.infinity())
        {
            let here = value(format, bits) as f32;
            let there = value(format, bits + 1) as f32;
            let middle = if there.is_infinite() { here } else { here.midpoint(there) };
            for place in [here, middle] {
                for x in [place, place.next_up(), place.next_down(), -place, (-place).next_up()] {
                    for rounding in if x == 0.0 { &ALL[..0] } else { &ALL[..] } {
                        let narrow = format.narrow(*rounding, x);
                        check_narrow(format, definition, *rounding, x.into(), narrow);
                    }
                }
            }
        }
        for _ in 0..20_000 {
            let x = random.f32();
            if x.is_nan() || x == 0.0 {
                continue;
            }
            for rounding in ALL {
                check_narrow(format, definition, rounding, x.into(), format.narrow(rounding, x));
            }
        }
        for rounding in ALL {
            assert_eq!(format.narrow(rounding, f32::from_bits(0xff80_0001)), 0x7fff);
            assert_eq!(format.narrow(rounding, 0.0), 0);
            assert_eq!(format.narrow(rounding, -0.0), 0x8000);
        }
    }
}

#[test]
fn packing_and_relu() {
    assert_eq!(convert::pack(0x1234, 0x5678), 0x1234_5678);
    assert_eq!(convert::relu_f32(-1.0).to_bits(), 0);
    assert_eq!(convert::relu_f32(-0.0).to_bits(), 0);
    assert_eq!(convert::relu_f32(3.0), 3.0);
    assert!(convert::relu_f32(f32::NAN).is_nan());
}

#[test]
fn single_and_double_precision() {
    let mut random = Random::new(32);
    for _ in 0..60_000 {
        let x = random.f32();
        let wide = convert::f32_to_f64(x);
        if x.is_nan() {
            // The payload's place, and quiet.
            let payload = u64::from(x.to_bits() & 0x003f_ffff) << 29;
            let sign = u64::from(x.to_bits() >> 31) << 63;
            assert_eq!(wide.to_bits(), sign | 0x7ff8 << 48 | payload);
        } else {
            assert_eq!(wide.to_bits(), f64::from(x).to_bits());
        }
        // Doubles between neighbours of single precision, and of any size.
        let x = match random.below(3) {
            0 => random.f64(),
            1 => f64::from(x),
            _ => f64::from_bits(f64::from(x).to_bits().wrapping_add(random.next() >> 34)),
        };
        let narrow = convert::f64_to_f32(x);
        if x.is_nan() {
            assert_eq!(narrow.to_bits(), NAN_F32);
        } else if x.is_infinite() || x == 0.0 {
            assert_eq!(f64::from(narrow).to_bits(), x.to_bits());
        } else {
            let context = format_args!("{x:e} = {narrow:e}");
            SINGLE.assert_value(Rounding::Nearest, &Big::new(x), narrow.into(), context);
        }
    }
}

#[test]
fn tf32_is_rounded_as_defined() {
    let mut random = Random::new(33);
    for _ in 0..100_000 {
        let x = random.f32();
        let x = if random.below(2) == 0 { f32::from_bits(x.to_bits() & !0x0fff) } else { x };
        for (rounding, definition) in [
            (Tf32Rounding::Nearest, Some(Rounding::Nearest)),
            (Tf32Rounding::Zero, Some(Rounding::Zero)),
            (Tf32Rounding::NearestAway, None),
        ] {
            let bits = convert::f32_to_tf32(rounding, x);
            if x.is_nan() {
                assert_eq!(bits, NAN_F32);
                continue;
            }
            assert_eq!(bits & 0x1fff, 0);
            let result = f64::from(f32::from_bits(bits));
            let context = format_args!("{rounding:?} {x:e} = {bits:08x}");
            if x.is_infinite() || x == 0.0 {
                assert_eq!(bits, x.to_bits());
            } else if let Some(definition) = definition {
                TF32.assert_value(definition, &Big::new(x.into()), result, context);
            } else {
                // Halfway to the neighbour nearer to zero is still this one's, halfway to the other is not.
                let size = f64::from(x.abs());
                let inner = f64::from(f32::from_bits((bits & 0x7fff_ffff).wrapping_sub(0x2000)));
                if bits & 0x7fff_ffff != 0 && result.is_finite() {
                    assert!(size >= (result.abs() + inner) / 2.0, "{context}");
                }
                let outer = f64::from(f32::from_bits((bits & 0x7fff_ffff) + 0x2000));
                if outer.is_finite() {
                    assert!(size < (result.abs() + outer) / 2.0, "{context}");
                }
                assert_eq!(result.is_sign_negative(), x.is_sign_negative());
            }
        }
    }
    // Beyond the greatest number by half a place or more: infinity.
    assert_eq!(
        convert::f32_to_tf32(Tf32Rounding::NearestAway, f32::from_bits(0x7f7f_f000)),
        0x7f80_0000
    );
    assert_eq!(
        convert::f32_to_tf32(Tf32Rounding::NearestAway, f32::from_bits(0x7f7f_efff)),
        0x7f7f_e000
    );
}

/// The integer that a finite number is rounded to, as far as 127 bits hold it.
fn integer_of(rounding: Rounding, x: f64) -> i128 {
    let field = (x.to_bits() >> 52 & 0x7ff) as i32;
    let fraction = i128::from(x.to_bits() & ((1 << 52) - 1));
    let magnitude = if field == 0 { fraction } else { fraction + (1 << 52) };
    let exponent = field.max(1) - 1075;
    let is_negative = x < 0.0;
    let size = if exponent >= 0 {
        magnitude << exponent.min(70)
    } else {
        let shift = (-exponent).min(120);
        let (whole, rest) = (magnitude >> shift, magnitude & ((1 << shift) - 1));
        let half = 1_i128 << (shift - 1);
        let is_up = match rounding {
            Rounding::Nearest => rest > half || (rest == half && whole & 1 == 1),
            Rounding::Zero => false,
            Rounding::Down => is_negative && rest != 0,
            Rounding::Up => !is_negative && rest != 0,
        };
        whole + i128::from(is_up)
    };
    if is_negative { -size } else { size }
}

fn range(to: IntType) -> (i128, i128) {
    let bits = to.bits();
    if to.is_signed() { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
}

#[test]
fn floating_point_to_integers() {
    let mut random = Random::new(34);
    for _ in 0..40_000 {
        // Around whole numbers and the middles between them, too.
        let near = random.bits() as f32 + random.below(5) as f32 * 0.25 - 0.5;
        let near = if random.below(2) == 0 { near } else { -near };
        for (rounding, narrow) in ALL.into_iter().flat_map(|r| [(r, random.f32()), (r, near)]) {
            for to in TYPES {
                let (least, greatest) = range(to);
                let clamped = |x: f64| match x {
                    f64::INFINITY => greatest as u64,
                    f64::NEG_INFINITY => least as u64,
                    _ => integer_of(rounding, x).clamp(least, greatest) as u64,
                };
                // The manual's rule for NaN of single precision.
                let of_nan = if to.bits() == 64 { 1 << 63 } else { 0 };
                let context = format_args!("{rounding:?} {to:?} {narrow:e}");
                let expected = if narrow.is_nan() { of_nan } else { clamped(narrow.into()) };
                assert_eq!(convert_int::f32_to_int(rounding, narrow, to), expected, "{context}");
            }
            // To an integral value in the same format.
            if narrow.abs() < 1e9 {
                let integral = convert::integral_f32(rounding, narrow);
                assert_eq!(integral as i128, integer_of(rounding, narrow.into()));
                assert_eq!(integral.fract(), 0.0);
                assert_eq!(integral.is_sign_negative(), narrow.is_sign_negative());
            } else if !narrow.is_nan() {
                assert_eq!(convert::integral_f32(rounding, narrow), narrow);
            }
        }
    }
    assert_eq!(convert::integral_f32(Rounding::Up, f32::NAN).to_bits(), NAN_F32);
}

#[test]
fn integers_to_floating_point() {
    let mut random = Random::new(35);
    for _ in 0..6_000 {
        // Around ties of every format, too: a short number, a one below it, and a bit at the end.
        let bits = match random.below(2) {
            0 => random.bits(),
            _ => {
                let short = random.next() >> (40 + random.below(16));
                ((short << 1 | 1) << random.below(40)).wrapping_add(random.below(3)).wrapping_sub(1)
            }
        };
        for from in TYPES {
            let extended = from.extend(bits);
            let exact =
                if from.is_signed() { i128::from(extended as i64) } else { i128::from(extended) };
            let (least, greatest) = range(from);
            assert!(
                (least..=greatest).contains(&exact)
                    && (exact as u64 ^ bits) << (64 - from.bits()) == 0
            );
            let parts = [exact >> 32, exact & 0xffff_ffff].map(|part| Big::new(part as f64));
            let exact = parts[0].mul(&Big::new(4_294_967_296.0)).add(&parts[1]);
            for rounding in ALL {
                let single = convert_int::int_to_f32(rounding, bits, from);
                if exact.is_zero() {
                    assert_eq!(single.to_bits(), 0);
                    continue;
                }
                let context = format_args!("{rounding:?} {from:?} {bits:x}");
                SINGLE.assert_value(rounding, &exact, single.into(), context);
            }
        }
    }
}

#[test]
fn integers_to_integers() {
    let mut random = Random::new(36);
    for _ in 0..100_000 {
        let bits = random.bits();
        for from in TYPES {
            let extended = from.extend(bits);
            let exact =
                if from.is_signed() { i128::from(extended as i64) } else { i128::from(extended) };
            for to in TYPES {
                let (_, greatest) = range(to);
                // Modulo 2^n, into the type's range.
                let modulus = 1_i128 << to.bits();
                let rest = exact.rem_euclid(modulus);
                let wrapped = if rest > greatest { rest - modulus } else { rest };
                let found = convert_int::int_to_int(bits, from, to);
                assert_eq!(found, wrapped as u64, "{from:?} {to:?} {bits:x}");
            }
        }
    }
}
