//! Bulk copies: `cp.async.bulk`, `cp.async.bulk.tensor` and their groups (9.7.9.25.5).

use super::access::{Access, Who, addresses, resolve, shared_address};
use super::addition::Sum;
use super::asynchronous::{Move, Operation, Way};
use super::cluster::Cluster;
use super::completion::regions;
use super::exec::each;
use super::paths::State;
use super::turn::Step;
use super::warp::Warp;
use super::{Trouble, traffic};
use crate::clocks::Arrival;
use crate::count::Counts;
use crate::hopper::swizzle::Swizzle;
use crate::hopper::tensor_map::{Fill, TensorMap};
use crate::hopper::tile::{Direction, Tile, check_shared_address};
use crate::program::op::{Address, BulkWay, Op, Src, TensorWay, Value};
use crate::ptx::ast::Space;
use crate::shadow::Flag;

/// Groups of bulk stores of the lanes of a warp.
#[derive(Default)]
pub struct Groups {
    committed: [u32; 32],
    /// Stores that no wait was for, in order: lane, group and instruction.
    unwaited: Vec<(usize, u32, u32)>,
    /// Stores that have ended: lane and group, and what those who wait see of the reads and of all.
    ended: Vec<(usize, u32, Arrival, Arrival)>,
}

impl Groups {
    /// A store of a lane in this group has ended.
    pub fn has_ended(&mut self, lane: usize, group: u32, reads: Arrival, all: Arrival) {
        self.ended.push((lane, group, reads, all));
    }

    pub fn commit(&mut self, on: u32) {
        each(on).for_each(|lane| self.committed[lane] += 1);
    }

    /// The first store that was not waited for: lane and instruction.
    pub fn first_open(&self) -> Option<(usize, u32)> {
        self.unwaited.first().map(|&(lane, _, pc)| (lane, pc))
    }
}

/// What a copy between global and shared memory, or two blocks, is about.
struct Plan {
    way: Way,
    moves: Vec<Move>,
    swizzle: Swizzle,
    start: u32,
    bytes: u32,
}

impl Cluster<'_, '_> {
    /// `cp.async.bulk` without a tensor: a run of bytes.
    pub(super) fn bulk_copy(
        &mut self,
        warp: &mut Warp,
        op: &Op,
        on: u32,
        pc: u32,
        counts: &mut Counts,
    ) -> Result<(), Trouble> {
        let Op::BulkCopy { way, to, from, bytes, barrier, multicast } = *op else {
            return Err(Trouble::new(on, "no bulk copy"));
        };
        for lane in each(on) {
            let fail = |message: String| Trouble::new(1 << lane, message);
            let bytes = warp.word_of(bytes, lane);
            let (to, from) = (addresses(warp, to)[lane], addresses(warp, from)[lane]);
            let by_16 = |at: u64| at.is_multiple_of(16);
            if bytes == 0 || !by_16(bytes.into()) || !by_16(to) || !by_16(from) {
                let message =
                    format!("bulk copy of {bytes} bytes from {from:#x} to {to:#x}: not by 16");
                return Err(fail(message));
            }
            let here = warp.cta as usize;
            let (to_cta, to_offset) = self.shared_cta(here, to);
            let (way, start, global) = match way {
                BulkWay::Load => {
                    let ctas = self.targets(warp, lane, to_cta, multicast)?;
                    let barrier =
                        self.barrier_of(warp, lane, barrier, multicast.is_none(), to_cta)?;
                    (Way::Load { ctas, barrier, fill: 0 }, to_offset as u32, Some(from))
                }
                BulkWay::Store => {
                    let start = self.own_offset(warp, lane, from)?;
                    let group = warp.bulk.committed[lane];
                    (Way::Store { group, adds: None }, start, Some(to))
                }
                BulkWay::Across => {
                    let start = self.own_offset(warp, lane, from)?;
                    let barrier = self.barrier_of(warp, lane, barrier, true, to_cta)?;
                    (Way::Across { start, to: to_cta, barrier }, to_offset as u32, None)
                }
            };
            let moves = vec![Move { shared: start, global, bytes }];
            let plan = Plan { way, moves, swizzle: Swizzle::None, start, bytes };
            let traffic = counts.traffic(pc);
            traffic.requests += 1;
            traffic.bytes += u64::from(bytes);
            if global.is_some() {
                traffic.sectors += u64::from(bytes / 32);
                traffic.least_sectors += u64::from(bytes / 32);
            }
            traffic.bulk_passes(bytes);
            self.start(warp, lane, plan, pc)?;
        }
        Ok(())
    }

