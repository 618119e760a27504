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
use crate::ops::cpu::kernel::{Operands, Scale, Tile};
use crate::ops::cpu::math;
use crate::ops::cpu::pack::{pack_a_panel, pack_b_panel};
use crate::ops::cpu::par::{Shared, for_each_block, for_each_task};
use crate::ops::cpu::scratch::Scratch;
use crate::ops::cpu::simd::Level;

/// Longest run of k between two visits of C; a B panel of 32 columns then fills 32 KiB of L1.
const KC: usize = 256;
/// Rows of A per task: 112 x 256 floats stay in L2 while the panels of B pass by.
const MC: usize = 112;
/// Products below this many multiply-adds stay on the calling thread.
const PARALLEL_FROM: usize = 1 << 17;

/// A strided view of a matrix: element `(i, j)` is `data[i * rs + j * cs]`.
#[derive(Clone, Copy, Debug)]
pub struct MatRef<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) rs: usize,
    pub(crate) cs: usize,
}

impl<'a> MatRef<'a> {
    /// A row-major `rows` x `cols` matrix at the start of `data`. Errors: `Shape` if it is too short.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Result<Self> {
        Self::strided(data, rows, cols, cols, 1)
    }

    /// A view with strides in elements. Errors: `Shape` when an element would lie outside `data`.
    pub fn strided(
        data: &'a [f32],
        rows: usize,
        cols: usize,
        rs: usize,
        cs: usize,
    ) -> Result<Self> {
        let need = extent(rows, cols, rs, cs);
        if need.is_none_or(|need| need > data.len()) {
            return Err(Error::shape(
                "gemm",
                format!("room for {rows} x {cols} with strides {rs}, {cs}"),
                format!("{} elements", data.len()),
            ));
        }
        Ok(Self { data, rows, cols, rs, cs })
    }

    /// The transposed view.
    pub fn t(self) -> Self {
        Self { rows: self.cols, cols: self.rows, rs: self.cs, cs: self.rs, ..self }
    }
}

fn extent(rows: usize, cols: usize, rs: usize, cs: usize) -> Option<usize> {
    if rows == 0 || cols == 0 {
        return Some(0);
    }
    (rows - 1).checked_mul(rs)?.checked_add((cols - 1).checked_mul(cs)?)?.checked_add(1)
}

/// What is done to a row of C while it is still in cache, in this order. Matrices are `[m, n]`
/// row-major without gaps.
#[derive(Default)]
pub struct Epilogue<'a> {
    /// Adds this row `[n]` to every row.
    pub bias: Option<&'a [f32]>,
    /// Saves the value so far here and continues with its exact GELU.
    pub gelu: Option<&'a mut [f32]>,
    /// Multiplies by the derivative of GELU at this saved pre-activation.
    pub gelu_grad: Option<&'a [f32]>,
    /// Adds this matrix.
    pub residual: Option<&'a [f32]>,
}

impl Epilogue<'_> {
    fn check(&self, m: usize, n: usize) -> Result<()> {
        let full = m.saturating_mul(n);
        let bad = |what: &str, expected: usize, got: usize| {
            Err(Error::shape("gemm", format!("{what} of {expected} elements"), got.to_string()))
        };
        if let Some(x) = self.bias.filter(|x| x.len() != n) {
            return bad("bias", n, x.len());
        }
        if let Some(x) = self.gelu.as_ref().filter(|x| x.len() != full) {
            return bad("pre-activation", full, x.len());
        }
        for (what, x) in [("pre-activation", self.gelu_grad), ("residual", self.residual)] {
            if let Some(x) = x.filter(|x| x.len() != full) {
                return bad(what, full, x.len());
            }
        }
        Ok(())
    }
}

/// The epilogue with its output shared between threads.
struct Finish<'a> {
    bias: Option<&'a [f32]>,
    gelu: Option<Shared<'a>>,
    gelu_grad: Option<&'a [f32]>,
    residual: Option<&'a [f32]>,
    n: usize,
    level: Level,
}

