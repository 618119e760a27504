//! Addition, multiplication, division and square roots, rounded as IEEE 754 says (9.7.3).
//!
//! Single precision, to nearest, is what the processor computes. In the other directions the exact result is
//! held as the sum of two doubles, `high + low`, and rounded once. This has no branches. Double precision is
//! rounded to nearest only.
//!
//! NaN: "single-precision instructions return an unspecified NaN" (9.7.3). Here it is always `0x7fffffff`,
//! the one that the manual calls canonical elsewhere. Double precision keeps payloads: the first operand that
//! is NaN, made quiet; without such an operand it is `0xfff8000000000000`.

/// `.rn`, `.rz`, `.rm`, `.rp`; for rounding to integers `.rni`, `.rzi`, `.rmi`, `.rpi`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rounding {
    /// To the nearest value; of two equally near ones to the even one.
    Nearest,
    /// Towards zero.
    Zero,
    /// Towards negative infinity.
    Down,
    /// Towards positive infinity.
    Up,
}

/// The bits of the NaN that every single-precision instruction returns.
pub const NAN_F32: u32 = 0x7fff_ffff;

/// The bits of the NaN of double-precision instructions none of whose operands is NaN.
pub const NAN_F64: u64 = 0xfff8_0000_0000_0000;

/// `x`, or the canonical NaN in place of any other.
#[inline(always)]
pub fn canonical(x: f32) -> f32 {
    if x.is_nan() { f32::from_bits(NAN_F32) } else { x }
}

/// `x` with its quiet bit set, if it is NaN.
#[inline(always)]
pub fn quiet(x: f64) -> f64 {
    if x.is_nan() { f64::from_bits(x.to_bits() | 1 << 51) } else { x }
}

/// `.ftz`: subnormal numbers become zeros of the same sign.
#[inline(always)]
pub fn ftz(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { f32::from_bits(x.to_bits() & 1 << 31) } else { x }
}

/// `.sat`: into [0, 1]; NaN and negative zero become positive zero.
#[inline(always)]
pub fn saturate(x: f32) -> f32 {
    if x >= 1.0 {
        1.0
    } else if x > 0.0 {
        x
    } else {
        0.0
    }
}

/// The value of a double, in three steps that have no rounding error: `a + b == high + low`. Neither may be so
/// large that the sum overflows. Infinities and NaN come out in `high`, with NaN in `low`.
#[inline(always)]
pub(super) fn exact_sum(a: f64, b: f64) -> (f64, f64) {
    let high = a + b;
    let from_b = high - a;
    (high, (a - (high - from_b)) + (b - from_b))
}

/// One place down or up in the order of the numbers.
#[inline(always)]
fn step(x: f32, up: bool) -> f32 {
    let bits = x.to_bits();
    let away = (bits >> 31 == 0) == up;
    let moved = if away { bits.wrapping_add(1) } else { bits.wrapping_sub(1) };
    let from_zero = if up { 1 } else { 0x8000_0001 };
    f32::from_bits(if x == 0.0 { from_zero } else { moved })
}

/// The exact value `high + low`, rounded to single precision. `high` is the double nearest to that value; of
/// `low` only the sign matters. NaN in `low` counts as zero. The result may be any NaN.
#[inline(always)]
pub(super) fn to_f32(rounding: Rounding, high: f64, low: f64) -> f32 {
    let nearest = high as f32;
    let back = f64::from(nearest);
    // Without short circuits, as elsewhere here: they would be branches.
    let is_below = (high < back) | ((high == back) & (low < 0.0));
    let is_above = (high > back) | ((high == back) & (low > 0.0));
    match rounding {
        Rounding::Nearest => nearest,
        Rounding::Down => {
            if is_below {
                step(nearest, false)
            } else {
                nearest
            }
        }
        Rounding::Up => {
            if is_above {
                step(nearest, true)
            } else {
                nearest
            }
        }
        Rounding::Zero => {
            let is_too_far = (is_below & (high > 0.0)) | (is_above & (high < 0.0));
            if is_too_far { f32::from_bits(nearest.to_bits().wrapping_sub(1)) } else { nearest }
        }
    }
}

/// The exact value `high + low`, rounded to odd: if it lies between two numbers of single precision, to the
/// one whose last bit is set. Rounding this on, to a format that is two bits shorter or more, in any
/// direction, is as good as rounding the exact value.
#[inline(always)]
pub(super) fn to_odd_f32(high: f64, low: f64) -> f32 {
    let toward_zero = to_f32(Rounding::Zero, high, low);
    let back = f64::from(toward_zero);
    let is_inexact = (back < high) | (back > high) | (low < 0.0) | (low > 0.0);
    f32::from_bits(toward_zero.to_bits() | u32::from(is_inexact))
}

/// Sums of opposite numbers are `+0`, but `-0` if rounded down (IEEE 754, 6.3).
#[inline(always)]
fn round_sum(rounding: Rounding, a: f64, b: f64) -> f32 {
    let (high, low) = exact_sum(a, b);
    let rounded = to_f32(rounding, high, low);
    let is_negative_zero = (high == 0.0) & (a.is_sign_negative() != b.is_sign_negative());
    canonical(if (rounding == Rounding::Down) & is_negative_zero { -0.0 } else { rounded })
}

/// `add.f32` (9.7.3.3).
#[inline(always)]
pub fn add_f32(rounding: Rounding, a: f32, b: f32) -> f32 {
    match rounding {
        Rounding::Nearest => canonical(a + b),
        _ => round_sum(rounding, f64::from(a), f64::from(b)),
    }
}

