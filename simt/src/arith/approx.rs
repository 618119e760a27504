//! Instructions whose results are approximate: powers, logarithms, reciprocals, angles.
//!
//! The manual gives a bound of the error and a table of special values for each; the hardware's own results are
//! not documented. So there are two results. `Nearest` is the true value, computed in double precision and
//! rounded; of `ex2`, `rcp`, `div`, `sqrt` and `rsqrt` of single precision it is always the nearest number.
//! `Perturbed` is as far from it as the manual allows, up or down by a hash of the operands: what a kernel
//! makes of it must be good enough, too. Both are functions of the operands alone.
//!
//! The special values of the tables are never moved. Nor are zeros and infinities that come from overflow and
//! underflow, and sines, cosines and hyperbolic tangents stay within [-1, 1].

use super::round::{Rounding, canonical, ftz, to_f32};

/// Which of the results that the manual allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Accuracy {
    /// The true value, rounded to nearest.
    Nearest,
    /// Off by as much as the manual allows.
    Perturbed,
}

/// Of `ex2.approx.f32`: "2 ulp from correctly rounded result" (9.7.3.21).
pub const EX2_ULPS: f64 = 2.0;
/// Of `rcp.approx.f32`: "the maximum ulp error is 1" (9.7.3.13).
pub const RCP_ULPS: f64 = 1.0;
/// Of `div.approx.f32` for divisors of magnitudes from 2^-126 to 2^126, and of `div.full.f32` (9.7.3.8).
pub const DIV_ULPS: f64 = 2.0;
/// Relative, of `sqrt.approx.f32`: 2^-23 (9.7.3.15).
pub const SQRT_ERROR: f64 = 1.0 / 8_388_608.0;
/// Relative, of `rsqrt.approx.f32`: 2^-22.9 (9.7.3.16).
pub const RSQRT_ERROR: f64 = 1.277_653_530_283_323_7e-7;
/// Of `lg2.approx.f32`: 2^-22, absolute for operands between 0.5 and 2, else relative (9.7.3.20).
pub const LG2_ERROR: f64 = 1.0 / 4_194_304.0;
/// Absolute, of `sin.approx.f32` and `cos.approx.f32` within two pi: 2^-20.5 (9.7.3.18, 9.7.3.19).
pub const ANGLE_ERROR: f64 = 6.743_495_761_743_045e-7;
/// Absolute, of the same within 100 pi: 2^-14.7. Beyond there is no bound, and this one is taken.
pub const LARGE_ANGLE_ERROR: f64 = 3.757_154_581_741_077_5e-5;
/// Relative, of `tanh.approx.f32`: 2^-11 (9.7.3.22).
pub const TANH_ERROR: f64 = 1.0 / 2048.0;

/// The direction of an error: any function of the operands that looks random.
#[inline(always)]
fn is_up(operands: u32) -> bool {
    let mixed = (operands ^ operands >> 16).wrapping_mul(0x9e37_79b1);
    (mixed ^ mixed >> 15).wrapping_mul(0x85eb_ca77) >> 31 != 0
}

/// The farthest number of single precision that is within `bound` of `center`, up or down.
#[inline(always)]
fn farthest(center: f64, bound: f64, operands: u32) -> f32 {
    let up = to_f32(Rounding::Down, center + bound, 0.0);
    let down = to_f32(Rounding::Up, center - bound, 0.0);
    if is_up(operands) { up } else { down }
}

/// The last place of single precision at a value.
#[inline(always)]
fn ulp(value: f64) -> f64 {
    // The least normal number has exponent -126.
    let exponent = (value.to_bits() >> 52 & 0x7ff).max(1023 - 126);
    f64::from_bits((exponent - 23) << 52)
}

/// A number moved by places of the value `center`, to which it is rounded. It does not cross zero.
#[inline(always)]
fn moved_by_ulps(nearest: f32, center: f64, places: f64, operands: u32) -> f32 {
    let moved = farthest(center, places * ulp(center), operands);
    let is_crossed = moved.is_sign_negative() != nearest.is_sign_negative();
    let moved = if is_crossed { 0.0_f32.copysign(nearest) } else { moved };
    let is_movable = (nearest.abs() > 0.0) & (nearest.abs() < f32::INFINITY);
    if is_movable { moved } else { nearest }
}

