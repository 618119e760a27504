//! Double precision in the directions that the processor does not round to, by integers.
//!
//! A finite number is a sign, an integer and a power of two. Every operation makes such a number of up to 127
//! bits, whose last bit is set if anything was cut off ("sticky"), and `pack` rounds it once. Of NaN only
//! that it is NaN is right: the callers choose its bits.

use super::round::Rounding;

/// `magnitude * 2^exponent`, negative or not.
#[derive(Clone, Copy)]
struct Number {
    is_negative: bool,
    magnitude: u128,
    exponent: i32,
}

/// Takes a finite number apart.
fn unpack(x: f64) -> Number {
    let bits = x.to_bits();
    let fraction = bits & ((1 << 52) - 1);
    let field = (bits >> 52 & 0x7ff) as i32;
    let (integer, exponent) =
        if field == 0 { (fraction, -1074) } else { (fraction | 1 << 52, field - 1075) };
    Number { is_negative: bits >> 63 != 0, magnitude: u128::from(integer), exponent }
}

/// Shifts right; what falls off leaves a trace in the last bit.
fn shift_right_sticky(x: u128, count: u32) -> u128 {
    match count {
        0 => x,
        1..128 => x >> count | u128::from(x << (128 - count) != 0),
        _ => u128::from(x != 0),
    }
}

impl Number {
    /// The same number with bit 125 as its highest, which leaves room for a sum. Not for zero, nor for
    /// numbers that are longer.
    fn normalized(self) -> Number {
        let shift = self.magnitude.leading_zeros() - 2;
        Number {
            magnitude: self.magnitude << shift,
            exponent: self.exponent - shift.cast_signed(),
            ..self
        }
    }

    /// Rounds to a double.
    fn pack(self, rounding: Rounding) -> f64 {
        let sign = u64::from(self.is_negative) << 63;
        if self.magnitude == 0 {
            return f64::from_bits(sign);
        }
        let top = 127 - self.magnitude.leading_zeros().cast_signed() + self.exponent;
        // The place of the result's last bit.
        let unit = (top - 52).max(-1074);
        // The result with two bits more: a half, and whether there is anything below it.
        let shift = unit - 2 - self.exponent;
        let longer = if shift > 0 {
            shift_right_sticky(self.magnitude, shift.unsigned_abs())
        } else {
            self.magnitude << shift.unsigned_abs()
        };
        let (kept, rest) = ((longer >> 2) as u64, longer & 3);
        let is_away = match rounding {
            Rounding::Nearest => rest == 3 || (rest == 2 && kept & 1 != 0),
            Rounding::Zero => false,
            Rounding::Down => self.is_negative,
            Rounding::Up => !self.is_negative,
        };
        // The highest bit of what is kept adds one to the exponent; a carry out of the fraction another.
        let bits = ((unit + 1074).unsigned_abs() as u64) << 52;
        let bits = bits + kept + u64::from(is_away && rest != 0);
        let infinity = f64::INFINITY.to_bits();
        let is_limited = match rounding {
            Rounding::Nearest => false,
            _ => !is_away,
        };
        f64::from_bits(sign | bits.min(infinity - u64::from(is_limited)))
    }
}

/// `a * b + c`.
pub(super) fn fma(rounding: Rounding, a: f64, b: f64, c: f64) -> f64 {
    if !(a.is_finite() && b.is_finite() && c.is_finite()) {
        return a.mul_add(b, c);
    }
    let (a, b, c) = (unpack(a), unpack(b), unpack(c));
    let product = Number {
        is_negative: a.is_negative != b.is_negative,
        magnitude: a.magnitude * b.magnitude,
        exponent: a.exponent + b.exponent,
    };
    add(product, c, rounding).pack(rounding)
}

/// The sum of two numbers, exact but for a sticky last bit. The sum of opposite numbers is `-0` if it is to
/// be rounded down, else `+0` (IEEE 754, 6.3).
fn add(a: Number, b: Number, rounding: Rounding) -> Number {
    let zero = Number { is_negative: rounding == Rounding::Down, magnitude: 0, exponent: 0 };
    match (a.magnitude, b.magnitude) {
        (0, 0) if a.is_negative == b.is_negative => return a,
        (0, 0) => return zero,
        (0, _) => return b,
        (_, 0) => return a,
        _ => {}
    }
    let (a, b) = (a.normalized(), b.normalized());
    let (large, small) =
        if (a.exponent, a.magnitude) >= (b.exponent, b.magnitude) { (a, b) } else { (b, a) };
    // If much cancels, the exponents differ by one at most, and nothing is cut off.
    let distance = (large.exponent - small.exponent).unsigned_abs();
    let aligned = shift_right_sticky(small.magnitude, distance);
    if large.is_negative == small.is_negative {
        return Number { magnitude: large.magnitude + aligned, ..large };
    }
    match large.magnitude - aligned {
        0 => zero,
        magnitude => Number { magnitude, ..large },
    }
}

/// `a * b`.
pub(super) fn mul(rounding: Rounding, a: f64, b: f64) -> f64 {
    if !(a.is_finite() && b.is_finite()) {
        return a * b;
    }
    let (a, b) = (unpack(a), unpack(b));
    let product = Number {
        is_negative: a.is_negative != b.is_negative,
        magnitude: a.magnitude * b.magnitude,
        exponent: a.exponent + b.exponent,
    };
    product.pack(rounding)
}

/// `a / b`.
pub(super) fn div(rounding: Rounding, a: f64, b: f64) -> f64 {
    if !(a.is_finite() && b.is_finite()) || a == 0.0 || b == 0.0 {
        return a / b;
    }
    let (a, b) = (unpack(a).normalized(), unpack(b));
    let is_cut = a.magnitude % b.magnitude != 0;
    let quotient = Number {
        is_negative: a.is_negative != b.is_negative,
        magnitude: (a.magnitude / b.magnitude) | u128::from(is_cut),
        exponent: a.exponent - b.exponent,
    };
    quotient.pack(rounding)
}

/// The square root of `a`.
pub(super) fn sqrt(rounding: Rounding, a: f64) -> f64 {
    if !a.is_finite() || a <= 0.0 {
        return a.sqrt();
    }
    let mut a = unpack(a).normalized();
    if a.exponent % 2 != 0 {
        a.magnitude <<= 1;
        a.exponent -= 1;
    }
    let root = a.magnitude.isqrt();
    let is_cut = root * root != a.magnitude;
    let root = Number {
        is_negative: false,
        magnitude: root | u128::from(is_cut),
        exponent: a.exponent / 2,
    };
    root.pack(rounding)
}
