//! What `wgmma.mma_async` computes (section 9.7.15.5): D = A * B + D, or A * B, with A of 64 rows,
//! B of N columns, K of 32 bytes, and sums in f32.
//!
//! Only the mathematics: an operand is unpacked into a [`Matrix`] by whoever knows when it is read,
//! and [`Wgmma::accumulate_warp`] adds the product to the registers of a warp.
//!
//! # Registers
//!
//! Warp w of the warpgroup (its rank modulo 4) has rows 16w to 16w + 15. In figure 149, register
//! 4j + 2h + e of a lane is
//!
//! ```text
//! row 16w + lane / 4 + 8h, column 8j + 2 (lane % 4) + e
//!
//!   column    0    1    2    3    4    5    6    7  |  8 ..
//! row 0       T0 d0,d1  T1 d0,d1  T2 d0,d1  T3 d0,d1|  T0 d4,d5 ..
//!     1       T4 d0,d1  T5 ..
//!     ..
//!     8       T0 d2,d3  T1 d2,d3  ..                |  T0 d6,d7 ..
//! ```
//!
//! A in registers is laid out as that of `mma.m16n8k16` (figure 148) or, for tf32, as that of
//! `mma.m16n8k8` (figure 150).
//!
//! # Sums
//!
//! The manual leaves order and rounding open ("at least single precision"). Each product is added by a fused
//! multiplication and addition, in one of the orders of [`SumOrder`], so that what depends on the order shows.

use std::fmt;

use half::f16;

use super::descriptor::{Descriptor, K_BYTES, Major};
pub use crate::arith::mma::SumOrder;
use crate::arith::mma::add_and_cut_off;
use crate::program::lanes::is_wide;

#[cfg(test)]
mod tests;

/// A register of the 32 lanes of a warp.
pub type Lanes = [u32; 32];

/// The element type of A and B.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    F16,
    Bf16,
    /// 32 bits, of which the lower 13 are cut off.
    Tf32,
}

impl Input {
    pub fn bytes(self) -> u32 {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::Tf32 => 4,
        }
    }

    /// K of one instruction.
    pub fn k(self) -> usize {
        (K_BYTES / self.bytes()) as usize
    }

    /// The value of an element's bits.
    fn value(self, bits: u32) -> f32 {
        match self {
            Self::F16 => f16::from_bits(bits as u16).to_f32(),
            Self::Bf16 => f32::from_bits(bits << 16),
            Self::Tf32 => f32::from_bits(bits & !0x1fff),
        }
    }

    /// The values of four bytes, lowest first.
    fn values(self, word: u32) -> impl Iterator<Item = f32> {
        let (count, width) = (4 / self.bytes(), 8 * self.bytes());
        (0..count).map(move |i| {
            let bits = word >> (i * width);
            self.value(if width == 16 { bits & 0xffff } else { bits })
        })
    }
}

/// Elements of one operand as f32.
///
/// In blocks of 8 rows of A or columns of B, each as k x 8: element (mn, k) is at
/// `(mn / 8 * k_count + k) * 8 + mn % 8`.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    k_count: usize,
    values: Vec<f32>,
}

impl Matrix {
    fn zeros(mn_count: usize, k_count: usize) -> Self {
        Self { k_count, values: vec![0.0; mn_count * k_count] }
    }

    fn index(&self, mn: usize, k: usize) -> usize {
        (mn / 8 * self.k_count + k) * 8 + mn % 8
    }

    fn set(&mut self, mn: usize, k: usize, value: f32) {
        let index = self.index(mn, k);
        self.values[index] = value;
    }
}

/// One instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wgmma {
    pub input: Input,
    pub n: u32,
    /// Whether D is added to, or else only written.
    pub scale_d: bool,
    /// `imm-scale-a` and `imm-scale-b` are -1.
    pub negate_a: bool,
    pub negate_b: bool,
    /// `imm-trans-a` and `imm-trans-b`; `None` for A in registers.
    pub a_major: Option<Major>,
    pub b_major: Major,
    pub order: SumOrder,
}

