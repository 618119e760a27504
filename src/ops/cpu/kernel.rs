//! The register tile of the matrix product: `MR` rows of A times one packed panel of B.
//!
//! AVX-512 keeps 14 x 32 sums in 28 registers: two loads of B, 14 broadcasts of A and 28 fused
//! multiply-adds per step of k, so the two FMA pipes are the limit and not the load ports. AVX2 keeps
//! 6 x 16 sums in 12 registers. A is read in place where its rows are contiguous.

use crate::ops::cpu::simd::Level;

/// Where a tile's result goes: `c = alpha * sum + beta * c`.
#[derive(Clone, Copy)]
pub(crate) struct Scale {
    pub alpha: f32,
    /// 0 overwrites (what was there is not read).
    pub beta: f32,
}

/// Shape of a register tile and its code. `None` from [`Tile::of`] means: no kernel for this CPU.
#[derive(Clone, Copy)]
pub(crate) struct Tile {
    pub mr: usize,
    pub nr: usize,
    run: unsafe fn(Operands, Scale),
}

/// One tile's operands. A: element `(i, p)` at `a + i * a_rs + p` (direct) or, with `a_rs == 0`, at
/// `a + p * MR + i` (packed). B: `b + p * NR + j`. C: `c + i * c_rs + j`.
#[derive(Clone, Copy)]
pub(crate) struct Operands {
    pub k: usize,
    pub a: *const f32,
    pub a_rs: usize,
    pub b: *const f32,
    pub c: *mut f32,
    pub c_rs: usize,
}

impl Tile {
    /// The tile of an instruction set.
    pub(crate) fn of(level: Level) -> Option<Self> {
        match level.available() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => {
                Some(Self { mr: x86::MR_512, nr: 2 * x86::LANES_512, run: x86::avx512 })
            }
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => Some(Self { mr: x86::MR_256, nr: 2 * x86::LANES_256, run: x86::avx2 }),
            _ => None,
        }
    }

    /// Computes `rows` x `cols` (at most MR x NR) of C; a partial tile goes through a buffer.
    ///
    /// # Safety
    /// The operands must be readable for a full tile (A packed, or MR rows of it; B padded to NR) and
    /// C writable for `rows` x `cols`.
    #[inline]
    pub(crate) unsafe fn run(&self, x: Operands, scale: Scale, rows: usize, cols: usize) {
        // SAFETY: `of` gave code for this CPU; operands as promised; the buffer holds a full tile.
        unsafe {
            if rows == self.mr && cols == self.nr {
                return (self.run)(x, scale);
            }
            let mut whole = [0.0f32; 14 * 32];
            debug_assert!(whole.len() >= self.mr * self.nr);
            if scale.beta != 0.0 {
                for i in 0..rows {
                    let line = whole.as_mut_ptr().add(i * self.nr);
                    std::ptr::copy_nonoverlapping(x.c.add(i * x.c_rs), line, cols);
                }
            }
            // The same code and so the same roundings as a whole tile: a result must not depend on
            // where the edge of a block lies.
            (self.run)(Operands { c: whole.as_mut_ptr(), c_rs: self.nr, ..x }, scale);
            for i in 0..rows {
                let line = whole.as_ptr().add(i * self.nr);
                std::ptr::copy_nonoverlapping(line, x.c.add(i * x.c_rs), cols);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Operands, Scale};
    use std::arch::x86_64::*;

    pub(super) const LANES_512: usize = 16;
    pub(super) const LANES_256: usize = 8;
    pub(super) const MR_512: usize = 14;
    pub(super) const MR_256: usize = 6;

    /// `$rows` lists the rows, so that the loops over them are unrolled in the source: LLVM leaves
    /// some of them rolled otherwise, with all sums in memory.
    macro_rules! tile {
        ($name:ident, $features:literal, [$($row:literal)*], $mr:expr, $lanes:expr, $zero:ident,
         $load:ident, $store:ident, $set1:ident, $fma:ident, $mul:ident) => {
            /// # Safety
            /// See `Tile::run`; the CPU must have the features.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $name(x: Operands, scale: Scale) {
                const MR: usize = $mr;
                const L: usize = $lanes;
                let mut acc = [[$zero(); 2]; MR];
                // SAFETY: all addresses lie in the operands the caller vouches for.
                unsafe {
                    let mut b = x.b;
                    if x.a_rs == 0 {
                        let mut a = x.a;
                        for _ in 0..x.k {
                            let (b0, b1) = ($load(b), $load(b.add(L)));
                            $({
                                let v = $set1(*a.add($row));
                                acc[$row][0] = $fma(v, b0, acc[$row][0]);
                                acc[$row][1] = $fma(v, b1, acc[$row][1]);
                            })*
                            a = a.add(MR);
                            b = b.add(2 * L);
                        }
                    } else {
                        // One pointer per three rows: x86 addresses reach +0, +1 and +2 strides.
                        let rs = x.a_rs;
                        let mut rows: [*const f32; MR.div_ceil(3)] =
                            std::array::from_fn(|g| x.a.add(3 * g * rs));
                        for _ in 0..x.k {
                            let (b0, b1) = ($load(b), $load(b.add(L)));
                            $({
                                let v = $set1(*rows[$row / 3].add($row % 3 * rs));
                                acc[$row][0] = $fma(v, b0, acc[$row][0]);
                                acc[$row][1] = $fma(v, b1, acc[$row][1]);
                            })*
                            rows = rows.map(|row| row.add(1));
                            b = b.add(2 * L);
                        }
                    }
                    let alpha = $set1(scale.alpha);
                    let beta = $set1(scale.beta);
                    $(
                        let c = x.c.add($row * x.c_rs);
                        let (mut v0, mut v1) = ($mul(alpha, acc[$row][0]), $mul(alpha, acc[$row][1]));
                        if scale.beta != 0.0 {
                            v0 = $fma(beta, $load(c), v0);
                            v1 = $fma(beta, $load(c.add(L)), v1);
                        }
                        $store(c, v0);
                        $store(c.add(L), v1);
                    )*
                }
            }
        };
    }

    tile!(
        avx512, "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma", [0 1 2 3 4 5 6 7 8 9 10 11 12 13],
        MR_512, LANES_512, _mm512_setzero_ps, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_set1_ps,
        _mm512_fmadd_ps, _mm512_mul_ps
    );
    tile!(
        avx2, "avx2,fma", [0 1 2 3 4 5], MR_256, LANES_256, _mm256_setzero_ps, _mm256_loadu_ps,
        _mm256_storeu_ps, _mm256_set1_ps, _mm256_fmadd_ps, _mm256_mul_ps
    );
}
