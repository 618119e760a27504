//! Rounding is checked by its definition: the exact value lies between the result and its neighbour.

use std::cmp::Ordering;
use std::fmt::Arguments;

use glmae_simt::arith::minmax::{self, MinMax, Which};
use glmae_simt::arith::round::{self, Mode, NAN_F32, NAN_F64, Rounding};

use crate::big::Big;
use crate::random::Random;

pub const ALL: [Rounding; 4] = [Rounding::Nearest, Rounding::Zero, Rounding::Down, Rounding::Up];

/// A format, as far as rounding to it is concerned. Its numbers are held as doubles.
pub struct Format {
    /// Bits of the significand.
    pub digits: i32,
    /// The place of a subnormal number's last bit.
    pub least: i32,
    pub greatest: f64,
}

pub const SINGLE: Format = Format { digits: 24, least: -149, greatest: f32::MAX as f64 };
pub const DOUBLE: Format = Format { digits: 53, least: -1074, greatest: f64::MAX };

fn power(exponent: i32) -> f64 {
    if exponent >= -1022 {
        f64::from_bits(((exponent + 1023) as u64) << 52)
    } else {
        f64::from_bits(1 << (exponent + 1074))
    }
}

impl Format {
    /// The format's next number of greater magnitude; infinity after the greatest.
    fn outward(&self, magnitude: f64) -> f64 {
        if magnitude == self.greatest {
            return f64::INFINITY;
        }
        if magnitude == 0.0 {
            return power(self.least);
        }
        let exponent = (magnitude.to_bits() >> 52) as i32 - 1023;
        magnitude + power((exponent - self.digits + 1).max(self.least))
    }

    fn contains(&self, magnitude: f64) -> bool {
        if magnitude == 0.0 {
            return true;
        }
        let exponent = (magnitude.to_bits() >> 52) as i32 - 1023;
        let unit = power((exponent - self.digits + 1).max(self.least));
        magnitude <= self.greatest && magnitude % unit == 0.0
    }

    /// Asserts that `result` is what rounding must make of a value. `compare` says how the value's magnitude
    /// compares with a number; `is_negative` is its sign. The value is not zero.
    pub fn assert_rounded(
        &self,
        rounding: Rounding,
        is_negative: bool,
        result: f64,
        compare: &dyn Fn(&Big) -> Ordering,
        context: Arguments<'_>,
    ) {
        assert_eq!(result.is_sign_negative(), is_negative, "sign: {context}");
        let size = result.abs();
        let is_outward = match rounding {
            Rounding::Nearest => return self.assert_nearest(size, compare, context),
            Rounding::Zero => false,
            Rounding::Down => is_negative,
            Rounding::Up => !is_negative,
        };
        if is_outward {
            // The least number that is not less than the value.
            if size < f64::INFINITY {
                assert!(self.contains(size), "{context}");
                assert_ne!(compare(&Big::new(size)), Ordering::Greater, "too small: {context}");
            }
            let inner = self.inward(size);
            assert_eq!(compare(&Big::new(inner)), Ordering::Greater, "too large: {context}");
        } else {
            assert!(self.contains(size), "{context}");
            assert_ne!(compare(&Big::new(size)), Ordering::Less, "too large: {context}");
            let outer = self.outward(size);
            if outer < f64::INFINITY {
                assert_eq!(compare(&Big::new(outer)), Ordering::Less, "too small: {context}");
            }
        }
    }

    fn inward(&self, magnitude: f64) -> f64 {
        if magnitude == f64::INFINITY {
            return self.greatest;
        }
        assert!(magnitude > 0.0, "a value that is not zero, rounded away from zero");
        let exponent = (magnitude.to_bits() >> 52) as i32 - 1023;
        let unit = power((exponent - self.digits + 1).max(self.least));
        let half_unit = power((exponent - self.digits).max(self.least));
        if magnitude == power(exponent.max(self.least)) {
            magnitude - half_unit
        } else {
            magnitude - unit
        }
    }

