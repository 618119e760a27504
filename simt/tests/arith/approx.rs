//! Approximate instructions against true values from elsewhere, and the manual's tables.

use std::fmt::Arguments;

use glmae_simt::arith::approx::{self, Accuracy};
use glmae_simt::arith::round::NAN_F32;

use crate::random::Random;

const BOTH: [Accuracy; 2] = [Accuracy::Nearest, Accuracy::Perturbed];
const INF: f32 = f32::INFINITY;

/// A sum of two doubles, the second of which is tiny.
#[derive(Clone, Copy)]
struct Pair(f64, f64);

impl Pair {
    fn mul(self, other: Pair) -> Pair {
        let product = self.0 * other.0;
        let error = self.0.mul_add(other.0, -product);
        let low = error + (self.0 * other.1 + self.1 * other.0);
        let high = product + low;
        Pair(high, low - (high - product))
    }

    /// `self - x`, whose sign counts.
    fn minus(self, x: f64) -> f64 {
        (self.0 - x) + self.1
    }
}

/// `2^(2^-k)` for k from 1 on: each the square root of the one before.
fn roots_of_two() -> Vec<Pair> {
    let mut roots = vec![Pair(2.0, 0.0)];
    for _ in 0..160 {
        let &Pair(high, low) = roots.last().unwrap();
        let root = high.sqrt();
        let rest = (-root).mul_add(root, high) + low;
        // One step of Newton's method from the root in double precision, and a second one.
        let correction = rest / (2.0 * root);
        let correction = (rest - correction * correction) / (2.0 * root);
        roots.push(Pair(root, correction));
    }
    roots
}

/// `2^x` for x from -160 to 130, as the product of such roots.
fn exp2(roots: &[Pair], x: f32) -> Pair {
    let whole = f64::from(x).floor();
    let mut rest = f64::from(x) - whole;
    let mut power = Pair(1.0, 0.0);
    for (k, &root) in roots.iter().enumerate().skip(1) {
        let bit = (-(k as f64)).exp2();
        if rest >= bit {
            rest -= bit;
            power = power.mul(root);
        }
    }
    let scale = whole.exp2();
    Pair(power.0 * scale, power.1 * scale)
}

fn neighbours(x: f32) -> [f64; 2] {
    [f64::from(x.next_down()), f64::from(x.next_up())]
}

/// Asserts that `result` is the single-precision number nearest to a value above zero.
fn assert_nearest(value: Pair, result: f32, context: Arguments<'_>) {
    let [below, above] = neighbours(result);
    if result < INF {
        let middle = if above == f64::INFINITY {
            2.0_f64.powi(128) - 2.0_f64.powi(103)
        } else {
            f64::from(result).midpoint(above)
        };
        assert!(value.minus(middle) <= 0.0, "too small: {context}");
    }
    if result > 0.0 {
        let below = if result == INF { f64::from(f32::MAX) } else { below };
        let above = if result == INF { 2.0_f64.powi(128) } else { f64::from(result) };
        assert!(value.minus(below.midpoint(above)) >= 0.0, "too large: {context}");
    }
}

fn assert_exp2(roots: &[Pair], x: f32) {
    let result = approx::ex2(Accuracy::Nearest, false, x);
    assert_nearest(
        exp2(roots, x),
        result,
        format_args!("2^{x:e} ({:08x}) = {result:e}", x.to_bits()),
    );
}

#[test]
fn powers_of_two_are_the_nearest() {
    let roots = roots_of_two();
    let mut random = Random::new(51);
    for _ in 0..300_000 {
        let x = match random.below(4) {
            // The results of attention: from zero to one.
            0 => -(random.word() as f32 * 2.0_f32.powi(-29)),
            1 => random.f32().clamp(-159.0, 129.0),
            2 => (random.word() as i32 as f32) * 2.0_f32.powi(-24),
            _ => f32::from_bits(random.word() & 0xbfff_ffff) * 64.0,
        };
        if (-160.0..130.0).contains(&x) {
            assert_exp2(&roots, x);
        }
    }
    for whole in -149..128 {
        let power = approx::ex2(Accuracy::Nearest, false, whole as f32);
        assert_eq!(f64::from(power), 2.0_f64.powi(whole));
    }
}

