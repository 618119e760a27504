//! What lanes of a warp do together, once all that the mask names have come: `bar.warp.sync`, `shfl.sync`,
//! `vote.sync`, `match.sync`, `redux.sync`, `elect.sync` (9.7.9.6, 9.7.13.2, 9.7.13.9 to 9.7.13.13).

use super::Trouble;
use super::atomic::combine;
use super::cluster::Cluster;
use super::exec::each;
use super::paths::{ANYWHERE, State};
use super::turn::Step;
use super::warp::Warp;
use crate::program::op::{AtomicOp, Op, Shuffle, Src, Vote};

fn mask_of(op: &Op) -> Src {
    match *op {
        Op::WarpSync { mask }
        | Op::Shuffle { mask, .. }
        | Op::Vote { mask, .. }
        | Op::MatchAny { mask, .. }
        | Op::MatchAll { mask, .. }
        | Op::MatchAny64 { mask, .. }
        | Op::MatchAll64 { mask, .. }
        | Op::Redux { mask, .. }
        | Op::Elect { mask, .. } => mask,
        _ => Src::Value(0),
    }
}

impl Cluster<'_, '_> {
    /// A path arrives at a collective. Whether it goes on at once.
    pub(super) fn collective(
        &mut self,
        warp: &mut Warp,
        path: u32,
        op: &Op,
        on: u32,
        pc: u32,
    ) -> Result<Step, Trouble> {
        let mask = mask_of(op);
        let mut left = on;
        // Lanes may come in groups, each with a mask of its own.
        while left != 0 {
            let lane = left.trailing_zeros() as usize;
            let names = warp.word_of(mask, lane);
            let group = each(left).filter(|&l| warp.word_of(mask, l) == names);
            let group = group.fold(0u32, |all, l| all | 1 << l);
            left &= !group;
            if group & !names != 0 {
                let message = format!("mask {names:#010x} does not name the calling lane");
                return Err(Trouble::new(group & !names, message));
            }
            let missing = names & !group;
            if missing & !warp.lanes != 0 {
                let message = format!(
                    "mask {names:#010x} names lanes that are absent: the warp has {}",
                    warp.lanes.count_ones()
                );
                return Err(Trouble::new(group, message));
            }
            if missing & warp.exited != 0 {
                let message = format!(
                    "mask {names:#010x} names lanes that are absent: lane {} has returned",
                    (missing & warp.exited).trailing_zeros()
                );
                return Err(Trouble::new(group, message));
            }
            if missing == 0 {
                self.together(warp, op, group)?;
                continue;
            }
            // Some are on another path. They may still come.
            if group != warp.paths.get(path).lanes {
                let message = format!(
                    "mask {names:#010x} names lanes that are absent: lane {} is elsewhere",
                    missing.trailing_zeros()
                );
                return Err(Trouble::new(group, message));
            }
            let place = if matches!(op, Op::WarpSync { .. }) { ANYWHERE } else { pc };
            warp.paths.get_mut(path).state = State::Collective(names, place);
            if warp.paths.gathered(names, place) != names {
                return Ok(Step::Waits);
            }
            self.together(warp, op, names)?;
            warp.paths.release(names, place);
            return Ok(Step::Waits);
        }
        Ok(Step::Done)
    }

