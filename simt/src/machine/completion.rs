//! How asynchronous operations end: bytes move, and those who wait are told.

use super::Trouble;
use super::access::{Access, Who, shared_address};
use super::asynchronous::{Move, Operation, Way};
use super::cluster::Cluster;
use super::warp::Warp;
use crate::clocks::Arrival;
use crate::hopper::swizzle::Swizzle;
use crate::ptx::ast::Space;
use crate::shadow::{Flag, Stamp};

impl Cluster<'_, '_> {
    /// A copy ends: its bytes are there, and those who wait are told.
    pub(super) fn complete(
        &mut self,
        warp: &mut Warp,
        operation: &Operation,
    ) -> Result<(), Trouble> {
        let Operation { way, moves, swizzle, lane, pc, agent, cta, .. } = operation;
        let who = Who::operation(warp, *lane, *agent, &operation.sight);
        let stamp = self.clocks.stamp_as(*agent, Flag::Async);
        let mut arrival = Arrival::default();
        match way {
            Way::Load { ctas, barrier, fill } => {
                let mut bytes = Vec::new();
                for m in moves {
                    bytes.clear();
                    bytes.resize(m.bytes as usize, *fill);
                    if let Some(global) = m.global {
                        let place = (Space::Global, global);
                        let from =
                            self.reach_as(who, *lane, place, bytes.len(), Access::Read, *pc)?;
                        // SAFETY: `reach_as` has checked the range.
                        unsafe { bytes.as_mut_ptr().copy_from_nonoverlapping(from, bytes.len()) };
                    }
                    let mut rest = &bytes[..];
                    for (at, n) in pieces(*swizzle, m) {
                        let (now, later) = rest.split_at(n as usize);
                        ctas.iter().for_each(|&cta| self.deliver(cta, at, now, stamp, *pc));
                        rest = later;
                    }
                }
                self.end_agent(*agent, &mut arrival);
                for &cta in ctas {
                    self.complete_tx(*lane, (cta, *barrier), operation.bytes, &arrival)?;
                }
            }
            Way::Store { group, adds } => {
                for (at, n) in moves.iter().flat_map(|m| regions(*swizzle, m)) {
                    self.has_read(who, (*cta, at, n), *lane, *pc)?;
                }
                let mut reads = Arrival::default();
                self.end_agent(*agent, &mut reads);
                for m in moves {
                    let Some(global) = m.global else { continue };
                    let place = (Space::Global, global);
                    let access = match adds {
                        Some(_) => Access::Add,
                        None => Access::Write(Flag::Async),
                    };
                    let mut to = self.reach_as(who, *lane, place, m.bytes as usize, access, *pc)?;
                    for (at, n) in pieces(*swizzle, m) {
                        let bytes = self.bytes(*cta, at, n);
                        match adds {
                            // SAFETY: `reach_as` has checked the range, which is as long as all pieces; a map's
                            // elements are aligned, and pieces of rows are whole chunks of 16 bytes.
                            Some(sum) => unsafe { sum.add(to, bytes) },
                            // SAFETY: as above.
                            None => unsafe {
                                to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len())
                            },
                        }
                        to = to.wrapping_add(bytes.len());
                    }
                }
                self.end_agent(*agent, &mut arrival);
                warp.bulk.has_ended(*lane, *group, reads, arrival);
            }
            Way::Across { start, to, barrier } => {
                self.has_read(who, (*cta, *start, operation.bytes), *lane, *pc)?;
                if to != cta {
                    // Its own block must not end before, either.
                    self.ctas[*cta].visit(stamp, *pc);
                }
                let bytes = self.bytes(*cta, *start, operation.bytes).to_vec();
                self.deliver(*to, operation.start, &bytes, stamp, *pc);
                self.end_agent(*agent, &mut arrival);
                self.complete_tx(*lane, (*to, *barrier), operation.bytes, &arrival)?;
            }
            Way::Arrive { copies, before, barrier } => {
                let who = Who::copy(warp, *lane, *agent, &operation.sight);
                let groups = self.end_copies(warp, who, *lane, *before)?;
                self.end_agent(*agent, &mut arrival);
                if groups.len() < *copies && self.grid.launch.is_checked {
                    // The thread itself has waited for some of them.
                    self.clocks.release(warp.id as usize, 1 << lane, &mut arrival);
                }
                warp.copies.have_ended(*lane, groups, &arrival);
                self.arrive_behind(*lane, (*cta, *barrier), &arrival)?;
            }
        }
        Ok(())
    }

    fn end_agent(&mut self, agent: u32, arrival: &mut Arrival) {
        if self.grid.launch.is_checked {
            self.clocks.end_operation(agent, arrival);
        }
    }

    /// An operation has read these bytes of shared memory.
    fn has_read(
        &mut self,
        who: Who,
        (cta, start, bytes): (usize, u32, u32),
        lane: usize,
        pc: u32,
    ) -> Result<(), Trouble> {
        self.ctas[cta].read_by_operation(start, bytes, false);
        let place = (Space::Shared, shared_address(cta, start));
        self.reach_as(who, lane, place, bytes as usize, Access::Note, pc)?;
        Ok(())
    }

    /// Bytes of shared memory; the range was checked when the operation was started.
    fn bytes(&self, cta: usize, start: u32, bytes: u32) -> &[u8] {
        let all: &[u8] = bytemuck::cast_slice(&self.ctas[cta].shared);
        &all[start as usize..(start + bytes) as usize]
    }

    fn deliver(&mut self, cta: usize, start: u32, bytes: &[u8], stamp: Stamp, pc: u32) {
        let start = start as usize;
        let there: &mut [u8] = bytemuck::cast_slice_mut(&mut self.ctas[cta].shared);
        there[start..start + bytes.len()].copy_from_slice(bytes);
        if self.grid.launch.is_checked {
            self.ctas[cta].shadow.deliver(start, bytes.len(), stamp, pc);
        }
    }
}

/// Where the bytes of a run lie in shared memory, in their order: addresses and counts.
fn pieces(swizzle: Swizzle, run: &Move) -> impl Iterator<Item = (u32, u32)> + use<> {
    let Move { shared, bytes, .. } = *run;
    // Without a swizzle the run stays in one piece.
    let whole = (swizzle == Swizzle::None).then_some((shared, bytes));
    let all = (swizzle != Swizzle::None).then(|| swizzle.pieces(shared, bytes));
    whole.into_iter().chain(all.into_iter().flatten().map(|p| (p.address, p.bytes)))
}

/// The same in any order: whole rows of the swizzle stay where they are.
pub fn regions(swizzle: Swizzle, run: &Move) -> impl Iterator<Item = (u32, u32)> + use<> {
    let span = swizzle.span();
    let is_whole = run.shared.is_multiple_of(span) && run.bytes.is_multiple_of(span);
    pieces(if is_whole { Swizzle::None } else { swizzle }, run)
}
