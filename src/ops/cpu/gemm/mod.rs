//! Single-precision matrix product `C = alpha A B + beta C` with fused epilogues.
//!
//! A and B are strided views, so the three products of a linear layer (`x Wᵀ`, `dy W`, `dyᵀ x`) need
//! no transposed copies. The blocking is that of Goto and van de Geijn ("Anatomy of high-performance
//! matrix multiplication", ACM TOMS 2008): B is packed once per block of k and shared by all threads,
//! A is read in place (or packed when its rows are not contiguous), C is updated tile by tile.
//!
//! Numerics: f32 accumulation in the order of k, in blocks of at most `KC`; an element's bits depend
//! on its row of A, its column of B and k, not on m, n, the position or the number of threads.

use crate::error::{Error, Result};
use crate::ops::cpu::epilogue::Finish;
use crate::ops::cpu::kernel::{Operands, Scale, Tile};
use crate::ops::cpu::pack::{pack_a_panel, pack_b_panel};
use crate::ops::cpu::par::{Shared, for_each_block, for_each_task};
use crate::ops::cpu::scratch::Scratch;
use crate::ops::cpu::simd::Level;
use crate::ops::cpu::view::extent;

pub use crate::ops::cpu::epilogue::Epilogue;
pub use crate::ops::cpu::view::MatRef;

/// Longest run of k between two visits of C; a B panel of 32 columns then fills 32 KiB of L1.
const KC: usize = 256;
/// Rows of A per task: 112 x 256 floats stay in L2 while the panels of B pass by.
const MC: usize = 112;
/// Panels of C (of 32 columns) between two runs of the epilogue: 112 x 256 floats.
const FINISH_PANELS: usize = 8;
/// Elements of B packed ahead (4 MiB), a part of a last-level cache.
const PACKED: usize = 1 << 20;
/// Products below this many multiply-adds stay on the calling thread.
const PARALLEL_FROM: usize = 1 << 17;

/// `C = alpha A B + beta C`, then the epilogue.
///
/// Shapes: A `[m, k]`, B `[k, n]`, C `[m, n]` with row stride `c_rs` and contiguous columns. With
/// `beta == 0` the former contents of C are not read.
///
/// Errors: `Shape` when the views do not fit together or C or an epilogue operand has the wrong size.
pub fn gemm(
    alpha: f32,
    a: MatRef,
    b: MatRef,
    beta: f32,
    c: &mut [f32],
    c_rs: usize,
    epilogue: Epilogue,
) -> Result<()> {
    gemm_at(Level::detected(), alpha, a, b, beta, c, c_rs, epilogue)
}

#[allow(clippy::too_many_arguments)]
pub(crate) fn gemm_at(
    level: Level,
    alpha: f32,
    a: MatRef,
    b: MatRef,
    beta: f32,
    c: &mut [f32],
    c_rs: usize,
    epilogue: Epilogue,
) -> Result<()> {
    let (m, n, k) = check(&a, &b, c.len(), c_rs)?;
    epilogue.check(m, n)?;
    if m == 0 || n == 0 {
        return Ok(());
    }
    let finish = Finish::new(epilogue, n, level);
    let c = Shared::new(c);
    let scale = Scale { alpha, beta };
    match Tile::of(level) {
        Some(tile) if k > 0 => blocked(&tile, a, b, scale, &c, c_rs, &finish),
        _ => portable(a, b, scale, &c, c_rs, &finish),
    }
    Ok(())
}

/// The sizes (m, n, k), or what does not fit.
fn check<T>(a: &MatRef<T>, b: &MatRef<T>, c: usize, c_rs: usize) -> Result<(usize, usize, usize)> {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    if b.rows != k {
        return Err(Error::shape("gemm", format!("B with {k} rows"), format!("{} rows", b.rows)));
    }
    if c_rs < n || extent(m, n, c_rs, 1).is_none_or(|need| need > c) {
        return Err(Error::shape(
            "gemm",
            format!("C with room for {m} x {n}, row stride {c_rs}"),
            format!("{c} elements"),
        ));
    }
    Ok((m, n, k))
}

