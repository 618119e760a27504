//! Scores of a block of queries against all keys, softmax, product with V.

use super::{Head, Shape, tile, value_blocks};
use crate::error::Result;
use crate::ops::cpu::gemm::{MatRef, multiply, pack_whole_b};
use crate::ops::cpu::kernel::{Scale, Tile};
use crate::ops::cpu::math::exp_softmax1;
use crate::ops::cpu::par::{Shared, for_each_task};
use crate::ops::cpu::reduce::{fold, max_body};
use crate::ops::cpu::scratch::Scratch;
use crate::ops::cpu::simd::{Arith, Level, multiversion_at};

/// Queries per block: 84 x 1001 scores fill a third of a 1 MiB L2. A multiple of 14 and 6.
const QUERIES: usize = 84;

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

#[inline(always)]
fn scale_body<A: Arith>(x: &mut [f32], factor: f32) {
    for v in x {
        *v *= factor;
    }
}

multiversion_at! {
    fn softmax_at(x: &mut [f32]) -> (f32, f32) = softmax_body;
    fn scale_row_at(x: &mut [f32], factor: f32) = scale_body;
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
    shape.check(&[("out", c, out.len()), ("lse", heads, lse.len()), ("qkv", 3 * c, qkv.len())])?;
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

fn pack_values(tile: &Tile, head: &Head, packed: &mut [f32]) {
    let mut done = 0;
    for (k0, kc) in value_blocks(head.len) {
        pack_whole_b(tile, &head.part(2, k0..k0 + kc), &mut packed[done..]);
        done += kc * head.d.next_multiple_of(tile.nr);
    }
}
