//! `setmaxnreg` (9.7.19.5): warps give registers to the pool of their block and take some from it.

use super::Trouble;
use super::cluster::Cluster;
use super::paths::State;
use super::turn::Step;
use super::warp::Warp;
use crate::program::Program;
use crate::program::op::Op;

/// Registers of a multiprocessor, and the most of a thread.
const ALL: u32 = 65_536;
const MOST: u32 = 255;

/// The books of a block, in registers a thread.
pub struct Registers {
    /// Of each warp.
    held: Vec<u32>,
    free: u32,
    /// Of each warp: the `setmaxnreg` that it has executed. They must be the same in a whole warpgroup.
    done: Vec<Vec<u32>>,
}

impl Registers {
    /// What a kernel starts with is ptxas's choice. It takes what the launch bounds leave, in steps of 8, where it
    /// honours `setmaxnreg`.
    pub fn new(program: &Program, warps: u32) -> Self {
        let threads = program.max_threads.map_or(1024, |m| m.iter().product::<u32>()).max(1);
        let blocks = program.min_blocks.unwrap_or(1).max(1);
        let each = (ALL / (threads.next_multiple_of(32) * blocks)).min(MOST) / 8 * 8;
        let warps = warps as usize;
        Self { held: vec![each; warps], free: 0, done: vec![Vec::new(); warps] }
    }

    /// Registers a thread of one warp that nobody holds.
    pub fn free(&self) -> u32 {
        self.free
    }

    /// What a warp holds, in registers a thread.
    pub fn held(&self, warp: u32) -> u32 {
        self.held[warp as usize]
    }

    /// An instruction that another warp of the warpgroup has executed here, where that is not this one.
    fn other(&self, warp: u32, pc: u32) -> Option<u32> {
        let i = self.done[warp as usize].len();
        let first = warp as usize / 4 * 4;
        let group = &self.done[first..(first + 4).min(self.done.len())];
        group.iter().find_map(|done| done.get(i).copied().filter(|&other| other != pc))
    }
}

impl Cluster<'_, '_> {
    pub(super) fn set_max_registers(
        &mut self,
        warp: &mut Warp,
        path: u32,
        op: &Op,
        on: u32,
        pc: u32,
    ) -> Result<Step, Trouble> {
        let Op::SetMaxRegisters { count, is_more } = *op else {
            return Err(Trouble::new(on, "no setmaxnreg"));
        };
        if self.grid.launch.program.max_threads.is_none() {
            // ptxas does not know what the kernel starts with, and ignores the hint.
            return Ok(Step::Done);
        }
        if on != u32::MAX {
            return Err(Trouble::new(on, "setmaxnreg has to be executed by the whole warp"));
        }
        let at = |pc: u32| self.at(pc);
        let other = self.ctas[warp.cta as usize].registers.other(warp.index, pc).map(at);
        if let Some(other) = other {
            let message = format!(
                "another warp of the warpgroup has executed another setmaxnreg here: {other}"
            );
            return Err(Trouble::new(on, message));
        }
        let registers = &mut self.ctas[warp.cta as usize].registers;
        let held = registers.held[warp.index as usize];
        if is_more != (count > held) && count != held {
            let word = if is_more { "inc" } else { "dec" };
            let message =
                format!("setmaxnreg.{word} to {count} registers, where the warp has {held}");
            return Err(Trouble::new(on, message));
        }
        if count > held && count - held > registers.free {
            warp.paths.get_mut(path).state = State::Registers;
            return Ok(Step::Waits);
        }
        registers.free = registers.free + held - count;
        registers.held[warp.index as usize] = count;
        registers.done[warp.index as usize].push(pc);
        Ok(Step::Done)
    }

    /// Whether a warp that waits for registers can have them.
    pub(super) fn registers_are_free(&self, warp: &Warp, count: u32) -> bool {
        let registers = &self.ctas[warp.cta as usize].registers;
        count - registers.held[warp.index as usize] <= registers.free
    }
}