/// Even blocks of k, none longer than `KC`.
fn k_blocks(k: usize) -> impl Iterator<Item = (usize, usize)> {
    let count = k.div_ceil(KC).max(1);
    (0..count).map(move |i| (i * k / count, (i + 1) * k / count - i * k / count))
}

/// How C is cut into tasks: rows per task (a multiple of `mr`) and panels of B per task.
fn partition(tile: &Tile, m: usize, n: usize, k: usize) -> (usize, usize) {
    let panels = n.div_ceil(tile.nr);
    let mc = MC / tile.mr * tile.mr;
    if m * n * k < PARALLEL_FROM {
        return (m.next_multiple_of(tile.mr), panels);
    }
    let wanted = 4 * rayon::current_num_threads();
    let rows = m.div_ceil(wanted).next_multiple_of(tile.mr).clamp(4 * tile.mr, mc.max(4 * tile.mr));
    let groups = wanted.div_ceil(m.div_ceil(rows)).clamp(1, panels.div_ceil(2));
    (rows, panels.div_ceil(groups))
}

fn blocked(
    tile: &Tile,
    a: MatRef,
    b: MatRef,
    scale: Scale,
    c: &Shared,
    c_rs: usize,
    finish: &Finish,
) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    let (rows, panels_per_task) = partition(tile, m, n, k);
    let panels = n.div_ceil(tile.nr);
    let (row_tasks, column_tasks) = (m.div_ceil(rows), panels.div_ceil(panels_per_task));
    let width = panels * tile.nr;
    let blocks: Vec<_> = k_blocks(k).collect();
    // Several blocks of k between two meetings of the threads, as many as PACKED allows.
    let group = (PACKED / (k.min(KC) * width)).max(1);
    let mut packed = Scratch::new(k.min(group * KC) * width);
    for blocks in blocks.chunks(group) {
        let start = blocks[0].0;
        pack_b(tile, &b, blocks, &mut packed);
        let packed: &[f32] = &packed;
        let task = |task: usize| {
            let (ti, tj) = (task / column_tasks, task % column_tasks);
            let (i0, i1) = (ti * rows, m.min((ti + 1) * rows));
            let (q0, q1) = (tj * panels_per_task, panels.min((tj + 1) * panels_per_task));
            let (j0, j1) = (q0 * tile.nr, n.min(q1 * tile.nr));
            for &(p, kc) in blocks {
                let beta = if p == 0 { scale.beta } else { 1.0 };
                let scale = Scale { alpha: scale.alpha, beta };
                let packed = &packed[(p - start) * width..];
                // With an epilogue, few columns at a time, so that they are finished while in
                // cache; without, all at once, so that A is packed at most once.
                let finish_now = p + kc == k && finish.is_needed();
                let step = if finish_now { FINISH_PANELS * tile.nr } else { j1 - j0 };
                for j0 in (j0..j1).step_by(step) {
                    let j1 = j1.min(j0 + step);
                    // SAFETY: tasks are disjoint rectangles of C, which has room for m rows of n
                    // columns at stride c_rs (checked by `gemm_at`); `packed` holds every panel.
                    unsafe {
                        let c0 = c.at(i0 * c_rs);
                        let panels = &packed[j0 * kc..];
                        multiply(tile, &a, (i0, i1), (p, kc), panels, (j0, j1), scale, c0, c_rs);
                        if finish_now {
                            for i in i0..i1 {
                                finish.row(i, j0, c.part(i * c_rs + j0..i * c_rs + j1));
                            }
                        }
                    }
                }
            }
        };
        for_each_task(row_tasks * column_tasks, task);
    }
}

/// Packs the rows of `blocks` (start, length) of all of B: block after block, panel after panel.
fn pack_b(tile: &Tile, b: &MatRef, blocks: &[(usize, usize)], packed: &mut [f32]) {
    let (n, nr) = (b.cols, tile.nr);
    let panels = n.div_ceil(nr);
    let packed = Shared::new(packed);
    let pack = |i: usize| {
        let ((p, kc), q) = (blocks[i / panels], i % panels);
        let at = (p - blocks[0].0) * panels * nr + q * nr * kc;
        // SAFETY: each panel is written by one task.
        let panel = unsafe { packed.part(at..at + nr * kc) };
        pack_b_panel(b, p, kc, q * nr, nr.min(n - q * nr), nr, panel);
    };
    let all = blocks.len() * panels;
    let elements: usize = blocks.iter().map(|x| x.1 * n).sum();
    if elements < 1 << 14 {
        (0..all).for_each(pack);
    } else {
        let share = all.div_ceil(4 * rayon::current_num_threads());
        for_each_block(all, share, |_, range| range.for_each(pack));
    }
}

