//! The work of `kernels/hopper/attention.cu`: sequences of equal lengths as runs, each of which has a tensor map, and the
//! items that its blocks take.

use super::OP;
use crate::device::launch::LaunchConfig;
use crate::device::{DType, Device, KernelCall, KernelSet, Tensor};
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
/// Sequences of more rows are long: their scores do not fit the registers of the forward pass, nor their rows the shared
/// memory of a block of the backward pass.
const WHOLE: usize = 256;
/// Rows of an item of a wide sequence.
const ITEM: usize = 128;
/// Runs of one launch.
const RUNS: usize = 2;
/// Sequences of more runs than this are left to the kernels that need none.
const MOST_RUNS: usize = 8;

/// A work list: `[n, 4]` i32, first row of the sequence, its length, first row of the item within it, `2 place + run`; the
/// longest sequences first.
#[derive(Clone, Debug)]
struct List {
    entries: Tensor,
    /// How many of long sequences, of other wide ones, of narrow ones.
    counts: [usize; 3],
}

impl List {
    /// An item for every `rows` rows of sequences of more than 64. What is long, and which lengths are here at all, differs
    /// from pass to pass.
    fn new(
        device: &Device,
        runs: &[Run],
        rows: usize,
        long: usize,
        here: impl Fn(usize) -> bool,
    ) -> Result<Self> {
        let mut entries: Vec<[i32; 4]> = Vec::new();
        let mut counts = [0; 3];
        for (which, run) in runs.iter().enumerate().filter(|(_, run)| here(run.length)) {
            let firsts = (0..run.length).step_by(rows);
            let kind = if run.length > long {
                0
            } else if run.length > NARROW {
                1
            } else {
                2
            };
            counts[kind] += run.sequences * firsts.len();
            for sequence in 0..run.sequences {
                let start = run.start + sequence * run.length;
                // All fit i32: `Packing::new` checked the sum of the lengths.
                let entry =
                    |first| [start, run.length, first, 2 * sequence + which].map(|n| n as i32);
                entries.extend(firsts.clone().map(entry));
            }
        }
        let entries = Tensor::from_slice(device, entries.as_flattened(), &[entries.len(), 4])?;
        Ok(Self { entries, counts })
    }

    fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn items(&self, heads: usize) -> usize {
        let [longs, wides, narrows] = self.counts;
        (longs + wides) * heads + narrows * heads.div_ceil(2)
    }
}

/// What one launch of each pass works through.
#[derive(Clone, Debug)]
pub(super) struct Part {
    runs: Vec<Run>,
    forward: List,
    /// Of the backward pass: items of a whole sequence, and of 128 rows of longer ones.
    whole: List,
    long: List,
    /// Blocks of a grid, which take items until none is left.
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
        let is_long = |length: usize| length > WHOLE;
        Ok(Self {
            runs: runs.to_vec(),
            forward: List::new(device, runs, ITEM, WHOLE, |_| true)?,
            whole: List::new(device, runs, WHOLE, ITEM, |length| !is_long(length))?,
            long: List::new(device, runs, ITEM, WHOLE, is_long)?,
            most_blocks: SMS,
        })
    }

    /// Adds a list and the sizes to a call, and launches it.
    fn launch(
        &self,
        call: KernelCall<'_>,
        list: &List,
        counts: &[usize],
        lse: &Tensor,
        shared: Shared,
    ) -> Result<()> {
        let (heads, rows) = lse.matrix(OP)?;
        let scale = (1.0 / (shared.d as f64).sqrt()) as f32;
        let mut call = call.input(&list.entries)?;
        for &count in counts {
            call = call.value(count as i32);
        }
        let grid = [list.items(heads).min(self.most_blocks) as u32, 1, 1];
        let config = LaunchConfig { grid, block: [384, 1, 1], shared_bytes: shared.bytes() };
        call.value(rows as i64).value(heads as i32).value(scale).launch(config)
    }
}

/// Bytes of a row of a head in shared memory, where 48 columns come in rows of 64.
fn span(d: usize) -> usize {
    if d == 32 { 64 } else { 128 }
}

/// Shared memory of a block: boxes of 64 rows of a head, other bytes, barriers.
struct Shared {
    d: usize,
    boxes: usize,
    bytes: usize,
    barriers: usize,
}