#[inline(always)]
fn flush(is_ftz: bool, x: f32) -> f32 {
    if is_ftz { ftz(x) } else { x }
}

/// `ln(2)^k / k!`: the coefficients of the series of `2^x`.
const EXP2_SERIES: [f64; 14] = {
    let mut series = [1.0; 14];
    let mut k = 1;
    while k < 14 {
        series[k] = series[k - 1] * std::f64::consts::LN_2 / k as f64;
        k += 1;
    }
    series
};

/// `2^x`, rounded to odd: if it lies between two doubles, to the one whose last bit is set. Rounding this on
/// to single precision or less is as good as rounding `2^x`. From -160 down and from 130 up it is what it is
/// there: too small and too large for single precision.
#[inline(always)]
fn exp2(x: f32) -> f64 {
    let x = f64::from(x.clamp(-160.0, 130.0));
    // Adding 1.5 * 2^52 leaves the nearest integer in the low bits of the sum.
    let shifter = 6_755_399_441_055_744.0;
    let shifted = x + shifter;
    let rest = x - (shifted - shifter);
    let mut series = EXP2_SERIES[13];
    let mut k = 13;
    while k > 1 {
        k -= 1;
        series = series.mul_add(rest, EXP2_SERIES[k]);
    }
    // The sum of one and a smaller number, exactly. Two numbers of single precision have powers so close to
    // the middle between two others that one double does not tell the side.
    let small = series * rest;
    let high = 1.0 + small;
    let low = small - (high - 1.0);
    let bits = high.to_bits();
    let toward_low = u64::from(low > 0.0).wrapping_sub(u64::from(low < 0.0));
    let odd = if bits & 1 == 0 { bits.wrapping_add(toward_low) } else { bits };
    let scale = f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52);
    f64::from_bits(odd) * scale
}

/// `ex2.approx.f32`, `ex2.approx.ftz.f32` (9.7.3.21).
#[inline(always)]
pub fn ex2(accuracy: Accuracy, is_ftz: bool, x: f32) -> f32 {
    let x = flush(is_ftz, x);
    let nearest = exp2(x) as f32;
    let power = match accuracy {
        Accuracy::Nearest => nearest,
        Accuracy::Perturbed => {
            let moved = moved_by_ulps(nearest, f64::from(nearest), EX2_ULPS, x.to_bits());
            if x == 0.0 { nearest } else { moved }
        }
    };
    canonical(flush(is_ftz, power))
}

/// `rcp.approx.f32`, `rcp.approx.ftz.f32` (9.7.3.13).
#[inline(always)]
pub fn rcp(accuracy: Accuracy, is_ftz: bool, x: f32) -> f32 {
    let x = flush(is_ftz, x);
    let nearest = 1.0 / x;
    let reciprocal = match accuracy {
        Accuracy::Nearest => nearest,
        Accuracy::Perturbed => moved_by_ulps(nearest, 1.0 / f64::from(x), RCP_ULPS, x.to_bits()),
    };
    canonical(flush(is_ftz, reciprocal))
}

/// The quotient with an error of two places.
#[inline(always)]
fn quotient(accuracy: Accuracy, a: f32, b: f32) -> f32 {
    let nearest = a / b;
    match accuracy {
        Accuracy::Nearest => nearest,
        Accuracy::Perturbed => {
            let operands = a.to_bits() ^ b.to_bits().rotate_left(16);
            moved_by_ulps(nearest, f64::from(a) / f64::from(b), DIV_ULPS, operands)
        }
    }
}

/// `div.approx.f32`, `div.approx.ftz.f32` (9.7.3.8): zero if the divisor's magnitude exceeds 2^126, NaN if the
/// dividend is infinite then. For subnormal divisors the manual has no bound; they are treated as others.
#[inline(always)]
pub fn div_approx(accuracy: Accuracy, is_ftz: bool, a: f32, b: f32) -> f32 {
    let (a, b) = (flush(is_ftz, a), flush(is_ftz, b));
    let two_to_126 = f32::from_bits((126 + 127) << 23);
    let sign = (a.to_bits() ^ b.to_bits()) & 1 << 31;
    let of_large = if a.abs() < f32::INFINITY { f32::from_bits(sign) } else { f32::NAN };
    let of_others = flush(is_ftz, quotient(accuracy, a, b));
    canonical(if b.abs() > two_to_126 { of_large } else { of_others })
}

