//! `barrier.cluster` (9.7.13.3): all threads of a cluster that have not ended arrive, and later wait for the others.

use super::Trouble;
use super::cluster::Cluster;
use super::paths::State;
use super::turn::Step;
use super::warp::Warp;
use crate::clocks::Arrival;
use crate::program::op::Op;

/// The one barrier of a cluster.
#[derive(Default)]
pub struct Rendezvous {
    /// Warps of the cluster.
    warps: usize,
    /// Of these, those that have arrived in this phase or have ended, by their numbers in the cluster.
    arrived: Vec<u32>,
    ended: Vec<u32>,
    arrival: Arrival,
    /// Phases that have ended, and what those who arrived in the last had seen.
    pub phase: u64,
    last: Arrival,
}

impl Rendezvous {
    pub fn new(warps: usize) -> Self {
        Self { warps, ..Self::default() }
    }

    /// A warp has ended: nobody waits for it any more (9.7.12.6, `exit`).
    pub fn end(&mut self, warp: &Warp) {
        self.ended.push(warp.id);
        self.advance();
    }

    /// Ends the phase if nobody is missing.
    fn advance(&mut self) {
        let ended = self.ended.iter().filter(|w| !self.arrived.contains(w)).count();
        if !self.arrived.is_empty() && self.arrived.len() + ended == self.warps {
            self.arrived.clear();
            self.phase += 1;
            self.last = std::mem::take(&mut self.arrival);
        }
    }

    /// Whether a warp has arrived in this phase.
    pub fn has(&self, warp: &Warp) -> bool {
        self.arrived.contains(&warp.id)
    }
}

impl Cluster<'_, '_> {
    pub(super) fn cluster_barrier(
        &mut self,
        warp: &mut Warp,
        path: u32,
        op: &Op,
        on: u32,
    ) -> Result<Step, Trouble> {
        let Op::ClusterBarrier { waits, is_relaxed } = *op else {
            return Err(Trouble::new(on, "no barrier"));
        };
        let there = warp.lanes & !warp.exited;
        if on != there {
            let message = format!(
                "divergent barrier: reached by only {} of the {} threads of the warp",
                on.count_ones(),
                there.count_ones()
            );
            return Err(Trouble::new(on, message));
        }
        if waits {
            let Some(phase) = warp.cluster_phase else {
                return Err(Trouble::new(on, "waits for the cluster without having arrived"));
            };
            if phase >= self.rendezvous.phase {
                warp.paths.get_mut(path).state = State::Cluster;
                return Ok(Step::Waits);
            }
            self.pass_cluster(warp);
            return Ok(Step::Done);
        }
        if warp.cluster_phase.is_some() {
            return Err(Trouble::new(on, "arrives a second time without having waited"));
        }
        let rendezvous = &mut self.rendezvous;
        warp.cluster_phase = Some(rendezvous.phase);
        rendezvous.arrived.push(warp.id);
        if self.grid.launch.is_checked {
            let (warp, arrival) = (warp.id as usize, &mut rendezvous.arrival);
            match is_relaxed {
                false => self.clocks.release(warp, on, arrival),
                true => self.clocks.release_relaxed(warp, on, arrival),
            }
        }
        rendezvous.advance();
        Ok(Step::Done)
    }

    /// Whether a warp that waits for the cluster can go on.
    pub(super) fn cluster_is_here(&self, warp: &Warp) -> bool {
        warp.cluster_phase.is_some_and(|phase| phase < self.rendezvous.phase)
    }

    pub(super) fn pass_cluster(&mut self, warp: &mut Warp) {
        warp.cluster_phase = None;
        if self.grid.launch.is_checked {
            let last = &self.rendezvous.last;
            self.clocks.acquire(warp.id as usize, warp.lanes, last);
            self.ctas[warp.cta as usize].scopes.arrive(last, true);
        }
    }
}
