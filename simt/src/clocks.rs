//! Who has seen what of whom within a block: vector clocks over warps, advanced by barriers, and over
//! the lanes of a warp, advanced by `__syncwarp` between barriers.

use crate::shadow::{Flag, Stamp};

/// The clocks of the threads of one block.
pub struct Clocks {
    block: u32,
    warps: usize,
    /// Per warp: barriers passed.
    warp: Vec<u32>,
    /// `[warps, warps]`: warp `w` has seen what `v` did before its clock reached `[w, v]`.
    seen_warps: Vec<u32>,
    /// Per thread: `__syncwarp`s since the last barrier.
    lane: Vec<u32>,
    /// Per thread, likewise of the lanes of its warp.
    seen_lanes: Vec<[u32; 32]>,
    /// Per thread: the stamp of its next access.
    stamps: Vec<Stamp>,
}

impl Clocks {
    /// Of the block with this number (`shadow::number_blocks`), before its first access.
    pub fn new(block: u32, threads: u32) -> Self {
        let (n, warps) = (threads as usize, threads.div_ceil(32) as usize);
        let mut clocks = Self {
            block,
            warps,
            warp: vec![0; warps],
            seen_warps: vec![0; warps * warps],
            lane: vec![0; n],
            seen_lanes: vec![[0; 32]; n],
            stamps: vec![Stamp(0); n],
        };
        (0..n).for_each(|t| clocks.restamp(t));
        clocks
    }

    /// The stamp of the next access of a thread.
    pub fn stamp(&self, thread: u32) -> Stamp {
        self.stamps[thread as usize]
    }

    /// The stamp of its next access of another kind.
    pub fn stamp_as(&self, thread: u32, flag: Flag) -> Stamp {
        let t = thread as usize;
        Stamp::new(self.block, flag, thread, self.warp[t / 32], self.lane[t])
    }

    /// For [`crate::shadow::View`].
    pub fn seen_warps(&self, thread: u32) -> &[u32] {
        let start = thread as usize / 32 * self.warps;
        &self.seen_warps[start..start + self.warps]
    }

    /// For [`crate::shadow::View`].
    pub fn seen_lanes(&self, thread: u32) -> &[u32; 32] {
        &self.seen_lanes[thread as usize]
    }

    fn restamp(&mut self, t: usize) {
        self.stamps[t] = self.stamp_as(t as u32, Flag::Plain);
    }

    /// A barrier of these whole warps: each has now seen all that any of them had seen or done.
    pub fn barrier(&mut self, members: impl Iterator<Item = usize> + Clone) {
        let mut seen = Vec::new();
        members.clone().for_each(|w| self.release(w, &mut seen));
        members.for_each(|w| self.acquire(w, &seen));
    }

    /// A whole warp arrives somewhere: adds to `seen` what it has seen and done. What it does from now on is not
    /// part of it.
    pub fn release(&mut self, warp: usize, seen: &mut Vec<u32>) {
        let n = self.warps;
        seen.resize(n, 0);
        for (s, &mine) in seen.iter_mut().zip(&self.seen_warps[warp * n..(warp + 1) * n]) {
            *s = (*s).max(mine);
        }
        self.warp[warp] += 1;
        seen[warp] = seen[warp].max(self.warp[warp]);
        (warp * 32..((warp + 1) * 32).min(self.lane.len())).for_each(|t| self.restamp(t));
    }

    /// A whole warp goes on behind the arrivals that made up `seen`, its own among them.
    pub fn acquire(&mut self, warp: usize, seen: &[u32]) {
        let n = self.warps;
        for (mine, &s) in self.seen_warps[warp * n..(warp + 1) * n].iter_mut().zip(seen) {
            *mine = (*mine).max(s);
        }
        for t in warp * 32..((warp + 1) * 32).min(self.lane.len()) {
            if self.lane[t] != 0 {
                self.lane[t] = 0;
                self.seen_lanes[t] = [0; 32];
                self.restamp(t);
            }
        }
    }

