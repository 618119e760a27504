//! `mma.sync`: where the elements of matrices lie in the registers of a warp, and their product (9.7.14.5).
//!
//! "The accumulation order, rounding, and handling of subnormal inputs are unspecified"; products are to be
//! exact and sums at least of single precision. Here each product is added by a fused multiplication and
//! addition, so that it is never rounded itself, in one of two orders; or the sum of all is cut off, which is what
//! measurements of the tensor cores show (Fasi et al., PeerJ CS 330, 2021, for V100, T4 and A100): unlike rounding it
//! leans to one side, the more the more instructions a long sum takes.

use super::Register;
use super::convert::Half;
use super::round::canonical;

/// The order of the sums. A result that depends on it depends on what the hardware does not promise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SumOrder {
    /// `c`, then the products by ascending k: `((c + p0) + p1) + p2 ...`.
    #[default]
    First,
    /// The products by descending k, then `c`: `((0 + p15) + p14) ... + p0) + c`.
    Second,
    /// `c` and the products of one instruction without rounding, cut off towards zero.
    CutOff,
}

impl SumOrder {
    pub const ALL: [Self; 3] = [Self::First, Self::Second, Self::CutOff];
}

/// The nearest f32 that is no farther from zero. What is too large becomes infinite.
#[inline(always)]
fn cut_off(sum: f64) -> f32 {
    let near = sum as f32;
    let is_farther = near.is_finite() && f64::from(near.abs()) > sum.abs();
    f32::from_bits(near.to_bits() - u32::from(is_farther))
}

/// `c + a * b`, cut off: eight columns at a time, k by k. Factors of at most 11 bits make sums of f64 all but exact.
#[inline(always)]
pub fn add_and_cut_off<const N: usize>(
    c: &mut [f32; N],
    factors: impl Iterator<Item = (f32, [f32; N])>,
) {
    let mut sums = c.map(f64::from);
    for (a, row) in factors {
        for n in 0..N {
            sums[n] += f64::from(a) * f64::from(row[n]);
        }
    }
    *c = sums.map(cut_off);
}

/// Row and column of element `index` (0..8) of A of 16-bit types for k = 16; for k = 8 of elements 0..4
/// (9.7.14.5.7, 9.7.14.5.8). Register `index / 2` holds it, the lower half if `index` is even.
pub const fn a_index(lane: usize, index: usize) -> (usize, usize) {
    let (group, thread) = (lane / 4, lane % 4);
    (group + index / 2 % 2 * 8, thread * 2 + index % 2 + index / 4 * 8)
}

/// Row and column of register `index` (0..4) of A of `.tf32` for k = 8; for k = 4 of registers 0 and 1
/// (9.7.14.5.6, 9.7.14.5.7).
pub const fn a_index_tf32(lane: usize, index: usize) -> (usize, usize) {
    (lane / 4 + index % 2 * 8, lane % 4 + index / 2 * 4)
}

/// Row and column of register `index` (0..2) of B of `.tf32` for k = 8; for k = 4 of register 0 (9.7.14.5.6,
/// 9.7.14.5.7).
pub const fn b_index_tf32(lane: usize, index: usize) -> (usize, usize) {
    (lane % 4 + index * 4, lane / 4)
}

/// `c += a * b` of whole matrices. With N of 8 to 32 a row of `c` stays in vector registers; wider products are
/// best made of such strips.
#[inline(always)]
pub fn multiply_add<const M: usize, const N: usize, const K: usize>(
    a: &[[f32; K]; M],
    b: &[[f32; N]; K],
    c: &mut [[f32; N]; M],
    order: SumOrder,
) {
    for (a, c) in a.iter().zip(c) {
        if order == SumOrder::CutOff {
            add_and_cut_off(c, a.iter().copied().zip(*b));
            continue;
        }
        let mut sum = match order {
            SumOrder::Second => [0.0; N],
            _ => *c,
        };
        for step in 0..K {
            let k = match order {
                SumOrder::Second => K - 1 - step,
                _ => step,
            };
            for n in 0..N {
                sum[n] = a[k].mul_add(b[k][n], sum[n]);
            }
        }
        if order == SumOrder::Second {
            for n in 0..N {
                sum[n] += c[n];
            }
        }
        *c = sum;
    }
}

/// Numbers from two sources by turns. Registers hold rows of eight numbers, two in a lane, four lanes in a row.
#[inline(always)]
fn interleave(even: &[f32; 32], odd: &[f32; 32]) -> [f32; 64] {
    let mut all = [0.0; 64];
    for lane in 0..32 {
        all[2 * lane] = even[lane];
        all[2 * lane + 1] = odd[lane];
    }
    all
}

/// The values of the lower and of the upper halves of a register. NaN is whatever it is.
#[inline(always)]
fn halves(format: Half, register: &Register) -> [[f32; 32]; 2] {
    let mut values = [[0.0; 32]; 2];
    for lane in 0..32 {
        values[0][lane] = format.widen_any_nan(register[lane] as u16);
        values[1][lane] = format.widen_any_nan((register[lane] >> 16) as u16);
    }
    values
}

