//! A running cluster of blocks (mostly of one): its warps in turn on one thread of the host, until all have ended.

use std::cell::RefCell;
use std::collections::HashMap;

use super::asynchronous::Operations;
use super::barrier::{BARRIERS, Barrier};
use super::chunks::Chunks;
use super::early::GridWait;
use super::mbarriers::Mbarriers;
use super::products::Warpgroup;
use super::registers::Registers;
use super::rendezvous::Rendezvous;
use super::scopes::Scopes;
use super::warp::Warp;
use super::{Fault, Grid, Schedule, Trouble};
use crate::blocks::Blocks;
use crate::clocks::Clocks;
use crate::count::Counts;
use crate::program::layout::SlotCounts;
use crate::random::Random;
use crate::shadow::Stamp;

/// Instructions of one warp before another one gets its turn: a warp that waits for memory to change must not keep
/// the others from changing it.
const TURN: u32 = 1 << 16;
/// A cluster that has executed so many instructions does not end.
const ENDLESS: u64 = 1 << 36;
/// So often a warp asks in vain before it counts as waiting.
const ASKS: u32 = 1000;

/// A block of the cluster.
pub struct Cta {
    pub index: [u32; 3],
    /// Shared memory from the start of its window on, static and dynamic.
    pub shared: Vec<u128>,
    pub shadow: Chunks,
    pub barriers: [Barrier; BARRIERS],
    pub mbarriers: Mbarriers,
    /// What has come to it from other blocks of the cluster.
    pub scopes: Scopes,
    /// Per 16 bytes of shared memory: asynchronous operations under way that read there. Empty until one does.
    pub busy: Vec<u16>,
    pub registers: Registers,
    pub warpgroups: Vec<Warpgroup>,
    /// Whether all its threads have: its shared memory is gone.
    pub has_ended: bool,
    /// Threads of other blocks that were in its shared memory: clock and instruction of their last access.
    visits: HashMap<u32, (u32, u32)>,
}

impl Cta {
    /// A thread of another block was in its shared memory.
    pub fn visit(&mut self, stamp: Stamp, pc: u32) {
        self.visits.insert(stamp.thread(), (stamp.clock(), pc));
    }
}

/// Lanes of the warp behind those of a block that stand for what happens asynchronously: one for each warpgroup's
/// products, one for initialisations of barriers, one for arrivals at those of other blocks, the others for copies in
/// turn.
pub const INIT_AGENT: u32 = 8;
pub const ARRIVAL_AGENT: u32 = 9;
const COPY_AGENTS: std::ops::Range<u32> = 10..32;

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
    /// What is ordered before this cluster by atomics.
    pub seen_blocks: Blocks,
    /// Where it came to one last, and how much had been said there.
    pub last_met: Option<(u64, u64)>,
    pub rendezvous: Rendezvous,
    pub operations: Operations,
    /// Who has waited for the kernel before.
    pub grid_waits: Vec<GridWait>,
    /// Warps (of all blocks) and paths that a completed barrier lets go on, and what its reduction came to.
    pub woken: Vec<(u32, u32, u32)>,
    /// Index of the allocation found last: the next access is likely to be in it.
    pub last_allocation: usize,
    /// Instructions of all warps so far: what clocks show.
    pub time: u64,
    /// Draws of a shuffled schedule.
    pub random: Option<Random>,
}