/// Packs a whole B for [`multiply`], as panels of `tile.nr` columns, on this thread.
pub(crate) fn pack_whole_b(tile: &Tile, b: &MatRef, packed: &mut [f32]) {
    let (n, k, nr) = (b.cols, b.rows, tile.nr);
    for (q, panel) in packed[..n.div_ceil(nr) * nr * k].chunks_exact_mut(nr * k).enumerate() {
        pack_b_panel(b, 0, k, q * nr, nr.min(n - q * nr), nr, panel);
    }
}

/// Rows `i0..i1` of A (columns `p..p + kc`) times packed panels, into columns `j0..j1` of those rows
/// of C, on this thread. `c` points at column 0 of row `i0`; `packed` starts with the panel of `j0`.
///
/// # Safety
/// C must be writable there by this thread alone; the ranges must lie in A and the panels in `packed`.
#[allow(clippy::too_many_arguments)]
pub(crate) unsafe fn multiply(
    tile: &Tile,
    a: &MatRef,
    (i0, i1): (usize, usize),
    (p, kc): (usize, usize),
    packed: &[f32],
    (j0, j1): (usize, usize),
    scale: Scale,
    c: *mut f32,
    c_rs: usize,
) {
    let Tile { mr, nr, .. } = *tile;
    let (rows, panels) = (i1 - i0, (j1 - j0).div_ceil(nr));
    assert!(packed.len() >= panels * nr * kc);
    // Stride 0 (a broadcast row) is the tile's mark of a packed panel.
    let direct = a.cs == 1 && a.rs != 0;
    // Panels of A that cannot be read in place: all of them, or the ragged last one.
    let whole = if direct { rows / mr } else { 0 };
    let blocks = rows.div_ceil(mr);
    let mut packed_a = Scratch::new((blocks - whole) * mr * kc);
    for (block, panel) in (whole..blocks).zip(packed_a.chunks_exact_mut((mr * kc).max(1))) {
        pack_a_panel(a, i0 + block * mr, mr.min(rows - block * mr), p, kc, mr, panel);
    }
    for q in 0..panels {
        let b = packed[q * nr * kc..].as_ptr();
        let (j, cols) = (j0 + q * nr, nr.min(j1 - j0 - q * nr));
        for block in 0..blocks {
            let i = block * mr;
            let (source, a_rs) = if block < whole {
                (a.data[(i0 + i) * a.rs + p..].as_ptr(), a.rs)
            } else {
                (packed_a[(block - whole) * mr * kc..].as_ptr(), 0)
            };
            // SAFETY: whole blocks lie in A (its view was checked), the others were packed to full
            // size; panels of B are padded; C by the caller's promise.
            unsafe {
                let c = c.add(i * c_rs + j);
                let operands = Operands { k: kc, a: source, a_rs, b, c, c_rs };
                tile.run(operands, scale, mr.min(rows - i), cols);
            }
        }
    }
}

/// The path without a tile of our own (no AVX2): `matrixmultiply` over blocks of rows.
fn portable(a: MatRef, b: MatRef, scale: Scale, c: &Shared, c_rs: usize, finish: &Finish) {
    let (n, k) = (b.cols, a.cols);
    for_each_block(a.rows, MC, |_, range| {
        // SAFETY: the views were checked; blocks of rows are disjoint.
        unsafe {
            matrixmultiply::sgemm(
                range.len(),
                k,
                n,
                scale.alpha,
                a.data.as_ptr().wrapping_add(range.start * a.rs),
                a.rs as isize,
                a.cs as isize,
                b.data.as_ptr(),
                b.rs as isize,
                b.cs as isize,
                scale.beta,
                c.at(range.start * c_rs),
                c_rs as isize,
                1,
            );
            for i in range {
                finish.row(i, 0, c.part(i * c_rs..i * c_rs + n));
            }
        }
    });
}

#[cfg(test)]
mod tests;
