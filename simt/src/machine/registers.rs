//! `setmaxnreg` (9.7.19.5): warps give registers to the pool of their block and take some from it.
//!
//! What a kernel starts with is no rule of the manual ("a valid value of maximum number of per-thread registers
//! specified via the appropriate compile-time option or the appropriate performance tuning directive"): it is ptxas's
//! choice. [`at_entry`] does as ptxas 13.0.88 does for sm_90a, tried kernel by kernel (`ptxas -v`, "Used n registers"):
//!
//! | bounds | largest inc | used |
//! |---|---|---|
//! | 256 threads, 1 block | 24, 160, 232, 248, 256, none | 24, 160, 232, 248, 255, 255 |
//! | 384 threads, 1 block | 160, 200, 248, none | 160, 168, 168, 168 |
//! | 288; 160; 512; 640; 768; 1024 threads, 1 block | more | 168; 248; 128; 96; 80; 64 |
//! | 96 x 5; 160 x 3; 288 x 2; 32 x 11; 416 x 2; 352 x 3 | 240 | 128; 128; 96; 168; 72; 56 |
//! | .maxnreg 100, 130, 200 | 248 | 100, 130, 200 |
//! | .maxnreg 200 | 160 | 160 |
//! | 384 threads, 1 block, .maxnreg 128, 200 | 232 | 128, 168 |
//! | 512 threads, .maxnreg 168 | 232 | 168 |
//! | 256 threads without .minnctapersm; 256 x 9 threads | 232 | setmaxnreg is ignored (C7508) |

use super::cluster::Cluster;
use super::paths::State;
use super::turn::Step;
use super::warp::Warp;
use super::{Fault, Trouble};
use crate::program::Program;
use crate::program::op::Op;

/// Registers and threads of a multiprocessor.
const ALL: u32 = 65_536;
const THREADS: u32 = 2048;
/// What a thread can have. The hardware gives out eights: 255 are 256.
const LEAST: u32 = 24;
const MOST: u32 = 255;

/// Registers of a thread at the start of the kernel, as the hardware counts them; `None` where ptxas does not know
/// them and ignores every `setmaxnreg`.
fn at_entry(program: &Program) -> Option<u32> {
    // The launch bounds count with both of their numbers only. Blocks that no multiprocessor has room for are ignored.
    let threads =
        program.most_threads().zip(program.min_blocks).map(|(n, blocks)| n.saturating_mul(blocks));
    let threads = threads.filter(|n| (1..=THREADS).contains(n));
    let by_threads = threads.map(|n| ALL / n.next_multiple_of(128) / 8 * 8);
    let said = program.max_registers.filter(|&n| n <= MOST).map(|n| n.max(LEAST));
    let bound = by_threads.into_iter().chain(said).min();
    // `.maxnreg` with a value that is too large is ignored, but the kernel has bounds then.
    let bound = bound.or(program.max_registers.map(|_| MOST))?;
    Some(bound.min(program.largest_inc.unwrap_or(MOST)).min(MOST).next_multiple_of(8))
}

/// A `setmaxnreg` that a warp has executed.
struct Done {
    pc: u32,
    /// The warp's clock then.
    clock: u32,
}

/// What is known of a warp.
struct Books {
    /// In registers a thread.
    held: u32,
    /// In order. All warps of a warpgroup must execute the same.
    done: Vec<Done>,
    has_ended: bool,
}

/// The books of a block.
pub struct Registers {
    warps: Vec<Books>,
    /// In registers a thread of one warp.
    free: u32,
    is_ignored: bool,
}

impl Registers {
    pub fn new(program: &Program, warps: u32) -> Self {
        let entry = at_entry(program);
        let held = entry.unwrap_or(0);
        let books = |_| Books { held, done: Vec::new(), has_ended: false };
        Self { warps: (0..warps).map(books).collect(), free: 0, is_ignored: entry.is_none() }
    }

    /// Registers a thread of one warp that nobody holds.
    pub fn free(&self) -> u32 {
        self.free
    }

    /// What a warp holds, in registers a thread.
    pub fn held(&self, warp: u32) -> u32 {
        self.warps[warp as usize].held
    }

    /// The warps of the same warpgroup, with their indices.
    fn group(&self, warp: u32) -> impl Iterator<Item = (u32, &Books)> {
        let first = warp / 4 * 4;
        (first..).zip(self.warps.iter().skip(first as usize).take(4))
    }

    /// A warp of the group that has executed another instruction where this one executes its next: where.
    fn another(&self, warp: u32, pc: u32) -> Option<u32> {
        let i = self.warps[warp as usize].done.len();
        let all = self.group(warp).filter_map(|(_, books)| books.done.get(i));
        all.map(|done| done.pc).find(|&other| other != pc)
    }