impl Finish<'_> {
    /// Finishes the elements of row `i` from column `j` on.
    ///
    /// # Safety
    /// No other thread may work on the same elements.
    unsafe fn row(&self, i: usize, j: usize, c: &mut [f32]) {
        let at = i * self.n + j;
        let range = at..at + c.len();
        if let Some(bias) = self.bias {
            for (c, b) in c.iter_mut().zip(&bias[j..]) {
                *c += b;
            }
        }
        if let Some(pre) = &self.gelu {
            // SAFETY: the caller owns these elements.
            let pre = unsafe { pre.part(range.clone()) };
            pre.copy_from_slice(c);
            math::gelu_at(self.level, c, pre);
        }
        if let Some(pre) = self.gelu_grad {
            math::gelu_backward_at(self.level, c, &pre[range.clone()]);
        }
        if let Some(residual) = self.residual {
            for (c, r) in c.iter_mut().zip(&residual[range]) {
                *c += r;
            }
        }
    }
}

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
    let (m, n, k) = (a.rows, b.cols, a.cols);
    if b.rows != k {
        return Err(Error::shape("gemm", format!("B with {k} rows"), format!("{} rows", b.rows)));
    }
    if c_rs < n || extent(m, n, c_rs, 1).is_none_or(|need| need > c.len()) {
        return Err(Error::shape(
            "gemm",
            format!("C with room for {m} x {n}, row stride {c_rs}"),
            format!("{} elements", c.len()),
        ));
    }
    epilogue.check(m, n)?;
    if m == 0 || n == 0 {
        return Ok(());
    }
    let finish = Finish {
        bias: epilogue.bias,
        gelu: epilogue.gelu.map(Shared::new),
        gelu_grad: epilogue.gelu_grad,
        residual: epilogue.residual,
        n,
        level,
    };
    let c = Shared::new(c);
    let scale = Scale { alpha, beta };
    match Tile::of(level) {
        Some(tile) if k > 0 => blocked(&tile, a, b, scale, &c, c_rs, &finish),
        _ => portable(a, b, scale, &c, c_rs, &finish),
    }
    Ok(())
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
    let mut packed = Scratch::new(k.min(KC) * panels * tile.nr);
    for (p, kc) in k_blocks(k) {
        let (first, last) = (p == 0, p + kc == k);
        let scale = Scale { alpha: scale.alpha, beta: if first { scale.beta } else { 1.0 } };
        pack_b(tile, &b, p, kc, &mut packed);
        let packed: &[f32] = &packed;
        let block = |task: usize| {
            let (ti, tj) = (task / column_tasks, task % column_tasks);
            let (i0, i1) = (ti * rows, m.min((ti + 1) * rows));
            let (q0, q1) = (tj * panels_per_task, panels.min((tj + 1) * panels_per_task));
            let (j0, j1) = (q0 * tile.nr, n.min(q1 * tile.nr));
            // SAFETY: tasks are disjoint rectangles of C, which has room for m rows of n columns
            // at stride c_rs (checked by `gemm_at`); `packed` holds every panel.
            unsafe {
                let c0 = c.at(i0 * c_rs);
                multiply(
                    tile,
                    &a,
                    (i0, i1),
                    (p, kc),
                    &packed[q0 * tile.nr * kc..],
                    (j0, j1),
                    scale,
                    c0,
                    c_rs,
                );
                if last {
                    for i in i0..i1 {
                        finish.row(i, j0, c.part(i * c_rs + j0..i * c_rs + j1));
                    }
                }
            }
        };
        if row_tasks * column_tasks == 1 {
            block(0);
        } else {
            for_each_task(row_tasks * column_tasks, block);
        }
    }
}

