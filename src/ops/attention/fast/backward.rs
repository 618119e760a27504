//! Probabilities recomputed from `lse`, transposed: rows are keys, columns the queries of a block.

use super::{Head, Shape, tile, value_blocks};
use crate::error::Result;
use crate::ops::cpu::gemm::{MatRef, multiply, pack_whole_b};
use crate::ops::cpu::kernel::{Scale, Tile};
use crate::ops::cpu::math::exp_softmax1;
use crate::ops::cpu::par::{Shared, for_each_block, for_each_task};
use crate::ops::cpu::reduce::dot_at;
use crate::ops::cpu::scratch::Scratch;
use crate::ops::cpu::simd::{Arith, Level, multiversion_at};

/// Queries per block; a multiple of the panel width.
const QUERIES: usize = 96;
/// Most keys per task.
const KEYS: usize = 512;

/// One key's row over a block of queries: `s` scaled scores become probabilities, `dp` becomes the
/// gradient of the unscaled scores.
#[inline(always)]
fn softmax_grad_body<A: Arith>(
    s: &mut [f32],
    dp: &mut [f32],
    lse: &[f32],
    delta: &[f32],
    scale: f32,
) {
    let n = s.len();
    let (dp, lse, delta) = (&mut dp[..n], &lse[..n], &delta[..n]);
    for i in 0..n {
        let p = exp_softmax1::<A>(s[i] - lse[i]);
        s[i] = p;
        dp[i] = p * (dp[i] - delta[i]) * scale;
    }
}

multiversion_at! {
    fn softmax_grad_at(
        s: &mut [f32], dp: &mut [f32], lse: &[f32], delta: &[f32], scale: f32,
    ) = softmax_grad_body;
}

/// Gradient of [`super::forward()`]; `dqkv` is overwritten.
///
/// Shapes: dqkv, qkv `[T, 3C]`; dout, out `[T, C]`; lse `[heads, T]`. Errors: as [`super::forward()`].
pub fn backward(
    dqkv: &mut [f32],
    dout: &[f32],
    qkv: &[f32],
    out: &[f32],
    lse: &[f32],
    shape: Shape,
) -> Result<()> {
    backward_at(Level::detected(), dqkv, dout, qkv, out, lse, shape)
}

pub(crate) fn backward_at(
    level: Level,
    dqkv: &mut [f32],
    dout: &[f32],
    qkv: &[f32],
    out: &[f32],
    lse: &[f32],
    shape: Shape,
) -> Result<()> {
    let (c, d, heads) = (shape.c(), shape.head_dim, shape.heads);
    shape.check(&[
        ("dqkv", 3 * c, dqkv.len()),
        ("qkv", 3 * c, qkv.len()),
        ("dout", c, dout.len()),
        ("out", c, out.len()),
        ("lse", heads, lse.len()),
    ])?;
    if c == 0 || shape.tokens() == 0 {
        return Ok(());
    }
    let tile = tile(level)?;
    let total = shape.tokens();
    // delta = rowsum(dout * out) per head, the part of the softmax gradient common to a row.
    let mut delta = Scratch::new(heads * total);
    let shared = Shared::new(&mut delta);
    for_each_block(total, 256, |_, rows| {
        for t in rows {
            for h in 0..heads {
                let row = t * c + h * d..t * c + (h + 1) * d;
                // SAFETY: one element per (head, token).
                unsafe { *shared.at(h * total + t) = dot_at(level, &dout[row.clone()], &out[row]) };
            }
        }
    });
    let tasks = key_chunks(&shape);
    // dQ of the first chunk goes to its place; later chunks have buffers that are added in order.
    let extra = tasks.iter().map(|t| t.partial + t.partial_len(d)).max().unwrap_or(0);
    let mut partial = Scratch::new(extra);
    let (dqkv, partials) = (Shared::new(dqkv), Shared::new(&mut partial));
    for_each_task(tasks.len(), |i| {
        let task = &tasks[i];
        let head = Head { qkv, start: task.start, len: task.len, head: task.head, c, d };
        let rows = task.head * total + task.start..task.head * total + task.start + task.len;
        let saved = Saved { dout, lse: &lse[rows.clone()], delta: &delta[rows] };
        // SAFETY: dK, dV and the buffer for dQ of a (head, chunk) belong to this task.
        unsafe { backward_task(level, &tile, head, task, saved, shape.scale, &dqkv, &partials) };
    });
    let later: Vec<_> = tasks.iter().filter(|t| t.chunk == 1).collect();
    for_each_task(later.len(), |i| {
        let first = later[i];
        for chunk in 0..first.chunks - 1 {
            for r in 0..first.len {
                let at = (first.start + r) * 3 * c + first.head * d;
                let from = first.partial + (chunk * first.len + r) * d;
                // SAFETY: one task per (sequence, head).
                let (dq, more) = unsafe { (dqkv.part(at..at + d), partials.part(from..from + d)) };
                for (a, b) in dq.iter_mut().zip(more) {
                    *a += *b;
                }
            }
        }
    });
    Ok(())
}

/// A chunk of keys of one head of one sequence.
struct Chunk {
    start: usize,
    len: usize,
    head: usize,
    chunk: usize,
    chunks: usize,
    /// Where its dQ starts among the partial ones (chunk 0 has none).
    partial: usize,
}

