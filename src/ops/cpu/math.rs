//! Vectorised elementary functions over slices: exp, erf, exact GELU and its derivative.
//!
//! The polynomials are minimax fits made for this crate (iteratively reweighted least squares in
//! extended precision); the tests hold their errors against f64.

use crate::ops::cpu::simd::{Arith, multiversion};

/// 1.5 * 2^23: adding it leaves round-to-nearest integers in the low mantissa bits.
const ROUND: f32 = 12_582_912.0;
const LN2_HI: f32 = 0.693_359_4; // 9 bits: n * LN2_HI is exact for |n| < 2^14
const LN2_LO: f32 = -2.121_944_4e-4;
const INV_SQRT_2PI: f32 = 0.398_942_3;

/// 2^n for n in -126..=127, from n added to `ROUND`.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits(((n + 127) << 23) as u32)
}

#[inline(always)]
fn horner<A: Arith, const N: usize>(x: f32, highest_first: [f32; N]) -> f32 {
    let mut y = highest_first[0];
    let mut i = 1;
    while i < N {
        y = A::mul_add(y, x, highest_first[i]);
        i += 1;
    }
    y
}

/// Reduces `x + low` to `n ln 2 + r` and returns `(exp(r), n)`; |x| below 2^13.
#[inline(always)]
fn exp_parts<A: Arith>(x: f32, low: f32) -> (f32, i32) {
    let t = A::mul_add(x, std::f32::consts::LOG2_E, ROUND);
    let n = t - ROUND;
    let r = A::mul_add(-n, LN2_LO, A::mul_add(-n, LN2_HI, x)) + low;
    let q =
        horner::<A, 5>(r, [0.001_381_432, 0.008_368_851, 0.041_668_4, 0.166_665_2, 0.499_999_94]);
    (A::mul_add(r * r, q, r) + 1.0, t.to_bits().wrapping_sub(ROUND.to_bits()) as i32)
}

/// exp over the whole range: subnormal results are rounded once, NaN stays NaN.
#[inline(always)]
pub(crate) fn exp1<A: Arith>(x: f32) -> f32 {
    // Comparisons, not min and max: those would turn NaN into a number.
    let c = if x < -104.0 { -104.0 } else { x };
    let c = if c > 89.0 { 89.0 } else { c };
    let (y, n) = exp_parts::<A>(c, 0.0);
    // Two exact factors reach from 2^-150 to 2^128; a NaN's n is arbitrary, so keep it in range.
    let n = n.clamp(-151, 129);
    let half = n >> 1;
    y * power_of_two(half) * power_of_two(n - half)
}

/// exp for `x <= 0` where results below 2^-126 may become 0: softmax.
#[inline(always)]
pub(crate) fn exp_softmax1<A: Arith>(x: f32) -> f32 {
    let c = if x < -87.3 { -87.3 } else { x };
    let (y, n) = exp_parts::<A>(c, 0.0);
    let y = y * power_of_two(n.clamp(-126, 127));
    if x < -87.3 { 0.0 } else { y }
}

/// `(exp(-x^2 / 2), 1 - Phi(|x|))` for the normal distribution function `Phi`, both with relative
/// errors of a few eps; 0 beyond |x| = 14.5.
#[inline(always)]
fn gaussian<A: Arith>(x: f32) -> (f32, f32) {
    let a = x.abs();
    let a = if a > 14.5 { 14.5 } else { a };
    // x^2 in two parts: its rounding error would otherwise be multiplied by x^2 in the result.
    let high = f32::from_bits(a.to_bits() & 0xFFFF_F000);
    let low = (a - high) * (a + high);
    let (y, n) = exp_parts::<A>(-0.5 * high * high, -0.5 * low);
    let n = n.clamp(-252, 0);
    let half = n >> 1;
    let e = y * power_of_two(half) * power_of_two(n - half);
    // Mills' ratio over sqrt(2 pi), a polynomial in 1 / (1 + 0.35 |x|).
    let t = 1.0 / A::mul_add(0.35, a, 1.0);
    let q = horner::<A, 9>(
        t,
        [
            -0.029_159_456,
            0.144_038_72,
            -0.255_855_47,
            0.159_338_92,
            -0.023_225_922,
            0.105_558_4,
            0.119_819_75,
            0.139_863_73,
            0.139_621_29,
        ],
    );
    (e, e * (q * t))
}

