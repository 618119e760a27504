//! The register tiles of the convolution.
//!
//! Rows: `MR` voxels times 16 or 32 output channels; the sum runs over all lines of taps while it
//! stays in registers. With AVX-512 a step of k costs one or two loads of weights, 14 broadcasts (as
//! operands of the FMA where it is 16 wide) and 14 or 28 FMA. Columns: `NR` output channels times 48 (24)
//! neighbouring taps and channels, summed over voxels; both operands are read in place.

use crate::ops::cpu::simd::Level;

/// Most rows of a tile, for the slack that a panel needs behind its last row.
pub(super) const MOST_ROWS: usize = 14;
/// Most columns that [`Tiles::outer`] reads at once.
pub(super) const MOST_COLUMNS: usize = 48;

/// Operands of [`Tiles::rows`]: row `i` of A has its `k` values of line `l` at
/// `a + i * stride + lines[l]`, B is `[lines * k, width]`, C `[rows, c_stride]` is overwritten.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub a: *const f32,
    pub stride: usize,
    pub lines: &'a [usize],
    pub k: usize,
    pub b: *const f32,
    pub c: *mut f32,
    pub c_stride: usize,
}

/// Operands of [`Tiles::outer`]: `c[i, j] += sum_p a[p, i] b[p, j]` for `count` rows p.
#[derive(Clone, Copy)]
pub(super) struct Outer {
    pub count: usize,
    pub a: *const f32,
    pub a_stride: usize,
    pub b: *const f32,
    pub b_stride: usize,
    pub c: *mut f32,
    pub c_stride: usize,
}

/// The tiles of an instruction set.
#[derive(Clone, Copy)]
pub(super) struct Tiles {
    /// Rows of a tile of `rows`.
    pub mr: usize,
    /// Rows (output channels) and columns of a tile of `outer`.
    pub nr: usize,
    pub columns: usize,
    narrow: unsafe fn(Rows<'_>),
    /// Two vectors wide, where the registers hold the sums.
    wide: Option<unsafe fn(Rows<'_>)>,
    outer: unsafe fn(Outer),
}

impl Tiles {
    pub fn of(level: Level) -> Self {
        match level.available() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => Self {
                mr: 14,
                nr: 8,
                columns: 48,
                narrow: x86::rows_16_avx512,
                wide: Some(x86::rows_32_avx512),
                outer: x86::outer_avx512,
            },
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => Self {
                mr: 6,
                nr: 4,
                columns: 24,
                narrow: x86::rows_16_avx2,
                wide: None,
                outer: x86::outer_avx2,
            },
            _ => Self {
                mr: 4,
                nr: 4,
                columns: 24,
                narrow: portable::rows,
                wide: None,
                outer: portable::outer,
            },
        }
    }

    /// The panels of `n` columns, a multiple of 16: first column and width (16 or 32).
    pub fn panels(&self, n: usize) -> impl Iterator<Item = (usize, usize)> {
        let step = if self.wide.is_some() { 32 } else { 16 };
        (0..n).step_by(step).map(move |j| (j, step.min(n - j)))
    }

    /// A tile of `mr` rows and `width` (one of [`Tiles::panels`]) columns of C.
    ///
    /// # Safety
    /// A readable for `mr` rows, B for `lines * k` rows of `width`, C writable for `mr` x `width`.
    pub unsafe fn rows(&self, x: Rows<'_>, width: usize) {
        let tile = self.wide.filter(|_| width == 32).unwrap_or(self.narrow);
        // SAFETY: the CPU has the instructions (`of`), the operands are as promised.
        unsafe { tile(x) }
    }

    /// A tile of `nr` x `columns` of C.
    ///
    /// # Safety
    /// Of every row p, A readable for `nr` and B for `columns` values; C writable for the tile.
    pub unsafe fn outer(&self, x: Outer) {
        // SAFETY: as in `rows`.
        unsafe { (self.outer)(x) }
    }
}

mod portable {
    use super::{Outer, Rows};

    const MR: usize = 4;
    const NR: usize = 4;
    const COLUMNS: usize = 24;

    pub(super) unsafe fn rows(x: Rows<'_>) {
        const WIDTH: usize = 16;
        let mut sums = [[0.0f32; WIDTH]; MR];
        // SAFETY: see `Tiles::rows`.
        unsafe {
            for (l, line) in x.lines.iter().enumerate() {
                for p in 0..x.k {
                    let b = x.b.add((l * x.k + p) * WIDTH).cast::<[f32; WIDTH]>().read_unaligned();
                    for (i, sums) in sums.iter_mut().enumerate() {
                        let a = *x.a.add(i * x.stride + line + p);
                        sums.iter_mut().zip(&b).for_each(|(s, b)| *s += a * b);
                    }
                }
            }
            for (i, sums) in sums.iter().enumerate() {
                x.c.add(i * x.c_stride).cast::<[f32; WIDTH]>().write_unaligned(*sums);
            }
        }
    }