impl Shared {
    fn bytes(&self) -> u32 {
        (self.boxes * 64 * span(self.d) + self.bytes + 8 * self.barriers) as u32
    }

    /// Stages of 128 rows, two buffers of as many queries.
    fn forward(d: usize) -> Self {
        let stages = if d == 32 { 16 } else { 10 };
        Self { d, boxes: 2 * stages + 4, bytes: 0, barriers: 2 * stages + 6 }
    }

    /// Four matrices of 256 rows, dS of 128 queries and 256 keys, dQ on its way out, ones, lse and delta, two means.
    fn whole(d: usize) -> Self {
        Self { d, boxes: 18, bytes: 2 * WHOLE * ITEM + 16 * span(d) + 8 * WHOLE + 512, barriers: 4 }
    }

    /// Stages of 128 keys and values, two buffers of queries, dO and O, a mean for each warp.
    fn by_queries(d: usize) -> Self {
        let stages = if d == 32 { 6 } else { 3 };
        Self { d, boxes: 4 * stages + 12, bytes: 2048, barriers: 2 * stages + 4 }
    }

    /// Stages of 64 queries, dO, lse and delta, two buffers of keys and values.
    fn by_keys(d: usize) -> Self {
        let stages = if d == 32 { 12 } else { 8 };
        Self { d, boxes: 2 * stages + 8, bytes: 512 * stages, barriers: 2 * stages + 4 }
    }
}

/// Adds the maps of the runs of every tensor, `[rows, width]`, in boxes of 64 rows of a head.
fn with_runs<'d>(
    mut call: KernelCall<'d>,
    tensors: &[&Tensor],
    runs: &[Run],
    d: usize,
) -> Result<KernelCall<'d>> {
    for tensor in tensors {
        let (_, width) = tensor.matrix(OP)?;
        for which in 0..RUNS {
            // A launch of one run has it twice.
            let run = runs.get(which).or(runs.first());
            let run = run.ok_or_else(|| Error::shape(OP, "a run", "none"))?;
            let dims = [run.sequences, run.length, width];
            let rows = tensor.view(run.start * width, &dims)?;
            call = call.boxes(&rows, &dims, &[1, 64, span(d) / 2])?;
        }
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
    for part in parts {
        let name = format!("attention_fwd_bf16_hopper_d{d}");
        let call = KernelCall::new(qkv.device(), &name).output(out)?.output(lse)?;
        let call = with_runs(call, &[qkv], &part.runs, d)?;
        part.launch(call, &part.forward, &part.forward.counts, lse, Shared::forward(d))?;
    }
    Ok(())
}

/// What a backward pass writes and reads.
pub(super) struct Backward<'t> {
    pub dqkv: &'t mut Tensor,
    pub out: &'t Tensor,
    pub lse: &'t Tensor,
    pub dout: &'t Tensor,
    pub qkv: &'t Tensor,
}

impl Backward<'_> {
    pub fn run(self, parts: &[Part], d: usize) -> Result<()> {
        let Self { dqkv, out, lse, dout, qkv } = self;
        let device = qkv.device();
        for part in parts {
            let Part { runs, whole, long, .. } = part;
            let name = |pass: &str| format!("attention_{pass}_bf16_hopper_d{d}");
            if !whole.is_empty() {
                let call = KernelCall::new(device, &name("bwd")).output(dqkv)?.input(lse)?;
                let call = with_runs(call, &[qkv, dout, out], runs, d)?;
                part.launch(call, whole, &whole.counts, lse, Shared::whole(d))?;
            }
            if long.is_empty() {
                continue;
            }
            let longs = &long.counts[..1];
            let (heads, rows) = lse.matrix(OP)?;
            let mut delta = Tensor::empty(device, DType::F32, &[heads, rows])?;
            let call = KernelCall::new(device, &name("bwd_q")).output(dqkv)?.output(&mut delta)?;
            let call = with_runs(call.input(lse)?, &[qkv, dout, out], runs, d)?;
            part.launch(call, long, longs, lse, Shared::by_queries(d))?;
            let call = KernelCall::new(device, &name("bwd_kv")).output(dqkv)?;
            let call = with_runs(call.input(lse)?.input(&delta)?, &[qkv, dout], runs, d)?;
            part.launch(call, long, longs, lse, Shared::by_keys(d))?;
        }
        Ok(())
    }
}