/// Packs rows `p..p + kc` of all of B, panel after panel.
fn pack_b(tile: &Tile, b: &MatRef, p: usize, kc: usize, packed: &mut [f32]) {
    let (n, nr) = (b.cols, tile.nr);
    let panels = n.div_ceil(nr);
    let packed = Shared::new(packed);
    let pack = |q: usize| {
        // SAFETY: each panel is written by one task.
        let panel = unsafe { packed.part(q * nr * kc..(q + 1) * nr * kc) };
        pack_b_panel(b, p, kc, q * nr, nr.min(n - q * nr), nr, panel);
    };
    if kc * n < 1 << 14 {
        (0..panels).for_each(pack);
    } else {
        let share = panels.div_ceil(2 * rayon::current_num_threads());
        for_each_block(panels, share, |_, range| range.for_each(pack));
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
mod tests {
    use super::*;
    use crate::ops::cpu::simd::levels;
    use crate::ops::cpu::testing::{assert_close, normal, same_bits_for_any_threads};

    /// A matrix in one of three storage orders, with spare elements between rows for the third.
    fn view(data: &[f32], rows: usize, cols: usize, order: usize) -> MatRef<'_> {
        match order {
            0 => MatRef::strided(data, rows, cols, cols + 3, 1),
            1 => MatRef::strided(data, rows, cols, 1, rows + 5),
            _ => MatRef::strided(data, rows, cols, 2 * cols, 2),
        }
        .unwrap()
    }

    fn reference(alpha: f32, a: &MatRef, b: &MatRef, beta: f32, c: &[f32], c_rs: usize) -> Vec<f64> {
        let at = |x: &MatRef, i: usize, j: usize| f64::from(x.data[i * x.rs + j * x.cs]);
        let mut out = Vec::new();
        for i in 0..a.rows {
            for j in 0..b.cols {
                let sum: f64 = (0..a.cols).map(|p| at(a, i, p) * at(b, p, j)).sum();
                let old = if beta == 0.0 { 0.0 } else { f64::from(c[i * c_rs + j]) };
                out.push(f64::from(alpha) * sum + f64::from(beta) * old);
            }
        }
        out
    }

    fn norms(x: &MatRef) -> Vec<f64> {
        let row = |i| (0..x.cols).map(move |j| f64::from(x.data[i * x.rs + j * x.cs]).powi(2));
        (0..x.rows).map(|i| row(i).sum::<f64>().sqrt()).collect()
    }

    #[test]
    fn gemm_matches_f64_in_all_layouts_and_levels() {
        let sizes = [(1, 1, 1), (1, 33, 7), (13, 31, 5), (14, 32, 64), (15, 65, 257), (29, 48, 300)];
        let sizes = sizes.into_iter().chain([(127, 97, 513), (250, 192, 96), (3, 1, 1009)]);
        for (case, (m, n, k)) in sizes.enumerate() {
            let room = 2 * (m + n + k + 10) * (k.max(m).max(n) + 10);
            let (x, w) = (normal(case as u64, room), normal(100 + case as u64, room));
            for order in 0..9 {
                let (a, b) = (view(&x, m, k, order / 3), view(&w, k, n, order % 3));
                let (alpha, beta) = [(1.0, 0.0), (0.5, 1.0), (-1.25, 0.75)][order % 3];
                let c_rs = n + order;
                // What beta 0 must not read.
                let old = if beta == 0.0 { vec![f32::NAN; m * c_rs] } else { normal(7, m * c_rs) };
                let want = reference(alpha, &a, &b, beta, &old, c_rs);
                let (na, nb) = (norms(&a), norms(&b.t()));
                for level in levels() {
                    let mut c = old.clone();
                    let none = Epilogue::default();
                    gemm_at(level, alpha, a, b, beta, &mut c, c_rs, none).unwrap();
                    let got: Vec<f32> =
                        (0..m * n).map(|e| c[e / n * c_rs + e % n]).collect();
                    let bound = 8.0 * f64::from(f32::EPSILON) * (k as f64).sqrt();
                    let name = format!("{m}x{n}x{k} layouts {order} {level:?}");
                    assert_close(&name, &got, &want, |e| {
                        bound * (na[e / n] * nb[e % n] + want[e].abs() + 1e-6)
                    });
                    for (e, v) in c.iter().enumerate().filter(|(e, _)| e % c_rs >= n) {
                        assert_eq!(v.to_bits(), old[e].to_bits(), "{name} wrote between rows");
                    }
                }
            }
        }
    }

    #[test]
    fn gemm_keeps_its_bits_for_any_number_of_threads_and_any_block() {
        let (m, n, k) = (301, 203, 307);
        let (x, w) = (normal(1, m * k), normal(2, k * n));
        let product = |x: &[f32], rows: usize| {
            let mut c = vec![0.0; rows * n];
            let (a, b) = (MatRef::new(x, rows, k).unwrap(), MatRef::new(&w, k, n).unwrap());
            gemm(1.0, a, b, 0.0, &mut c, n, Epilogue::default()).unwrap();
            c
        };
        same_bits_for_any_threads(|| product(&x, m));
        same_bits_for_any_threads(|| {
            let mut c = vec![0.0; n * n];
            let a = MatRef::new(&w, k, n).unwrap();
            gemm(1.0, a.t(), a, 0.0, &mut c, n, Epilogue::default()).unwrap();
            c
        });
        if Level::detected() > Level::Baseline {
            let whole = product(&x, m);
            for row in [0, 13, 14, 157, 300] {
                let one = product(&x[row * k..(row + 1) * k], 1);
                assert_eq!(one, whole[row * n..(row + 1) * n], "row {row} alone");
            }
        }
    }

    #[test]
    fn epilogues_equal_the_separate_operations() {
        let (m, n, k) = (37, 45, 20);
        let (x, w, bias) = (normal(3, m * k), normal(4, n * k), normal(5, n));
        let (residual, saved) = (normal(6, m * n), normal(7, m * n));
        let (a, b) = (MatRef::new(&x, m, k).unwrap(), MatRef::new(&w, n, k).unwrap().t());
        for level in levels() {
            let mut plain = vec![0.0; m * n];
            gemm_at(level, 1.0, a, b, 0.0, &mut plain, n, Epilogue::default()).unwrap();
            let biased: Vec<f32> = (0..m * n).map(|e| plain[e] + bias[e % n]).collect();
            let mut want = vec![0.0; m * n];
            math::gelu_at(level, &mut want, &biased);
            want.iter_mut().zip(&residual).for_each(|(w, r)| *w += r);
            let (mut got, mut pre) = (vec![0.0; m * n], vec![0.0; m * n]);
            let epilogue = Epilogue {
                bias: Some(&bias),
                gelu: Some(&mut pre),
                residual: Some(&residual),
                ..Epilogue::default()
            };
            gemm_at(level, 1.0, a, b, 0.0, &mut got, n, epilogue).unwrap();
            assert_eq!(pre, biased, "{level:?}");
            assert_eq!(got, want, "{level:?}");

            math::gelu_backward_at(level, &mut plain, &saved);
            let epilogue = Epilogue { gelu_grad: Some(&saved), ..Epilogue::default() };
            gemm_at(level, 1.0, a, b, 0.0, &mut got, n, epilogue).unwrap();
            assert_eq!(got, plain, "{level:?}");
        }
    }

    #[test]
    fn gemm_refuses_what_does_not_fit() {
        let data = [0.0; 12];
        assert!(MatRef::new(&data, 3, 5).is_err());
        assert!(MatRef::strided(&data, usize::MAX, 2, usize::MAX, 1).is_err());
        let (a, b) = (MatRef::new(&data, 3, 4).unwrap(), MatRef::new(&data, 4, 3).unwrap());
        let none = Epilogue::default;
        assert!(gemm(1.0, a, a, 0.0, &mut [0.0; 16], 4, none()).is_err());
        assert!(gemm(1.0, a, b, 0.0, &mut [0.0; 8], 3, none()).is_err());
        assert!(gemm(1.0, a, b, 0.0, &mut [0.0; 9], 2, none()).is_err());
        let short = Epilogue { bias: Some(&data[..2]), ..none() };
        assert!(gemm(1.0, a, b, 0.0, &mut [0.0; 9], 3, short).is_err());
        let mut empty: [f32; 0] = [];
        let nothing = MatRef::new(&data, 0, 4).unwrap();
        assert!(gemm(1.0, nothing, b, 0.0, &mut empty, 3, none()).is_ok());
        // k = 0: the sum is empty, the epilogue still applies.
        let (a, b) = (MatRef::new(&data, 2, 0).unwrap(), MatRef::new(&data, 0, 2).unwrap());
        let (mut c, bias) = ([f32::NAN; 4], [1.0, 2.0]);
        let biased = Epilogue { bias: Some(&bias), ..none() };
        gemm(1.0, a, b, 0.0, &mut c, 2, biased).unwrap();
        assert_eq!(c, [1.0, 2.0, 1.0, 2.0]);
    }
}