    /// `cp.async.bulk.tensor`, and `cp.reduce.async.bulk.tensor`, which is a store that adds.
    pub(super) fn tensor_copy(
        &mut self,
        warp: &mut Warp,
        op: &Op,
        on: u32,
        pc: u32,
        counts: &mut Counts,
    ) -> Result<(), Trouble> {
        let Op::TensorCopy {
            way,
            adds,
            rank,
            shared,
            map,
            coordinates,
            offsets,
            barrier,
            multicast,
        } = *op
        else {
            return Err(Trouble::new(on, "no tensor copy"));
        };
        for lane in each(on) {
            let fail = |message: String| Trouble::new(1 << lane, message);
            let at = warp.value_of(Value::Long(map), lane);
            let map = self.tensor_map(warp, lane, at, pc)?;
            if map.rank() != usize::from(rank) {
                return Err(fail(format!("a map of rank {} in a copy of rank {rank}", map.rank())));
            }
            let adds = if adds { Some(Sum::of(map.element()).map_err(fail)?) } else { None };
            let at = coordinates.map(|c| warp.word_of(c, lane) as i32);
            let at = &at[..usize::from(rank)];
            let shared = addresses(warp, shared)[lane];
            let (cta, offset) = self.shared_cta(warp.cta as usize, shared);
            check_shared_address(offset as u32).map_err(|e| fail(e.to_string()))?;
            let direction = match way {
                TensorWay::Load | TensorWay::LoadIm2col => Direction::Load,
                TensorWay::Store | TensorWay::StoreIm2col => Direction::Store,
            };
            let tile = match way {
                TensorWay::Load | TensorWay::Store => Tile::tiled(&map, direction, at),
                TensorWay::LoadIm2col | TensorWay::StoreIm2col => {
                    let offsets = offsets.map(|o| warp.word_of(o, lane) as u16);
                    let n = match way {
                        TensorWay::LoadIm2col => usize::from(rank).saturating_sub(2),
                        _ => 0,
                    };
                    Tile::im2col(&map, direction, at, &offsets[..n])
                }
            };
            let tile = tile.map_err(|e| fail(e.to_string()))?;
            let (start, bytes) = (offset as u32, tile.box_bytes());
            let moves = moves(&tile, start, direction);
            let traffic = counts.traffic(pc);
            traffic.requests += 1;
            traffic.bytes += u64::from(bytes);
            traffic.bulk_passes(bytes);
            for piece in moves.iter().filter(|m| m.global.is_some()) {
                let from = piece.global.unwrap_or(0);
                traffic.sectors +=
                    (from + u64::from(piece.bytes)).div_ceil(32).saturating_sub(from / 32);
            }
            traffic.least_sectors += tile.inside_bytes().div_ceil(32);
            let way = match direction {
                Direction::Load => Way::Load {
                    ctas: self.targets(warp, lane, cta, multicast)?,
                    barrier: self.barrier_of(warp, lane, barrier, multicast.is_none(), cta)?,
                    // Which NaN, nobody says; all bits set are one in every format.
                    fill: if map.fill() == Fill::Nan { 0xff } else { 0 },
                },
                Direction::Store => {
                    self.own_offset(warp, lane, shared)?;
                    Way::Store { group: warp.bulk.committed[lane], adds }
                }
            };
            let plan = Plan { way, moves, swizzle: map.swizzle(), start, bytes };
            self.start(warp, lane, plan, pc)?;
        }
        Ok(())
    }

    /// The map that a copy names, if it is one.
    fn tensor_map(
        &mut self,
        warp: &mut Warp,
        lane: usize,
        at: u64,
        pc: u32,
    ) -> Result<TensorMap, Trouble> {
        let fail = |message: String| Trouble::new(1 << lane, message);
        if !at.is_multiple_of(TensorMap::ALIGNMENT) {
            return Err(fail(format!("a tensor map at {at:#x}, which is no multiple of 64")));
        }
        let place = resolve(Space::Generic, at);
        self.check_early(warp, ("read", 128), (place.0, &[at; 32]), 1 << lane)?;
        let from = self.reach_as(Who::thread(warp, lane), lane, place, 128, Access::Read, pc)?;
        // SAFETY: `reach_as` has checked 128 bytes there.
        let bytes = unsafe { from.cast::<[u8; 128]>().read_unaligned() };
        TensorMap::from_bytes(&bytes).map_err(|e| fail(format!("no tensor map at {at:#x}: {e}")))
    }