/// Whether the power is nearest, first by the power in double precision, if that tells.
fn assert_exp2_quickly(roots: &[Pair], x: f32) {
    let truth = f64::from(x).exp2();
    // Of a double 29 bits are cut off: how far they are from one half.
    let distance = (truth.to_bits() & 0x1fff_ffff).abs_diff(0x1000_0000);
    if distance < 64 || x < -126.0 {
        assert_exp2(roots, x);
    } else {
        let result = approx::ex2(Accuracy::Nearest, false, x);
        assert_eq!(result, truth as f32, "2^{x:e} ({:08x})", x.to_bits());
    }
}

/// The powers that are nearest to the middle between two numbers, of all of single precision.
#[test]
fn hard_powers_of_two_are_the_nearest() {
    let roots = roots_of_two();
    for bits in [0x3b42_9d37, 0xbcf3_a937] {
        let x = f32::from_bits(bits);
        assert_exp2(&roots, x);
        // They are hard: the double nearest to the power is rounded to the wrong side.
        let Pair(high, low) = exp2(&roots, x);
        assert_ne!((high + low) as f32, approx::ex2(Accuracy::Nearest, false, x));
    }
}

/// All of them. Below 2^-26 the power is one.
#[test]
#[ignore = "every number of single precision: a minute or more, and slow without FMA"]
fn every_power_of_two_is_the_nearest() {
    let roots = roots_of_two();
    let (first, limit) = (2.0_f32.powi(-27).to_bits(), 160.0_f32.to_bits());
    std::thread::scope(|scope| {
        for sign in [0, 1 << 31] {
            let roots = &roots;
            scope.spawn(move || {
                let numbers = (first..limit).map(|bits| f32::from_bits(sign | bits));
                numbers.filter(|&x| x < 130.0).for_each(|x| assert_exp2_quickly(roots, x));
            });
        }
    });
}

/// Compares the square of the reciprocal of `y` with `x`, exactly: `x * y^2` with 1, of integers with 2^`scale`
/// in place of 1.
fn is_root_at_most(x: u64, y: u64, scale: u32) -> bool {
    u128::from(x) * u128::from(y) * u128::from(y) <= 1 << scale
}

#[test]
fn every_reciprocal_square_root_is_the_nearest() {
    // From 1 to 4 there is every significand with an even and with an odd exponent.
    for bits in 0x3f80_0000_u32..0x4080_0000 {
        let x = f32::from_bits(bits);
        let result = approx::rsqrt(Accuracy::Nearest, false, x);
        // x in units of 2^-23, halves of places of a result between 1/2 and 1 in units of 2^-25.
        let x = (f64::from(x) * 8_388_608.0) as u64;
        let y = (f64::from(result) * 33_554_432.0) as u64;
        let half = if result > 0.5 { 1 } else { 0 };
        assert!(!is_root_at_most(x, y + 1, 73) && is_root_at_most(x, y - half, 73), "{bits:x}");
    }
}

/// A function and its bound: what the instruction gives, what is true, and how much it may be off.
struct Case {
    name: &'static str,
    instruction: fn(Accuracy, bool, f32) -> f32,
    truth: fn(f64) -> f64,
    bound: fn(f32, f64) -> f64,
    domain: fn(f32) -> bool,
}

/// The distance of neighbours at a number of single precision.
fn ulp(x: f64) -> f64 {
    let exponent = x.abs().log2().floor().max(-126.0) as i32;
    2.0_f64.powi(exponent - 23)
}