/// `div.full.f32`, `div.full.ftz.f32` (9.7.3.8).
#[inline(always)]
pub fn div_full(accuracy: Accuracy, is_ftz: bool, a: f32, b: f32) -> f32 {
    let (a, b) = (flush(is_ftz, a), flush(is_ftz, b));
    canonical(flush(is_ftz, quotient(accuracy, a, b)))
}

/// `sqrt.approx.f32`, `sqrt.approx.ftz.f32` (9.7.3.15).
#[inline(always)]
pub fn sqrt(accuracy: Accuracy, is_ftz: bool, x: f32) -> f32 {
    let x = flush(is_ftz, x);
    let root = f64::from(x).sqrt();
    let moved = farthest(root, root * SQRT_ERROR, x.to_bits());
    let is_movable = (x > 0.0) & (x < f32::INFINITY) & (accuracy == Accuracy::Perturbed);
    canonical(if is_movable { moved } else { x.sqrt() })
}

/// `rsqrt.approx.f32`, `rsqrt.approx.ftz.f32` (9.7.3.16).
#[inline(always)]
pub fn rsqrt(accuracy: Accuracy, is_ftz: bool, x: f32) -> f32 {
    let x = flush(is_ftz, x);
    let reciprocal = 1.0 / f64::from(x).sqrt();
    let moved = farthest(reciprocal, reciprocal * RSQRT_ERROR, x.to_bits());
    let is_movable = (x > 0.0) & (x < f32::INFINITY) & (accuracy == Accuracy::Perturbed);
    canonical(if is_movable { moved } else { reciprocal as f32 })
}

/// `lg2.approx.f32`, `lg2.approx.ftz.f32` (9.7.3.20).
#[inline(always)]
pub fn lg2(accuracy: Accuracy, is_ftz: bool, x: f32) -> f32 {
    let x = flush(is_ftz, x);
    let logarithm = libm::log2(f64::from(x));
    let is_close = (x > 0.5) & (x < 2.0);
    let bound = if is_close { LG2_ERROR } else { logarithm.abs() * LG2_ERROR };
    let moved = farthest(logarithm, bound, x.to_bits());
    let is_movable = (x > 0.0) & (x < f32::INFINITY) & (accuracy == Accuracy::Perturbed);
    canonical(flush(is_ftz, if is_movable { moved } else { logarithm as f32 }))
}

/// What sines and cosines have in common.
#[inline(always)]
fn of_angle(accuracy: Accuracy, is_ftz: bool, x: f32, function: impl Fn(f64) -> f64) -> f32 {
    let x = flush(is_ftz, x);
    let value = function(f64::from(x));
    let is_small = f64::from(x.abs()) <= 2.0 * std::f64::consts::PI;
    let bound = if is_small { ANGLE_ERROR } else { LARGE_ANGLE_ERROR };
    let moved = farthest(value, bound, x.to_bits()).clamp(-1.0, 1.0);
    let is_movable = (x.abs() > 0.0) & (accuracy == Accuracy::Perturbed);
    canonical(flush(is_ftz, if is_movable { moved } else { value as f32 }))
}

/// `sin.approx.f32`, `sin.approx.ftz.f32` (9.7.3.18).
#[inline(always)]
pub fn sin(accuracy: Accuracy, is_ftz: bool, x: f32) -> f32 {
    of_angle(accuracy, is_ftz, x, libm::sin)
}

/// `cos.approx.f32`, `cos.approx.ftz.f32` (9.7.3.19).
#[inline(always)]
pub fn cos(accuracy: Accuracy, is_ftz: bool, x: f32) -> f32 {
    of_angle(accuracy, is_ftz, x, libm::cos)
}

/// `tanh.approx.f32` (9.7.3.22). Subnormal operands are passed through.
#[inline(always)]
pub fn tanh(accuracy: Accuracy, x: f32) -> f32 {
    let value = libm::tanh(f64::from(x));
    let moved = farthest(value, value.abs() * TANH_ERROR, x.to_bits()).clamp(-1.0, 1.0);
    let is_movable = (x.abs() >= f32::MIN_POSITIVE)
        & (x.abs() < f32::INFINITY)
        & (accuracy == Accuracy::Perturbed);
    canonical(if is_movable { moved } else { value as f32 })
}
