//! Softmax attention over packed sequences, forward and backward, without ever holding a whole
//! S x S matrix (the recomputation scheme of FlashAttention, Dao et al., arXiv 2205.14135).
//!
//! Layout: `qkv [T, 3C]`, a row is `q | k | v`, each `heads` x `d` with `C = heads * d`. Sequence `s`
//! is rows `cu_seqlens[s]..cu_seqlens[s + 1]`. `lse [heads, T]` is the natural log of the sum of the
//! exponentials of the scaled scores.
//!
//! Forward: per block of queries, scores against all keys, softmax, product with V. Backward: per
//! chunk of keys (at most `KEYS`, cut by the sequence's length alone), transposed probabilities are
//! recomputed from `lse`, so that dK and dV belong to one task and dQ is a sum over chunks in order.

use crate::error::{Error, Result};
use crate::ops::cpu::gemm::{MatRef, multiply, pack_whole_b};
use crate::ops::cpu::kernel::{Scale, Tile};
use crate::ops::cpu::math::exp_softmax1;
use crate::ops::cpu::par::{Shared, for_each_block, for_each_task};
use crate::ops::cpu::reduce::{dot_body, fold, max_body};
use crate::ops::cpu::scratch::Scratch;
use crate::ops::cpu::simd::{Arith, Level, multiversion_at};

/// Queries per block, forward: 84 x 1001 scores fill a third of a 1 MiB L2. A multiple of 14 and 6.
const QUERIES: usize = 84;
/// Queries per block, backward; a multiple of the panel width.
const QUERIES_BWD: usize = 96;
/// Most keys per task, backward.
const KEYS: usize = 512;

/// Sizes of a packed attention.
#[derive(Clone, Copy, Debug)]
pub struct Shape<'a> {
    /// `[S + 1]`, from 0 to T, not decreasing.
    pub cu_seqlens: &'a [i32],
    pub heads: usize,
    /// Channels per head.
    pub head_dim: usize,
    /// Factor of `q k`, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
}

impl Shape<'_> {
    fn c(&self) -> usize {
        self.heads * self.head_dim
    }

    fn tokens(&self) -> usize {
        self.cu_seqlens.last().map_or(0, |&t| t.max(0) as usize)
    }

    fn check(&self, buffers: &[(&str, usize, usize)]) -> Result<()> {
        let cu = self.cu_seqlens;
        if cu.first() != Some(&0) || cu.windows(2).any(|w| w[0] > w[1]) {
            return Err(Error::shape(
                "attention",
                "cu_seqlens that start at 0 and never decrease",
                format!("{cu:?}"),
            ));
        }
        for (name, width, len) in buffers {
            let need = self.tokens().checked_mul(*width);
            if need != Some(*len) {
                return Err(Error::shape(
                    "attention",
                    format!("{name} of {} x {width} elements", self.tokens()),
                    len.to_string(),
                ));
            }
        }
        Ok(())
    }

    /// Non-empty sequences as (first row, length), longest first.
    fn sequences(&self) -> Vec<(usize, usize)> {
        let mut list: Vec<_> = self
            .cu_seqlens
            .windows(2)
            .map(|w| (w[0] as usize, (w[1] - w[0]) as usize))
            .filter(|x| x.1 > 0)
            .collect();
        list.sort_by_key(|x| std::cmp::Reverse(x.1));
        list
    }
}

/// A tile for the CPU at hand, or an error: attention has no path below AVX2 other than the
/// reference of the op.
fn tile(level: Level) -> Result<Tile> {
    Tile::of(level).ok_or_else(|| {
        Error::Unsupported("the fast CPU attention needs AVX2 with FMA; use the reference".into())
    })
}

/// Softmax of one row of scaled scores, not yet divided by the sum, which is returned beside the
/// maximum.
#[inline(always)]
fn softmax_body<A: Arith>(x: &mut [f32]) -> (f32, f32) {
    let top = max_body::<A>(x);
    for v in x.iter_mut() {
        *v = exp_softmax1::<A>(*v - top);
    }
    (top, fold([&*x], 0.0, |s, [v]| s + v, |a, b| a + b))
}

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

