//! Copies of A and B in the order in which the register tile reads them.

use crate::ops::cpu::view::MatRef;

/// Packs columns `j..j + cols` (at most `nr`) of rows `p..p + k` of B into one panel
/// `[k][nr]`, padded with zeros.
pub(crate) fn pack_b_panel(
    b: &MatRef,
    p: usize,
    k: usize,
    j: usize,
    cols: usize,
    nr: usize,
    panel: &mut [f32],
) {
    let panel = &mut panel[..k * nr];
    if b.cs == 1 {
        for (row, out) in panel.chunks_exact_mut(nr).enumerate() {
            let at = (p + row) * b.rs + j;
            let source = &b.data[at..at + cols];
            out[..cols].copy_from_slice(source);
            out[cols..].fill(0.0);
        }
        return;
    }
    if cols < nr {
        panel.fill(0.0);
    }
    if b.rs == 1 {
        // B is stored by columns: transpose blocks of 8 x 8.
        let mut column = 0;
        while column + 8 <= cols {
            let mut row = 0;
            while row + 8 <= k {
                let mut block = [[0.0f32; 8]; 8];
                for (c, line) in block.iter_mut().enumerate() {
                    let at = p + row + (j + column + c) * b.cs;
                    line.copy_from_slice(&b.data[at..at + 8]);
                }
                transpose8(&block, &mut panel[row * nr + column..], nr);
                row += 8;
            }
            copy_strided(b, p, row..k, j, column..column + 8, nr, panel);
            column += 8;
        }
        return copy_strided(b, p, 0..k, j, column..cols, nr, panel);
    }
    copy_strided(b, p, 0..k, j, 0..cols, nr, panel);
}

fn copy_strided(
    b: &MatRef,
    p: usize,
    rows: std::ops::Range<usize>,
    j: usize,
    columns: std::ops::Range<usize>,
    nr: usize,
    panel: &mut [f32],
) {
    for row in rows {
        for column in columns.clone() {
            panel[row * nr + column] = b.data[(p + row) * b.rs + (j + column) * b.cs];
        }
    }
}

/// `out[r * stride + c] = block[c][r]`.
#[inline]
fn transpose8(block: &[[f32; 8]; 8], out: &mut [f32], stride: usize) {
    assert!(out.len() >= 7 * stride + 8);
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::*;
        // SAFETY: SSE is part of x86-64; the assertion above bounds every store.
        unsafe {
            for half in 0..2 {
                for quarter in 0..2 {
                    let line =
                        |c: usize| _mm_loadu_ps(block[4 * half + c].as_ptr().add(4 * quarter));
                    let (mut r0, mut r1, mut r2, mut r3) = (line(0), line(1), line(2), line(3));
                    _MM_TRANSPOSE4_PS(&mut r0, &mut r1, &mut r2, &mut r3);
                    for (r, v) in [r0, r1, r2, r3].into_iter().enumerate() {
                        _mm_storeu_ps(
                            out.as_mut_ptr().add((4 * quarter + r) * stride + 4 * half),
                            v,
                        );
                    }
                }
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    for (c, line) in block.iter().enumerate() {
        for (r, v) in line.iter().enumerate() {
            out[r * stride + c] = *v;
        }
    }
}

/// Packs rows `i..i + rows` (at most `mr`) of columns `p..p + k` of A as `[k][mr]`, padded with
/// zeros.
pub(crate) fn pack_a_panel(
    a: &MatRef,
    i: usize,
    rows: usize,
    p: usize,
    k: usize,
    mr: usize,
    panel: &mut [f32],
) {
    let panel = &mut panel[..k * mr];
    if a.rs == 1 && rows == mr {
        // The case of weight gradients; a constant length copies without a call.
        match mr {
            14 => return copy_columns::<14>(a, i, p, panel),
            6 => return copy_columns::<6>(a, i, p, panel),
            _ => {}
        }
    }
    for (column, out) in panel.chunks_exact_mut(mr).enumerate() {
        for (row, v) in out.iter_mut().enumerate() {
            *v = if row < rows { a.data[(i + row) * a.rs + (p + column) * a.cs] } else { 0.0 };
        }
    }
}

fn copy_columns<const MR: usize>(a: &MatRef, i: usize, p: usize, panel: &mut [f32]) {
    for (column, out) in panel.chunks_exact_mut(MR).enumerate() {
        let at = i + (p + column) * a.cs;
        out.copy_from_slice(&a.data[at..at + MR]);
    }
}