    pub(super) unsafe fn outer(x: Outer) {
        // SAFETY: see `Tiles::outer`.
        unsafe {
            let row = |i: usize| x.c.add(i * x.c_stride).cast::<[f32; COLUMNS]>();
            let mut sums: [[f32; COLUMNS]; NR] = std::array::from_fn(|i| row(i).read_unaligned());
            for p in 0..x.count {
                let b = x.b.add(p * x.b_stride).cast::<[f32; COLUMNS]>().read_unaligned();
                for (i, sums) in sums.iter_mut().enumerate() {
                    let a = *x.a.add(p * x.a_stride + i);
                    sums.iter_mut().zip(&b).for_each(|(s, b)| *s += a * b);
                }
            }
            sums.iter().enumerate().for_each(|(i, sums)| row(i).write_unaligned(*sums));
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Outer, Rows};
    use std::arch::x86_64::*;

    /// `$row` and `$vector` are listed, so that the loops over them are unrolled in the source: LLVM
    /// leaves some of them rolled otherwise, with all sums in memory.
    macro_rules! tiles {
        (@store $c:ident, $sums:expr, $store:ident, $lanes:expr, [0]) => {
            $store($c, $sums[0]);
        };
        (@store $c:ident, $sums:expr, $store:ident, $lanes:expr, [0 1]) => {
            $store($c, $sums[0]);
            $store($c.add($lanes), $sums[1]);
        };
        (@load $b:ident, $load:ident, $lanes:expr, [0]) => {
            [$load($b)]
        };
        (@load $b:ident, $load:ident, $lanes:expr, [0 1]) => {
            [$load($b), $load($b.add($lanes))]
        };
        (@each $sums:expr, $w:ident, $v:ident, $fma:ident, [0]) => {
            $sums[0] = $fma($v, $w[0], $sums[0]);
        };
        (@each $sums:expr, $w:ident, $v:ident, $fma:ident, [0 1]) => {
            $sums[0] = $fma($v, $w[0], $sums[0]);
            $sums[1] = $fma($v, $w[1], $sums[1]);
        };
        ($rows_name:ident, [$($row:literal)*], $mr:expr, $list:tt, $vectors:expr,
         $features:literal, $lanes:expr, $zero:ident, $load:ident, $store:ident, $set1:ident,
         $fma:ident) => {
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $rows_name(x: Rows<'_>) {
                let mut sums = [[$zero(); $vectors]; $mr];
                let rs = x.stride;
                // SAFETY: see `Tiles::rows`.
                unsafe {
                    let mut b = x.b;
                    for &line in x.lines {
                        // One pointer per three rows: x86 addresses reach +0, +1 and +2 strides.
                        let mut a: [*const f32; usize::div_ceil($mr, 3)] =
                            std::array::from_fn(|g| x.a.add(line + 3 * g * rs));
                        for _ in 0..x.k {
                            let w = tiles!(@load b, $load, $lanes, $list);
                            $({
                                let v = $set1(*a[$row / 3].add($row % 3 * rs));
                                tiles!(@each sums[$row], w, v, $fma, $list);
                            })*
                            a = a.map(|a| a.add(1));
                            b = b.add($vectors * $lanes);
                        }
                    }
                    $({
                        let c = x.c.add($row * x.c_stride);
                        tiles!(@store c, sums[$row], $store, $lanes, $list);
                    })*
                }
            }
        };
    }

    /// `$n` rows of three vectors.
    macro_rules! outer {
        ($name:ident, [$($row:literal)*], $n:expr, $features:literal, $lanes:expr, $load:ident,
         $store:ident, $set1:ident, $fma:ident) => {
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $name(x: Outer) {
                // SAFETY: see `Tiles::outer`.
                unsafe {
                    let at = |i: usize, j: usize| x.c.add(i * x.c_stride + j * $lanes);
                    let mut sums = [$([$load(at($row, 0)), $load(at($row, 1)), $load(at($row, 2))]),*];
                    let (mut a, mut b) = (x.a, x.b);
                    for _ in 0..x.count {
                        let v = [$load(b), $load(b.add($lanes)), $load(b.add(2 * $lanes))];
                        $({
                            let d = $set1(*a.add($row));
                            sums[$row][0] = $fma(d, v[0], sums[$row][0]);
                            sums[$row][1] = $fma(d, v[1], sums[$row][1]);
                            sums[$row][2] = $fma(d, v[2], sums[$row][2]);
                        })*
                        a = a.wrapping_add(x.a_stride);
                        b = b.wrapping_add(x.b_stride);
                    }
                    $(
                        $store(at($row, 0), sums[$row][0]);
                        $store(at($row, 1), sums[$row][1]);
                        $store(at($row, 2), sums[$row][2]);
                    )*
                }
            }
        };
    }

    tiles!(
        rows_16_avx512, [0 1 2 3 4 5 6 7 8 9 10 11 12 13], 14, [0], 1,
        "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma", 16, _mm512_setzero_ps, _mm512_loadu_ps,
        _mm512_storeu_ps, _mm512_set1_ps, _mm512_fmadd_ps
    );
    tiles!(
        rows_32_avx512, [0 1 2 3 4 5 6 7 8 9 10 11 12 13], 14, [0 1], 2,
        "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma", 16, _mm512_setzero_ps, _mm512_loadu_ps,
        _mm512_storeu_ps, _mm512_set1_ps, _mm512_fmadd_ps
    );
    tiles!(
        rows_16_avx2, [0 1 2 3 4 5], 6, [0 1], 2, "avx2,fma", 8, _mm256_setzero_ps,
        _mm256_loadu_ps, _mm256_storeu_ps, _mm256_set1_ps, _mm256_fmadd_ps
    );
    outer!(
        outer_avx512, [0 1 2 3 4 5 6 7], 8, "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma", 16,
        _mm512_loadu_ps, _mm512_storeu_ps, _mm512_set1_ps, _mm512_fmadd_ps
    );
    outer!(
        outer_avx2, [0 1 2 3], 4, "avx2,fma", 8, _mm256_loadu_ps, _mm256_storeu_ps,
        _mm256_set1_ps, _mm256_fmadd_ps
    );
}