    fn assert_nearest(
        &self,
        size: f64,
        compare: &dyn Fn(&Big) -> Ordering,
        context: Arguments<'_>,
    ) {
        // Halfway to the neighbours, exactly; the one beyond the greatest number is imagined.
        let half = Big::new(0.5);
        let between = |a: f64, b: f64| Big::new(a).add(&Big::new(b)).mul(&half);
        let limit = {
            let step = self.greatest - self.inward(self.greatest);
            Big::new(self.greatest).add(&Big::new(step).mul(&half))
        };
        let unit = if size < f64::INFINITY { self.outward(size) - size } else { 0.0 };
        let is_even = size == f64::INFINITY || (size / unit).rem_euclid(2.0) == 0.0;
        if size > 0.0 {
            let lower = if size == f64::INFINITY {
                limit.clone()
            } else {
                between(size, self.inward(size))
            };
            let order = compare(&lower);
            assert!(
                order == Ordering::Greater || (order == Ordering::Equal && is_even),
                "{context}"
            );
        }
        if size < f64::INFINITY {
            assert!(self.contains(size), "{context}");
            let upper =
                if size == self.greatest { limit } else { between(size, self.outward(size)) };
            let order = compare(&upper);
            let is_even = is_even && size != self.greatest;
            assert!(order == Ordering::Less || (order == Ordering::Equal && is_even), "{context}");
        }
    }

    /// Asserts that `result` is an exactly known value, rounded.
    pub fn assert_value(
        &self,
        rounding: Rounding,
        exact: &Big,
        result: f64,
        context: Arguments<'_>,
    ) {
        let is_negative = exact.compare(&Big::new(0.0)) == Ordering::Less;
        let magnitude = exact.abs();
        self.assert_rounded(rounding, is_negative, result, &|x| magnitude.compare(x), context);
    }
}

/// `a * b + c`, if all are finite and it is not zero.
pub fn check_sum(format: &Format, rounding: Rounding, [a, b, c]: [f64; 3], result: f64) {
    let context = format_args!("{rounding:?} {a:e} * {b:e} + {c:e} = {result:e}");
    let exact = Big::new(a).mul(&Big::new(b)).add(&Big::new(c));
    if !exact.is_zero() {
        return format.assert_value(rounding, &exact, result, context);
    }
    // IEEE 754, 6.3: zeros of the same sign keep it; else the sum is -0 rounded down, +0 otherwise.
    assert_eq!(result, 0.0, "{context}");
    let product_is_negative = a.is_sign_negative() != b.is_sign_negative();
    let is_negative = if product_is_negative == c.is_sign_negative() {
        product_is_negative
    } else {
        rounding == Rounding::Down
    };
    assert_eq!(result.is_sign_negative(), is_negative, "{context}");
}

fn check_quotient(format: &Format, rounding: Rounding, a: f64, b: f64, result: f64) {
    let context = format_args!("{rounding:?} {a:e} / {b:e} = {result:e}");
    let is_negative = a.is_sign_negative() != b.is_sign_negative();
    let (a, b) = (Big::new(a.abs()), Big::new(b.abs()));
    // a / b compares with x as a with b * x.
    let compare = |x: &Big| a.compare(&b.mul(x));
    format.assert_rounded(rounding, is_negative, result, &compare, context);
}

fn check_root(format: &Format, rounding: Rounding, a: f64, result: f64) {
    let context = format_args!("{rounding:?} sqrt {a:e} = {result:e}");
    let a = Big::new(a);
    format.assert_rounded(rounding, false, result, &|x| a.compare(&x.mul(x)), context);
}