/// A of 16-bit types by rows, from R registers: two for every eight columns.
#[inline(always)]
fn rows_of_a<const R: usize, const K: usize>(
    format: Half,
    registers: &[Register; R],
) -> [[f32; K]; 16] {
    let mut a = [[0.0; K]; 16];
    for (register, bits) in registers.iter().enumerate() {
        let (first_row, first_column) = a_index(0, 2 * register);
        let [low, high] = halves(format, bits);
        let tile = interleave(&low, &high);
        for row in 0..8 {
            for column in 0..8 {
                a[first_row + row][first_column + column] = tile[8 * row + column];
            }
        }
    }
    a
}

/// B of 16-bit types by rows, from R registers: one for every eight rows. It lies in registers by columns.
#[inline(always)]
fn rows_of_b<const R: usize, const K: usize>(
    format: Half,
    registers: &[Register; R],
) -> [[f32; 8]; K] {
    let mut b = [[0.0; 8]; K];
    for (register, bits) in registers.iter().enumerate() {
        let mut by_rows = [0; 32];
        for pair in 0..4 {
            for column in 0..8 {
                by_rows[8 * pair + column] = bits[4 * column + pair];
            }
        }
        let values = halves(format, &by_rows);
        for row in 0..8 {
            for column in 0..8 {
                b[8 * register + row][column] = values[row % 2][row / 2 * 8 + column];
            }
        }
    }
    b
}

/// C by rows.
#[inline(always)]
fn rows_of_c(registers: &[[f32; 32]; 4]) -> [[f32; 8]; 16] {
    let mut c = [[0.0; 8]; 16];
    for half in 0..2 {
        let tile = interleave(&registers[2 * half], &registers[2 * half + 1]);
        for row in 0..8 {
            for column in 0..8 {
                c[8 * half + row][column] = tile[8 * row + column];
            }
        }
    }
    c
}

/// D as it lies in registers. NaN becomes the canonical one.
#[inline(always)]
fn registers_of_d(d: &[[f32; 8]; 16]) -> [[f32; 32]; 4] {
    let d = d.as_flattened();
    let mut registers = [[0.0; 32]; 4];
    for half in 0..2 {
        for lane in 0..32 {
            registers[2 * half][lane] = canonical(d[64 * half + 2 * lane]);
            registers[2 * half + 1][lane] = canonical(d[64 * half + 2 * lane + 1]);
        }
    }
    registers
}

/// `mma.m16n8k16` of `.f16` or `.bf16`, with `.f32` accumulators.
#[inline(always)]
pub fn mma_16x8x16(
    format: Half,
    a: &[Register; 4],
    b: &[Register; 2],
    c: &[[f32; 32]; 4],
    order: SumOrder,
) -> [[f32; 32]; 4] {
    let mut d = rows_of_c(c);
    multiply_add(&rows_of_a::<4, 16>(format, a), &rows_of_b::<2, 16>(format, b), &mut d, order);
    registers_of_d(&d)
}

/// `mma.m16n8k8` of `.f16` or `.bf16`, with `.f32` accumulators.
#[inline(always)]
pub fn mma_16x8x8(
    format: Half,
    a: &[Register; 2],
    b: &Register,
    c: &[[f32; 32]; 4],
    order: SumOrder,
) -> [[f32; 32]; 4] {
    let mut d = rows_of_c(c);
    let b = rows_of_b::<1, 8>(format, std::array::from_ref(b));
    multiply_add(&rows_of_a::<2, 8>(format, a), &b, &mut d, order);
    registers_of_d(&d)
}

/// The value of `.tf32` bits, of which the low 13 do not count.
#[inline(always)]
fn tf32(bits: u32) -> f32 {
    f32::from_bits(bits & !0x1fff)
}

/// `mma.m16n8k8` and `mma.m16n8k4` of `.tf32`: A of R registers, B of half as many; K is twice R.
#[inline(always)]
fn mma_tf32<const R: usize, const H: usize, const K: usize>(
    a: &[Register; R],
    b: &[Register; H],
    c: &[[f32; 32]; 4],
    order: SumOrder,
) -> [[f32; 32]; 4] {
    let mut a_rows = [[0.0; K]; 16];
    for (index, bits) in a.iter().enumerate() {
        for (lane, &bits) in bits.iter().enumerate() {
            let (row, column) = a_index_tf32(lane, index);
            a_rows[row][column] = tf32(bits);
        }
    }
    let mut b_rows = [[0.0; 8]; K];
    for (index, bits) in b.iter().enumerate() {
        for (lane, &bits) in bits.iter().enumerate() {
            let (row, column) = b_index_tf32(lane, index);
            b_rows[row][column] = tf32(bits);
        }
    }
    let mut d = rows_of_c(c);
    multiply_add(&a_rows, &b_rows, &mut d, order);
    registers_of_d(&d)
}

/// `mma.m16n8k8` of `.tf32`. The low 13 bits of the operands do not count.
#[inline(always)]
pub fn mma_16x8x8_tf32(
    a: &[Register; 4],
    b: &[Register; 2],
    c: &[[f32; 32]; 4],
    order: SumOrder,
) -> [[f32; 32]; 4] {
    mma_tf32::<4, 2, 8>(a, b, c, order)
}

/// `mma.m16n8k4` of `.tf32`. The low 13 bits of the operands do not count.
#[inline(always)]
pub fn mma_16x8x4_tf32(
    a: &[Register; 2],
    b: &Register,
    c: &[[f32; 32]; 4],
    order: SumOrder,
) -> [[f32; 32]; 4] {
    mma_tf32::<2, 1, 4>(a, std::array::from_ref(b), c, order)
}