/// `sub.f32` (9.7.3.4).
#[inline(always)]
pub fn sub_f32(rounding: Rounding, a: f32, b: f32) -> f32 {
    add_f32(rounding, a, -b)
}

/// `mul.f32` (9.7.3.5).
#[inline(always)]
pub fn mul_f32(rounding: Rounding, a: f32, b: f32) -> f32 {
    match rounding {
        Rounding::Nearest => canonical(a * b),
        _ => canonical(to_f32(rounding, f64::from(a) * f64::from(b), 0.0)),
    }
}

/// `fma.f32`, `mad.f32` (9.7.3.6).
#[inline(always)]
pub fn fma_f32(rounding: Rounding, a: f32, b: f32, c: f32) -> f32 {
    match rounding {
        Rounding::Nearest => canonical(a.mul_add(b, c)),
        // The product of two numbers of 24 bits is exact in double precision.
        _ => round_sum(rounding, f64::from(a) * f64::from(b), f64::from(c)),
    }
}

/// `div.rnd.f32` (9.7.3.8).
#[inline(always)]
pub fn div_f32(rounding: Rounding, a: f32, b: f32) -> f32 {
    match rounding {
        Rounding::Nearest => canonical(a / b),
        // A quotient `a / b` either is a number `q` of 24 bits, or differs from all of them by a part of 2^-48
        // or more: `a - q * b` is an integer in units of the product of the last places of `q` and `b`. So
        // rounding the quotient to 53 bits does not hide on which side of such a number it is.
        _ => canonical(to_f32(rounding, f64::from(a) / f64::from(b), 0.0)),
    }
}

/// `rcp.rn.f32` (9.7.3.13).
#[inline(always)]
pub fn rcp_f32(a: f32) -> f32 {
    canonical(1.0 / a)
}

/// `sqrt.rn.f32` (9.7.3.15).
#[inline(always)]
pub fn sqrt_f32(a: f32) -> f32 {
    canonical(a.sqrt())
}

/// The NaN of an instruction whose result is NaN, of its operands in their order.
#[inline(always)]
fn keep_payload(result: f64, operands: &[f64]) -> f64 {
    if !result.is_nan() {
        return result;
    }
    let nan = operands.iter().copied().find(|x| x.is_nan());
    nan.map_or(f64::from_bits(NAN_F64), quiet)
}

/// `add.rn.f64` (9.7.3.3).
#[inline(always)]
pub fn add_f64(a: f64, b: f64) -> f64 {
    keep_payload(a + b, &[a, b])
}

/// `sub.rn.f64` (9.7.3.4).
#[inline(always)]
pub fn sub_f64(a: f64, b: f64) -> f64 {
    keep_payload(a - b, &[a, b])
}

/// `mul.rn.f64` (9.7.3.5).
#[inline(always)]
pub fn mul_f64(a: f64, b: f64) -> f64 {
    keep_payload(a * b, &[a, b])
}

/// `fma.rn.f64`, `mad.rn.f64` (9.7.3.6).
#[inline(always)]
pub fn fma_f64(a: f64, b: f64, c: f64) -> f64 {
    keep_payload(a.mul_add(b, c), &[a, b, c])
}

/// `div.rn.f64` (9.7.3.8).
#[inline(always)]
pub fn div_f64(a: f64, b: f64) -> f64 {
    keep_payload(a / b, &[a, b])
}

/// The modifiers of a single-precision instruction. Subnormal operands are flushed before, results after they
/// are rounded; then they are saturated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mode {
    /// `.rn`, `.rz`, `.rm`, `.rp`.
    pub rounding: Rounding,
    /// `.ftz`.
    pub ftz: bool,
    /// `.sat`.
    pub sat: bool,
}

impl Mode {
    /// An operand, flushed if the mode says so.
    #[inline(always)]
    pub fn operand(self, x: f32) -> f32 {
        if self.ftz { ftz(x) } else { x }
    }

    /// A rounded result, flushed and saturated if the mode says so.
    #[inline(always)]
    pub fn result(self, x: f32) -> f32 {
        let x = if self.ftz { ftz(x) } else { x };
        if self.sat { saturate(x) } else { x }
    }

    /// `add.f32`.
    #[inline(always)]
    pub fn add(self, a: f32, b: f32) -> f32 {
        self.result(add_f32(self.rounding, self.operand(a), self.operand(b)))
    }

    /// `sub.f32`.
    #[inline(always)]
    pub fn sub(self, a: f32, b: f32) -> f32 {
        self.result(sub_f32(self.rounding, self.operand(a), self.operand(b)))
    }

    /// `mul.f32`.
    #[inline(always)]
    pub fn mul(self, a: f32, b: f32) -> f32 {
        self.result(mul_f32(self.rounding, self.operand(a), self.operand(b)))
    }

    /// `fma.f32`, `mad.f32`.
    #[inline(always)]
    pub fn fma(self, a: f32, b: f32, c: f32) -> f32 {
        let (a, b, c) = (self.operand(a), self.operand(b), self.operand(c));
        self.result(fma_f32(self.rounding, a, b, c))
    }

    /// `div.rnd.f32`.
    #[inline(always)]
    pub fn div(self, a: f32, b: f32) -> f32 {
        self.result(div_f32(self.rounding, self.operand(a), self.operand(b)))
    }
}
