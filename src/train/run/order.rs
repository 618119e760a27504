//! Which cases a step gets: a pure function of the seed and the step, so that a resumed run goes
//! on exactly where it was, whatever the number of threads.

use std::sync::{Mutex, PoisonError};

use crate::rng::{Purpose, Rng};

/// The order of the training cases over a whole run. Every epoch is a permutation of its own;
/// a step takes the next `per_step` cases of the endless row of epochs.
#[derive(Debug)]
pub struct CaseOrder {
    seed: u64,
    cases: usize,
    per_step: usize,
    /// The two epochs used last: a step asks for one or two, the steps ahead for the same.
    recent: Mutex<Vec<(u64, Vec<u32>)>>,
}

impl CaseOrder {
    /// `cases` must be at least 1.
    pub fn new(seed: u64, cases: usize, per_step: usize) -> Self {
        Self { seed, cases: cases.max(1), per_step, recent: Mutex::new(Vec::new()) }
    }

    /// Indices of the cases of `step`, in the order of their places within the update.
    pub fn step(&self, step: u64) -> Vec<usize> {
        let (n, first) = (self.cases as u64, step.wrapping_mul(self.per_step as u64));
        (0..self.per_step as u64)
            .map(|i| {
                let position = first.wrapping_add(i);
                self.place(position / n, (position % n) as usize)
            })
            .collect()
    }

    /// Epochs begun before `step`, with the fraction of the current one.
    pub fn epochs(&self, step: u64) -> f64 {
        step as f64 * self.per_step as f64 / self.cases as f64
    }

    fn place(&self, epoch: u64, place: usize) -> usize {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if !recent.iter().any(|(e, _)| *e == epoch) {
            let order = Rng::new(self.seed, Purpose::Order, epoch, 0, 0).permutation(self.cases);
            if recent.len() >= 2 {
                recent.remove(0);
            }
            recent.push((epoch, order));
        }
        let order = recent.iter().find(|(e, _)| *e == epoch).map(|(_, order)| order);
        order.and_then(|o| o.get(place)).map_or(0, |&i| i as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_has_every_case_once_in_another_order() {
        let order = CaseOrder::new(3, 7, 3);
        let row: Vec<usize> = (0..7).flat_map(|t| order.step(t)).collect();
        for epoch in row.chunks(7) {
            let mut sorted = epoch.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..7).collect::<Vec<_>>());
        }
        assert_ne!(row[..7], row[7..14]);
        // Asked in any order, also after a restart, the answer is the same.
        let again = CaseOrder::new(3, 7, 3);
        for t in (0..7).rev() {
            assert_eq!(again.step(t), row[3 * t as usize..][..3]);
        }
        assert_ne!(CaseOrder::new(4, 7, 7).step(0), order_of(3, 7));
    }

    fn order_of(seed: u64, n: usize) -> Vec<usize> {
        CaseOrder::new(seed, n, n).step(0)
    }

    #[test]
    fn a_step_may_span_several_epochs() {
        let order = CaseOrder::new(1, 2, 5);
        let step = order.step(0);
        assert_eq!(step.len(), 5);
        assert_eq!(step[..2].iter().sum::<usize>(), 1);
        assert_eq!(order.epochs(2), 5.0);
    }
}