    /// The blocks that a load goes to.
    fn targets(
        &self,
        warp: &Warp,
        lane: usize,
        cta: usize,
        multicast: Option<Src>,
    ) -> Result<Vec<usize>, Trouble> {
        let mask = match multicast {
            None => return Ok(vec![cta]),
            Some(mask) => warp.word_of(mask, lane) & 0xffff,
        };
        if mask == 0 || mask >> self.ctas.len() != 0 {
            let message =
                format!("multicast to blocks {mask:#06x} of a cluster of {}", self.ctas.len());
            return Err(Trouble::new(1 << lane, message));
        }
        Ok((0..self.ctas.len()).filter(|i| mask >> i & 1 == 1).collect())
    }

    /// Offset of a source in the block's own shared memory.
    fn own_offset(&self, warp: &Warp, lane: usize, at: u64) -> Result<u32, Trouble> {
        let (cta, offset) = self.shared_cta(warp.cta as usize, at);
        if cta == warp.cta as usize {
            return Ok(offset as u32);
        }
        let message =
            format!("a bulk copy from shared memory of block {cta}, which is not its own");
        Err(Trouble::new(1 << lane, message))
    }

    /// Offset of the barrier that a load tells; with `same` it has to be in the block that the bytes go to.
    fn barrier_of(
        &self,
        warp: &Warp,
        lane: usize,
        barrier: Option<Address>,
        same: bool,
        target: usize,
    ) -> Result<u32, Trouble> {
        let Some(barrier) = barrier else {
            return Err(Trouble::new(1 << lane, "the copy names no barrier"));
        };
        let at = addresses(warp, barrier)[lane];
        let (cta, offset) = self.shared_cta(warp.cta as usize, at);
        if same && cta != target {
            let message =
                format!("a copy to block {target} of the cluster with a barrier in block {cta}");
            return Err(Trouble::new(1 << lane, message));
        }
        Ok(offset as u32)
    }

    /// Checks what a copy needs now and must not lose until it ends, and lets it be under way.
    fn start(&mut self, warp: &mut Warp, lane: usize, plan: Plan, pc: u32) -> Result<(), Trouble> {
        let Plan { way, moves, swizzle, start, bytes } = plan;
        // Now and not when it ends: what its thread waits for in between comes too late.
        if warp.early >> lane & 1 == 1
            && let Some((at, n)) = moves.iter().find_map(|m| Some((m.global?, m.bytes)))
        {
            let verb = match way {
                Way::Store { adds: Some(_), .. } => "reduction",
                Way::Store { .. } => "write",
                _ => "read",
            };
            self.check_early(warp, (verb, n), (Space::Global, &[at; 32]), 1 << lane)?;
        }
        let sight = self.clocks.sight(warp.id * 32 + lane as u32);
        let agent = self.copy_agent(warp);
        let who = Who::operation(warp, lane, agent, &sight);
        let cta = warp.cta as usize;
        let arrives = Access::Write(Flag::Pending);
        match &way {
            Way::Load { ctas, barrier, .. } => {
                for &cta in ctas {
                    self.check_barrier(warp, lane, (cta, *barrier), pc)?;
                    let place = (Space::Shared, shared_address(cta, start));
                    self.reach_as(who, lane, place, bytes as usize, arrives, pc)?;
                }
            }
            Way::Store { group, .. } => {
                for (at, n) in moves.iter().flat_map(|m| regions(swizzle, m)) {
                    let place = (Space::Shared, shared_address(cta, at));
                    self.reach_as(who, lane, place, n as usize, Access::Peek, pc)?;
                    self.ctas[cta].read_by_operation(at, n, true);
                }
                warp.bulk.unwaited.push((lane, *group, pc));
            }
            Way::Across { start: source, to, barrier } => {
                self.check_barrier(warp, lane, (*to, *barrier), pc)?;
                let n = bytes as usize;
                let place = (Space::Shared, shared_address(cta, *source));
                self.reach_as(who, lane, place, n, Access::Peek, pc)?;
                self.ctas[cta].read_by_operation(*source, bytes, true);
                let place = (Space::Shared, shared_address(*to, start));
                self.reach_as(who, lane, place, n, arrives, pc)?;
            }
            Way::Arrive { .. } => {}
        }
        let warp = warp.id;
        self.operations.open.push(Operation {
            way,
            moves,
            swizzle,
            start,
            bytes,
            cta,
            warp,
            lane,
            agent,
            sight,
            pc,
        });
        Ok(())
    }