/// Rows of A and D.
pub const M: usize = 64;

impl Wgmma {
    /// Whether there is such an instruction.
    pub fn check(&self) -> Result<(), WgmmaError> {
        if !(8..=256).contains(&self.n) || !self.n.is_multiple_of(8) {
            return Err(WgmmaError::Columns(self.n));
        }
        let transposed = [self.a_major, Some(self.b_major)].contains(&Some(Major::Mn));
        if transposed && self.input == Input::Tf32 {
            return Err(WgmmaError::Transposed);
        }
        Ok(())
    }

    /// A from shared memory; `read` gives the 16 bytes at an address.
    pub fn a_from_shared<E>(
        &self,
        descriptor: &Descriptor,
        read: impl FnMut(u32) -> Result<[u8; 16], E>,
    ) -> Result<Matrix, E> {
        // An A without a major is in registers; nobody asks for it here.
        let major = self.a_major.unwrap_or(Major::K);
        self.operand(descriptor, major, M as u32, read)
    }

    /// B from shared memory; `read` gives the 16 bytes at an address.
    pub fn b_from_shared<E>(
        &self,
        descriptor: &Descriptor,
        read: impl FnMut(u32) -> Result<[u8; 16], E>,
    ) -> Result<Matrix, E> {
        self.operand(descriptor, self.b_major, self.n, read)
    }

    /// Every layout keeps 16 bytes together, along k or along mn.
    fn operand<E>(
        &self,
        descriptor: &Descriptor,
        major: Major,
        mn_count: u32,
        mut read: impl FnMut(u32) -> Result<[u8; 16], E>,
    ) -> Result<Matrix, E> {
        let bytes = self.input.bytes();
        let per_chunk = (16 / bytes) as usize;
        let (mn_step, k_step) = match major {
            Major::K => (1, per_chunk),
            Major::Mn => (per_chunk, 1),
        };
        let mut matrix = Matrix::zeros(mn_count as usize, self.input.k());
        for mn in (0..mn_count as usize).step_by(mn_step) {
            for k in (0..self.input.k()).step_by(k_step) {
                let chunk = read(descriptor.element_address(major, mn as u32, k as u32, bytes))?;
                let (words, _) = chunk.as_chunks::<4>();
                let words = words.iter().map(|word| u32::from_le_bytes(*word));
                for (i, value) in words.flat_map(|word| self.input.values(word)).enumerate() {
                    match major {
                        Major::K => matrix.set(mn, k + i, value),
                        Major::Mn => matrix.set(mn + i, k, value),
                    }
                }
            }
        }
        Ok(matrix)
    }

    /// A from the four registers of one warp: its 16 rows.
    pub fn a_of_warp(&self, registers: &[Lanes; 4]) -> Matrix {
        let mut matrix = Matrix::zeros(16, self.input.k());
        for (register, lanes) in registers.iter().enumerate() {
            for (lane, word) in lanes.iter().enumerate() {
                for (i, value) in self.input.values(*word).enumerate() {
                    let (row, k) = a_position(self.input, 0, lane, register, i);
                    matrix.set(row, k, value);
                }
            }
        }
        matrix
    }

    /// D = A * B + D, or D = A * B, of one warp, whose rows are those from `16 warp` on of `a`. Its D is N / 2
    /// registers of f32 bits.
    pub fn accumulate_warp(
        &self,
        d: &mut [Lanes],
        a: &Matrix,
        warp: usize,
        b: &Matrix,
    ) -> Result<(), WgmmaError> {
        self.check()?;
        let k_count = self.input.k();
        let rows = 16 * warp * k_count..16 * (warp + 1) * k_count;
        let (Some(a), true) = (a.values.get(rows), b.values.len() == self.n as usize * k_count)
        else {
            return Err(WgmmaError::OperandSize);
        };
        if d.len() != self.n as usize / 2 {
            return Err(WgmmaError::Registers { count: d.len(), n: self.n });
        }
        if is_wide() {
            // SAFETY: the processor has what the function was compiled for.
            unsafe { self.add_wide(d, a, &b.values) };
        } else {
            self.add(d, a, &b.values);
        }
        Ok(())
    }

