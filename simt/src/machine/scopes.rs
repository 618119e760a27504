//! Scopes of arrivals and waits at barriers in shared memory (8.5, 8.8, 9.7.13.15.13): between blocks of a cluster only
//! `.cluster` on both sides publishes.
//!
//! With `.cta`, which is what no scope means, an arrival at the barrier of another block still tells that it has come.
//! What its thread has read before may then be overwritten, and those who free a buffer need no more. What it has
//! written the other block must not read. Bytes that copies bring come by the barrier itself and need no scope.
//!
//! Per block it is kept what has come so, and what came by a way that publishes: a write of which it knows by the
//! former alone is reported where it is read. Threads of a block are not told apart, and the scopes of fences and
//! atomics are not looked at: some reads that are wrong pass.

use super::Trouble;
use super::cluster::Cluster;
use crate::clocks::Arrival;
use crate::ptx::ast::Space;
use crate::shadow::Stamp;

/// What came from other blocks: at a barrier, or to a block.
#[derive(Default)]
pub struct Scopes {
    /// By arrivals or waits of scope `.cta`.
    narrow: Option<Arrival>,
    /// By `.cluster`.
    wide: Arrival,
}

impl Scopes {
    /// A thread of another block arrives.
    pub fn arrive(&mut self, arrival: &Arrival, is_wide: bool) {
        match is_wide {
            true => self.wide.join(arrival),
            false => self.narrow.get_or_insert_default().join(arrival),
        }
    }

    /// All that others have added.
    pub fn join(&mut self, other: &Self) {
        self.pass(other, true);
    }

    /// Threads of the block have waited for these arrivals.
    fn pass(&mut self, arrivals: &Self, is_wide: bool) {
        if let Some(narrow) = &arrivals.narrow {
            self.arrive(narrow, false);
        }
        if arrivals.wide != Arrival::default() {
            self.arrive(&arrivals.wide, is_wide);
        }
    }
}

impl Cluster<'_, '_> {
    /// Threads of a block have waited at its barrier.
    pub(super) fn pass_scopes(&mut self, (cta, offset): (usize, u32), is_wide: bool) {
        let there = &mut self.ctas[cta];
        if let Some(beside) = there.mbarriers.all.get(&offset) {
            there.scopes.pass(&beside.last_scopes, is_wide);
        }
    }

    /// Whether reads of the block whose warp has its turn have to be checked.
    pub(super) fn has_scopes(&self) -> bool {
        self.ctas[self.cta].scopes.narrow.is_some()
    }

    /// Whether what a lane has read, and is ordered, was published to its block.
    pub(super) fn check_scopes(
        &self,
        lane: usize,
        (space, at): (Space, u64),
        bytes: usize,
    ) -> Result<(), Trouble> {
        let mut last = Stamp(0);
        for i in 0..bytes {
            let (writer, place) = match space {
                Space::Shared => {
                    let (cta, offset) = self.shared_cta(self.cta, at);
                    let byte = self.ctas[cta].shadow.byte(offset as usize + i);
                    (byte.writer(), Some((cta, offset as u32 + i as u32)))
                }
                Space::Global => {
                    // The access was checked just now, and was there.
                    let there = &self.grid.launch.memory.live[self.last_allocation];
                    (there.shadow[(at - there.start) as usize + i].writer(), None)
                }
                _ => return Ok(()),
            };
            if writer == last || !self.is_unpublished(writer) {
                last = writer;
                continue;
            }
            let place = match place {
                Some((cta, offset)) => self.shared_place(cta, offset),
                None => {
                    let there = &self.grid.launch.memory.live[self.last_allocation];
                    format!("byte {} of '{}'", at - there.start + i as u64, there.name)
                }
            };
            let per_cta = self.warps() + 1;
            let (warp, number) = (writer.thread() / 32, writer.thread() % 32);
            let [x, y, z] = self.grid.thread(warp % per_cta * 32 + number);
            let message = format!(
                "data race: read of {bytes} bytes at {place}, written by thread ({x}, {y}, {z}) of block {} of the \
                 cluster, whose arrival at the barrier of this block, or the wait for it, has the scope .cta only: \
                 .release.cluster and .acquire.cluster publish what was written",
                warp / per_cta
            );
            return Err(Trouble::new(1 << lane, message));
        }
        Ok(())
    }

    /// Whether a thread of another block has written it, and the block knows that by arrivals of scope `.cta` alone.
    fn is_unpublished(&self, writer: Stamp) -> bool {
        let scopes = &self.ctas[self.cta].scopes;
        let per_cta = self.warps() + 1;
        let (rank, index) = (writer.thread() / 32 / per_cta, writer.thread() / 32 % per_cta);
        let is_other = writer.block() == self.number && rank as usize != self.cta;
        let knows = |arrival: &Arrival| arrival.has(writer.thread(), writer.clock());
        // Behind a block's warps comes the one that stands for copies.
        is_other
            && index < self.warps()
            && scopes.narrow.as_ref().is_some_and(knows)
            && !knows(&scopes.wide)
    }
}