    /// `cp.async.mbarrier.arrive` (9.7.13.15.17): an arrival once the thread's earlier copies are there. Without
    /// `.noinc` it is one more than the barrier counts, from now on.
    pub(super) fn copy_arrive(
        &mut self,
        warp: &mut Warp,
        (at, space): (Address, Space),
        is_counted: bool,
        on: u32,
        pc: u32,
    ) -> Result<(), Trouble> {
        for lane in each(on) {
            let barrier = self.arrival_to_come(warp, (at, space), lane, is_counted, pc)?;
            let (copies, before) = (warp.copies.count(lane), warp.copies.started);
            let way = Way::Arrive { copies, before, barrier };
            let (moves, swizzle) = (Vec::new(), Swizzle::None);
            self.start(warp, lane, Plan { way, moves, swizzle, start: 0, bytes: 0 }, pc)?;
        }
        Ok(())
    }

    /// `cp.async.bulk.wait_group`. Reading the source and writing the target end together here, but behind `.read`
    /// only the former has been seen.
    pub(super) fn bulk_wait(
        &mut self,
        warp: &mut Warp,
        path: u32,
        op: &Op,
        on: u32,
    ) -> Result<Step, Trouble> {
        let Op::BulkWait { open, reads_only } = *op else {
            return Err(Trouble::new(on, "no wait"));
        };
        if !self.bulk_is_done(warp, open, on) {
            warp.paths.get_mut(path).state = State::Bulk;
            return Ok(Step::Waits);
        }
        let committed = warp.bulk.committed;
        let is_due = |lane: usize, group: u32| {
            on >> lane & 1 == 1 && group < committed[lane].saturating_sub(open)
        };
        warp.bulk.unwaited.retain(|&(lane, group, _)| !is_due(lane, group));
        for (lane, group, reads, all) in &warp.bulk.ended {
            if is_due(*lane, *group) && self.grid.launch.is_checked {
                let arrival = if reads_only { reads } else { all };
                self.clocks.acquire(warp.id as usize, 1 << lane, arrival);
            }
        }
        if !reads_only {
            warp.bulk.ended.retain(|&(lane, group, ..)| !is_due(lane, group));
        }
        Ok(Step::Done)
    }

    pub(super) fn bulk_is_done(&self, warp: &Warp, open: u32, on: u32) -> bool {
        each(on).all(|lane| {
            let below = warp.bulk.committed[lane].saturating_sub(open);
            self.operations.are_done(warp.id, lane, below)
        })
    }

    /// A prefetch into the cache of level 2 does nothing but must be allowed.
    pub(super) fn bulk_prefetch(
        &mut self,
        warp: &mut Warp,
        (from, bytes): (Address, Src),
        on: u32,
        pc: u32,
        counts: &mut Counts,
    ) -> Result<(), Trouble> {
        let at = addresses(warp, from);
        for lane in each(on) {
            let (bytes, from) = (warp.word_of(bytes, lane), at[lane]);
            if bytes == 0 || !bytes.is_multiple_of(16) || !from.is_multiple_of(16) {
                let message = format!("bulk prefetch of {bytes} bytes from {from:#x}: not by 16");
                return Err(Trouble::new(1 << lane, message));
            }
            let (who, place) = (Who::thread(warp, lane), (Space::Global, from));
            self.reach_as(who, lane, place, bytes as usize, Access::Peek, pc)?;
        }
        traffic::count(counts.traffic(pc), Space::Global, &at, 16, on);
        Ok(())
    }
}

/// The runs of a tile, row by row: what lies inside the tensor, and what a load fills around it.
fn moves(tile: &Tile, start: u32, direction: Direction) -> Vec<Move> {
    let mut moves = Vec::new();
    for row in tile.rows() {
        let mut add = |from: u32, to: u32, global: Option<u64>| {
            if from < to && (global.is_some() || direction == Direction::Load) {
                moves.push(Move { shared: start + row.shared + from, global, bytes: to - from });
            }
        };
        let inside = row.inside.clone();
        if inside.is_empty() {
            add(0, row.bytes, None);
        } else {
            add(0, inside.start, None);
            add(inside.start, inside.end, Some(row.global));
            add(inside.end, row.bytes, None);
        }
    }
    moves
}
