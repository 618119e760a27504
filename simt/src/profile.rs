//! Counts in sums: of a kernel, by unit of the hardware and by line of the source; and what they say about the time
//! that the kernel needs at least.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use crate::count::{Count, Counts, Traffic};
use crate::program::Program;
use crate::program::op::{FactorA, MmaKind, Op, Pipe};

/// Sums over some instructions of a kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Instructions of the PTX that warps issued.
    pub issued: u64,
    /// Lanes that these were on for: at most 32 an instruction.
    pub lanes: u64,
    /// By unit.
    pub integer: u64,
    pub fma: u64,
    pub convert: u64,
    pub special: u64,
    pub load_store: u64,
    pub tensor: u64,
    pub control: u64,
    /// Of these, what ptxas cannot fold into others or leave out: f32 arithmetic, conversions, special functions, memory
    /// accesses, matrix products, exchanges and barriers.
    pub lasting: u64,
    /// Accesses to global and local memory: requests of warps, and bytes that lanes asked for.
    pub global_requests: u64,
    pub global_bytes: u64,
    /// Sectors of 32 bytes that these touch, and those that as many different bytes need at least.
    pub sectors: u64,
    pub least_sectors: u64,
    /// Bytes of `cp.async` and of bulk copies, and the sectors of global memory that these touch.
    pub async_bytes: u64,
    pub async_sectors: u64,
    /// Sectors that go to the second cache whatever the first one holds: of stores, atomics and asynchronous copies.
    pub l2_sectors: u64,
    /// Accesses to shared memory: requests, passes through the banks, and those needed without conflicts.
    pub shared_requests: u64,
    pub passes: u64,
    pub least_passes: u64,
    /// Bytes that `wgmma` reads from shared memory.
    pub operand_bytes: u64,
    /// Floating-point operations of matrix products; a multiplication and an addition are two.
    pub tensor_flops: u64,
    /// Warps at barriers of their block, of a cluster, or in shared memory.
    pub barriers: u64,
}

impl AddAssign for Sums {
    fn add_assign(&mut self, o: Self) {
        let Self {
            issued, lanes, integer, fma, convert, special, load_store, tensor, control, ..
        } = o;
        self.issued += issued;
        self.lanes += lanes;
        self.integer += integer;
        self.fma += fma;
        self.convert += convert;
        self.special += special;
        self.load_store += load_store;
        self.tensor += tensor;
        self.control += control;
        self.lasting += o.lasting;
        self.global_requests += o.global_requests;
        self.global_bytes += o.global_bytes;
        self.sectors += o.sectors;
        self.least_sectors += o.least_sectors;
        self.async_bytes += o.async_bytes;
        self.async_sectors += o.async_sectors;
        self.l2_sectors += o.l2_sectors;
        self.shared_requests += o.shared_requests;
        self.passes += o.passes;
        self.least_passes += o.least_passes;
        self.operand_bytes += o.operand_bytes;
        self.tensor_flops += o.tensor_flops;
        self.barriers += o.barriers;
    }
}

impl Sums {
    fn of(program: &Program, pc: usize, count: &Count) -> Self {
        let inst = &program.instructions[pc];
        let Count { issued, lanes, traffic } = *count;
        let mut sums = Self { issued, lanes, ..Self::default() };
        let by_pipe = match inst.pipe {
            Pipe::Integer => &mut sums.integer,
            Pipe::Fma => &mut sums.fma,
            Pipe::Convert => &mut sums.convert,
            Pipe::Special => &mut sums.special,
            Pipe::LoadStore => &mut sums.load_store,
            Pipe::Tensor => &mut sums.tensor,
            Pipe::Control => &mut sums.control,
        };
        *by_pipe += issued;
        let is_barrier = matches!(
            inst.op,
            Op::Barrier { .. } | Op::ClusterBarrier { .. } | Op::MbarrierWait { .. }
        );
        let lasts = match inst.pipe {
            Pipe::Fma | Pipe::Convert | Pipe::Special | Pipe::Tensor => true,
            // Parameters are operands of machine instructions.
            Pipe::LoadStore => !matches!(inst.op, Op::LoadParam { .. } | Op::Nop),
            Pipe::Control => is_barrier,
            Pipe::Integer => false,
        };
        sums.lasting = if lasts { issued } else { 0 };
        sums.barriers = if is_barrier { issued } else { 0 };
        sums.tensor_flops = issued * flops(program, &inst.op);
        let Traffic { requests, bytes, sectors, least_sectors, passes, least_passes } = traffic;
        let is_async =
            matches!(inst.op, Op::CopyAsync { .. } | Op::BulkCopy { .. } | Op::TensorCopy { .. });
        if is_async {
            (sums.async_bytes, sums.async_sectors) = (bytes, sectors);
        }
        if is_async || matches!(inst.op, Op::Store { .. } | Op::Atomic { .. }) {
            sums.l2_sectors = sectors;
        }
        sums.operand_bytes = issued * operand_bytes(program, &inst.op);
        if sectors > 0 {
            (sums.global_requests, sums.global_bytes) = (requests, bytes);
        } else {
            sums.shared_requests = requests;
        }
        (sums.sectors, sums.least_sectors) = (sectors, least_sectors);
        (sums.passes, sums.least_passes) = (passes, least_passes);
        sums
    }
}

/// Floating-point operations of one warp's part of a matrix product.
fn flops(program: &Program, op: &Op) -> u64 {
    match op {
        Op::Mma { kind, .. } => {
            let k = match kind {
                MmaKind::Bf16K16 | MmaKind::F16K16 => 16,
                MmaKind::Bf16K8 | MmaKind::F16K8 | MmaKind::Tf32K8 => 8,
                MmaKind::Tf32K4 => 4,
            };
            2 * 16 * 8 * k
        }
        // A warp has 16 of the 64 rows.
        Op::Product(index) => {
            let product = &program.products[*index as usize];
            2 * 16 * u64::from(product.n) * product.input.k() as u64
        }
        _ => 0,
    }
}

/// Bytes of shared memory that one warp's part of a matrix product reads. Of a `wgmma`, the rows of its own of A, and
/// a quarter of B, which the four warps have in common.
fn operand_bytes(program: &Program, op: &Op) -> u64 {
    let Op::Product(index) = op else { return 0 };
    let product = &program.products[*index as usize];
    // k values are 32 bytes in every type.
    let a = match product.a {
        FactorA::Shared(_) => 16 * 32,
        FactorA::Registers(_) => 0,
    };
    a + u64::from(product.n) * 32 / 4
}

/// A line of the CUDA source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line {
    pub file: String,
    pub line: u32,
}

/// The sums of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    pub kernel: String,
    pub target: String,
    pub total: Sums,
    /// By the line that an instruction was written at, inlined or not; `?:0` without line information.
    pub lines: BTreeMap<Line, Sums>,
}

impl Profile {
    pub fn new(program: &Program, counts: &Counts) -> Self {
        let (mut total, mut lines) = (Sums::default(), BTreeMap::new());
        for (pc, count) in counts.instructions.iter().enumerate() {
            if count.issued == 0 {
                continue;
            }
            let sums = Sums::of(program, pc, count);
            total += sums;
            let (file, line) = program.line_of(pc as u32).unwrap_or(("?", 0));
            *lines.entry(Line { file: file.to_owned(), line }).or_insert_with(Sums::default) +=
                sums;
        }
        let (kernel, target) = (program.name.clone(), program.target.clone());
        Self { kernel, target, total, lines }
    }
}