impl Chunk {
    fn keys(&self) -> std::ops::Range<usize> {
        self.chunk * self.len / self.chunks..(self.chunk + 1) * self.len / self.chunks
    }

    fn partial_len(&self, d: usize) -> usize {
        if self.chunk == 0 { 0 } else { self.len * d }
    }
}

fn key_chunks(shape: &Shape) -> Vec<Chunk> {
    let mut tasks = Vec::new();
    let mut partial = 0;
    for (start, len) in shape.sequences() {
        let chunks = len.div_ceil(KEYS);
        for head in 0..shape.heads {
            for chunk in 0..chunks {
                let task = Chunk { start, len, head, chunk, chunks, partial };
                partial += task.partial_len(shape.head_dim);
                tasks.push(task);
            }
        }
    }
    tasks
}

/// What the forward pass left, for the rows of one head of one sequence.
#[derive(Clone, Copy)]
struct Saved<'a> {
    dout: &'a [f32],
    lse: &'a [f32],
    delta: &'a [f32],
}

/// # Safety
/// The task's dK and dV, and its dQ (in `dqkv` for chunk 0, else in `partials`), must be its own.
#[allow(clippy::too_many_arguments)]
unsafe fn backward_task(
    level: Level,
    tile: &Tile,
    head: Head,
    task: &Chunk,
    saved: Saved,
    scale: f32,
    dqkv: &Shared,
    partials: &Shared,
) {
    let (d, c, nr) = (head.d, head.c, tile.nr);
    let keys = task.keys();
    let n = keys.len();
    let width = d.next_multiple_of(nr);
    let (k, v) = (head.part(1, keys.clone()), head.part(2, keys.clone()));
    let mut keys_packed = Scratch::new(width * n);
    let blocks: Vec<_> = value_blocks(n).collect();
    for (k0, kc) in &blocks {
        let part = head.part(1, keys.start + k0..keys.start + k0 + kc);
        pack_whole_b(tile, &part, &mut keys_packed[k0 * width..]);
    }
    // Transposed: rows are keys, columns the queries of a block.
    let mut probs = Scratch::new(n * QUERIES);
    let mut grads = Scratch::new(n * QUERIES);
    let mut by_query = Scratch::new(QUERIES * d.max(1));
    let mut by_channel = Scratch::new(QUERIES * width);
    let mut dout_by_channel = Scratch::new(QUERIES * width);
    let row = 3 * c;
    let first_key = (head.start + keys.start) * row + head.head * d;
    for i0 in (0..head.len).step_by(QUERIES) {
        let q = QUERIES.min(head.len - i0);
        let queries = head.part(0, i0..i0 + q);
        let dout = head.slice(saved.dout, c, 0, i0..i0 + q);
        let (s, dp) = (probs.as_mut_ptr(), grads.as_mut_ptr());
        // SAFETY: `probs` and `grads` hold n x QUERIES; dqkv and partials by the caller's promise.
        unsafe {
            let plain = Scale { alpha: 1.0, beta: 0.0 };
            let scaled = Scale { alpha: scale, beta: 0.0 };
            pack_whole_b(tile, &queries.t(), &mut by_query);
            multiply(tile, &k, (0, n), (0, d), &by_query, (0, q), scaled, s, QUERIES);
            pack_whole_b(tile, &dout.t(), &mut by_query);
            multiply(tile, &v, (0, n), (0, d), &by_query, (0, q), plain, dp, QUERIES);
            let rows = probs.chunks_exact_mut(QUERIES).zip(grads.chunks_exact_mut(QUERIES));
            for (s, dp) in rows.take(n) {
                let (lse, delta) = (&saved.lse[i0..i0 + q], &saved.delta[i0..i0 + q]);
                softmax_grad_at(level, &mut s[..q], dp, lse, delta, scale);
            }
            let sum = Scale { alpha: 1.0, beta: if i0 == 0 { 0.0 } else { 1.0 } };
            let p = MatRef { data: &probs, rows: n, cols: q, rs: QUERIES, cs: 1 };
            let ds = MatRef { data: &grads, ..p };
            pack_whole_b(tile, &dout, &mut dout_by_channel);
            let (dk, dv) = (dqkv.at(first_key + c), dqkv.at(first_key + 2 * c));
            multiply(tile, &p, (0, n), (0, q), &dout_by_channel, (0, d), sum, dv, row);
            pack_whole_b(tile, &queries, &mut by_channel);
            multiply(tile, &ds, (0, n), (0, q), &by_channel, (0, d), sum, dk, row);
            let (dq, dq_rs) = if task.chunk == 0 {
                (dqkv.at((head.start + i0) * row + head.head * d), row)
            } else {
                (partials.at(task.partial + i0 * d), d)
            };
            for &(k0, kc) in &blocks {
                let sum = Scale { alpha: 1.0, beta: if k0 == 0 { 0.0 } else { 1.0 } };
                let packed = &keys_packed[k0 * width..];
                multiply(tile, &ds.t(), (0, q), (k0, kc), packed, (0, d), sum, dq, dq_rs);
            }
        }
    }
}