#[test]
fn single_precision_is_rounded_as_defined() {
    let mut random = Random::new(1);
    for round in 0..20_000 {
        let (mut a, mut b, mut c) = (random.f32(), random.f32(), random.f32());
        if round % 4 == 0 {
            // Sums that nearly cancel, and products that nearly are ties.
            c = -(a * b);
        }
        if round % 16 == 1 {
            b = -a;
        }
        if round % 16 == 2 {
            (a, b) = (f32::from_bits(random.word() >> 16), f32::from_bits(random.word() >> 20));
        }
        let wide = [a, b, c].map(f64::from);
        for rounding in ALL {
            if a.is_finite() && b.is_finite() {
                let sum = round::add_f32(rounding, a, b);
                check_sum(&SINGLE, rounding, [wide[0], 1.0, wide[1]], sum.into());
                let difference = round::sub_f32(rounding, a, b);
                check_sum(&SINGLE, rounding, [wide[0], 1.0, -wide[1]], difference.into());
                let product = round::mul_f32(rounding, a, b);
                // A zero of the product's own sign does not change it.
                let zero = if a.is_sign_negative() == b.is_sign_negative() { 0.0 } else { -0.0 };
                check_sum(&SINGLE, rounding, [wide[0], wide[1], zero], product.into());
                if c.is_finite() {
                    let sum = round::fma_f32(rounding, a, b, c);
                    check_sum(&SINGLE, rounding, wide, sum.into());
                }
                if a != 0.0 && b != 0.0 {
                    let quotient = round::div_f32(rounding, a, b);
                    check_quotient(&SINGLE, rounding, wide[0], wide[1], quotient.into());
                }
            }
        }
        if b.is_finite() && b != 0.0 {
            let reciprocal = round::rcp_f32(b);
            check_quotient(&SINGLE, Rounding::Nearest, 1.0, wide[1], reciprocal.into());
        }
        if a.is_finite() && a > 0.0 {
            check_root(&SINGLE, Rounding::Nearest, wide[0], round::sqrt_f32(a).into());
        }
    }
}

#[test]
fn double_precision_is_rounded_as_defined() {
    let mut random = Random::new(2);
    for round in 0..10_000 {
        let (mut a, mut b, mut c) = (random.f64(), random.f64(), random.f64());
        if round % 4 == 0 {
            c = -(a * b);
        }
        if round % 16 == 1 {
            b = -a;
        }
        if round % 16 == 2 {
            (a, b) = (f64::from_bits(random.next() >> 30), f64::from_bits(random.next() >> 20));
        }
        if !(a.is_finite() && b.is_finite() && c.is_finite()) {
            continue;
        }
        let nearest = Rounding::Nearest;
        check_sum(&DOUBLE, nearest, [a, 1.0, b], round::add_f64(a, b));
        check_sum(&DOUBLE, nearest, [a, 1.0, -b], round::sub_f64(a, b));
        let zero = if a.is_sign_negative() == b.is_sign_negative() { 0.0 } else { -0.0 };
        check_sum(&DOUBLE, nearest, [a, b, zero], round::mul_f64(a, b));
        check_sum(&DOUBLE, nearest, [a, b, c], round::fma_f64(a, b, c));
        if a != 0.0 && b != 0.0 {
            check_quotient(&DOUBLE, nearest, a, b, round::div_f64(a, b));
        }
    }
}

/// What IEEE 754 says of infinities, zeros and invalid operations, in every direction.
#[test]
fn special_values_do_not_depend_on_the_direction() {
    let (inf, max) = (f32::INFINITY, f32::MAX);
    for rounding in ALL {
        let bits = |x: f32| x.to_bits();
        assert_eq!(bits(round::add_f32(rounding, inf, -max)), bits(inf));
        assert_eq!(bits(round::add_f32(rounding, -inf, max)), bits(-inf));
        assert_eq!(bits(round::add_f32(rounding, inf, -inf)), NAN_F32);
        assert_eq!(bits(round::sub_f32(rounding, inf, inf)), NAN_F32);
        assert_eq!(bits(round::mul_f32(rounding, inf, 0.0)), NAN_F32);
        assert_eq!(bits(round::mul_f32(rounding, inf, -2.0)), bits(-inf));
        assert_eq!(bits(round::fma_f32(rounding, inf, 1.0, -inf)), NAN_F32);
        assert_eq!(bits(round::fma_f32(rounding, max, max, -inf)), bits(-inf));
        assert_eq!(bits(round::div_f32(rounding, 1.0, -0.0)), bits(-inf));
        assert_eq!(bits(round::div_f32(rounding, 0.0, 0.0)), NAN_F32);
        assert_eq!(bits(round::div_f32(rounding, -1.0, inf)), bits(-0.0));
        assert_eq!(bits(round::div_f32(rounding, inf, inf)), NAN_F32);
        assert_eq!(bits(round::div_f32(rounding, -0.0, 3.0)), bits(-0.0));
        assert_eq!(bits(round::add_f32(rounding, f32::from_bits(0xff80_0001), 1.0)), NAN_F32);
    }
    let bits = |x: f32| x.to_bits();
    assert_eq!(bits(round::rcp_f32(0.0)), bits(inf));
    assert_eq!(bits(round::rcp_f32(-inf)), bits(-0.0));
    assert_eq!(bits(round::sqrt_f32(-0.0)), bits(-0.0));
    assert_eq!(bits(round::sqrt_f32(inf)), bits(inf));
    assert_eq!(bits(round::sqrt_f32(-1.0)), NAN_F32);
}

