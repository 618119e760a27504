//! Barriers of a block (9.7.13.1): `bar.sync`, `bar.arrive`, `bar.red`.

use super::Trouble;
use super::cluster::Cluster;
use super::paths::State;
use super::turn::Step;
use super::warp::Warp;
use crate::clocks::Arrival;
use crate::program::op::{Dst, Op, Reduce};

/// Barriers of a block, as on the device.
pub const BARRIERS: usize = 16;

/// A barrier that some warps have reached.
#[derive(Default)]
pub struct Barrier {
    /// Warps that have arrived, as bits.
    warps: u32,
    /// Of these, those that wait, with their paths.
    waiting: Vec<(u32, u32)>,
    /// Warps that have to arrive.
    pub expected: u32,
    reduce: Option<Reduce>,
    value: u32,
    /// What those that arrived had seen.
    seen: Arrival,
    /// What a reduction came to, for those that waited.
    result: u32,
}

impl Barrier {
    pub fn arrived(&self) -> u32 {
        self.warps.count_ones()
    }

    pub fn has(&self, warp: u32) -> bool {
        self.warps >> warp & 1 == 1
    }
}

impl Cluster<'_, '_> {
    /// A path of a warp arrives. Whether it goes on.
    pub(super) fn barrier(
        &mut self,
        warp: &mut Warp,
        path: u32,
        op: &Op,
        on: u32,
    ) -> Result<Step, Trouble> {
        let Op::Barrier { id, threads, waits, reduce, d, d_pred, p } = *op else {
            return Err(Trouble::new(on, "no barrier"));
        };
        let lane = on.trailing_zeros() as usize;
        let id = warp.word_of(id, lane);
        let n = self.threads.div_ceil(32);
        if on != warp.lanes {
            let message = format!(
                "divergent barrier: reached by only {} of the {} threads of the warp{}",
                on.count_ones(),
                warp.lanes.count_ones(),
                if warp.exited != 0 { ", some have returned" } else { "" }
            );
            return Err(Trouble::new(on, message));
        }
        let expected = match threads.map(|t| warp.word_of(t, lane)) {
            None => n,
            Some(t) if t % 32 == 0 && t > 0 && t / 32 <= n => t / 32,
            Some(t) => {
                let message =
                    format!("barrier {id} of {t} threads: the block has {}", self.threads);
                return Err(Trouble::new(on, message));
            }
        };
        if id as usize >= BARRIERS {
            return Err(Trouble::new(on, format!("barrier {id}: there are {BARRIERS}")));
        }
        let value = (warp.pred(p) & on).count_ones();
        let value = match reduce {
            Reduce::And => u32::from(value == on.count_ones()),
            Reduce::Or => u32::from(value > 0),
            Reduce::Popc | Reduce::None => value,
        };
        let is_checked = self.grid.launch.is_checked;
        let barrier = &mut self.ctas[self.cta].barriers[id as usize];
        if barrier.warps == 0 {
            (barrier.expected, barrier.reduce, barrier.value) = (expected, Some(reduce), value);
        } else if (barrier.expected, barrier.reduce) != (expected, Some(reduce)) {
            return Err(Trouble::new(
                on,
                format!("barrier {id} is already used with other operands"),
            ));
        } else {
            barrier.value = match reduce {
                Reduce::And => barrier.value & value,
                Reduce::Or => barrier.value | value,
                Reduce::Popc | Reduce::None => barrier.value + value,
            };
        }
        if barrier.has(warp.index) {
            let message = format!("barrier {id}: this warp has arrived already");
            return Err(Trouble::new(on, message));
        }
        barrier.warps |= 1 << warp.index;
        if is_checked {
            self.clocks.release(warp.id as usize, on, &mut barrier.seen);
        }
        let is_complete = barrier.arrived() == barrier.expected;
        if waits && !is_complete {
            barrier.waiting.push((warp.index, path));
            warp.paths.get_mut(path).state = State::Barrier(id as u8);
            return Ok(Step::Waits);
        }
        if !is_complete {
            return Ok(Step::Done);
        }
        barrier.result = barrier.value;
        let result = barrier.result;
        let waiting = std::mem::take(&mut barrier.waiting);
        let seen = std::mem::take(&mut barrier.seen);
        barrier.warps = 0;
        if is_checked {
            for &(other, _) in &waiting {
                self.clocks.acquire_all((warp.id - warp.index + other) as usize, &seen);
            }
            if waits {
                self.clocks.acquire_all(warp.id as usize, &seen);
            }
        }
        for (other, path) in waiting {
            self.woken.push((warp.cta * n + other, path, result));
        }
        if waits {
            give(warp, d, d_pred, on, result);
        }
        Ok(Step::Done)
    }
}

/// The result of a reduction, to all lanes.
pub fn give(warp: &mut Warp, d: Dst, d_pred: u32, on: u32, result: u32) {
    if d_pred != u32::MAX {
        warp.put_pred(d_pred, if result != 0 { u32::MAX } else { 0 }, on);
    }
    if d != Dst::Sink {
        warp.put_any(d, &[u64::from(result); 32], on);
    }
}
