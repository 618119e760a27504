//! What a launch did, instruction by instruction.

use std::ops::AddAssign;

use crate::program::Program;

/// Of one instruction of the PTX, over all warps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Times that a warp issued it.
    pub issued: u64,
    /// Lanes that it was on for, over all issues.
    pub lanes: u64,
    pub traffic: Traffic,
}

/// What accesses to memory asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Requests of a warp with at least one lane on.
    pub requests: u64,
    /// Bytes that lanes asked for.
    pub bytes: u64,
    /// Sectors of 32 bytes (global and local memory).
    pub sectors: u64,
    /// Sectors that as many different bytes need at least.
    pub least_sectors: u64,
    /// Passes through the banks of shared memory.
    pub passes: u64,
    /// Passes that as many different bytes need at least.
    pub least_passes: u64,
}

impl Traffic {
    /// Of a bulk copy, which takes shared memory in whole lines.
    pub(crate) fn bulk_passes(&mut self, bytes: u32) {
        let passes = u64::from(bytes.div_ceil(128));
        self.passes += passes;
        self.least_passes += passes;
    }
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.requests += other.requests;
        self.bytes += other.bytes;
        self.sectors += other.sectors;
        self.least_sectors += other.least_sectors;
        self.passes += other.passes;
        self.least_passes += other.least_passes;
    }
}

/// The counts of a launch, by index of the instruction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub instructions: Vec<Count>,
}

impl Counts {
    pub fn new(program: &Program) -> Self {
        Self { instructions: vec![Count::default(); program.instructions.len()] }
    }

    #[inline(always)]
    pub(crate) fn note(&mut self, pc: u32, lanes: u32) {
        let count = &mut self.instructions[pc as usize];
        count.issued += 1;
        count.lanes += u64::from(lanes.count_ones());
    }

    /// Takes one back that will be executed again.
    pub(crate) fn forget(&mut self, pc: u32, lanes: u32) {
        let count = &mut self.instructions[pc as usize];
        count.issued -= 1;
        count.lanes -= u64::from(lanes.count_ones());
    }

    pub(crate) fn traffic(&mut self, pc: u32) -> &mut Traffic {
        &mut self.instructions[pc as usize].traffic
    }

    /// Adds those of another launch, or of other blocks, of the same program.
    pub fn add(&mut self, other: &Self) {
        if self.instructions.len() < other.instructions.len() {
            self.instructions.resize(other.instructions.len(), Count::default());
        }
        for (a, b) in self.instructions.iter_mut().zip(&other.instructions) {
            a.issued += b.issued;
            a.lanes += b.lanes;
            a.traffic += b.traffic;
        }
    }
}
