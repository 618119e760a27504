//! `cp.async` of sm_80 (9.7.9.25.3): copies that are under way until their thread waits for their group.

use super::access::{Access, addresses};
use super::cluster::Cluster;
use super::exec::each;
use super::warp::Warp;
use super::{Trouble, traffic};
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
    pc: u32,
}

/// The copies of a warp that are under way.
#[derive(Default)]
pub struct Copies {
    open: Vec<Copy>,
    /// Groups that each lane has committed.
    committed: [u32; 32],
}

impl Copies {
    pub fn clear(&mut self) {
        self.open.clear();
        self.committed = [0; 32];
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
            let group = warp.copies.committed[lane];
            let copy =
                Copy { lane: lane as u8, group, to: to[lane], from: from[lane], bytes, valid, pc };
            self.check_copy(warp, &copy, Flag::Pending)?;
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
        warp: &mut Warp,
        copy: &Copy,
        flag: Flag,
    ) -> Result<(*mut u8, *mut u8), Trouble> {
        let lane = usize::from(copy.lane);
        let mut from = std::ptr::null_mut();
        if copy.valid > 0 {
            let place = (Space::Global, copy.from);
            from = self.reach(warp, lane, place, copy.valid.into(), Access::Read, copy.pc)?;
        }
        let place = (Space::Shared, copy.to);
        let to = self.reach(warp, lane, place, copy.bytes.into(), Access::Write(flag), copy.pc)?;
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
            let (to, from) = self
                .check_copy(warp, &copy, Flag::Plain)
                .map_err(|t| Trouble::new(t.lanes, format!("asynchronous copy: {}", t.message)))?;
            let (valid, bytes) = (usize::from(copy.valid), usize::from(copy.bytes));
            // SAFETY: `check_copy` has checked both ranges.
            unsafe {
                if valid > 0 {
                    to.copy_from_nonoverlapping(from, valid);
                }
                to.add(valid).write_bytes(0, bytes - valid);
            }
        }
        warp.copies.open = left;
        Ok(())
    }
}