    /// All lanes of a mask are here.
    fn together(&mut self, warp: &mut Warp, op: &Op, lanes: u32) -> Result<(), Trouble> {
        let (mut x, mut p) = ([0u32; 32], [0u64; 32]);
        match *op {
            Op::WarpSync { .. } => {
                if self.grid.launch.is_checked {
                    self.clocks.sync_warp(warp.id as usize, lanes);
                }
            }
            Op::Shuffle { how, d, p, a, b, c, .. } => {
                let values = *warp.word(a, &mut x);
                let (mut out, mut is_in_range) = ([0u32; 32], 0u32);
                for lane in each(lanes) {
                    let (b, c) = (warp.word_of(b, lane), warp.word_of(c, lane));
                    let (source, is_valid) = source_lane(how, lane as u32, b, c);
                    if lanes >> source & 1 == 0 {
                        let message =
                            format!("shuffle from lane {source}, which the mask does not name");
                        return Err(Trouble::new(1 << lane, message));
                    }
                    out[lane] = values[source as usize];
                    is_in_range |= u32::from(is_valid) << lane;
                }
                warp.put(d, &out, lanes);
                if let Some(p) = p {
                    warp.put_pred(p, is_in_range, lanes);
                }
            }
            Op::Vote { how, d, p, .. } => {
                let yes = warp.pred(p) & lanes;
                let all = |is: bool| if is { u32::MAX } else { 0 };
                match how {
                    Vote::Ballot => warp.put(d, &[yes; 32], lanes),
                    Vote::All => warp.put_pred(d, all(yes == lanes), lanes),
                    Vote::Any => warp.put_pred(d, all(yes != 0), lanes),
                    Vote::Uni => warp.put_pred(d, all(yes == 0 || yes == lanes), lanes),
                }
            }
            Op::MatchAny { d, a, .. } => {
                let values = warp.word(a, &mut x).map(u64::from);
                match_any(warp, d, &values, lanes);
            }
            Op::MatchAny64 { d, a, .. } => {
                let values = *warp.long(a, &mut p);
                match_any(warp, d, &values, lanes);
            }
            Op::MatchAll { d, p, a, .. } => {
                let values = warp.word(a, &mut x).map(u64::from);
                match_all(warp, (d, p), &values, lanes);
            }
            Op::MatchAll64 { d, p: pred, a, .. } => {
                let values = *warp.long(a, &mut p);
                match_all(warp, (d, pred), &values, lanes);
            }
            Op::Redux { op, d, a, .. } => {
                let values = *warp.word(a, &mut x);
                let all = each(lanes).map(|l| u64::from(values[l]));
                let all = all.reduce(|a, b| reduce(op, a, b)).unwrap_or(0);
                warp.put(d, &[all as u32; 32], lanes);
            }
            Op::Elect { d, p, .. } => {
                // Which lane it is, the manual leaves open; the hardware takes the lowest.
                let leader = lanes.trailing_zeros();
                warp.put_any(d, &[leader.into(); 32], lanes);
                warp.put_pred(p, 1 << leader, lanes);
            }
            _ => return Err(Trouble::new(lanes, "no collective")),
        }
        Ok(())
    }
}

fn reduce(op: AtomicOp, a: u64, b: u64) -> u64 {
    combine(op, 4, a, b, 0) & 0xffff_ffff
}

/// Lanes with the same value as each lane.
fn match_any(warp: &mut Warp, d: u32, values: &[u64; 32], lanes: u32) {
    let same = |lane: usize| {
        each(lanes).filter(|&l| values[l] == values[lane]).fold(0, |all, l| all | 1 << l)
    };
    let out = std::array::from_fn(same);
    warp.put(d, &out, lanes);
}

/// The mask if all lanes have the same value, 0 otherwise.
fn match_all(warp: &mut Warp, (d, p): (u32, Option<u32>), values: &[u64; 32], lanes: u32) {
    let first = values[lanes.trailing_zeros() as usize];
    let is_same = each(lanes).all(|l| values[l] == first);
    warp.put(d, &[if is_same { lanes } else { 0 }; 32], lanes);
    if let Some(p) = p {
        warp.put_pred(p, if is_same { u32::MAX } else { 0 }, lanes);
    }
}

/// The pseudocode of 9.7.9.6: the lane to copy from, and whether it is in range.
fn source_lane(how: Shuffle, lane: u32, b: u32, c: u32) -> (u32, bool) {
    let (value, clamp, segment) = (b & 0x1f, c & 0x1f, c >> 8 & 0x1f);
    let max_lane = lane & segment | clamp & !segment;
    let min_lane = lane & segment;
    let (lane_from, is_in) = match how {
        Shuffle::Up => {
            let j = lane as i32 - value as i32;
            (j as u32, j >= max_lane as i32)
        }
        Shuffle::Down => (lane + value, lane + value <= max_lane),
        Shuffle::Bfly => (lane ^ value, lane ^ value <= max_lane),
        Shuffle::Idx => {
            let j = min_lane | value & !segment;
            (j, j <= max_lane)
        }
    };
    if is_in { (lane_from, true) } else { (lane, false) }
}
