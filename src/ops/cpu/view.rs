//! Strided views of matrices, bounds-checked once at construction.

use crate::device::{Real, SameAsF32};
use crate::error::{Error, Result};

/// A strided view of a matrix: element `(i, j)` is `data[i * rs + j * cs]`.
#[derive(Debug)]
pub struct MatRef<'a, T = f32> {
    pub(crate) data: &'a [T],
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) rs: usize,
    pub(crate) cs: usize,
}

impl<T> Clone for MatRef<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for MatRef<'_, T> {}

impl<T: Copy> MatRef<'_, T> {
    /// Element `(i, j)`.
    pub fn at(&self, i: usize, j: usize) -> T {
        self.data[i * self.rs + j * self.cs]
    }
}

impl<'a, T: Real> MatRef<'a, T> {
    /// The view for code that is written for f32.
    pub(in crate::ops) fn of_f32(self, same: SameAsF32<T>) -> MatRef<'a> {
        let Self { data, rows, cols, rs, cs } = self;
        MatRef { data: same.of(data), rows, cols, rs, cs }
    }
}

impl<'a, T> MatRef<'a, T> {
    /// A row-major `rows` x `cols` matrix at the start of `data`. Errors: `Shape` if it is too short.
    pub fn new(data: &'a [T], rows: usize, cols: usize) -> Result<Self> {
        Self::strided(data, rows, cols, cols, 1)
    }

    /// A view with strides in elements. Errors: `Shape` when an element would lie outside `data`.
    pub fn strided(data: &'a [T], rows: usize, cols: usize, rs: usize, cs: usize) -> Result<Self> {
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

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The transposed view.
    pub fn t(self) -> Self {
        Self { rows: self.cols, cols: self.rows, rs: self.cs, cs: self.rs, ..self }
    }
}

/// Elements from the first to behind the last one of a view; `None` when that overflows.
pub(crate) fn extent(rows: usize, cols: usize, rs: usize, cs: usize) -> Option<usize> {
    if rows == 0 || cols == 0 {
        return Some(0);
    }
    (rows - 1).checked_mul(rs)?.checked_add((cols - 1).checked_mul(cs)?)?.checked_add(1)
}
