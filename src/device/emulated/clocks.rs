//! Who has seen what of whom within a block: vector clocks over warps, advanced by barriers, and over
//! the lanes of a warp, advanced by `__syncwarp` between barriers.

use super::shadow::{Flag, Stamp};

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

    pub fn stamp(&self, thread: u32) -> Stamp {
        self.stamps[thread as usize]
    }

    pub fn stamp_as(&self, thread: u32, flag: Flag) -> Stamp {
        let t = thread as usize;
        Stamp::new(self.block, flag, thread, self.warp[t / 32], self.lane[t])
    }

    pub fn seen_warps(&self, thread: u32) -> &[u32] {
        let start = thread as usize / 32 * self.warps;
        &self.seen_warps[start..start + self.warps]
    }

    pub fn seen_lanes(&self, thread: u32) -> &[u32; 32] {
        &self.seen_lanes[thread as usize]
    }

    fn restamp(&mut self, t: usize) {
        self.stamps[t] = self.stamp_as(t as u32, Flag::Plain);
    }

    /// A barrier of these whole warps: each has now seen all that any of them had seen or done.
    pub fn barrier(&mut self, members: impl Iterator<Item = usize> + Clone) {
        let n = self.warps;
        let mut joined = vec![0; n];
        for w in members.clone() {
            for (j, &seen) in joined.iter_mut().zip(&self.seen_warps[w * n..(w + 1) * n]) {
                *j = (*j).max(seen);
            }
            joined[w] = joined[w].max(self.warp[w] + 1);
        }
        for w in members {
            self.warp[w] += 1;
            self.seen_warps[w * n..(w + 1) * n].copy_from_slice(&joined);
            for t in w * 32..((w + 1) * 32).min(self.lane.len()) {
                if self.lane[t] != 0 {
                    self.lane[t] = 0;
                    self.seen_lanes[t] = [0; 32];
                }
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
