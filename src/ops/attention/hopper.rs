//! The work of `kernels/hopper/attention.cu`: sequences of equal lengths as runs, each of which has a tensor map, and the
//! items that its blocks take.

use super::OP;
use crate::device::launch::LaunchConfig;
use crate::device::{Device, KernelCall, KernelSet, Tensor};
use crate::ops::gemm::hopper::SMS;
use crate::{Error, Result};

/// Neighbouring sequences of the same length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// First row in the packed matrix.
    pub start: usize,
    pub length: usize,
    pub sequences: usize,
}

/// Sequences of at most as many rows are narrow: a warpgroup for a head.
const NARROW: usize = 64;
/// Sequences of more rows are long: their scores do not fit the registers.
const WHOLE: usize = 256;
/// Rows of an item of a wide sequence.
const ITEM: usize = 128;
/// Runs of one launch.
const RUNS: usize = 2;
/// Sequences of more runs than this are left to the kernels that need none.
const MOST_RUNS: usize = 8;

/// What one launch works through.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub runs: Vec<Run>,
    /// `[n, 4]` i32: first row of the sequence, its length, first row of the item within it, `2 place + run`; those of long
    /// sequences, of other wide ones, of narrow ones, the longest first.
    pub list: Tensor,
    /// Entries of each kind.
    pub longs: usize,
    pub wides: usize,
    pub narrows: usize,
    /// Blocks of the grid, which take items until none is left.
    pub most_blocks: usize,
}

/// Sequences as runs, the longest first.
fn runs(lengths: &[usize]) -> Vec<Run> {
    let mut runs = Vec::new();
    let mut start = 0;
    for same in lengths.chunk_by(|a, b| a == b) {
        let (length, sequences) = (same[0], same.len());
        runs.push(Run { start, length, sequences });
        start += length * sequences;
    }
    runs.sort_by_key(|run| std::cmp::Reverse(run.length));
    runs
}

/// The launches for sequences of these lengths; none where other kernels do them.
pub(super) fn parts(device: &Device, lengths: &[usize]) -> Result<Option<Vec<Part>>> {
    if device.kernel_set() != KernelSet::Hopper {
        return Ok(None);
    }
    let runs = runs(lengths);
    if runs.len() > MOST_RUNS {
        return Ok(None);
    }
    runs.chunks(RUNS).map(|runs| Part::new(device, runs)).collect::<Result<_>>().map(Some)
}

impl Part {
    fn new(device: &Device, runs: &[Run]) -> Result<Self> {
        let mut list: Vec<[i32; 4]> = Vec::new();
        let (mut longs, mut wides, mut narrows) = (0, 0, 0);
        for (which, run) in runs.iter().enumerate() {
            let firsts = (0..run.length).step_by(ITEM);
            let count = if run.length > WHOLE {
                &mut longs
            } else if run.length > NARROW {
                &mut wides
            } else {
                &mut narrows
            };
            *count += run.sequences * firsts.len();
            for sequence in 0..run.sequences {
                let start = run.start + sequence * run.length;
                // All fit i32: `Packing::new` checked the sum of the lengths.
                let entry =
                    |first| [start, run.length, first, 2 * sequence + which].map(|n| n as i32);
                list.extend(firsts.clone().map(entry));
            }
        }
        let list = Tensor::from_slice(device, list.as_flattened(), &[list.len(), 4])?;
        Ok(Self { runs: runs.to_vec(), list, longs, wides, narrows, most_blocks: SMS })
    }

    /// Blocks of a launch.
    fn grid(&self, heads: usize) -> usize {
        ((self.longs + self.wides) * heads + self.narrows * heads.div_ceil(2)).min(self.most_blocks)
    }
}

/// Bytes of a row of a head in shared memory, where 48 columns come in rows of 64.
fn span(d: usize) -> usize {
    if d == 32 { 64 } else { 128 }
}

/// Adds the maps of the runs of `tensor`, `[rows, width]`, in boxes of 64 rows of a head.
fn with_runs<'d>(
    mut call: KernelCall<'d>,
    tensor: &Tensor,
    runs: &[Run],
    d: usize,
) -> Result<KernelCall<'d>> {
    let (_, width) = tensor.matrix(OP)?;
    for which in 0..RUNS {
        // A launch of one run has it twice.
        let run = runs.get(which).or(runs.first());
        let run = run.ok_or_else(|| Error::shape(OP, "a run", "none"))?;
        let dims = [run.sequences, run.length, width];
        let rows = tensor.view(run.start * width, &dims)?;
        call = call.boxes(&rows, &dims, &[1, 64, span(d) / 2])?;
    }
    Ok(call)
}

pub(super) fn forward(
    out: &mut Tensor,
    lse: &mut Tensor,
    qkv: &Tensor,
    parts: &[Part],
    d: usize,
) -> Result<()> {
    let (heads, rows) = lse.matrix(OP)?;
    let scale = (1.0 / (d as f64).sqrt()) as f32;
    let stages = if d == 32 { 16 } else { 10 };
    // Stages of 128 rows, two buffers of as many queries, barriers.
    let shared_bytes = ((stages + 2) * 128 * span(d) + (2 * stages + 6) * 8) as u32;
    for part in parts {
        let name = format!("attention_fwd_bf16_hopper_d{d}");
        let mut call = KernelCall::new(qkv.device(), &name).output(out)?.output(lse)?;
        call = with_runs(call, qkv, &part.runs, d)?.input(&part.list)?;
        for count in [part.longs, part.wides, part.narrows] {
            call = call.value(count as i32);
        }
        call = call.value(rows as i64).value(heads as i32).value(scale);
        let grid = [part.grid(heads) as u32, 1, 1];
        call.launch(LaunchConfig { grid, block: [384, 1, 1], shared_bytes })?;
    }
    Ok(())
}
