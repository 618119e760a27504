//! Atomics on global memory, at which blocks (clusters) meet: the one order there is between them.
//!
//! As 9.7.13.5 and 8.9 have it, a relaxed atomic lets others see what its thread had seen and done at its last fence
//! (`membar`, `fence`), a releasing one all. Weaker than the manual: whoever comes later sees it without a fence of
//! its own, and with it the whole cluster; the scope of a fence is not looked at. Words that atomics use are in order
//! for these, whatever was released.

use std::sync::{Arc, PoisonError};

use super::Grid;
use super::cluster::Cluster;
use super::exec::each;
use super::warp::Warp;
use crate::blocks::Blocks;
use crate::clocks::Arrival;
use crate::program::lanes::Lanes64;
use crate::ptx::ast::Space;

impl Grid<'_> {
    /// What is known at the address of an atomic.
    fn at<T>(&self, address: u64, what: impl FnOnce(&mut Blocks) -> T) -> T {
        let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        what(met.entry(address).or_default())
    }
}

impl Cluster<'_, '_> {
    /// Lanes come to atomics, or write a word on which there may be some (the end of a lock): those who come to an atomic
    /// there later see what these lanes let them see.
    ///
    /// This is said before memory changes, and others are seen ([`Self::see_others`]) also after it has: of two blocks on
    /// two threads of the host, the one whose atomic comes second sees the other.
    pub(super) fn let_others_see(
        &mut self,
        warp: &Warp,
        (space, at): (Space, &Lanes64),
        on: u32,
        is_release: bool,
    ) {
        if space != Space::Global || !self.grid.launch.is_checked {
            return;
        }
        let mut left = on;
        while left != 0 {
            let address = at[left.trailing_zeros() as usize];
            let same = each(left).filter(|&l| at[l] == address).fold(0, |all, l| all | 1 << l);
            left &= !same;
            let mut arrival = Arrival::default();
            match is_release {
                true => self.clocks.release(warp.id as usize, same, &mut arrival),
                false => self.clocks.release_relaxed(warp.id as usize, same, &mut arrival),
            }
            self.grid.at(address, |there| {
                there.add(self.number, &Arc::new(arrival));
                there.join(&self.seen_blocks);
            });
        }
    }

    /// These lanes come to atomics: their block sees what those before them let it see.
    pub(super) fn see_others(&mut self, (space, at): (Space, &Lanes64), on: u32) {
        if space != Space::Global || !self.grid.launch.is_checked {
            return;
        }
        for lane in each(on) {
            self.grid.at(at[lane], |there| {
                // Mostly there is nothing new.
                if self.last_met.replace((at[lane], there.version))
                    != Some((at[lane], there.version))
                {
                    self.seen_blocks.join(there);
                }
            });
        }
    }
}