#[inline(always)]
pub(crate) fn gelu1<A: Arith>(x: f32) -> f32 {
    let (_, tail) = gaussian::<A>(x);
    let phi = if x < 0.0 { tail } else { 1.0 - tail };
    // Beyond 14.5 the tail underflows: x < 0 must give -0, not -inf * tail.
    if x < -14.5 { -0.0 } else { x * phi }
}

#[inline(always)]
pub(crate) fn gelu_grad1<A: Arith>(x: f32) -> f32 {
    let (e, tail) = gaussian::<A>(x);
    let phi = if x < 0.0 { tail } else { 1.0 - tail };
    let clamped = if x.abs() > 14.5 { 0.0 } else { x };
    A::mul_add(clamped * INV_SQRT_2PI, e, phi)
}

#[inline(always)]
fn erf1<A: Arith>(z: f32) -> f32 {
    let small = z * horner::<A, 7>(
        z * z,
        [
            7.853_861_5e-5,
            -0.000_801_019_37,
            0.005_188_327_7,
            -0.026_853_813,
            0.112_835_854,
            -0.376_126_26,
            std::f32::consts::FRAC_2_SQRT_PI,
        ],
    );
    let (_, tail) = gaussian::<A>(z * std::f32::consts::SQRT_2);
    let large = (1.0 - 2.0 * tail).copysign(z);
    if z.abs() < 1.0 {
        small
    } else if z.is_nan() {
        z
    } else {
        large
    }
}

#[inline(always)]
fn map<A: Arith>(x: &mut [f32], f: impl Fn(f32) -> f32) {
    for v in x {
        *v = f(*v);
    }
}

#[inline(always)]
fn exp_body<A: Arith>(x: &mut [f32]) {
    map::<A>(x, exp1::<A>);
}

#[inline(always)]
fn erf_body<A: Arith>(x: &mut [f32]) {
    map::<A>(x, erf1::<A>);
}

#[inline(always)]
fn gelu_body<A: Arith>(y: &mut [f32], x: &[f32]) {
    assert_eq!(y.len(), x.len(), "gelu: lengths differ");
    for (y, x) in y.iter_mut().zip(x) {
        *y = gelu1::<A>(*x);
    }
}

#[inline(always)]
fn gelu_backward_body<A: Arith>(dy: &mut [f32], x: &[f32]) {
    assert_eq!(dy.len(), x.len(), "gelu_backward: lengths differ");
    for (d, x) in dy.iter_mut().zip(x) {
        *d *= gelu_grad1::<A>(*x);
    }
}

