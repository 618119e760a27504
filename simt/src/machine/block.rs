//! One running block: its warps in turn on one thread of the host, until all have ended.

use std::cell::RefCell;
use std::collections::HashSet;

use super::barrier::{self, BARRIERS, Barrier};
use super::paths::{Path, State};
use super::warp::Warp;
use super::{Fault, Grid, Schedule, Trouble};
use crate::clocks::Clocks;
use crate::count::Counts;
use crate::program::layout::SlotCounts;
use crate::program::op::Op;
use crate::random::Random;
use crate::shadow::{Byte, shadow};

/// Instructions of one warp before another one gets its turn: a warp that waits for memory to change must not keep
/// the others from changing it.
const SLICE: u32 = 1 << 16;
/// A block that has executed so many instructions does not end.
const ENDLESS: u64 = 1 << 36;

pub struct Block<'g, 'a> {
    pub grid: &'g Grid<'a>,
    pub index: [u32; 3],
    /// Number of this block among all that ever ran.
    pub number: u32,
    pub threads: u32,
    /// Shared memory from the start of its window on, static and dynamic.
    pub shared: Vec<u128>,
    pub shared_shadow: Box<[Byte]>,
    pub clocks: Clocks,
    /// Blocks ordered before this one by atomics.
    pub seen_blocks: HashSet<u32>,
    pub barriers: [Barrier; BARRIERS],
    /// Warps and paths that a completed barrier lets go on, and what its reduction came to.
    pub woken: Vec<(u32, u32, u32)>,
    /// Index of the allocation found last: the next access is likely to be in it.
    pub last_allocation: usize,
    /// Instructions of all warps so far: what clocks show.
    pub time: u64,
}

/// What a thread of the host keeps between blocks.
#[derive(Default)]
struct Pool {
    shape: Option<(SlotCounts, u32)>,
    warps: Vec<Warp>,
    shared: Vec<u128>,
    shadow: Box<[Byte]>,
}

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

/// Runs one block to its end, or to its first fault.
pub fn run(grid: &Grid, linear: u32, counts: &mut Counts) -> Result<(), Box<Fault>> {
    let mut pool = POOL.with(RefCell::take);
    let launch = grid.launch;
    let program = launch.program;
    let shape = Some((program.counts, program.layout.local_bytes));
    if pool.shape != shape {
        (pool.shape, pool.warps) = (shape, Vec::new());
    }
    let threads = grid.threads();
    let n = threads.div_ceil(32) as usize;
    while pool.warps.len() < n {
        pool.warps.push(Warp::new(program));
    }
    let bytes = program.layout.dynamic_start as usize + launch.shared_bytes as usize;
    pool.shared.clear();
    pool.shared.resize(bytes.div_ceil(16), u128::MAX);
    if launch.is_checked && pool.shadow.len() < bytes {
        pool.shadow = shadow(bytes);
    }
    let mut block = Block {
        grid,
        index: grid.index(linear),
        number: grid.first_block + linear,
        threads,
        shared: std::mem::take(&mut pool.shared),
        shared_shadow: std::mem::take(&mut pool.shadow),
        clocks: Clocks::new(grid.first_block + linear, threads),
        seen_blocks: HashSet::new(),
        barriers: Default::default(),
        woken: Vec::new(),
        last_allocation: 0,
        time: 0,
    };
    for (i, warp) in pool.warps[..n].iter_mut().enumerate() {
        warp.begin(i as u32, threads);
        if launch.is_checked {
            warp.forget();
        }
    }
    let outcome = block.schedule(&mut pool.warps[..n], linear, counts);
    pool.shared = block.shared;
    pool.shadow = block.shared_shadow;
    POOL.with(|p| p.replace(pool));
    outcome
}