const CASES: [Case; 8] = [
    Case {
        name: "ex2",
        instruction: approx::ex2,
        truth: f64::exp2,
        // From the correctly rounded result, which is half a place from the true one.
        bound: |_, y| 2.5 * ulp(f64::from(y as f32)),
        domain: |x| (-149.0..128.0).contains(&x),
    },
    Case {
        name: "rcp",
        instruction: approx::rcp,
        truth: |x| 1.0 / x,
        bound: |_, y| ulp(y),
        domain: |x| x.abs() > 3e-39 && x.abs() < INF,
    },
    Case {
        name: "sqrt",
        instruction: approx::sqrt,
        truth: f64::sqrt,
        bound: |_, y| y * 2.0_f64.powi(-23),
        domain: |x| x > 0.0 && x < INF,
    },
    Case {
        name: "rsqrt",
        instruction: approx::rsqrt,
        truth: |x| 1.0 / x.sqrt(),
        bound: |_, y| y * 2.0_f64.powf(-22.9),
        domain: |x| x > 0.0 && x < INF,
    },
    Case {
        name: "lg2",
        instruction: approx::lg2,
        truth: f64::log2,
        bound: |x, y| 2.0_f64.powi(-22) * if x > 0.5 && x < 2.0 { 1.0 } else { y.abs() },
        domain: |x| x > 0.0 && x < INF,
    },
    Case {
        name: "sin",
        instruction: approx::sin,
        truth: f64::sin,
        bound: |x, _| 2.0_f64.powf(if x.abs() <= std::f32::consts::TAU { -20.5 } else { -14.7 }),
        domain: |x| x.abs() <= 314.0 && x != 0.0,
    },
    Case {
        name: "cos",
        instruction: approx::cos,
        truth: f64::cos,
        bound: |x, _| 2.0_f64.powf(if x.abs() <= std::f32::consts::TAU { -20.5 } else { -14.7 }),
        domain: |x| x.abs() <= 314.0 && x != 0.0,
    },
    Case {
        name: "tanh",
        instruction: |accuracy, _, x| approx::tanh(accuracy, x),
        truth: f64::tanh,
        bound: |_, y| y.abs() * 2.0_f64.powi(-11),
        domain: |x| x.abs() < INF && x.abs() > 2e-38,
    },
];

#[test]
fn errors_are_as_large_as_the_manual_allows() {
    let mut random = Random::new(52);
    for case in CASES {
        let (mut ups, mut downs, mut large) = (0, 0, 0);
        for _ in 0..200_000 {
            let x = if random.below(2) == 0 {
                random.f32()
            } else {
                (random.word() as i32 as f32) * 2.0_f32.powi(-25)
            };
            if !(case.domain)(x) {
                continue;
            }
            let truth = (case.truth)(x.into());
            let context = format_args!("{} {x:e} = {truth:e}", case.name);
            let nearest = (case.instruction)(Accuracy::Nearest, false, x);
            // Half a place, and what the errors of two libraries may add.
            let error = (f64::from(nearest) - truth).abs();
            assert!(error <= ulp(truth) * 0.500_001, "{context}: {nearest:e}");

            let perturbed = (case.instruction)(Accuracy::Perturbed, false, x);
            let error = f64::from(perturbed) - truth;
            let bound = (case.bound)(x, truth);
            assert!(error.abs() <= bound * (1.0 + 1e-9), "{context}: {perturbed:e}");
            let again = (case.instruction)(Accuracy::Perturbed, false, x);
            assert_eq!(perturbed.to_bits(), again.to_bits());
            ups += u32::from(error > 0.0);
            downs += u32::from(error < 0.0);
            // As far as the format's places allow, it is at the bound.
            large += u32::from(error.abs() + ulp(truth) * 1.01 >= bound);
        }
        let all = ups + downs;
        assert!(ups > all / 4 && downs > all / 4, "{}: {ups} up, {downs} down", case.name);
        // Sines, cosines and hyperbolic tangents near one are held back.
        assert!(large > all / 2, "{}: {large} of {all}", case.name);
    }
}

#[test]
fn quotients_are_off_by_two_places() {
    let mut random = Random::new(53);
    let (mut off, mut all) = (0, 0);
    for _ in 0..300_000 {
        let (a, b) = (random.f32(), random.f32());
        if !(a.is_finite() && b.is_normal() && a != 0.0) {
            continue;
        }
        let truth = f64::from(a) / f64::from(b);
        let context = format_args!("{a:e} / {b:e} = {truth:e}");
        type Instruction = fn(Accuracy, bool, f32, f32) -> f32;
        let both: [(bool, Instruction); 2] =
            [(true, approx::div_approx), (false, approx::div_full)];
        for (is_approx, instruction) in both {
            if is_approx && b.abs() > 2.0_f32.powi(126) {
                continue;
            }
            let nearest = instruction(Accuracy::Nearest, false, a, b);
            assert_eq!(nearest.to_bits(), (a / b).to_bits());
            let perturbed = instruction(Accuracy::Perturbed, false, a, b);
            if nearest.is_infinite() || nearest == 0.0 {
                assert_eq!(perturbed, nearest, "{context}");
                continue;
            }
            let error = (f64::from(perturbed) - truth).abs();
            assert!(error <= ulp(truth) * 2.0, "{context}");
            all += 1;
            off += u32::from(error >= ulp(truth));
        }
    }
    assert!(off > all / 2);
}

