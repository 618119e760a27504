//! Operations that go on while their warp does: bulk copies of every kind. When they end is up to the schedule: at
//! once, as late as possible, or at random. A kernel must not depend on it.

use super::cluster::{Cluster, Cta};
use super::paths::State;
use super::warp::Warp;
use super::{Fault, Trouble};
use crate::clocks::Arrival;
use crate::program::op::Op;

/// A run of bytes of a copy.
#[derive(Clone, Copy, Debug)]
pub struct Move {
    /// In the shared memory of a block.
    pub shared: u32,
    /// In global memory; `None` for bytes beyond the tensor, which a load fills.
    pub global: Option<u64>,
    pub bytes: u32,
}

/// Where a copy goes.
#[derive(Clone, Debug)]
pub enum Way {
    /// From global memory to the same place of these blocks, each with a barrier (an offset) that is told of the
    /// bytes. Bytes beyond the tensor are filled with zeros, or with a NaN of so many bytes.
    Load { ctas: Vec<usize>, barrier: u32, nan: Option<u32> },
    /// From a block's shared memory to global memory.
    Store { cta: usize },
    /// From shared memory of one block to that of another.
    Across { from: usize, start: u32, to: usize, barrier: u32 },
}

/// A copy that is under way.
#[derive(Clone, Debug)]
pub struct Operation {
    pub way: Way,
    pub moves: Vec<Move>,
    /// Bytes that the barrier is told of.
    pub bytes: u32,
    /// Number of the warp that started it, and its lane.
    pub warp: u32,
    pub lane: usize,
    /// The group of that thread that a store belongs to.
    pub group: Option<u32>,
    /// The thread that stands for it in the clocks.
    pub agent: u32,
    pub pc: u32,
}

/// What is under way in a cluster.
#[derive(Default)]
pub struct Operations {
    pub open: Vec<Operation>,
}

impl Operations {
    /// Whether groups of a thread up to this one are done.
    pub fn are_done(&self, warp: u32, lane: usize, below: u32) -> bool {
        let is_due = |o: &Operation| {
            o.warp == warp && o.lane == lane && o.group.is_some_and(|group| group < below)
        };
        !self.open.iter().any(is_due)
    }
}

impl Cta {
    /// Notes that an asynchronous operation reads, or no longer reads, these bytes.
    pub fn read_by_operation(&mut self, start: u32, bytes: u32, begins: bool) {
        if self.busy.is_empty() {
            self.busy = vec![0; self.shared.len()];
        }
        for chunk in start / 16..(start + bytes).div_ceil(16) {
            let count = &mut self.busy[chunk as usize];
            *count = if begins { count.saturating_add(1) } else { count.saturating_sub(1) };
        }
    }
}

impl Cluster<'_, '_> {
    /// Ends one of the operations that are under way; `which` picks it. Whether there was one.
    pub(super) fn complete_one(
        &mut self,
        warps: &mut [Warp],
        which: impl FnOnce(usize) -> usize,
    ) -> Result<bool, Box<Fault>> {
        if self.operations.open.is_empty() {
            return Ok(false);
        }
        let operation = self.operations.open.remove(which(self.operations.open.len()));
        let at = warps.iter().position(|w| w.id == operation.warp).unwrap_or(0);
        let warp = &mut warps[at];
        let mut arrival = Arrival::default();
        let outcome = self.complete(warp, &operation, &mut arrival);
        if operation.group.is_some() {
            warp.bulk.arrivals[operation.lane].join(&arrival);
        }
        outcome.map_err(|trouble| self.fault(&warps[at], operation.pc, trouble))?;
        Ok(true)
    }

    /// Lets paths of a warp go on that wait for something which has come. Whether there is one.
    pub(super) fn poll(&mut self, warp: &mut Warp) -> Result<bool, Box<Fault>> {
        let waiting: Vec<(u32, u32, u32, State)> =
            warp.paths.waiting().map(|(i, p)| (i, p.pc, p.lanes, p.state)).collect();
        let mut any = false;
        for (path, pc, lanes, state) in waiting {
            let inst = &self.grid.launch.program.instructions[pc as usize];
            let on = match inst.guard {
                None => lanes,
                Some((slot, negated)) => lanes & warp.guard(slot, negated),
            };
            let has_come = match (state, &inst.op) {
                (State::Cluster, _) => self.cluster_is_here(warp),
                (State::Mbarrier, op) => self
                    .mbarrier_has_come(warp, op, on)
                    .map_err(|trouble| self.fault(warp, pc, trouble))?,
                (State::Bulk, Op::BulkWait { open, .. }) => self.bulk_is_done(warp, *open, on),
                (State::Registers, Op::SetMaxRegisters { count, .. }) => {
                    self.registers_are_free(warp, *count)
                }
                (State::Warpgroup, Op::ProductWait { open }) => self.products_are_done(warp, *open),
                _ => false,
            };
            if has_come {
                warp.paths.get_mut(path).state = State::Ready;
                any = true;
            }
        }
        Ok(any)
    }

    /// All warps have ended. Nothing may be under way any more: shared memory is gone.
    pub(super) fn finish(&mut self, warps: &[Warp]) -> Result<(), Box<Fault>> {
        if let Some(operation) = self.operations.open.first() {
            let warp = warps.iter().find(|w| w.id == operation.warp).unwrap_or(&warps[0]);
            let what = match operation.way {
                Way::Store { .. } => {
                    "the block ended while this bulk store was under way: cp.async.bulk.wait_group is missing"
                }
                Way::Load { .. } | Way::Across { .. } => {
                    "the block ended while this bulk copy was under way: nobody waited for its barrier"
                }
            };
            let trouble = Trouble::new(1 << operation.lane, what);
            return Err(self.fault(warp, operation.pc, trouble));
        }
        let in_flight = warps.iter().find_map(|w| Some((w, w.products.first_open()?)));
        if let Some((warp, pc)) = in_flight {
            let message = "the warp ended without having waited for this product";
            return Err(self.fault(warp, pc, Trouble::new(u32::MAX, message)));
        }
        Ok(())
    }
}