#[test]
fn special_values_of_double_precision() {
    let bits = |x: f64| x.to_bits();
    let inf = f64::INFINITY;
    assert_eq!(bits(round::add_f64(inf, -inf)), NAN_F64);
    assert_eq!(bits(round::add_f64(inf, -1.0)), bits(inf));
    assert_eq!(bits(round::mul_f64(0.0, inf)), NAN_F64);
    assert_eq!(bits(round::mul_f64(-0.0, 2.0)), bits(-0.0));
    assert_eq!(bits(round::div_f64(1.0, -0.0)), bits(-inf));
    assert_eq!(bits(round::div_f64(5.0, -inf)), bits(-0.0));
    assert_eq!(bits(round::div_f64(0.0, 0.0)), NAN_F64);
    // Payloads, 9.7.3: those of the first NaN, quiet.
    let (signaling, quiet) = (f64::from_bits(0x7ff0 << 48 | 5), f64::from_bits(0xfff8 << 48 | 9));
    assert_eq!(bits(round::add_f64(signaling, quiet)), 0x7ff8 << 48 | 5);
    assert_eq!(bits(round::sub_f64(1.0, quiet)), 0xfff8 << 48 | 9);
    assert_eq!(bits(round::fma_f64(inf, 0.0, quiet)), 0xfff8 << 48 | 9);
    assert_eq!(bits(round::mul_f64(quiet, signaling)), 0xfff8 << 48 | 9);
}

#[test]
fn modifiers_flush_and_saturate() {
    let plain = Mode { rounding: Rounding::Nearest, ftz: false, sat: false };
    let ftz = Mode { ftz: true, ..plain };
    let sat = Mode { sat: true, ..plain };
    let tiny = f32::from_bits(0x8000_0001);
    assert_eq!(plain.add(tiny, 0.0).to_bits(), 0x8000_0001);
    assert_eq!(ftz.add(tiny, -0.0).to_bits(), 0x8000_0000);
    assert_eq!(ftz.add(tiny, 1.0), 1.0);
    // A subnormal operand counts as zero even where the result would be large.
    assert_eq!(ftz.mul(f32::from_bits(0x0040_0000), 1e38), 0.0);
    assert!(plain.mul(f32::from_bits(0x0040_0000), 1e38) > 0.5);
    assert_eq!(ftz.div(1.0, tiny).to_bits(), f32::NEG_INFINITY.to_bits());
    // A subnormal result is flushed, the least normal one is not.
    assert_eq!(ftz.mul(-f32::MIN_POSITIVE, 0.5).to_bits(), 0x8000_0000);
    assert_eq!(ftz.fma(f32::MIN_POSITIVE, 1.0, 0.0), f32::MIN_POSITIVE);
    assert_eq!(ftz.sub(f32::MIN_POSITIVE, f32::MIN_POSITIVE * 1.5).to_bits(), 0x8000_0000);
    for (x, saturated) in [
        (0.25, 0.25),
        (7.0, 1.0),
        (-3.0, 0.0),
        (f32::INFINITY, 1.0),
        (f32::NEG_INFINITY, 0.0),
        (f32::NAN, 0.0),
        (-0.0, 0.0),
        (1.0, 1.0),
    ] {
        assert_eq!(sat.mul(x, 1.0).to_bits(), f32::to_bits(saturated), "{x}");
        assert_eq!(sat.fma(x, 1.0, -0.0).to_bits(), f32::to_bits(saturated), "{x}");
    }
}

