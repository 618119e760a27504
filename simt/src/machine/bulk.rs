//! Bulk copies: `cp.async.bulk`, `cp.async.bulk.tensor` and their groups (9.7.9.25.5).

use super::access::{Access, Who, addresses, resolve, shared_address};
use super::asynchronous::{Move, Operation, Way};
use super::cluster::Cluster;
use super::exec::each;
use super::paths::State;
use super::turn::Step;
use super::warp::Warp;
use super::{Trouble, traffic};
use crate::clocks::Arrival;
use crate::count::Counts;
use crate::hopper::tensor_map::{Fill, TensorMap};
use crate::hopper::tile::{Direction, Tile, check_shared_address};
use crate::program::op::{Address, BulkWay, Op, Src, TensorWay, Value};
use crate::ptx::ast::Space;
use crate::shadow::Flag;

/// Groups of bulk stores of the lanes of a warp.
#[derive(Default)]
pub struct Groups {
    committed: [u32; 32],
    /// What those who wait for stores see.
    pub arrivals: [Arrival; 32],
}

impl Groups {
    pub fn commit(&mut self, on: u32) {
        each(on).for_each(|lane| self.committed[lane] += 1);
    }
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
            if bytes == 0 || !(u64::from(bytes) | to | from).is_multiple_of(16) {
                let message =
                    format!("bulk copy of {bytes} bytes from {from:#x} to {to:#x}: not by 16");
                return Err(fail(message));
            }
            let here = warp.cta as usize;
            let (way, moves) = match way {
                BulkWay::Load => {
                    let (cta, offset) = self.shared_cta(here, to);
                    let ctas = self.targets(warp, lane, cta, multicast)?;
                    let barrier = self.barrier_of(warp, lane, barrier)?;
                    let moves = Move { shared: offset as u32, global: Some(from), bytes };
                    (Way::Load { ctas, barrier, nan: None }, moves)
                }
                BulkWay::Store => {
                    let moves = Move { shared: from as u32, global: Some(to), bytes };
                    (Way::Store { cta: here }, moves)
                }
                BulkWay::Across => {
                    let (cta, offset) = self.shared_cta(here, to);
                    let barrier = self.barrier_of(warp, lane, barrier)?;
                    let way = Way::Across { from: here, start: from as u32, to: cta, barrier };
                    (way, Move { shared: offset as u32, global: None, bytes })
                }
            };
            let traffic = counts.traffic(pc);
            traffic.requests += 1;
            traffic.bytes += u64::from(bytes);
            traffic.sectors += u64::from(bytes / 32);
            traffic.least_sectors += u64::from(bytes / 32);
            self.start(warp, lane, way, vec![moves], bytes, pc)?;
        }
        Ok(())
    }

    /// `cp.async.bulk.tensor`.
    pub(super) fn tensor_copy(
        &mut self,
        warp: &mut Warp,
        op: &Op,
        on: u32,
        pc: u32,
        counts: &mut Counts,
    ) -> Result<(), Trouble> {
        let Op::TensorCopy { way, rank, shared, map, coordinates, offsets, barrier, multicast } =
            *op
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
            let moves = moves(&tile, &map, offset as u32, direction);
            let bytes = tile.box_bytes();
            let traffic = counts.traffic(pc);
            traffic.requests += 1;
            traffic.bytes += u64::from(bytes);
            for piece in moves.iter().filter(|m| m.global.is_some()) {
                let from = piece.global.unwrap_or(0);
                traffic.sectors +=
                    (from + u64::from(piece.bytes)).div_ceil(32).saturating_sub(from / 32);
            }
            traffic.least_sectors += tile.inside_bytes().div_ceil(32);
            let way = match direction {
                Direction::Load => Way::Load {
                    ctas: self.targets(warp, lane, cta, multicast)?,
                    barrier: self.barrier_of(warp, lane, barrier)?,
                    nan: (map.fill() == Fill::Nan).then(|| map.element().bytes()),
                },
                Direction::Store => Way::Store { cta },
            };
            self.start(warp, lane, way, moves, bytes, pc)?;
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
        if !at.is_multiple_of(64) {
            return Err(fail(format!("a tensor map at {at:#x}, which is no multiple of 64")));
        }
        let place = resolve(Space::Generic, at);
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

    /// Offset of the barrier that a load tells.
    fn barrier_of(
        &self,
        warp: &Warp,
        lane: usize,
        barrier: Option<Address>,
    ) -> Result<u32, Trouble> {
        let Some(barrier) = barrier else {
            return Err(Trouble::new(1 << lane, "the copy names no barrier"));
        };
        let at = addresses(warp, barrier)[lane];
        Ok(self.shared_cta(warp.cta as usize, at).1 as u32)
    }

    /// Checks what a copy needs now and must not lose until it ends, and lets it be under way.
    fn start(
        &mut self,
        warp: &mut Warp,
        lane: usize,
        way: Way,
        moves: Vec<Move>,
        bytes: u32,
        pc: u32,
    ) -> Result<(), Trouble> {
        let who = Who::proxy(warp, lane);
        match &way {
            Way::Load { ctas, barrier, .. } => {
                for &cta in ctas {
                    self.check_barrier(warp, lane, (cta, *barrier), pc)?;
                    for m in &moves {
                        let place = (Space::Shared, shared_address(cta, m.shared));
                        let access = Access::Write(Flag::Pending);
                        self.reach_as(who, lane, place, m.bytes as usize, access, pc)?;
                    }
                }
            }
            Way::Store { cta } => {
                for m in &moves {
                    let place = (Space::Shared, shared_address(*cta, m.shared));
                    self.reach_as(who, lane, place, m.bytes as usize, Access::Peek, pc)?;
                    self.ctas[*cta].read_by_operation(m.shared, m.bytes, true);
                }
            }
            Way::Across { from, start, to, barrier } => {
                self.check_barrier(warp, lane, (*to, *barrier), pc)?;
                let n = bytes as usize;
                let place = (Space::Shared, shared_address(*from, *start));
                self.reach_as(who, lane, place, n, Access::Peek, pc)?;
                self.ctas[*from].read_by_operation(*start, bytes, true);
                let place = (Space::Shared, shared_address(*to, moves[0].shared));
                self.reach_as(who, lane, place, n, Access::Write(Flag::Pending), pc)?;
            }
        }
        let group = match way {
            Way::Store { .. } => Some(warp.bulk.committed[lane]),
            Way::Load { .. } | Way::Across { .. } => None,
        };
        let agent = self.agent(warp, false);
        let operation = Operation { way, moves, bytes, warp: warp.id, lane, group, agent, pc };
        self.operations.open.push(operation);
        Ok(())
    }

    /// A copy ends: its bytes are there, and those who wait are told.
    pub(super) fn complete(
        &mut self,
        warp: &Warp,
        operation: &Operation,
        arrival: &mut Arrival,
    ) -> Result<(), Trouble> {
        let Operation { way, moves, lane, pc, agent, .. } = operation;
        let who = Who::agent(warp, *lane, *agent);
        let stamp = self.clocks.stamp_as(*agent, Flag::Async);
        match way {
            Way::Load { ctas, nan, .. } => {
                for m in moves {
                    let mut bytes = vec![0u8; m.bytes as usize];
                    if let Some(global) = m.global {
                        let place = (Space::Global, global);
                        let from =
                            self.reach_as(who, *lane, place, bytes.len(), Access::Read, *pc)?;
                        // SAFETY: `reach_as` has checked the range.
                        unsafe { bytes.as_mut_ptr().copy_from_nonoverlapping(from, bytes.len()) };
                    } else if let Some(element) = nan {
                        // Which NaN, nobody says; all bits set are one in every format.
                        _ = element;
                        bytes.fill(0xff);
                    }
                    for &cta in ctas {
                        self.deliver(cta, m.shared, &bytes, stamp, *pc);
                    }
                }
            }
            Way::Store { cta } => {
                for m in moves {
                    let Some(global) = m.global else { continue };
                    let bytes = self.take_out(*cta, m.shared, m.bytes);
                    let place = (Space::Global, global);
                    let access = Access::Write(Flag::Async);
                    let to = self.reach_as(who, *lane, place, bytes.len(), access, *pc)?;
                    // SAFETY: `reach_as` has checked the range.
                    unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
                }
                for m in moves {
                    self.ctas[*cta].read_by_operation(m.shared, m.bytes, false);
                }
            }
            Way::Across { from, start, to, .. } => {
                let bytes = self.take_out(*from, *start, operation.bytes);
                self.ctas[*from].read_by_operation(*start, operation.bytes, false);
                self.deliver(*to, moves[0].shared, &bytes, stamp, *pc);
            }
        }
        if self.grid.launch.is_checked {
            self.clocks.end_operation(*agent, arrival);
        }
        match way {
            Way::Load { ctas, barrier, .. } => {
                for &cta in ctas {
                    self.complete_tx(*lane, (cta, *barrier), operation.bytes, arrival)?;
                }
            }
            Way::Across { to, barrier, .. } => {
                self.complete_tx(*lane, (*to, *barrier), operation.bytes, arrival)?;
            }
            Way::Store { .. } => {}
        }
        Ok(())
    }

    /// Bytes of shared memory; the range was checked when the copy was started.
    fn take_out(&self, cta: usize, start: u32, bytes: u32) -> Vec<u8> {
        let all: &[u8] = bytemuck::cast_slice(&self.ctas[cta].shared);
        all[start as usize..(start + bytes) as usize].to_vec()
    }

    fn deliver(
        &mut self,
        cta: usize,
        start: u32,
        bytes: &[u8],
        stamp: crate::shadow::Stamp,
        pc: u32,
    ) {
        let range = start as usize..start as usize + bytes.len();
        let there: &mut [u8] = bytemuck::cast_slice_mut(&mut self.ctas[cta].shared);
        there[range.clone()].copy_from_slice(bytes);
        if self.grid.launch.is_checked {
            self.ctas[cta].shadow[range].iter().for_each(|b| b.deliver(stamp, pc));
        }
    }

    /// `cp.async.bulk.wait_group`. Reading the source and writing the target end together here, so that `.read`
    /// makes no difference.
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
        if self.grid.launch.is_checked && !reads_only {
            for lane in each(on) {
                self.clocks.acquire(warp.id as usize, 1 << lane, &warp.bulk.arrivals[lane]);
            }
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
            let bytes = warp.word_of(bytes, lane) as usize;
            let place = (Space::Global, at[lane]);
            self.reach_as(Who::thread(warp, lane), lane, place, bytes, Access::Peek, pc)?;
        }
        traffic::count(counts.traffic(pc), Space::Global, &at, 16, on);
        Ok(())
    }
}

/// The pieces of a tile that stay together in both memories.
fn moves(tile: &Tile, map: &TensorMap, start: u32, direction: Direction) -> Vec<Move> {
    let mut moves = Vec::new();
    for row in tile.rows() {
        for piece in map.swizzle().pieces(start + row.shared, row.bytes) {
            // A piece may lie inside the tensor in part.
            let (first, end) = (piece.offset, piece.offset + piece.bytes);
            let from = row.inside.start.clamp(first, end);
            let to = row.inside.end.clamp(first, end);
            let mut add = |a: u32, b: u32, is_inside: bool| {
                if a >= b || !is_inside && direction == Direction::Store {
                    return;
                }
                let global = is_inside.then(|| row.global + u64::from(a - row.inside.start));
                moves.push(Move { shared: piece.address + (a - first), global, bytes: b - a });
            };
            if from < to {
                add(first, from, false);
                add(from, to, true);
                add(to, end, false);
            } else {
                add(first, end, false);
            }
        }
    }
    moves
}