multiversion! {
    /// `x = exp(x)`; relative error at most 2e-7, subnormal results included (to their precision).
    pub fn exp | exp_at(x: &mut [f32]) = exp_body;
    /// `x = erf(x)`; relative error at most 4e-7.
    pub fn erf | erf_at(x: &mut [f32]) = erf_body;
    /// `y = x Phi(x)`, the exact (erf) GELU; relative error at most 4e-6 down to where the result
    /// is subnormal. Panics when the lengths differ.
    pub fn gelu | gelu_at(y: &mut [f32], x: &[f32]) = gelu_body;
    /// `dy *= d/dx (x Phi(x))` at the pre-activation `x`. Panics when the lengths differ.
    pub fn gelu_backward | gelu_backward_at(dy: &mut [f32], x: &[f32]) = gelu_backward_body;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::cpu::simd::{Level, Separate, levels};

    /// Every `step`-th float of both signs from the smallest subnormal to `to`.
    fn sweep(to: f32, step: usize) -> Vec<f32> {
        (1..=to.to_bits())
            .step_by(step)
            .flat_map(|bits| [f32::from_bits(bits), -f32::from_bits(bits)])
            .chain([0.0, -0.0, to, -to])
            .chain((0..=200_000).map(|i| (f64::from(to) * (f64::from(i) / 1e5 - 1.0)) as f32))
            .collect()
    }

    fn check(
        name: &str,
        x: &[f32],
        run: impl Fn(Level, &mut [f32], &[f32]),
        exact: impl Fn(f64) -> f64,
        relative: f64,
        absolute: f64,
    ) {
        for level in levels() {
            let mut y = x.to_vec();
            run(level, &mut y, x);
            for (x, y) in x.iter().zip(&y) {
                let want = exact(f64::from(*x));
                let e = (f64::from(*y) - want).abs();
                let bound = relative * want.abs() + absolute;
                assert!(e <= bound, "{name}({x}) = {y}, expected {want} ({level:?}, {e:e})");
            }
        }
    }

    /// Half a unit of the smallest subnormal, rounded up.
    const TINY: f64 = 1e-45;

    #[test]
    fn exp_is_accurate_over_the_range() {
        let run = |level, y: &mut [f32], _: &[f32]| exp_at(level, y);
        let x: Vec<f32> = sweep(104.0, 4001).into_iter().filter(|x| *x < 88.72).collect();
        check("exp", &x, run, libm::exp, 2e-7, TINY);
        for level in levels() {
            let mut y =
                [f32::NEG_INFINITY, -1e30, -200.0, 0.0, 88.8, 1e30, f32::INFINITY, f32::NAN];
            exp_at(level, &mut y);
            assert_eq!(y[..4], [0.0, 0.0, 0.0, 1.0], "{level:?}");
            assert_eq!(y[4..7], [f32::INFINITY; 3], "{level:?}");
            assert!(y[7].is_nan(), "{level:?}");
        }
    }

    #[test]
    fn softmax_exp_is_accurate_and_flushes_to_zero() {
        for i in 0..1_000_000 {
            let x = -87.29 * (i as f32 / 1e6);
            let want = libm::exp(f64::from(x));
            let e = (f64::from(exp_softmax1::<Separate>(x)) / want - 1.0).abs();
            assert!(e <= 2e-7, "exp({x}): {e:e}");
        }
        assert_eq!(exp_softmax1::<Separate>(-88.0), 0.0);
        assert_eq!(exp_softmax1::<Separate>(f32::NEG_INFINITY), 0.0);
        assert!(exp_softmax1::<Separate>(f32::NAN).is_nan());
    }

    #[test]
    fn erf_is_accurate() {
        let run = |level, y: &mut [f32], _: &[f32]| erf_at(level, y);
        check("erf", &sweep(10.0, 4001), run, libm::erf, 4e-7, TINY);
        for level in levels() {
            let mut y = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
            erf_at(level, &mut y);
            assert_eq!(y[..2], [1.0, -1.0], "{level:?}");
            assert!(y[2].is_nan(), "{level:?}");
        }
    }

    fn phi(x: f64) -> f64 {
        0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2)
    }

    #[test]
    fn gelu_is_accurate_far_into_the_negative_tail() {
        // Relative down to the smallest normal number, then to the spacing of the subnormals.
        check("gelu", &sweep(30.0, 4001), gelu_at, |x| x * phi(x), 4e-6, 4e-44);
        for level in levels() {
            let x = [f32::INFINITY, f32::NEG_INFINITY, -1e30, 1e30, f32::NAN];
            let mut y = [0.0; 5];
            gelu_at(level, &mut y, &x);
            assert_eq!(y[..4], [f32::INFINITY, 0.0, 0.0, 1e30], "{level:?}");
            assert!(y[4].is_nan(), "{level:?}");
        }
    }

    #[test]
    fn gelu_derivative_is_accurate() {
        let run = |level, y: &mut [f32], x: &[f32]| {
            y.fill(1.0);
            gelu_backward_at(level, y, x);
        };
        let exact =
            |x: f64| phi(x) + x * (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
        // The derivative crosses zero near -0.75: absolute error there.
        check("gelu'", &sweep(30.0, 4001), run, exact, 1e-6, 1e-7);
        for level in levels() {
            let mut y = [1.0; 2];
            gelu_backward_at(level, &mut y, &[f32::NAN, -1e30]);
            assert!(y[0].is_nan() && y[1] == 0.0, "{level:?}: {y:?}");
        }
    }
}
