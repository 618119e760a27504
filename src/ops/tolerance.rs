//! How far results of an op are from the reference, and how far they may be (docs/numerics.md).

use super::Input;
use crate::device::DType;
use crate::parallel;

/// Rows of the tolerance table (docs/numerics.md).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tolerance {
    /// Data movement: the same bits.
    Bitwise,
    /// Elementwise f32: 4e-6 relative.
    Elementwise,
    /// Reductions, norms, losses: 1e-5 of the largest magnitude, NMSE <= 1e-10.
    Reduction,
    /// Sums of `k` products: 8 eps sqrt(k) of the product of the row norms, NMSE <= 1e-10.
    Products { k: usize },
}

/// Rounds the inputs of a case to what `dtype` can hold, so that every precision and the f64
/// reference start from the same numbers.
pub fn rounded(mut inputs: Vec<Input>, dtype: DType) -> Vec<Input> {
    for input in &mut inputs {
        let wide = input.wide;
        parallel::update(&mut input.data, |x| {
            *x = match dtype {
                DType::Bf16 if !wide => half::bf16::from_f64(*x).to_f64(),
                DType::F64 => *x,
                _ => f64::from(*x as f32),
            };
        });
    }
    inputs
}

/// How far two vectors are apart.
#[derive(Clone, Copy, Debug, Default)]
pub struct Distance {
    /// `sum (a - b)^2 / sum b^2`.
    pub nmse: f64,
    /// Largest `|a - b|`, where it is, and the largest `|b|`.
    pub max_abs: f64,
    pub at: usize,
    pub scale: f64,
}

/// Distance of `ours` from `reference`; infinite when lengths or kinds of non-finite values differ.
pub fn distance(ours: &[f64], reference: &[f64]) -> Distance {
    if ours.len() != reference.len() {
        return Distance { nmse: f64::INFINITY, max_abs: f64::INFINITY, ..Distance::default() };
    }
    let (mut d, mut error, mut norm) = (Distance::default(), 0.0, 0.0);
    for (i, (&a, &b)) in ours.iter().zip(reference).enumerate() {
        let gap = match a == b || (a.is_nan() && b.is_nan()) {
            true => 0.0,
            false if (a - b).is_finite() => (a - b).abs(),
            false => f64::INFINITY,
        };
        error += gap * gap;
        norm += if b.is_finite() { b * b } else { 0.0 };
        d.scale = d.scale.max(if b.is_finite() { b.abs() } else { 0.0 });
        if gap > d.max_abs {
            (d.max_abs, d.at) = (gap, i);
        }
    }
    d.nmse = if error == 0.0 { 0.0 } else { error / norm.max(f64::MIN_POSITIVE) };
    d
}

/// How far bf16 results (f32 accumulation) are from the f64 reference on the rounded inputs, as a share
/// of what is allowed; at most 1 passes.
pub fn share_of_bf16(d: &Distance) -> f64 {
    share(d.nmse, 1e-5).max(share(d.max_abs, d.scale / 128.0))
}

/// How far f32 results are from the f64 reference, as a share of what their class allows
/// (docs/numerics.md); at most 1 passes. `row_norms` bounds the products summed per element for class
/// `Products`.
pub fn share_of_bound(d: &Distance, class: Tolerance, row_norms: f64) -> f64 {
    let eps = f64::from(f32::EPSILON);
    match class {
        Tolerance::Bitwise => share(d.max_abs, 0.0),
        Tolerance::Elementwise => share(d.max_abs, 4e-6 * d.scale),
        Tolerance::Reduction => share(d.max_abs, 1e-5 * d.scale).max(share(d.nmse, 1e-10)),
        Tolerance::Products { k } => {
            let most = 8.0 * eps * (k as f64).sqrt() * row_norms.max(d.scale);
            share(d.max_abs, most).max(share(d.nmse, 1e-10))
        }
    }
}

/// Whether bf16 results are as close as they must be.
pub fn within_bf16(d: &Distance) -> bool {
    share_of_bf16(d) <= 1.0
}

/// Whether f32 results are as close as their class demands.
pub fn within(d: &Distance, class: Tolerance, row_norms: f64) -> bool {
    share_of_bound(d, class, row_norms) <= 1.0
}

/// `found / allowed`, where nothing found is always within and anything that is no number never.
fn share(found: f64, allowed: f64) -> f64 {
    match found {
        0.0 => 0.0,
        _ if found.is_nan() || allowed == 0.0 => f64::INFINITY,
        _ => found / allowed,
    }
}