#[inline(always)]
fn scale_body<A: Arith>(x: &mut [f32], factor: f32) {
    for v in x {
        *v *= factor;
    }
}

#[inline(always)]
fn dot2_body<A: Arith>(x: &[f32], y: &[f32]) -> f32 {
    dot_body::<A>(x, y)
}

multiversion_at! {
    fn softmax_at(x: &mut [f32]) -> (f32, f32) = softmax_body;
    fn softmax_grad_at(
        s: &mut [f32], dp: &mut [f32], lse: &[f32], delta: &[f32], scale: f32,
    ) = softmax_grad_body;
    fn scale_row_at(x: &mut [f32], factor: f32) = scale_body;
    fn dot_at(x: &[f32], y: &[f32]) -> f32 = dot2_body;
}

/// `out = softmax(scale q kᵀ) v` per sequence and head.
///
/// Shapes: out `[T, C]`, lse `[heads, T]`, qkv `[T, 3C]`. Errors: `Shape`; `Unsupported` below AVX2.
pub fn forward(out: &mut [f32], lse: &mut [f32], qkv: &[f32], shape: Shape) -> Result<()> {
    forward_at(Level::detected(), out, lse, qkv, shape)
}

pub(crate) fn forward_at(
    level: Level,
    out: &mut [f32],
    lse: &mut [f32],
    qkv: &[f32],
    shape: Shape,
) -> Result<()> {
    let (c, d, heads) = (shape.c(), shape.head_dim, shape.heads);
    shape.check(&[
        ("out", c, out.len()),
        ("lse", heads, lse.len()),
        ("qkv", 3 * c, qkv.len()),
    ])?;
    if c == 0 {
        return Ok(());
    }
    let tile = tile(level)?;
    let sequences = shape.sequences();
    // A row's bits do not depend on its block, so the number of tasks may follow the threads.
    let parts = (4 * rayon::current_num_threads()).div_ceil((sequences.len() * heads).max(1));
    let total = shape.tokens();
    let (out, lse) = (Shared::new(out), Shared::new(lse));
    for_each_task(sequences.len() * heads * parts, |task| {
        let (start, len) = sequences[task / (heads * parts)];
        let (head, part) = (task / parts % heads, task % parts);
        let blocks = len.div_ceil(QUERIES);
        let range = part * blocks / parts * QUERIES..len.min((part + 1) * blocks / parts * QUERIES);
        let head = Head { qkv, start, len, head, c, d };
        // SAFETY: tasks are disjoint in (row of the sequence, head).
        unsafe { forward_task(level, &tile, head, range, shape.scale, &out, &lse, total) };
    });
    Ok(())
}

/// One head of one sequence.
#[derive(Clone, Copy)]
struct Head<'a> {
    qkv: &'a [f32],
    start: usize,
    len: usize,
    head: usize,
    c: usize,
    d: usize,
}

impl<'a> Head<'a> {
    /// q (0), k (1) or v (2): rows `range` of the sequence as `[n, d]`.
    fn part(&self, which: usize, range: std::ops::Range<usize>) -> MatRef<'a> {
        self.slice(self.qkv, 3 * self.c, which * self.c, range)
    }

    fn slice<'b>(
        &self,
        data: &'b [f32],
        stride: usize,
        column: usize,
        range: std::ops::Range<usize>,
    ) -> MatRef<'b> {
        let at = (self.start + range.start) * stride + column + self.head * self.d;
        let (rows, cols) = (range.len(), self.d);
        // In bounds: `Shape::check` compared the buffers with the last entry of cu_seqlens.
        let data = if rows == 0 { &[] } else { &data[at..at + (rows - 1) * stride + cols] };
        MatRef { data, rows, cols, rs: stride, cs: 1 }
    }
}

