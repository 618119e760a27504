//! The loss in numbers: total and terms, on the device and on the host.

use crate::Result;
use crate::config::{TOTAL, Term};
use crate::device::{Tensor, TensorMut};

/// The loss of a pass, or the mean of several.
#[derive(Clone, Debug, PartialEq)]
pub struct Losses {
    /// The weighted sum.
    pub total: f64,
    /// Its terms, without their weights.
    pub terms: Vec<(Term, f64)>,
}

impl Losses {
    /// Means over micro-batches, from what [`LossTensors::write`] left of each: the total, then the values
    /// of `terms`.
    pub fn means(terms: &[Term], values: &[f64]) -> Self {
        let per_batch = 1 + terms.len();
        let n = (values.len() / per_batch) as f64;
        let mean = |i: usize| values.iter().skip(i).step_by(per_batch).sum::<f64>() / n;
        Self { total: mean(0), terms: (1..).zip(terms).map(|(i, &term)| (term, mean(i))).collect() }
    }

    /// Names and values as logs have them, the total first.
    pub fn named(&self) -> Vec<(&'static str, f64)> {
        let terms = self.terms.iter().map(|(term, value)| (term.name(), *value));
        std::iter::once((TOTAL, self.total)).chain(terms).collect()
    }
}

/// The loss of a pass where it was computed, so that no host has to wait for it.
pub struct LossTensors {
    /// `[1]`.
    pub total: Tensor,
    /// Terms that one op computed, and their values.
    pub parts: Vec<(Vec<Term>, Tensor)>,
}

impl LossTensors {
    /// The terms in the order of [`LossTensors::write`].
    pub fn terms(&self) -> Vec<Term> {
        self.parts.iter().flat_map(|(terms, _)| terms.iter().copied()).collect()
    }

    /// Writes the total and every term to `to` from element `at` on; returns how many.
    pub fn write(&self, to: &mut Tensor, at: usize) -> Result<usize> {
        let mut end = at;
        for tensor in std::iter::once(&self.total).chain(self.parts.iter().map(|(_, t)| t)) {
            TensorMut::new(to, end, tensor.shape())?.assign(tensor)?;
            end += tensor.len();
        }
        Ok(end - at)
    }

    /// The values, once they are there.
    pub fn read(&self) -> Result<Losses> {
        let mut values = self.total.to_f64_vec()?;
        for (_, tensor) in &self.parts {
            values.extend(tensor.to_f64_vec()?);
        }
        Ok(Losses::means(&self.terms(), &values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_over_micro_batches_belong_to_their_terms() {
        let losses = Losses::means(&[Term::RecLocal, Term::G2g], &[1., 2., 3., 5., 6., 8.]);
        let expected = Losses { total: 3.0, terms: vec![(Term::RecLocal, 4.0), (Term::G2g, 5.5)] };
        assert_eq!(losses, expected);
        assert_eq!(losses.named(), [("loss", 3.0), ("rec_local", 4.0), ("g2g", 5.5)]);
    }
}