/// The manual's program for `min` and `max`, word by word (9.7.3.11, 9.7.3.12).
fn min_max_of_the_manual(choice: MinMax, a: f32, b: f32) -> u32 {
    let flush = |x: f32| if choice.ftz && x.is_subnormal() { x * 0.0 } else { x };
    let two = |x: f32, y: f32| -> f32 {
        let any = x.is_nan() || y.is_nan();
        if (choice.nan && any) || (x.is_nan() && y.is_nan()) {
            f32::NAN
        } else if x.is_nan() {
            y
        } else if y.is_nan() {
            x
        } else {
            let order = x.total_cmp(&y);
            let x_wins = match choice.which {
                Which::Min => order.is_lt(),
                Which::Max => order.is_gt(),
            };
            if x_wins { x } else { y }
        }
    };
    let result = two(flush(a), flush(b));
    if result.is_nan() { NAN_F32 } else { result.to_bits() }
}

#[test]
fn min_and_max_are_those_of_the_manual() {
    let mut random = Random::new(3);
    for _ in 0..400_000 {
        let a = random.f32();
        let b = match random.below(3) {
            0 => a,
            1 => -a,
            _ => random.f32(),
        };
        let options = random.word();
        let choice = MinMax {
            which: if options & 1 == 0 { Which::Min } else { Which::Max },
            ftz: options & 2 != 0,
            nan: options & 4 != 0,
        };
        let context = format_args!("{choice:?} {a:e} {b:e}");
        let two = choice.two_f32(a, b).to_bits();
        assert_eq!(two, min_max_of_the_manual(choice, a, b), "{context}");
    }
    let (nan, zero) = (f64::from_bits(0x7ff0 << 48 | 1), 0.0_f64);
    assert_eq!(minmax::min_max_f64(Which::Min, zero, -zero).to_bits(), 1 << 63);
    assert_eq!(minmax::min_max_f64(Which::Min, -zero, zero).to_bits(), 1 << 63);
    assert_eq!(minmax::min_max_f64(Which::Max, zero, -zero).to_bits(), 0);
    assert_eq!(minmax::min_max_f64(Which::Max, -zero, zero).to_bits(), 0);
    assert_eq!(minmax::min_max_f64(Which::Max, nan, -3.0), -3.0);
    assert_eq!(minmax::min_max_f64(Which::Max, -3.0, nan), -3.0);
    assert_eq!(minmax::min_max_f64(Which::Max, nan, nan).to_bits(), 0x7ff8 << 48 | 1);
    assert_eq!(minmax::min_max_f64(Which::Max, 2.0, 3.0), 3.0);
    assert_eq!(minmax::min_max_f64(Which::Min, 2.0, 3.0), 2.0);
}

#[test]
fn signs() {
    let nan = f32::from_bits(0xffc0_1234);
    assert_eq!(minmax::neg_f32(0.0).to_bits(), 1 << 31);
    assert_eq!(minmax::abs_f32(-2.0), 2.0);
    assert_eq!(minmax::neg_f32(nan).to_bits(), NAN_F32);
    assert_eq!(minmax::abs_f32(nan).to_bits(), NAN_F32);
    assert_eq!(minmax::neg_f64(f64::from_bits(0x7ff8 << 48 | 3)).to_bits(), 0xfff8 << 48 | 3);
    assert_eq!(minmax::abs_f64(f64::from_bits(0xfff8 << 48 | 3)).to_bits(), 0x7ff8 << 48 | 3);
    assert_eq!(minmax::copysign_f32(0x8000_0000, 0x3f80_0000), 0xbf80_0000);
    assert_eq!(minmax::copysign_f32(0x3f80_0000, 0x8000_0001), 1);
    assert_eq!(minmax::copysign_f64(1 << 63, 7), 1 << 63 | 7);
}
