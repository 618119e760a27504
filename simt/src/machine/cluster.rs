//! A running cluster of blocks (mostly of one): its warps in turn on one thread of the host, until all have ended.

use std::cell::RefCell;
use std::collections::HashSet;

use super::asynchronous::Operations;
use super::barrier::{BARRIERS, Barrier};
use super::mbarriers::Mbarriers;
use super::products::Warpgroup;
use super::registers::Registers;
use super::rendezvous::Rendezvous;
use super::warp::Warp;
use super::{Fault, Grid, Schedule, Trouble};
use crate::clocks::Clocks;
use crate::count::Counts;
use crate::program::layout::SlotCounts;
use crate::random::Random;
use crate::shadow::{Byte, shadow};

/// Instructions of one warp before another one gets its turn: a warp that waits for memory to change must not keep
/// the others from changing it.
const TURN: u32 = 1 << 16;
/// A cluster that has executed so many instructions does not end.
const ENDLESS: u64 = 1 << 36;
/// Rounds in which warps only ask for what does not come.
const FRUITLESS: u32 = 1000;

/// A block of the cluster.
pub struct Cta {
    pub index: [u32; 3],
    /// Shared memory from the start of its window on, static and dynamic.
    pub shared: Vec<u128>,
    pub shadow: Box<[Byte]>,
    pub barriers: [Barrier; BARRIERS],
    pub mbarriers: Mbarriers,
    /// Per 16 bytes of shared memory: asynchronous operations under way that read there. Empty until one does.
    pub busy: Vec<u8>,
    pub registers: Registers,
    pub warpgroups: Vec<Warpgroup>,
}

pub struct Cluster<'g, 'a> {
    pub grid: &'g Grid<'a>,
    /// Number of this cluster among all that ever ran.
    pub number: u32,
    /// Threads of a block.
    pub threads: u32,
    pub ctas: Vec<Cta>,
    /// The block whose warp has its turn.
    pub cta: usize,
    pub clocks: Clocks,
    /// Clusters ordered before this one by atomics.
    pub seen_blocks: HashSet<u32>,
    pub rendezvous: Rendezvous,
    pub operations: Operations,
    /// Warps (of all blocks) and paths that a completed barrier lets go on, and what its reduction came to.
    pub woken: Vec<(u32, u32, u32)>,
    /// Index of the allocation found last: the next access is likely to be in it.
    pub last_allocation: usize,
    /// Instructions of all warps so far: what clocks show.
    pub time: u64,
    /// Whether the turn only asked for something that has not come.
    pub is_fruitless: bool,
}

/// What a thread of the host keeps between clusters.
#[derive(Default)]
struct Pool {
    shape: Option<(SlotCounts, u32)>,
    warps: Vec<Warp>,
    shared: Vec<(Vec<u128>, Box<[Byte]>)>,
}

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

/// Runs one cluster to its end, or to its first fault.
pub fn run(grid: &Grid, linear: u32, counts: &mut Counts) -> Result<(), Box<Fault>> {
    let mut pool = POOL.with(RefCell::take);
    let launch = grid.launch;
    let program = launch.program;
    let shape = Some((program.counts, program.layout.local_bytes));
    if pool.shape != shape {
        (pool.shape, pool.warps) = (shape, Vec::new());
    }
    let threads = grid.threads();
    let (per_cta, ctas) = (threads.div_ceil(32), grid.cluster_blocks());
    let n = (per_cta * ctas) as usize;
    while pool.warps.len() < n {
        pool.warps.push(Warp::new(program));
    }
    let bytes = program.layout.dynamic_start as usize + launch.shared_bytes as usize;
    let all = (0..ctas).map(|rank| {
        let (mut shared, mut shadow_bytes) = pool.shared.pop().unwrap_or_default();
        shared.clear();
        shared.resize(bytes.div_ceil(16), u128::MAX);
        if launch.is_checked && shadow_bytes.len() < bytes {
            shadow_bytes = shadow(bytes);
        }
        Cta {
            index: grid.block_index(linear, rank),
            shared,
            shadow: shadow_bytes,
            barriers: Default::default(),
            mbarriers: Mbarriers::default(),
            busy: Vec::new(),
            registers: Registers::new(program, per_cta),
            warpgroups: Vec::new(),
        }
    });
    let all = all.collect();
    for (i, warp) in pool.warps[..n].iter_mut().enumerate() {
        let (cta, index) = (i as u32 / per_cta, i as u32 % per_cta);
        warp.begin(cta, index, cta * (per_cta + 1) + index, threads);
        if launch.is_checked {
            warp.forget();
        }
    }
    // Behind the warps of each block, one that stands for what happens asynchronously.
    let lanes = (0..ctas as usize).flat_map(|cta| {
        let first = cta * per_cta as usize;
        let of = pool.warps[first..first + per_cta as usize].iter().map(|w| w.lanes);
        of.chain([u32::MAX]).collect::<Vec<_>>()
    });
    let number = grid.first_block + linear;
    let clocks = Clocks::of_warps(number, lanes.collect());
    let mut cluster = Cluster {
        grid,
        number,
        threads,
        ctas: all,
        cta: 0,
        clocks,
        seen_blocks: HashSet::new(),
        rendezvous: Rendezvous::default(),
        operations: Operations::default(),
        woken: Vec::new(),
        last_allocation: 0,
        time: 0,
        is_fruitless: false,
    };
    let outcome = cluster.schedule(&mut pool.warps[..n], linear, counts);
    pool.shared.extend(cluster.ctas.into_iter().map(|cta| (cta.shared, cta.shadow)));
    POOL.with(|p| p.replace(pool));
    outcome
}

