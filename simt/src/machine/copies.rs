//! `cp.async` of sm_80 (9.7.9.25.3): copies that are under way until their thread waits for their group.

use super::access::{Access, Who, addresses};
use super::cluster::Cluster;
use super::exec::each;
use super::warp::Warp;
use super::{Trouble, traffic};
use crate::clocks::Arrival;
use crate::count::Counts;
use crate::program::op::Op;
use crate::ptx::ast::Space;
use crate::shadow::Flag;

struct Copy {
    lane: u8,
    /// The group of its lane that it belongs to.
    group: u32,
    to: u64,
    from: u64,
    bytes: u8,
    valid: u8,
    /// How many the warp had started before.
    number: u32,
    pc: u32,
}

/// The copies of a warp that are under way.
#[derive(Default)]
pub struct Copies {
    open: Vec<Copy>,
    /// Groups that each lane has committed.
    committed: [u32; 32],
    /// How many were ever started.
    pub started: u32,
    /// Those that have ended before an arrival at a barrier: lane and group, and what their thread sees once it waits
    /// for that.
    ended: Vec<(usize, u32, Arrival)>,
}

impl Copies {
    pub fn clear(&mut self) {
        self.open.clear();
        self.committed = [0; 32];
        self.started = 0;
        self.ended.clear();
    }

    /// Copies of a lane that are under way.
    pub fn count(&self, lane: usize) -> usize {
        self.open.iter().filter(|c| usize::from(c.lane) == lane).count()
    }

    /// Copies of these groups of a lane have ended.
    pub fn have_ended(&mut self, lane: usize, mut groups: Vec<u32>, arrival: &Arrival) {
        groups.dedup();
        self.ended.extend(groups.into_iter().map(|group| (lane, group, arrival.clone())));
    }

    pub fn commit(&mut self, on: u32) {
        each(on).for_each(|lane| self.committed[lane] += 1);
    }
}

impl Cluster<'_, '_> {
    pub(super) fn copy_async(
        &mut self,
        warp: &mut Warp,
        op: &Op,
        on: u32,
        pc: u32,
        counts: &mut Counts,
    ) -> Result<(), Trouble> {
        let Op::CopyAsync { to, from, bytes, size, ignore } = *op else {
            return Err(Trouble::new(on, "no copy"));
        };
        let (to, from) = (addresses(warp, to), addresses(warp, from));
        let ignored = ignore.map_or(0, |p| warp.pred(p));
        let mut read = 0;
        for lane in each(on) {
            let valid = match size {
                Some(size) => warp.word_of(size, lane),
                None => bytes.into(),
            };
            if valid > bytes.into() {
                let message = format!("asynchronous copy of {valid} bytes, at most {bytes}");
                return Err(Trouble::new(1 << lane, message));
            }
            let valid = if ignored >> lane & 1 == 1 { 0 } else { valid as u8 };
            for at in [to[lane], from[lane]] {
                if at % u64::from(bytes) != 0 {
                    let message =
                        format!("misaligned asynchronous copy of {bytes} bytes at {at:#x}");
                    return Err(Trouble::new(1 << lane, message));
                }
            }
            if valid > 0 {
                let access = ("read", u32::from(valid));
                self.check_early(warp, access, (Space::Global, &from), 1 << lane)?;
            }
            let group = warp.copies.committed[lane];
            let number = warp.copies.started;
            warp.copies.started += 1;
            let (to, from) = (to[lane], from[lane]);
            let copy = Copy { lane: lane as u8, group, to, from, bytes, valid, number, pc };
            self.check_copy(Who::thread(warp, lane), &copy, Flag::Pending)?;
            read |= u32::from(valid > 0) << lane;
            warp.copies.open.push(copy);
        }
        let traffic = counts.traffic(pc);
        traffic::count(traffic, Space::Global, &from, bytes.into(), read);
        let mut stored = *traffic;
        traffic::count(&mut stored, Space::Shared, &to, bytes.into(), on);
        (traffic.passes, traffic.least_passes) = (stored.passes, stored.least_passes);
        Ok(())
    }

    /// A copy may read and write at any time from its issue to its wait: both ends are checked at both. Where its
    /// bytes are on the host.
    fn check_copy(
        &mut self,
        who: Who,
        copy: &Copy,
        flag: Flag,
    ) -> Result<(*mut u8, *mut u8), Trouble> {
        let lane = usize::from(copy.lane);
        let mut from = std::ptr::null_mut();
        if copy.valid > 0 {
            let place = (Space::Global, copy.from);
            from = self.reach_as(who, lane, place, copy.valid.into(), Access::Read, copy.pc)?;
        }
        let place = (Space::Shared, copy.to);
        let access = Access::Write(flag);
        let to = self.reach_as(who, lane, place, copy.bytes.into(), access, copy.pc)?;
        Ok((to, from))
    }

    /// Completes the copies of all but the last `open` groups of these lanes.
    pub(super) fn copy_wait(&mut self, warp: &mut Warp, open: u32, on: u32) -> Result<(), Trouble> {
        let all = std::mem::take(&mut warp.copies.open);
        let mut left = Vec::with_capacity(all.len());
        for copy in all {
            let lane = usize::from(copy.lane);
            let committed = warp.copies.committed[lane];
            let is_due = on >> lane & 1 == 1 && copy.group.saturating_add(open) < committed;
            if !is_due {
                left.push(copy);
                continue;
            }
            self.end_copy(Who::thread(warp, lane), &copy)?;
        }
        warp.copies.open = left;
        let committed = warp.copies.committed;
        let is_due =
            |lane: usize, group: u32| on >> lane & 1 == 1 && group + open < committed[lane];
        if self.grid.launch.is_checked {
            let due = warp.copies.ended.iter().filter(|e| is_due(e.0, e.1));
            due.for_each(|e| self.clocks.acquire(warp.id as usize, 1 << e.0, &e.2));
        }
        warp.copies.ended.retain(|e| !is_due(e.0, e.1));
        Ok(())
    }

    /// Completes the copies of a lane that were started before that one; their groups.
    pub(super) fn end_copies(
        &mut self,
        warp: &mut Warp,
        who: Who,
        lane: usize,
        before: u32,
    ) -> Result<Vec<u32>, Trouble> {
        let is_due = |c: &Copy| usize::from(c.lane) == lane && c.number < before;
        let (due, left) = std::mem::take(&mut warp.copies.open).into_iter().partition(is_due);
        warp.copies.open = left;
        let due: Vec<Copy> = due;
        due.iter().map(|copy| self.end_copy(who, copy).map(|()| copy.group)).collect()
    }

    fn end_copy(&mut self, who: Who, copy: &Copy) -> Result<(), Trouble> {
        let (to, from) = self
            .check_copy(who, copy, Flag::Plain)
            .map_err(|t| Trouble::new(t.lanes, format!("asynchronous copy: {}", t.message)))?;
        let (valid, bytes) = (usize::from(copy.valid), usize::from(copy.bytes));
        // SAFETY: `check_copy` has checked both ranges.
        unsafe {
            if valid > 0 {
                to.copy_from_nonoverlapping(from, valid);
            }
            to.add(valid).write_bytes(0, bytes - valid);
        }
        Ok(())
    }
}
