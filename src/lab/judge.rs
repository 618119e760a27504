//! Distances between our numbers and a reference's, collected into the lines of a report.

use std::collections::BTreeMap;

use serde::Serialize;

/// Results of an engine on a case: name (as in the case, without `fp64.`) to values.
pub type Results = BTreeMap<String, Vec<f64>>;

/// One line of the report: a quantity, its worst tensor, and the verdict.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub quantity: String,
    /// Tensors compared.
    pub tensors: usize,
    /// The tensor with the largest relative distance.
    pub worst: String,
    /// Largest absolute difference of an element, over all tensors of the row.
    pub max_abs: f64,
    /// Largest `|ours - reference| / |reference|` of a tensor (L2 norms; absolute where the reference
    /// is zero). For whole numbers, with a bound of 0, how many differ.
    pub rel_l2: f64,
    pub bound: f64,
    pub pass: bool,
}

impl Row {
    pub(super) fn new(quantity: String, name: &str, bound: f64) -> Self {
        let worst = name.to_owned();
        Self { quantity, tensors: 0, worst, max_abs: 0.0, rel_l2: -1.0, bound, pass: true }
    }

    /// Takes one more tensor into account.
    pub(super) fn add(&mut self, name: &str, relative: f64, max_abs: f64) {
        self.tensors += 1;
        self.max_abs = self.max_abs.max(max_abs);
        // Not so for NaN.
        self.pass &= relative <= self.bound;
        if relative > self.rel_l2 {
            (self.rel_l2, self.worst) = (relative, name.to_owned());
        }
    }
}

/// The report in the making: lines in the order in which their quantities were first named.
#[derive(Debug, Default)]
pub struct Judge {
    pub rows: Vec<Row>,
    /// Our numbers under the names of the tensors they were compared with.
    pub ours: Results,
}

impl Judge {
    fn row(&mut self, quantity: &str, name: &str, bound: f64) -> &mut Row {
        let at = self.rows.iter().position(|r| r.quantity == quantity).unwrap_or_else(|| {
            self.rows.push(Row::new(quantity.to_owned(), name, bound));
            self.rows.len() - 1
        });
        &mut self.rows[at]
    }

    /// Numbers that are to be within `bound` of the tensor `name` of the reference; see [`gap`].
    pub fn near(
        &mut self,
        quantity: &str,
        name: &str,
        ours: &[f64],
        reference: &[f64],
        bound: f64,
    ) {
        let (relative, max_abs) = gap(ours, reference);
        self.row(quantity, name, bound).add(name, relative, max_abs);
        self.ours.entry(name.to_owned()).or_insert_with(|| ours.to_vec());
    }

    /// Whole numbers that are to be the same.
    pub fn equal(&mut self, quantity: &str, name: &str, ours: &[f64], reference: &[f64]) {
        let pairs = || ours.iter().zip(reference);
        let (wrong, max_abs) = match ours.len() == reference.len() {
            true => {
                let largest = pairs().map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                (pairs().filter(|(a, b)| a != b).count() as f64, largest)
            }
            false => (f64::INFINITY, f64::INFINITY),
        };
        self.row(quantity, name, 0.0).add(name, wrong, max_abs);
        self.ours.entry(name.to_owned()).or_insert_with(|| ours.to_vec());
    }
}

/// `|ours - reference| / |reference|` in L2 norms, and the largest absolute difference. Where the
/// reference is NaN or infinite ours must be the same and counts no further; of a reference of zeros
/// the distance is the largest absolute difference. Infinite when the sizes differ.
pub fn gap(ours: &[f64], reference: &[f64]) -> (f64, f64) {
    let same_kind = |a: &f64, b: &f64| b.is_finite() || a == b || a.is_nan() && b.is_nan();
    if ours.len() != reference.len() || !ours.iter().zip(reference).all(|(a, b)| same_kind(a, b)) {
        return (f64::INFINITY, f64::INFINITY);
    }
    let (mut error, mut scale, mut largest) = (0.0, 0.0, 0.0f64);
    for (a, b) in ours.iter().zip(reference).filter(|(_, b)| b.is_finite()) {
        let difference = (a - b).abs();
        if !difference.is_finite() {
            return (f64::INFINITY, f64::INFINITY);
        }
        error += difference * difference;
        scale += b * b;
        largest = largest.max(difference);
    }
    let relative = if scale > 0.0 { (error / scale).sqrt() } else { largest };
    (if relative.is_finite() { relative } else { f64::INFINITY }, largest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_relative_and_never_blind() {
        assert_eq!(gap(&[3.0, 4.5], &[3.0, 4.0]), (0.1, 0.5));
        assert_eq!(gap(&[0.5, -2.0], &[0.0, 0.0]), (2.0, 2.0));
        let (nan, infinite) = (f64::NAN, f64::INFINITY);
        assert_eq!(gap(&[nan, infinite, 1.0], &[nan, infinite, 1.0]), (0.0, 0.0));
        for (ours, reference) in [
            (vec![1.0], vec![1.0, 2.0]),
            (vec![nan], vec![1.0]),
            (vec![infinite], vec![1.0]),
            (vec![1.0], vec![nan]),
            (vec![-infinite], vec![infinite]),
        ] {
            assert_eq!(gap(&ours, &reference).0, infinite, "{ours:?} and {reference:?}");
        }
    }

    #[test]
    fn a_line_keeps_its_worst_tensor() {
        let mut judge = Judge::default();
        judge.near("y", "a", &[1.0], &[1.0], 1e-3);
        judge.near("y", "b", &[1.1], &[1.0], 1e-3);
        judge.equal("n", "c", &[1.0, 2.0, 3.0], &[1.0, 5.0, 4.0]);
        judge.equal("m", "d", &[1.0], &[1.0]);
        let [y, n, m] = &judge.rows[..] else { panic!("{:?}", judge.rows) };
        assert!(!y.pass && y.worst == "b" && y.tensors == 2);
        assert!(!n.pass && n.rel_l2 == 2.0 && n.max_abs == 3.0);
        assert!(m.pass && m.rel_l2 == 0.0);
        assert_eq!(judge.ours["b"], [1.1]);
    }
}