/// # Safety
/// No other thread may touch these rows of this head in `out` and `lse`.
#[allow(clippy::too_many_arguments)]
unsafe fn forward_task(
    level: Level,
    tile: &Tile,
    head: Head,
    range: std::ops::Range<usize>,
    scale: f32,
    out: &Shared,
    lse: &Shared,
    total: usize,
) {
    if range.is_empty() {
        return;
    }
    let (n, d, nr) = (head.len, head.d, tile.nr);
    let mut keys = Scratch::new(n.next_multiple_of(nr) * d);
    let mut values = Scratch::new(d.next_multiple_of(nr) * n);
    pack_whole_b(tile, &head.part(1, 0..n).t(), &mut keys);
    pack_values(tile, &head, &mut values);
    let mut scores = Scratch::new(QUERIES * n);
    for i0 in range.clone().step_by(QUERIES) {
        let rows = QUERIES.min(range.end - i0);
        let q = head.part(0, i0..i0 + rows);
        let plain = Scale { alpha: scale, beta: 0.0 };
        // SAFETY: `scores` has QUERIES x n elements; `out` has these rows (checked) to ourselves.
        unsafe {
            let s = scores.as_mut_ptr();
            multiply(tile, &q, (0, rows), (0, d), &keys, (0, n), plain, s, n);
            let mut sums = [0.0f32; QUERIES];
            for (i, row) in scores.chunks_exact_mut(n).take(rows).enumerate() {
                let (top, sum) = softmax_at(level, row);
                sums[i] = 1.0 / sum;
                *lse.at(head.head * total + head.start + i0 + i) = top + sum.ln();
            }
            let p = MatRef { data: &scores, rows, cols: n, rs: n, cs: 1 };
            let first = (head.start + i0) * head.c + head.head * d;
            let mut done = 0;
            for (k0, kc) in value_blocks(n) {
                let scale = Scale { alpha: 1.0, beta: if k0 == 0 { 0.0 } else { 1.0 } };
                let o = out.at(first);
                multiply(tile, &p, (0, rows), (k0, kc), &values[done..], (0, d), scale, o, head.c);
                done += kc * d.next_multiple_of(nr);
            }
            for (i, inverse) in sums[..rows].iter().enumerate() {
                let at = first + i * head.c;
                scale_row_at(level, out.part(at..at + d), *inverse);
            }
        }
    }
}

/// Blocks of keys in the product with V: even, at most 256 long.
fn value_blocks(n: usize) -> impl Iterator<Item = (usize, usize)> {
    let count = n.div_ceil(256).max(1);
    (0..count).map(move |i| (i * n / count, (i + 1) * n / count - i * n / count))
}

fn pack_values(tile: &Tile, head: &Head, packed: &mut [f32]) {
    let mut done = 0;
    for (k0, kc) in value_blocks(head.len) {
        pack_whole_b(tile, &head.part(2, k0..k0 + kc), &mut packed[done..]);
        done += kc * head.d.next_multiple_of(tile.nr);
    }
}