    /// A warp of the group that has ended with fewer `setmaxnreg` than this warp has executed or is about to.
    fn absent(&self, warp: u32, n: usize) -> Option<u32> {
        self.group(warp).find(|(_, b)| b.has_ended && b.done.len() < n).map(|(w, _)| w)
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
        if self.ctas[warp.cta as usize].registers.is_ignored {
            return Ok(Step::Done);
        }
        if on != u32::MAX {
            return Err(Trouble::new(on, "setmaxnreg has to be executed by the whole warp"));
        }
        self.check_warpgroup(warp, pc).map_err(|message| Trouble::new(on, message))?;
        let registers = &mut self.ctas[warp.cta as usize].registers;
        let free = registers.free;
        let books = &mut registers.warps[warp.index as usize];
        let held = books.held;
        if is_more != (count > held) && count != held {
            let word = if is_more { "inc" } else { "dec" };
            let message =
                format!("setmaxnreg.{word} to {count} registers, where the warp has {held}");
            return Err(Trouble::new(on, message));
        }
        if count > held && count - held > free {
            warp.paths.get_mut(path).state = State::Registers;
            return Ok(Step::Waits);
        }
        books.held = count;
        books.done.push(Done { pc, clock: self.clocks.stamp(warp.id * 32).clock() });
        registers.free = free + held - count;
        Ok(Step::Done)
    }

    /// Whether the other warps of the warpgroup do the same, and have come here together.
    fn check_warpgroup(&self, warp: &Warp, pc: u32) -> Result<(), String> {
        let registers = &self.ctas[warp.cta as usize].registers;
        let n = self.warps() - warp.index / 4 * 4;
        if n < 4 {
            return Err(format!(
                "setmaxnreg is for whole warpgroups; the last one of the block has only {n} warps"
            ));
        }
        if let Some(other) = registers.another(warp.index, pc) {
            let other = self.at(other);
            return Err(format!(
                "another warp of the warpgroup has executed another setmaxnreg here: {other}"
            ));
        }
        let own = &registers.warps[warp.index as usize].done;
        if let Some(other) = registers.absent(warp.index, own.len() + 1) {
            return Err(unshared(other));
        }
        let Some(last) = own.len().checked_sub(1) else { return Ok(()) };
        // Any lane will do, as the instruction is the whole warp's.
        let has_seen = |there: u32, clock: u32| {
            let mut seen = (0..32).map(|lane| self.clocks.seen(warp.id * 32 + lane));
            seen.any(|seen| (there..there + 32).any(|thread| seen.has(thread, clock)))
        };
        let is_here = |(w, books): (u32, &Books)| {
            let there = (warp.id - warp.index + w) * 32;
            w == warp.index || books.done.get(last).is_some_and(|d| has_seen(there, d.clock))
        };
        let late = registers.group(warp.index).find(|&other| !is_here(other));
        match late.filter(|_| self.grid.launch.is_checked) {
            None => Ok(()),
            Some((w, _)) => Err(format!(
                "a second setmaxnreg, and warp {w} of the warpgroup has not been waited for behind its first: {}",
                self.at(own[last].pc)
            )),
        }
    }

    /// A warp has ended: it must have executed what others of its warpgroup have.
    pub(super) fn end_registers(&mut self, warps: &[Warp], w: usize) -> Result<(), Box<Fault>> {
        let (cta, index) = (warps[w].cta, warps[w].index);
        let registers = &mut self.ctas[cta as usize].registers;
        let own = &mut registers.warps[index as usize];
        own.has_ended = true;
        let n = own.done.len();
        let ahead = registers.group(index).find_map(|(i, b)| Some((i, b.done.get(n)?.pc)));
        let Some((other, pc)) = ahead else { return Ok(()) };
        let executed = warps.iter().find(|w| w.cta == cta && w.index == other);
        let trouble = Trouble::new(u32::MAX, unshared(index));
        Err(self.fault(executed.unwrap_or(&warps[w]), pc, trouble))
    }

    /// Whether a warp that waits for registers can have them.
    pub(super) fn registers_are_free(&self, warp: &Warp, count: u32) -> bool {
        let registers = &self.ctas[warp.cta as usize].registers;
        count - registers.held(warp.index) <= registers.free
    }
}

fn unshared(absent: u32) -> String {
    format!(
        "setmaxnreg has to be executed by all warps of the warpgroup: warp {absent} of the block has ended without it"
    )
}

#[cfg(test)]
mod tests;
