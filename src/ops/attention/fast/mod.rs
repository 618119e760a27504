//! The f32 fast path of attention over packed sequences, forward and backward, without ever holding a whole
//! S x S matrix (the recomputation scheme of FlashAttention, Dao et al., arXiv 2205.14135).
//!
//! Layout: `qkv [T, 3C]`, a row is `q | k | v`, each `heads` x `d` with `C = heads * d`. Sequence `s`
//! is rows `cu_seqlens[s]..cu_seqlens[s + 1]`. `lse [heads, T]` is the natural log of the sum of the
//! exponentials of the scaled scores.
//!
//! Forward: per block of queries, scores against all keys, softmax, product with V. Backward: per
//! chunk of keys (at most `KEYS`, cut by the sequence's length alone), transposed probabilities are
//! recomputed from `lse`, so that dK and dV belong to one task and dQ is a sum over chunks in order.

mod backward;
mod forward;
#[cfg(test)]
mod tests;

use crate::error::{Error, Result};
use crate::ops::cpu::gemm::MatRef;
use crate::ops::cpu::kernel::Tile;
use crate::ops::cpu::simd::Level;

pub use backward::backward;
pub use forward::forward;

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

impl<'a> Shape<'a> {
    /// With the usual scale.
    pub fn new(cu_seqlens: &'a [i32], heads: usize, head_dim: usize) -> Self {
        let scale = (1.0 / (head_dim as f64).sqrt()) as f32;
        Self { cu_seqlens, heads, head_dim, scale }
    }
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

/// Whether the CPU at hand has a fast path.
pub fn is_supported() -> bool {
    Tile::of(Level::detected()).is_some()
}

/// A tile for the CPU at hand, or an error: attention has no path below AVX2 other than the
/// reference of the op.
fn tile(level: Level) -> Result<Tile> {
    Tile::of(level).ok_or_else(|| {
        Error::Unsupported("the fast CPU attention needs AVX2 with FMA; use the reference".into())
    })
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

/// Blocks of keys in the product with V: even, at most 256 long.
fn value_blocks(n: usize) -> impl Iterator<Item = (usize, usize)> {
    let count = n.div_ceil(256).max(1);
    (0..count).map(move |i| (i * n / count, (i + 1) * n / count - i * n / count))
}