/// Gradient of [`forward`]; `dqkv` is overwritten.
///
/// Shapes: dqkv, qkv `[T, 3C]`; dout, out `[T, C]`; lse `[heads, T]`. Errors: as [`forward`].
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
    let mut probs = Scratch::new(n * QUERIES_BWD);
    let mut grads = Scratch::new(n * QUERIES_BWD);
    let mut by_query = Scratch::new(QUERIES_BWD * d.max(1));
    let mut by_channel = Scratch::new(QUERIES_BWD * width);
    let mut dout_by_channel = Scratch::new(QUERIES_BWD * width);
    let row = 3 * c;
    let first_key = (head.start + keys.start) * row + head.head * d;
    for i0 in (0..head.len).step_by(QUERIES_BWD) {
        let q = QUERIES_BWD.min(head.len - i0);
        let queries = head.part(0, i0..i0 + q);
        let dout = head.slice(saved.dout, c, 0, i0..i0 + q);
        let (s, dp) = (probs.as_mut_ptr(), grads.as_mut_ptr());
        // SAFETY: `probs` and `grads` hold n x QUERIES_BWD; dqkv and partials by the caller's promise.
        unsafe {
            let plain = Scale { alpha: 1.0, beta: 0.0 };
            let scaled = Scale { alpha: scale, beta: 0.0 };
            pack_whole_b(tile, &queries.t(), &mut by_query);
            multiply(tile, &k, (0, n), (0, d), &by_query, (0, q), scaled, s, QUERIES_BWD);
            pack_whole_b(tile, &dout.t(), &mut by_query);
            multiply(tile, &v, (0, n), (0, d), &by_query, (0, q), plain, dp, QUERIES_BWD);
            let rows = probs.chunks_exact_mut(QUERIES_BWD).zip(grads.chunks_exact_mut(QUERIES_BWD));
            for (s, dp) in rows.take(n) {
                let (lse, delta) = (&saved.lse[i0..i0 + q], &saved.delta[i0..i0 + q]);
                softmax_grad_at(level, &mut s[..q], dp, lse, delta, scale);
            }
            let sum = Scale { alpha: 1.0, beta: if i0 == 0 { 0.0 } else { 1.0 } };
            let p = MatRef { data: &probs, rows: n, cols: q, rs: QUERIES_BWD, cs: 1 };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::cpu::simd::levels;
    use crate::ops::cpu::testing::{assert_close, normal, same_bits_for_any_threads};

    struct Exact {
        out: Vec<f64>,
        lse: Vec<f64>,
        dqkv: Vec<f64>,
    }

    /// Plain loops in f64.
    fn reference(qkv: &[f32], dout: &[f32], shape: &Shape) -> Exact {
        let (c, d, total) = (shape.c(), shape.head_dim, shape.tokens());
        let scale = f64::from(shape.scale);
        let (mut out, mut lse) = (vec![0.0; total * c], vec![0.0; total * shape.heads]);
        let mut dqkv = vec![0.0; 3 * total * c];
        for w in shape.cu_seqlens.windows(2) {
            let rows = w[0] as usize..w[1] as usize;
            for h in 0..shape.heads {
                let at = |t: usize, which: usize, e: usize| t * 3 * c + which * c + h * d + e;
                let x = |t, which, e| f64::from(qkv[at(t, which, e)]);
                for i in rows.clone() {
                    let s: Vec<f64> = rows
                        .clone()
                        .map(|j| (0..d).map(|e| x(i, 0, e) * x(j, 1, e)).sum::<f64>() * scale)
                        .collect();
                    let top = s.iter().copied().fold(f64::MIN, f64::max);
                    let total_weight: f64 = s.iter().map(|v| (v - top).exp()).sum();
                    lse[h * total + i] = top + total_weight.ln();
                    let p: Vec<f64> = s.iter().map(|v| (v - top).exp() / total_weight).collect();
                    let g = |e: usize| f64::from(dout[i * c + h * d + e]);
                    for e in 0..d {
                        out[i * c + h * d + e] =
                            rows.clone().zip(&p).map(|(j, p)| p * x(j, 2, e)).sum();
                    }
                    let delta: f64 = (0..d).map(|e| g(e) * out[i * c + h * d + e]).sum();
                    for (j, p) in rows.clone().zip(&p) {
                        let dp: f64 = (0..d).map(|e| g(e) * x(j, 2, e)).sum();
                        let ds = p * (dp - delta) * scale;
                        for e in 0..d {
                            dqkv[at(j, 2, e)] += p * g(e);
                            dqkv[at(j, 1, e)] += ds * x(i, 0, e);
                            dqkv[at(i, 0, e)] += ds * x(j, 1, e);
                        }
                    }
                }
            }
        }
        Exact { out, lse, dqkv }
    }

    #[test]
    fn attention_matches_f64() {
        let cases: [(&[i32], usize, usize); 6] = [
            (&[0, 1], 1, 1),
            (&[0, 1, 1, 8, 21], 2, 7),
            (&[0, 55, 110, 361], 3, 32),
            (&[0, 97, 194], 2, 64),
            (&[0, 1001], 1, 16),
            (&[0, 513, 520], 1, 40),
        ];
        for (case, (cu_seqlens, heads, head_dim)) in cases.into_iter().enumerate() {
            let scale = 1.0 / (head_dim as f32).sqrt();
            let shape = Shape { cu_seqlens, heads, head_dim, scale };
            let (c, t) = (shape.c(), shape.tokens());
            for offset in [0.0, 3.0] {
                let mut qkv = normal(case as u64, 3 * t * c);
                qkv.iter_mut().for_each(|x| *x += offset);
                let dout = normal(50 + case as u64, t * c);
                let want = reference(&qkv, &dout, &shape);
                let largest =
                    |x: &[f64]| x.iter().fold(1e-3f64, |m, v| m.max(v.abs()));
                for level in levels().filter(|l| Tile::of(*l).is_some()) {
                    let name = format!("{cu_seqlens:?} x {heads} x {head_dim} + {offset} {level:?}");
                    let (mut out, mut lse) = (vec![f32::NAN; t * c], vec![f32::NAN; t * heads]);
                    let mut dqkv = vec![f32::NAN; 3 * t * c];
                    forward_at(level, &mut out, &mut lse, &qkv, shape).unwrap();
                    backward_at(level, &mut dqkv, &dout, &qkv, &out, &lse, shape).unwrap();
                    // 8 eps sqrt(K) of the largest magnitude; scores carry their own rounding
                    // error into the exponent, hence the factor of their size.
                    let size = largest(&want.lse).max(1.0);
                    let bound = |x: &[f64]| {
                        let n = (head_dim + t) as f64;
                        8.0 * f64::from(f32::EPSILON) * n.sqrt() * size * largest(x)
                    };
                    let (o, l, g) = (bound(&want.out), 2e-6 * size, bound(&want.dqkv));
                    assert_close(&format!("out {name}"), &out, &want.out, |_| o);
                    assert_close(&format!("lse {name}"), &lse, &want.lse, |_| l);
                    assert_close(&format!("dqkv {name}"), &dqkv, &want.dqkv, |_| g);
                }
            }
        }
    }

    #[test]
    fn attention_keeps_its_bits_for_any_number_of_threads() {
        if Tile::of(Level::detected()).is_none() {
            println!("skipped: no AVX2");
            return;
        }
        let shape =
            Shape { cu_seqlens: &[0, 700, 755, 1000], heads: 2, head_dim: 24, scale: 0.2 };
        let (c, t) = (shape.c(), shape.tokens());
        let (qkv, dout) = (normal(1, 3 * t * c), normal(2, t * c));
        same_bits_for_any_threads(|| {
            let (mut out, mut lse) = (vec![0.0; t * c], vec![0.0; t * shape.heads]);
            let mut dqkv = vec![0.0; 3 * t * c];
            forward(&mut out, &mut lse, &qkv, shape).unwrap();
            backward(&mut dqkv, &dout, &qkv, &out, &lse, shape).unwrap();
            [out, lse, dqkv].concat()
        });
    }

    #[test]
    fn attention_refuses_what_does_not_fit() {
        let run = |cu_seqlens: &[i32], out: usize| {
            let shape = Shape { cu_seqlens, heads: 2, head_dim: 4, scale: 1.0 };
            forward(&mut vec![0.0; out], &mut [0.0; 6], &[0.0; 72], shape)
        };
        assert!(run(&[0, 4, 2, 3], 24).is_err());
        assert!(run(&[1, 3], 24).is_err());
        assert!(run(&[-1, 3], 24).is_err());
        assert!(run(&[], 24).is_err());
        assert!(run(&[0, 3], 23).is_err());
    }
}
