//! The turn of a warp: instruction after instruction, until all its paths wait or have ended, or others are to have
//! a turn.

use super::cluster::Cluster;
use super::paths::{Path, State};
use super::warp::Warp;
use super::{Trouble, barrier};
use crate::count::Counts;
use crate::program::op::{Op, Src};

/// What became of an instruction at which a path may wait.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Done,
    /// The path waits: its state says for what.
    Waits,
    /// Done, and nothing will change before others have had a turn.
    Yields,
}

impl Cluster<'_, '_> {
    pub(super) fn turn(
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
                if inst.touches && on != 0 {
                    warp.products.touch(pc, program).map_err(|m| (pc, Trouble::new(on, m)))?;
                }
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
                        match table_target(warp, targets, *index, on) {
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
                    op if inst.may_wait => {
                        warp.paths.get_mut(path).pc = pc;
                        match self.wait_at(warp, path, op, on, pc) {
                            Ok(Step::Done) => pc += 1,
                            Ok(Step::Waits) => {
                                // What is asked for again is counted once.
                                let state = warp.paths.get(path).state;
                                if !matches!(state, State::Barrier(_) | State::Collective(..)) {
                                    counts.forget(pc, on);
                                }
                                break;
                            }
                            Ok(Step::Yields) => {
                                // The path is ready behind it; the turn ends.
                                pc += 1;
                                left = left.min(64);
                            }
                            Err(trouble) => return Err((pc, trouble)),
                        }
                    }
                    op => {
                        self.step(warp, op, on, pc, counts).map_err(|t| (pc, t))?;
                        pc += 1;
                    }
                }
            }
        }
        Ok(())
    }

    /// An instruction at which a path may have to wait for others.
    fn wait_at(
        &mut self,
        warp: &mut Warp,
        path: u32,
        op: &Op,
        on: u32,
        pc: u32,
    ) -> Result<Step, Trouble> {
        match op {
            Op::Barrier { .. } => self.barrier(warp, path, op, on),
            Op::ClusterBarrier { .. } => self.cluster_barrier(warp, path, op, on),
            Op::MbarrierWait { .. } => self.mbarrier_wait(warp, path, op, on, pc),
            Op::BulkWait { .. } => self.bulk_wait(warp, path, op, on),
            Op::ProductWait { .. } => self.product_wait(warp, path, op, on),
            Op::SetMaxRegisters { .. } => self.set_max_registers(warp, path, op, on, pc),
            _ => self.collective(warp, path, op, on, pc),
        }
    }

    /// A path goes on behind its barrier.
    pub(super) fn wake(&self, warp: &mut Warp, path: u32, result: u32) {
        let Path { pc, lanes, .. } = *warp.paths.get(path);
        let path = warp.paths.get_mut(path);
        (path.state, path.pc) = (State::Ready, pc + 1);
        let inst = &self.grid.launch.program.instructions[pc as usize];
        if let Op::Barrier { d, d_pred, .. } = inst.op {
            barrier::give(warp, d, d_pred, lanes, result);
        }
    }
}

/// The target that all lanes agree on.
fn table_target(warp: &Warp, targets: &[u32], index: Src, on: u32) -> Result<Option<u32>, Trouble> {
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