impl Block<'_, '_> {
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
        loop {
            let mut progress = false;
            if let Some(random) = &mut random {
                random.shuffle(&mut order);
            }
            for &w in &order {
                if warps[w].paths.ready().is_none() {
                    continue;
                }
                progress = true;
                let slice = random.as_mut().map_or(SLICE, |r| 1 + r.below(200) as u32);
                if let Err((pc, trouble)) = self.slice(&mut warps[w], slice, counts) {
                    return Err(self.fault(w as u32, pc, trouble));
                }
                for (warp, path, result) in std::mem::take(&mut self.woken) {
                    self.wake(&mut warps[warp as usize], path, result);
                }
            }
            if warps.iter().all(|w| w.paths.is_done()) {
                return Ok(());
            }
            if !progress {
                return Err(self.stuck(warps));
            }
            if self.time > ENDLESS {
                let trouble = Trouble::new(1, "the block does not end");
                return Err(self.fault(0, 0, trouble));
            }
        }
    }

    /// Executes a warp until all its paths wait or have ended, or its turn is over.
    fn slice(
        &mut self,
        warp: &mut Warp,
        turn: u32,
        counts: &mut Counts,
    ) -> Result<(), (u32, Trouble)> {
        let program = self.grid.launch.program;
        let mut left = turn;
        while let Some(path) = warp.paths.ready() {
            let Path { mut pc, mut lanes, meet, .. } = *warp.paths.get(path);
            loop {
                if pc == meet {
                    warp.paths.join(path);
                    break;
                }
                if left == 0 {
                    warp.paths.get_mut(path).pc = pc;
                    return Ok(());
                }
                left -= 1;
                self.time += 1;
                let inst = &program.instructions[pc as usize];
                let on = match inst.guard {
                    None => lanes,
                    Some((slot, negated)) => lanes & warp.guard(slot, negated),
                };
                counts.note(pc, on);
                match &inst.op {
                    Op::Branch { target, is_uniform } => {
                        if on == 0 {
                            pc += 1;
                        } else if on == lanes {
                            pc = *target;
                        } else if *is_uniform {
                            let message = "lanes disagree about a branch that is .uni";
                            return Err((pc, Trouble::new(on, message)));
                        } else {
                            let meet = program.meets[pc as usize];
                            warp.paths.split(path, on, *target, pc + 1, meet);
                            break;
                        }
                    }
                    Op::Exit => {
                        warp.exited |= on;
                        warp.paths.get_mut(path).pc = pc + 1;
                        warp.paths.exit(path, on);
                        lanes &= !on;
                        if lanes == 0 {
                            break;
                        }
                        pc += 1;
                    }
                    _ if on == 0 => pc += 1,
                    Op::BranchTable { table, index, is_uniform } => {
                        let targets = &program.tables[*table as usize];
                        match self.table(warp, targets, *index, on) {
                            Ok(Some(target)) if on == lanes => pc = target,
                            Ok(Some(_)) => {
                                let message = "a guarded branch by table that some lanes take";
                                return Err((pc, Trouble::new(on, message)));
                            }
                            Ok(None) => {
                                let message = match is_uniform {
                                    true => "lanes disagree about a branch that is .uni",
                                    false => "lanes diverge at a branch by table: not implemented",
                                };
                                return Err((pc, Trouble::new(on, message)));
                            }
                            Err(trouble) => return Err((pc, trouble)),
                        }
                    }
                    Op::Barrier { .. } => {
                        warp.paths.get_mut(path).pc = pc;
                        match self.barrier(warp, path, &inst.op, on, pc) {
                            Ok(true) => pc += 1,
                            Ok(false) => break,
                            Err(trouble) => return Err((pc, trouble)),
                        }
                    }
                    Op::WarpSync { .. }
                    | Op::Shuffle { .. }
                    | Op::Vote { .. }
                    | Op::MatchAny { .. }
                    | Op::MatchAll { .. }
                    | Op::MatchAny64 { .. }
                    | Op::MatchAll64 { .. }
                    | Op::Redux { .. }
                    | Op::Elect { .. } => {
                        warp.paths.get_mut(path).pc = pc;
                        match self.collective(warp, path, &inst.op, on, pc) {
                            Ok(true) => pc += 1,
                            Ok(false) => break,
                            Err(trouble) => return Err((pc, trouble)),
                        }
                    }
                    op => {
                        if let Err(trouble) = self.step(warp, op, on, pc, counts) {
                            return Err((pc, trouble));
                        }
                        pc += 1;
                    }
                }
            }
        }
        Ok(())
    }

    /// A path goes on behind its barrier.
    fn wake(&self, warp: &mut Warp, path: u32, result: u32) {
        let Path { pc, lanes, .. } = *warp.paths.get(path);
        let path = warp.paths.get_mut(path);
        (path.state, path.pc) = (State::Ready, pc + 1);
        let inst = &self.grid.launch.program.instructions[pc as usize];
        if let Op::Barrier { d, d_pred, .. } = inst.op {
            barrier::give(warp, d, d_pred, lanes, result);
        }
    }

    /// The target that all lanes agree on.
    fn table(
        &self,
        warp: &Warp,
        targets: &[u32],
        index: crate::program::op::Src,
        on: u32,
    ) -> Result<Option<u32>, Trouble> {
        let mut agreed = None;
        for lane in (0..32).filter(|l| on >> l & 1 == 1) {
            let i = warp.word_of(index, lane);
            let Some(&target) = targets.get(i as usize) else {
                let message = format!("index {i} into a table of {} targets", targets.len());
                return Err(Trouble::new(1 << lane, message));
            };
            if agreed.is_some_and(|t| t != target) {
                return Ok(None);
            }
            agreed = Some(target);
        }
        Ok(agreed)
    }

    /// Where the trouble happened.
    fn fault(&self, warp: u32, pc: u32, trouble: Trouble) -> Box<Fault> {
        let program = self.grid.launch.program;
        let line = program.instructions.get(pc as usize).map_or(0, |i| i.line);
        Box::new(Fault {
            kernel: program.name.clone(),
            block: self.index,
            warp,
            lanes: trouble.lanes,
            thread: self.grid.thread(warp * 32 + trouble.lanes.trailing_zeros().min(31)),
            line,
            instruction: program.name_of(pc),
            place: program.place(pc),
            message: trouble.message,
        })
    }

    /// No warp can go on: says who waits for whom.
    fn stuck(&self, warps: &[Warp]) -> Box<Fault> {
        let program = self.grid.launch.program;
        let at = |pc: u32| {
            let place = program.place(pc);
            let line = program.instructions[pc as usize].line;
            if place.is_empty() {
                format!("PTX line {line}")
            } else {
                format!("{place}, PTX line {line}")
            }
        };
        let all = warps.iter().flat_map(|w| w.paths.waiting().map(move |(_, path)| (w, *path)));
        let all: Vec<(&Warp, Path)> = all.collect();
        let absent = all.iter().find_map(|(warp, path)| match path.state {
            State::Collective(mask) => {
                let missing = mask & !warp.paths.gathered(path.pc, mask);
                Some((*warp, *path, mask, missing))
            }
            _ => None,
        });
        if let Some((warp, path, mask, missing)) = absent {
            let lane = missing.trailing_zeros();
            let elsewhere = warp.paths.waiting().find(|(_, p)| p.lanes >> lane & 1 == 1);
            let what = match elsewhere {
                _ if warp.exited >> lane & 1 == 1 => "has returned".to_owned(),
                Some((_, p)) => format!("waits at {}", at(p.pc)),
                None => "is elsewhere".to_owned(),
            };
            let message =
                format!("mask {mask:#010x} names lanes that are absent: lane {lane} {what}");
            return self.fault(warp.index, path.pc, Trouble::new(path.lanes, message));
        }
        let Some((warp, path)) = all.first() else {
            return self.fault(0, 0, Trouble::new(1, "nothing can go on"));
        };
        let State::Barrier(id) = path.state else {
            return self.fault(warp.index, path.pc, Trouble::new(path.lanes, "nothing can go on"));
        };
        let barrier = &self.barriers[usize::from(id)];
        let mut others = Vec::new();
        for other in warps {
            if barrier.has(other.index) {
                continue;
            }
            let what = match other.paths.waiting().next() {
                None => "has returned".to_owned(),
                Some((_, p)) => match p.state {
                    State::Barrier(id) => format!("waits at barrier {id}, {}", at(p.pc)),
                    _ => format!("waits at {}", at(p.pc)),
                },
            };
            others.push(format!("warp {} {what}", other.index));
        }
        let message = format!(
            "deadlock: barrier {id} reached by only {} of {} warps: {}",
            barrier.arrived(),
            barrier.expected,
            others.join(", ")
        );
        self.fault(warp.index, path.pc, Trouble::new(path.lanes, message))
    }
}