#[test]
fn special_values_are_those_of_the_tables() {
    let nan = f32::from_bits(0xff80_0123);
    let tiny = f32::from_bits(1);
    // Operand, then ex2, rcp, sqrt, rsqrt, lg2, sin, cos, tanh; 9.7.3.13 to 9.7.3.22.
    let table: [(f32, [f32; 8]); 5] = [
        (-INF, [0.0, -0.0, f32::NAN, f32::NAN, f32::NAN, f32::NAN, f32::NAN, -1.0]),
        (-0.0, [1.0, -INF, -0.0, -INF, -INF, -0.0, 1.0, -0.0]),
        (0.0, [1.0, INF, 0.0, INF, -INF, 0.0, 1.0, 0.0]),
        (INF, [INF, 0.0, INF, 0.0, INF, f32::NAN, f32::NAN, 1.0]),
        (nan, [f32::NAN; 8]),
    ];
    let bits = |x: f32| if x.is_nan() { NAN_F32 } else { x.to_bits() };
    for accuracy in BOTH {
        for is_ftz in [false, true] {
            for (x, expected) in table {
                for (case, expected) in CASES.iter().zip(expected) {
                    let found = (case.instruction)(accuracy, is_ftz, x).to_bits();
                    assert_eq!(found, bits(expected), "{} {x} {accuracy:?}", case.name);
                }
            }
            for name in ["sqrt", "rsqrt", "lg2"] {
                let case = CASES.iter().find(|case| case.name == name).unwrap();
                assert_eq!((case.instruction)(accuracy, is_ftz, -1.0).to_bits(), NAN_F32);
            }
        }
        // Flushed operands are as zeros.
        for (x, zero) in [(tiny, 0), (-tiny, 1)] {
            let (_, expected) = table[2 - zero];
            for (case, expected) in CASES[..7].iter().zip(expected) {
                let found = (case.instruction)(accuracy, true, x).to_bits();
                assert_eq!(found, bits(expected), "{} {x:e} {accuracy:?}", case.name);
            }
        }
        // Flushed results.
        assert_eq!(approx::ex2(accuracy, true, -130.0).to_bits(), 0);
        assert!(approx::ex2(accuracy, false, -130.0) > 0.0);
        assert_eq!(approx::rcp(accuracy, true, -f32::MAX).to_bits(), 1 << 31);
        assert!(approx::rcp(accuracy, false, f32::MAX) > 0.0);
        assert_eq!(approx::div_full(accuracy, true, -1e-30, 1e20).to_bits(), 1 << 31);
        // Underflow and overflow are not moved.
        assert_eq!(approx::ex2(accuracy, false, -151.0).to_bits(), 0);
        assert_eq!(approx::ex2(accuracy, false, 128.0), INF);
        // "The subnormal inputs gets passed through to the output."
        assert_eq!(approx::tanh(accuracy, -tiny).to_bits(), 0x8000_0001);

        // 9.7.3.8: divisors beyond 2^126.
        let (limit, large) = (2.0_f32.powi(126), 1.5 * 2.0_f32.powi(126));
        for is_ftz in [false, true] {
            let div = |a, b| approx::div_approx(accuracy, is_ftz, a, b).to_bits();
            assert_eq!(div(f32::MAX, large), 0);
            assert_eq!(div(-f32::MAX, large), 1 << 31);
            assert_eq!(div(INF, large), NAN_F32);
            assert_eq!(div(INF, -INF), NAN_F32);
            assert_eq!(div(-1.0, INF), 1 << 31);
            assert_ne!(div(f32::MAX, limit), 0);
            assert_eq!(div(INF, limit), INF.to_bits());
            assert_eq!(div(1.0, 0.0), INF.to_bits());
            assert_eq!(div(0.0, 0.0), NAN_F32);
            assert_eq!(div(nan, 1.0), NAN_F32);
            assert_eq!(div(1.0, nan), NAN_F32);
            let full = |a, b| approx::div_full(accuracy, is_ftz, a, b);
            assert!((f64::from(full(3.0 * limit, large)) - 2.0).abs() < 1e-6);
            assert_eq!(full(INF, large), INF);
            assert_eq!(full(INF, INF).to_bits(), NAN_F32);
            assert_eq!(full(0.0, -0.0).to_bits(), NAN_F32);
        }
    }
}
