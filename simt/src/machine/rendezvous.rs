//! `barrier.cluster` (9.7.13.3): all threads of a cluster arrive, and later wait for the others.

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
    /// Warps that have arrived, by their numbers in the cluster.
    arrived: Vec<u32>,
    arrival: Arrival,
    /// Phases that have ended, and what those who arrived in the last had seen.
    pub phase: u64,
    last: Arrival,
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
        if on != warp.lanes {
            let message = format!(
                "divergent barrier: reached by only {} of the {} threads of the warp",
                on.count_ones(),
                warp.lanes.count_ones()
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
        if self.grid.launch.is_checked && !is_relaxed {
            self.clocks.release(warp.id as usize, on, &mut rendezvous.arrival);
        }
        let all = self.ctas.len() * self.threads.div_ceil(32) as usize;
        if rendezvous.arrived.len() == all {
            rendezvous.arrived.clear();
            rendezvous.phase += 1;
            rendezvous.last = std::mem::take(&mut rendezvous.arrival);
        }
        Ok(Step::Done)
    }

    /// Whether a warp that waits for the cluster can go on.
    pub(super) fn cluster_is_here(&self, warp: &Warp) -> bool {
        warp.cluster_phase.is_some_and(|phase| phase < self.rendezvous.phase)
    }

    pub(super) fn pass_cluster(&mut self, warp: &mut Warp) {
        warp.cluster_phase = None;
        if self.grid.launch.is_checked {
            self.clocks.acquire(warp.id as usize, warp.lanes, &self.rendezvous.last);
        }
    }
}