    /// A `__syncwarp` of the lanes in `mask`.
    pub fn sync_warp(&mut self, warp: usize, mask: u32) {
        let lanes = (0..32).filter(|l| mask >> l & 1 == 1);
        let mut joined = [0; 32];
        for l in lanes.clone() {
            for (j, &seen) in joined.iter_mut().zip(&self.seen_lanes[warp * 32 + l]) {
                *j = (*j).max(seen);
            }
            joined[l] = joined[l].max(self.lane[warp * 32 + l] + 1);
        }
        for l in lanes {
            let t = warp * 32 + l;
            self.lane[t] += 1;
            self.seen_lanes[t] = joined;
            self.restamp(t);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::Clocks;
    use crate::shadow::{Byte, Trouble, View};

    const THREADS: u32 = 96;

    /// A small generator of numbers (SplitMix64).
    struct Rng(u64);

    impl Rng {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ z >> 31
        }

        fn next_u32(&mut self) -> u32 {
            (self.next() >> 32) as u32
        }

        fn below(&mut self, n: u32) -> u32 {
            ((u64::from(self.next_u32()) * u64::from(n)) >> 32) as u32
        }
    }

    /// Happens-before by the book: the accesses that each thread has seen, as a set.
    struct Model {
        seen: Vec<HashSet<u32>>,
    }

    impl Model {
        fn sync(&mut self, threads: &[u32]) {
            let all: HashSet<u32> =
                threads.iter().flat_map(|&t| self.seen[t as usize].iter().copied()).collect();
            for &t in threads {
                self.seen[t as usize] = all.clone();
            }
        }
    }

    /// Random programs of accesses to one byte, barriers of some warps, and `__syncwarp`s of some
    /// lanes: a write after a write is a race exactly when the model has no path between them.
    #[test]
    fn clocks_agree_with_happens_before() {
        let (mut races, mut orders) = (0, 0);
        for seed in 0..300 {
            let mut rng = Rng(seed);
            let mut clocks = Clocks::new(2, THREADS);
            let mut model = Model { seen: vec![HashSet::new(); THREADS as usize] };
            let byte = Byte::default();
            let mut last = None;
            for access in 0..40 {
                for _ in 0..rng.below(4) {
                    if rng.below(2) == 0 {
                        let warps: Vec<usize> = (0..3).filter(|_| rng.below(3) > 0).collect();
                        let of = |w: &usize| *w as u32 * 32..*w as u32 * 32 + 32;
                        model.sync(&warps.iter().flat_map(of).collect::<Vec<_>>());
                        clocks.barrier(warps.iter().copied());
                    } else {
                        let (warp, mask) = (rng.below(3), rng.next_u32() | rng.next_u32());
                        let lanes = (0..32).filter(|l| mask >> l & 1 == 1);
                        model.sync(&lanes.map(|l| warp * 32 + l).collect::<Vec<_>>());
                        clocks.sync_warp(warp as usize, mask);
                    }
                }
                let thread = rng.below(THREADS);
                let view = View {
                    stamp: clocks.stamp(thread),
                    first_block: 2,
                    seen_warps: clocks.seen_warps(thread),
                    seen_lanes: clocks.seen_lanes(thread),
                    seen_blocks: &HashSet::new(),
                    site: 0,
                };
                let seen = &mut model.seen[thread as usize];
                let race = last.is_some_and(|l| !seen.contains(&l));
                seen.insert(access);
                let found = matches!(byte.write(&view, false), Some(Trouble::Race(_)));
                assert_eq!(found, race, "seed {seed}, access {access} of thread {thread}");
                last = Some(access);
                races += u32::from(race);
                orders += u32::from(!race);
            }
        }
        assert!(races > 1000 && orders > 1000, "{races} races, {orders} in order: one-sided test");
    }
}
