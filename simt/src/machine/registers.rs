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
}

impl Registers {
    /// What a kernel starts with is ptxas's choice. It takes what the launch bounds leave, in steps of 8, where it
    /// honours `setmaxnreg`.
    pub fn new(program: &Program, warps: u32) -> Self {
        let threads = program.max_threads.map_or(1024, |m| m.iter().product::<u32>()).max(1);
        let blocks = program.min_blocks.unwrap_or(1).max(1);
        let each = (ALL / (threads.next_multiple_of(32) * blocks)).min(MOST) / 8 * 8;
        Self { held: vec![each; warps as usize], free: 0 }
    }

    /// Registers a thread of one warp that nobody holds.
    pub fn free(&self) -> u32 {
        self.free
    }
}

impl Cluster<'_, '_> {
    pub(super) fn set_max_registers(
        &mut self,
        warp: &mut Warp,
        path: u32,
        op: &Op,
        on: u32,
    ) -> Result<Step, Trouble> {
        let Op::SetMaxRegisters { count, is_more } = *op else {
            return Err(Trouble::new(on, "no setmaxnreg"));
        };
        if on != u32::MAX {
            return Err(Trouble::new(on, "setmaxnreg has to be executed by the whole warp"));
        }
        let registers = &mut self.ctas[warp.cta as usize].registers;
        let held = registers.held[warp.index as usize];
        if is_more != (count > held) && count != held {
            let word = if is_more { "inc" } else { "dec" };
            let message = format!("setmaxnreg.{word} to {count} from {held} registers");
            return Err(Trouble::new(on, message));
        }
        if count > held && count - held > registers.free {
            warp.paths.get_mut(path).state = State::Registers;
            return Ok(Step::Waits);
        }
        registers.free = registers.free + held - count;
        registers.held[warp.index as usize] = count;
        Ok(Step::Done)
    }

    /// Whether a warp that waits for registers can have them.
    pub(super) fn registers_are_free(&self, warp: &Warp, count: u32) -> bool {
        let registers = &self.ctas[warp.cta as usize].registers;
        count - registers.held[warp.index as usize] <= registers.free
    }
}