/// What a thread of the host keeps between clusters.
#[derive(Default)]
struct Pool {
    shape: Option<(SlotCounts, u32)>,
    warps: Vec<Warp>,
    shared: Vec<(Vec<u128>, Chunks)>,
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
        let (mut shared, mut shadow) = pool.shared.pop().unwrap_or_default();
        shared.clear();
        shared.resize(bytes.div_ceil(16), u128::MAX);
        if launch.is_checked {
            shadow.grow(bytes);
        }
        Cta {
            index: grid.block_index(linear, rank),
            shared,
            shadow,
            barriers: Default::default(),
            mbarriers: Mbarriers::default(),
            scopes: Scopes::default(),
            busy: Vec::new(),
            registers: Registers::new(program, per_cta),
            warpgroups: Vec::new(),
            has_ended: false,
            visits: HashMap::new(),
        }
    });
    let all = all.collect();
    for (i, warp) in pool.warps[..n].iter_mut().enumerate() {
        let (cta, index) = (i as u32 / per_cta, i as u32 % per_cta);
        warp.begin(cta, index, cta * (per_cta + 1) + index, threads);
        if launch.is_checked {
            warp.forget();
            warp.early = if program.awaits_grids { warp.lanes } else { 0 };
        }
        warp.place(&launch.program.own);
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
        seen_blocks: Blocks::default(),
        last_met: None,
        rendezvous: Rendezvous::new(n),
        operations: Operations::default(),
        grid_waits: Vec::new(),
        woken: Vec::new(),
        last_allocation: 0,
        time: 0,
        random: match launch.schedule {
            Schedule::Shuffled(seed) => Some(Random::new(seed ^ (u64::from(linear) << 32 | 1))),
            Schedule::Ascending | Schedule::Descending => None,
        },
    };
    let outcome = cluster.schedule(&mut pool.warps[..n], counts);
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

    /// The thread number of an agent of a block.
    fn agent(&self, cta: u32, lane: u32) -> u32 {
        (cta * (self.warps() + 1) + self.warps()) * 32 + lane
    }

    /// The agent that stands for the products of a warp's group.
    pub fn product_agent(&self, warp: &Warp) -> u32 {
        self.agent(warp.cta, warp.index / 4)
    }

    /// The agent that stands for what a block's threads initialise.
    pub fn init_agent(&self, warp: &Warp) -> u32 {
        self.agent(warp.cta, INIT_AGENT)
    }

    /// The agent that stands for arrivals of a block's threads elsewhere.
    pub fn arrival_agent(&self, warp: &Warp) -> u32 {
        self.agent(warp.cta, ARRIVAL_AGENT)
    }

    /// An agent for the next copy of a warp. They take turns, so that who waits for one copy has not seen those
    /// before it.
    pub fn copy_agent(&mut self, warp: &Warp) -> u32 {
        let n = self.operations.started % COPY_AGENTS.len() as u32;
        self.operations.started = self.operations.started.wrapping_add(1);
        self.agent(warp.cta, COPY_AGENTS.start + n)
    }

    /// A number below `n` of a shuffled schedule; 0 of the others.
    pub fn draw(&mut self, n: u64) -> u64 {
        self.random.as_mut().map_or(0, |random| random.below(n))
    }

    /// Gives the warps their turns in the order of the schedule, round after round.
    fn schedule(&mut self, warps: &mut [Warp], counts: &mut Counts) -> Result<(), Box<Fault>> {
        let mut order: Vec<usize> = (0..warps.len()).collect();
        if self.grid.launch.schedule == Schedule::Descending {
            order.reverse();
        }
        loop {
            let mut progress = false;
            if let Some(random) = &mut self.random {
                random.shuffle(&mut order);
                if random.below(4) == 0 {
                    self.complete_one(warps)?;
                }
            }
            for &w in &order {
                self.cta = warps[w].cta as usize;
                if warps[w].paths.ready().is_none() && !self.poll(&mut warps[w])? {
                    continue;
                }
                progress = true;
                let turn = self.random.as_mut().map_or(TURN, |r| 1 + r.below(200) as u32);
                if let Err((pc, trouble)) = self.turn(&mut warps[w], turn, counts) {
                    return Err(self.fault(&warps[w], pc, trouble));
                }
                for (warp, path, result) in std::mem::take(&mut self.woken) {
                    self.wake(&mut warps[warp as usize], path, result);
                }
                if self.grid.launch.schedule == Schedule::Descending {
                    while self.complete_one(warps)? {}
                }
                if warps[w].paths.is_done() {
                    self.end_warp(warps, w)?;
                }
            }
            if warps.iter().all(|w| w.paths.is_done()) {
                return Ok(());
            }
            // What is under way may take as long as it likes: until nobody can go on without it.
            let all_ask = |least: u32| {
                let mut ready = warps.iter().filter(|w| w.paths.ready().is_some()).peekable();
                ready.peek().is_some() && ready.all(|w| w.asks >= least)
            };
            let is_idle = !progress || all_ask(1);
            let is_stuck = !progress || all_ask(ASKS);
            if is_idle && self.complete_one(warps)? {
                warps.iter_mut().for_each(|w| w.asks = 0);
            } else if is_stuck {
                return Err(self.stuck(warps));
            }
            if self.time > ENDLESS {
                let trouble = Trouble::new(1, "the kernel does not end");
                return Err(self.fault(&warps[0], 0, trouble));
            }
        }
    }

    /// A warp has ended, and maybe its block with it.
    fn end_warp(&mut self, warps: &[Warp], w: usize) -> Result<(), Box<Fault>> {
        let warp = &warps[w];
        if let Some(pc) = warp.products.first_open() {
            let message = "the warp ended without having waited for this product: wgmma.wait_group is missing";
            return Err(self.fault(warp, pc, Trouble::new(u32::MAX, message)));
        }
        if let Some((lane, pc)) = warp.bulk.first_open() {
            let what = if self.is_reduction(pc) { "reduction" } else { "store" };
            let message = format!(
                "the thread ended without having waited for this bulk {what} to have read shared memory: \
                 cp.async.bulk.wait_group is missing"
            );
            return Err(self.fault(warp, pc, Trouble::new(1 << lane, message)));
        }
        self.end_registers(warps, w)?;
        let warp = &warps[w];
        self.rendezvous.end(warp);
        let cta = warp.cta;
        if warps.iter().any(|w| w.cta == cta && !w.paths.is_done()) {
            return Ok(());
        }
        self.ctas[cta as usize].has_ended = true;
        self.end_operations(warps, cta)?;
        if self.grid.launch.is_checked {
            self.end_visits(warps, cta)?;
        }
        Ok(())
    }

    /// The shared memory of a block that has ended is gone: all that others did there must have come before.
    fn end_visits(&self, warps: &[Warp], cta: u32) -> Result<(), Box<Fault>> {
        let mut visits: Vec<_> = self.ctas[cta as usize].visits.iter().collect();
        visits.sort_unstable();
        for (&thread, &(clock, pc)) in visits {
            let own = warps.iter().filter(|w| w.cta == cta);
            let mut threads = own.flat_map(|w| (0..32).map(|lane| w.id * 32 + lane));
            if threads.any(|t| self.clocks.seen(t).has(thread, clock)) {
                continue;
            }
            let message = format!(
                "block {cta} of the cluster may have ended before this access to its shared memory: a \
                 barrier.cluster is missing before its end"
            );
            let owner = warps.iter().find(|w| w.id == thread / 32);
            let lanes = if owner.is_some() { 1 << (thread % 32) } else { 1 };
            return Err(self.fault(owner.unwrap_or(&warps[0]), pc, Trouble::new(lanes, message)));
        }
        Ok(())
    }
}
