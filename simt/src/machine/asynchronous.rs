//! Operations that go on while their warp does: bulk copies of every kind, and arrivals behind `cp.async`. When they
//! end is up to the schedule; a kernel must not depend on it.
//!
//! - [`Schedule::Ascending`]: as late as possible. One ends only when no warp can go on without, and then the one that
//!   was started last.
//! - [`Schedule::Descending`]: as early as possible, at the end of the turn of the warp that started it.
//! - [`Schedule::Shuffled`]: at random.
//!
//! What a kernel must not do is mostly found whenever the operation ends: the bytes that it writes belong to it from
//! its start on, those that it reads until its end, and afterwards only those who have waited for it see the one and
//! may do the other.
//!
//! Not seen: a copy whose bytes come in pieces (here all are there at once), and loads whose barrier nobody waits for,
//! where they end before their block.
//!
//! [`Schedule::Ascending`]: super::Schedule::Ascending
//! [`Schedule::Descending`]: super::Schedule::Descending
//! [`Schedule::Shuffled`]: super::Schedule::Shuffled

use super::addition::Sum;
use super::cluster::{Cluster, Cta};
use super::paths::State;
use super::warp::Warp;
use super::{Fault, Schedule, Trouble};
use crate::clocks::Sight;
use crate::hopper::swizzle::Swizzle;
use crate::program::op::Op;

/// A run of bytes of a copy.
#[derive(Clone, Copy, Debug)]
pub struct Move {
    /// In the shared memory of a block, before the swizzle.
    pub shared: u32,
    /// In global memory; `None` for bytes beyond the tensor, which a load fills.
    pub global: Option<u64>,
    pub bytes: u32,
}

/// Where a copy goes.
#[derive(Clone, Debug)]
pub enum Way {
    /// From global memory to the same place of these blocks, each with a barrier (an offset) that is told of the
    /// bytes. Bytes beyond the tensor are filled with this one.
    Load { ctas: Vec<usize>, barrier: u32, fill: u8 },
    /// From a block's shared memory to global memory, in this group of the thread. A reduction adds elements to what
    /// is there.
    Store { group: u32, adds: Option<Sum> },
    /// From shared memory of one block to that of another.
    Across { start: u32, to: usize, barrier: u32 },
    /// So many copies of `cp.async`, those under way that the thread had started before the one of this number; then
    /// an arrival at a barrier of its block.
    Arrive { copies: usize, before: u32, barrier: u32 },
}

/// A copy that is under way.
#[derive(Clone, Debug)]
pub struct Operation {
    pub way: Way,
    pub moves: Vec<Move>,
    pub swizzle: Swizzle,
    /// All of it in shared memory: where it begins, and bytes, of which the barrier is told.
    pub start: u32,
    pub bytes: u32,
    /// Block and number of the warp that started it, and its lane.
    pub cta: usize,
    pub warp: u32,
    pub lane: usize,
    /// The thread that stands for it in the clocks.
    pub agent: u32,
    /// What was seen when it was started.
    pub sight: Sight,
    pub pc: u32,
}

/// What is under way in a cluster.
#[derive(Default)]
pub struct Operations {
    pub open: Vec<Operation>,
    /// How many were ever started.
    pub started: u32,
}

impl Operations {
    /// Whether groups of a thread up to this one are done.
    pub fn are_done(&self, warp: u32, lane: usize, below: u32) -> bool {
        let is_due = |o: &Operation| {
            let is_in = matches!(o.way, Way::Store { group, .. } if group < below);
            o.warp == warp && o.lane == lane && is_in
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
    /// Ends one of the operations that are under way, which the schedule picks. Whether there was one.
    pub(super) fn complete_one(&mut self, warps: &mut [Warp]) -> Result<bool, Box<Fault>> {
        let n = self.operations.open.len();
        if n == 0 {
            return Ok(false);
        }
        let which = match self.grid.launch.schedule {
            Schedule::Ascending => n - 1,
            Schedule::Descending => 0,
            Schedule::Shuffled(_) => self.draw(n as u64) as usize,
        };
        let operation = self.operations.open.remove(which);
        let at = warps.iter().position(|w| w.id == operation.warp).unwrap_or(0);
        let outcome = self.complete(&mut warps[at], &operation);
        outcome.map_err(|trouble| self.fault(&warps[at], operation.pc, trouble))?;
        Ok(true)
    }

    /// What reads these 16 bytes of shared memory, in words.
    pub(super) fn reader(&self, cta: usize, at: u32) -> String {
        let holds = |start: u32, bytes: u32| start < at + 16 && at < start + bytes;
        let copy = self.operations.open.iter().find(|o| {
            o.cta == cta
                && match o.way {
                    Way::Store { .. } => holds(o.start, o.bytes),
                    Way::Across { start, .. } => holds(start, o.bytes),
                    _ => false,
                }
        });
        if let Some(copy) = copy {
            return format!("a bulk copy ({})", self.at(copy.pc));
        }
        match self.product_that_reads(cta, at) {
            Some((group, pc)) => format!("a product of warpgroup {group} ({})", self.at(pc)),
            None => "an asynchronous operation".into(),
        }
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

    /// A block has ended. Nothing may be under way in it any more: its shared memory is gone.
    pub(super) fn end_operations(&self, warps: &[Warp], cta: u32) -> Result<(), Box<Fault>> {
        let cta = cta as usize;
        let is_there = |o: &&Operation| match &o.way {
            Way::Load { ctas, .. } => ctas.contains(&cta),
            Way::Across { to, .. } => *to == cta || o.cta == cta,
            // Stores have been waited for: see `end_warp`.
            Way::Store { .. } => false,
            Way::Arrive { .. } => o.cta == cta,
        };
        let Some(operation) = self.operations.open.iter().find(is_there) else { return Ok(()) };
        let warp = warps.iter().find(|w| w.id == operation.warp).unwrap_or(&warps[0]);
        let block = match self.ctas.len() {
            1 => "the block".to_owned(),
            _ => format!("block {cta} of the cluster"),
        };
        let message = match operation.way {
            Way::Across { to, .. } if to != cta => format!(
                "{block} ended while this copy out of its shared memory was under way: a \
                 barrier.cluster is missing before its end"
            ),
            _ => format!(
                "{block} ended while this copy was under way: nobody there waited for its barrier"
            ),
        };
        Err(self.fault(warp, operation.pc, Trouble::new(1 << operation.lane, message)))
    }
}