    #[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
    unsafe fn add_wide(&self, d: &mut [Lanes], a: &[f32], b: &[f32]) {
        self.add(d, a, b);
    }

    #[inline(always)]
    fn add(&self, d: &mut [Lanes], a: &[f32], b: &[f32]) {
        let k_count = self.input.k();
        for (block, columns) in d.chunks_exact_mut(4).zip(b.chunks_exact(8 * k_count)) {
            let rows = a.chunks_exact(8 * k_count);
            for (half, rows) in block.chunks_exact_mut(2).zip(rows) {
                self.eight_by_eight(half, rows, columns);
            }
        }
    }

    /// Eight rows and columns of D, which are two registers of a warp. `a` and `b` hold eight
    /// elements per k.
    #[inline(always)]
    fn eight_by_eight(&self, registers: &mut [Lanes], a: &[f32], b: &[f32]) {
        let ((a, _), (b, _)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
        // Negation is exact, so that of a factor is that of the product.
        let sign = if self.negate_a != self.negate_b { -1.0 } else { 1.0 };
        for row in 0..8 {
            let mut sums = [0.0; 8];
            if self.scale_d {
                for (column, sum) in sums.iter_mut().enumerate() {
                    *sum = f32::from_bits(registers[column % 2][4 * row + column / 2]);
                }
            }
            match self.order {
                SumOrder::First => {
                    for (a, line) in a.iter().zip(b) {
                        let factor = sign * a[row];
                        for (sum, value) in sums.iter_mut().zip(line) {
                            *sum = factor.mul_add(*value, *sum);
                        }
                    }
                }
                SumOrder::Second => {
                    let mut products = [0.0; 8];
                    for (a, line) in a.iter().zip(b).rev() {
                        let factor = sign * a[row];
                        for (sum, value) in products.iter_mut().zip(line) {
                            *sum = factor.mul_add(*value, *sum);
                        }
                    }
                    sums.iter_mut().zip(products).for_each(|(sum, p)| *sum += p);
                }
                SumOrder::CutOff => {
                    add_and_cut_off(
                        &mut sums,
                        a.iter().map(|a| sign * a[row]).zip(b.iter().copied()),
                    );
                }
            }
            for (column, sum) in sums.iter().enumerate() {
                registers[column % 2][4 * row + column / 2] = sum.to_bits();
            }
        }
    }
}

/// The row and k of element `i` of a lane's register of A; i is 0 for tf32.
pub fn a_position(
    input: Input,
    warp: usize,
    lane: usize,
    register: usize,
    i: usize,
) -> (usize, usize) {
    let row = 16 * (warp % 4) + lane / 4 + 8 * (register % 2);
    let k = match input {
        Input::F16 | Input::Bf16 => 2 * (lane % 4) + i + 8 * (register / 2),
        Input::Tf32 => lane % 4 + 4 * (register / 2),
    };
    (row, k)
}

/// Why there is no such product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WgmmaError {
    Columns(u32),
    /// Only 16-bit operands can be MN-major.
    Transposed,
    OperandSize,
    Registers {
        count: usize,
        n: u32,
    },
}

impl std::error::Error for WgmmaError {}

impl fmt::Display for WgmmaError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "wgmma: ")?;
        match self {
            Self::Columns(n) => write!(f, "n = {n}; it must be a multiple of 8 up to 256"),
            Self::Transposed => write!(f, "a transposed operand of tf32"),
            Self::OperandSize => write!(f, "an operand of another shape"),
            Self::Registers { count, n } => {
                write!(f, "{count} registers of D for n = {n}; there must be n / 2")
            }
        }
    }
}
