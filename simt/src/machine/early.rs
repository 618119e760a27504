//! `griddepcontrol.wait` (9.7.13). A kernel that has one is meant to start while the kernel before it in the stream may
//! still run. What that one writes is there for a thread that has waited, and for all that are ordered behind it: the
//! wait makes it visible to the whole grid. Nobody else may touch global memory, not even to write: the kernel before
//! may read there, or write later.
//!
//! A wait is followed like an access: who has seen it, by the clocks, may go on.

use super::Trouble;
use super::cluster::Cluster;
use super::exec::each;
use super::warp::Warp;
use crate::clocks::Seen;
use crate::program::lanes::Lanes64;
use crate::ptx::ast::Space;

/// Lanes of a warp that have waited at this clock.
pub struct GridWait {
    warp: u32,
    lanes: u32,
    clock: u32,
}

impl GridWait {
    fn is_in(&self, seen: &Seen) -> bool {
        each(self.lanes).any(|lane| seen.has(self.warp * 32 + lane as u32, self.clock))
    }
}

impl Cluster<'_, '_> {
    /// Lanes wait for the kernel before. Those that have, or are behind one that has, do so for nothing.
    pub(super) fn grid_wait(&mut self, warp: &mut Warp, on: u32) {
        let lanes = warp.early & on;
        if lanes != 0 {
            let clock = self.clocks.stamp(warp.id * 32).clock();
            self.grid_waits.push(GridWait { warp: warp.id, lanes, clock });
            warp.early &= !lanes;
        }
    }

    /// Whether lanes may start an access now, if it is one to global memory: a verb and its bytes, space and address.
    #[inline]
    pub(super) fn check_early(
        &self,
        warp: &mut Warp,
        access: (&str, u32),
        (space, at): (Space, &Lanes64),
        on: u32,
    ) -> Result<(), Trouble> {
        if warp.early & on == 0 || space != Space::Global {
            return Ok(());
        }
        self.check_order(warp, access, at, on)
    }

    #[cold]
    fn check_order(
        &self,
        warp: &mut Warp,
        (verb, bytes): (&str, u32),
        at: &Lanes64,
        on: u32,
    ) -> Result<(), Trouble> {
        for lane in each(warp.early & on) {
            let seen = self.clocks.seen(warp.id * 32 + lane as u32);
            if self.grid_waits.iter().any(|wait| wait.is_in(seen)) {
                // What has been seen once stays so.
                warp.early &= !(1 << lane);
            }
        }
        let lanes = warp.early & on;
        let Some(first) = each(lanes).next() else { return Ok(()) };
        let live = &self.grid.launch.memory.live;
        let index = live.partition_point(|a| a.start <= at[first]).checked_sub(1);
        let place = match index.map(|i| &live[i]).filter(|a| at[first] - a.start < a.len as u64) {
            Some(a) => format!(" at byte {} of '{}'", at[first] - a.start, a.name),
            None => format!(" at {:#x}", at[first]),
        };
        let message = format!(
            "{verb} of {bytes} bytes{place} before griddepcontrol.wait, while the kernel before may still run"
        );
        Err(Trouble::new(lanes, message))
    }
}
