//! What the threads and the caller share: which cases are in memory, wanted, being decoded or bad.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use super::Held;
use crate::Error;

/// Guarded by one lock.
pub(super) struct State<T> {
    pub slots: Vec<Slot<T>>,
    /// What the current step waits for, in order.
    pub urgent: VecDeque<usize>,
    /// What later steps will ask for, in order.
    pub ahead: VecDeque<usize>,
    /// Cases of the current step: never dropped.
    pub current: BTreeSet<usize>,
    /// Cases of the current and the coming steps: dropped only to make room for the current one.
    pub wanted: BTreeSet<usize>,
    pub bytes: usize,
    pub largest: usize,
    pub working: usize,
    pub decoded: u64,
    pub clock: u64,
    /// An error that is no property of a case (out of memory, configuration).
    pub fatal: Option<Error>,
    pub stop: bool,
}

/// What is known of a case.
pub(super) enum Slot<T> {
    Absent,
    Working,
    Ready { case: Arc<T>, used: u64 },
    Bad(String),
}

impl<T: Held> State<T> {
    /// All of `count` cases absent, nothing wanted.
    pub fn new(count: usize) -> Self {
        Self {
            slots: (0..count).map(|_| Slot::Absent).collect(),
            urgent: VecDeque::new(),
            ahead: VecDeque::new(),
            current: BTreeSet::new(),
            wanted: BTreeSet::new(),
            bytes: 0,
            largest: 0,
            working: 0,
            decoded: 0,
            clock: 0,
            fatal: None,
            stop: false,
        }
    }

    /// Sets what this step and the next ones want.
    pub fn window(&mut self, now: &[usize], later: &[usize]) {
        self.urgent.clear();
        self.ahead.clear();
        self.current = now.iter().copied().collect();
        self.wanted = self.current.clone();
        for &index in later {
            if let Some(good) = self.first_not_bad(index)
                && self.wanted.insert(good)
                && matches!(self.slots.get(good), Some(Slot::Absent))
            {
                self.ahead.push_back(good);
            }
        }
    }

    /// The first case from `index` on, round the end, that is not known to be bad.
    fn first_not_bad(&self, index: usize) -> Option<usize> {
        let is_bad = |i: &usize| matches!(self.slots.get(*i), Some(Slot::Bad(_)));
        (index..self.slots.len()).chain(0..index).find(|i| !is_bad(i))
    }

    /// Queues what the step still lacks; whether anything is missing.
    pub fn request(&mut self, now: &[usize]) -> bool {
        let mut missing = false;
        for &index in now {
            let Some(good) = self.first_not_bad(index) else { continue };
            self.current.insert(good);
            match self.slots.get(good) {
                Some(Slot::Absent) => {
                    missing = true;
                    if !self.urgent.contains(&good) {
                        self.urgent.push_back(good);
                    }
                }
                Some(Slot::Working) => missing = true,
                _ => {}
            }
        }
        missing
    }

    /// The next case to decode: what is waited for, else what comes, if there is room for it.
    pub fn next_job(&mut self, budget: usize) -> Option<usize> {
        let absent = |slots: &[Slot<T>], i: usize| matches!(slots.get(i), Some(Slot::Absent));
        while let Some(index) = self.urgent.pop_front() {
            if absent(&self.slots, index) {
                return Some(index);
            }
        }
        while let Some(&index) = self.ahead.front() {
            if !absent(&self.slots, index) {
                self.ahead.pop_front();
                continue;
            }
            // Sizes are not known before decoding: count on the largest so far.
            let expected = self.largest * (self.working + 1);
            self.evict(budget.saturating_sub(expected), true);
            if self.bytes + expected > budget {
                return None;
            }
            self.ahead.pop_front();
            return Some(index);
        }
        None
    }

    /// Drops cases the current step does not need, nor the coming ones if `keep_wanted`, the longest
    /// unused first, until at most `budget` bytes are held.
    pub fn evict(&mut self, budget: usize, keep_wanted: bool) {
        while self.bytes > budget {
            let oldest = (0..self.slots.len())
                .filter(|i| !self.current.contains(i))
                .filter(|i| !(keep_wanted && self.wanted.contains(i)))
                .filter_map(|i| match self.slots.get(i) {
                    Some(Slot::Ready { case, used }) => Some((*used, i, case.size_bytes())),
                    _ => None,
                })
                .min();
            let Some((_, index, bytes)) = oldest else { break };
            self.slots[index] = Slot::Absent;
            self.bytes -= bytes;
        }
    }
}