impl Cluster<'_, '_> {
    /// The block whose warp has its turn.
    pub fn here(&mut self) -> &mut Cta {
        &mut self.ctas[self.cta]
    }

    /// Warps of a block.
    pub fn warps(&self) -> u32 {
        self.threads.div_ceil(32)
    }

    /// The thread that stands for asynchronous operations of this warp's kind: products have that of their
    /// warpgroup, copies that of the warp that started them.
    pub fn agent(&self, warp: &Warp, is_product: bool) -> u32 {
        let lane = if is_product { warp.index / 4 } else { 8 + warp.index % 24 };
        (warp.cta * (self.warps() + 1) + self.warps()) * 32 + lane
    }

    /// Gives the warps their turns in the order of the schedule, round after round.
    fn schedule(
        &mut self,
        warps: &mut [Warp],
        linear: u32,
        counts: &mut Counts,
    ) -> Result<(), Box<Fault>> {
        let mut order: Vec<usize> = (0..warps.len()).collect();
        if self.grid.launch.schedule == Schedule::Descending {
            order.reverse();
        }
        let mut random = match self.grid.launch.schedule {
            Schedule::Shuffled(seed) => Some(Random::new(seed ^ (u64::from(linear) << 32 | 1))),
            _ => None,
        };
        let mut fruitless = 0;
        loop {
            let mut progress = false;
            let mut is_fruitless = true;
            if let Some(random) = &mut random {
                random.shuffle(&mut order);
                if random.below(4) == 0 {
                    self.complete_one(warps, |n| random.below(n as u64) as usize)?;
                }
            }
            for &w in &order {
                self.cta = warps[w].cta as usize;
                if warps[w].paths.ready().is_none() && !self.poll(&mut warps[w])? {
                    continue;
                }
                progress = true;
                let turn = random.as_mut().map_or(TURN, |r| 1 + r.below(200) as u32);
                self.is_fruitless = false;
                if let Err((pc, trouble)) = self.turn(&mut warps[w], turn, counts) {
                    return Err(self.fault(&warps[w], pc, trouble));
                }
                is_fruitless &= self.is_fruitless;
                for (warp, path, result) in std::mem::take(&mut self.woken) {
                    self.wake(&mut warps[warp as usize], path, result);
                }
                if self.grid.launch.schedule == Schedule::Descending {
                    while self.complete_one(warps, |_| 0)? {}
                }
            }
            if warps.iter().all(|w| w.paths.is_done()) {
                return self.finish(warps);
            }
            fruitless = if progress && is_fruitless { fruitless + 1 } else { 0 };
            // What is under way may take as long as it likes: until nobody can go on without it.
            if (!progress || fruitless > 0) && self.complete_one(warps, |_| 0)? {
                fruitless = 0;
                continue;
            }
            if !progress || fruitless > FRUITLESS {
                return Err(self.stuck(warps));
            }
            if self.time > ENDLESS {
                let trouble = Trouble::new(1, "the kernel does not end");
                return Err(self.fault(&warps[0], 0, trouble));
            }
        }
    }
}
