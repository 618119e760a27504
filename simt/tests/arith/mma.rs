//! Matrix products against the manual's tables of fragments and sums written out.

use glmae_simt::arith::convert::Half;
use glmae_simt::arith::mma::{self, SumOrder};
use glmae_simt::arith::round::NAN_F32;

use crate::random::Random;

const ORDERS: [SumOrder; 3] = SumOrder::ALL;

/// The manual's formulas (9.7.14.5.8): row and column of `ai`.
fn a16(lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    let row = if i < 2 || (4..6).contains(&i) { group } else { group + 8 };
    let column = thread * 2 + (i & 1);
    (row, if i < 4 { column } else { column + 8 })
}

/// `bi` (9.7.14.5.8).
fn b16(lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    let row = thread * 2 + (i & 1);
    (if i < 2 { row } else { row + 8 }, group)
}

/// `ci` (9.7.14.5.6 to 9.7.14.5.8).
fn c(lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    (if i < 2 { group } else { group + 8 }, thread * 2 + (i & 1))
}

/// `ai` of `.tf32` (9.7.14.5.7).
fn a_tf32(lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    (if i == 0 || i == 2 { group } else { group + 8 }, if i < 2 { thread } else { thread + 4 })
}

/// `bi` of `.tf32` (9.7.14.5.7).
fn b_tf32(lane: usize, i: usize) -> (usize, usize) {
    (if i == 0 { lane % 4 } else { lane % 4 + 4 }, lane >> 2)
}

#[test]
fn elements_lie_where_the_manual_says() {
    for lane in 0..32 {
        for i in 0..8 {
            assert_eq!(mma::a_index(lane, i), a16(lane, i));
        }
        for i in 0..4 {
            assert_eq!(mma::a_index_tf32(lane, i), a_tf32(lane, i));
        }
        for i in 0..2 {
            // k = 8 of 16-bit types, 9.7.14.5.7: a0, a1 in the first eight rows, a2, a3 in the others.
            assert_eq!(mma::a_index(lane, i), (lane >> 2, lane % 4 * 2 + i));
            assert_eq!(mma::a_index(lane, i + 2), ((lane >> 2) + 8, lane % 4 * 2 + i));
            assert_eq!(mma::b_index_tf32(lane, i), b_tf32(lane, i));
        }
    }
}

/// Numbers, row by row, and what they are multiplied with.
struct Operands {
    a: Vec<Vec<f32>>,
    b: Vec<Vec<f32>>,
    c: Vec<Vec<f32>>,
}

impl Operands {
    fn new(k: usize, mut element: impl FnMut() -> f32, mut sum: impl FnMut() -> f32) -> Operands {
        let mut matrix = |rows: usize, columns: usize| -> Vec<Vec<f32>> {
            (0..rows).map(|_| (0..columns).map(|_| element()).collect()).collect()
        };
        let (a, b) = (matrix(16, k), matrix(k, 8));
        let c = (0..16).map(|_| (0..8).map(|_| sum()).collect()).collect();
        Operands { a, b, c }
    }

    fn c_registers(&self) -> [[f32; 32]; 4] {
        std::array::from_fn(|i| {
            std::array::from_fn(|lane| {
                let (row, column) = c(lane, i);
                self.c[row][column]
            })
        })
    }

    /// Asserts that `d` is the product plus C, summed in the documented order.
    fn assert_product(&self, order: SumOrder, d: &[[f32; 32]; 4]) {
        let depth = self.b.len();
        for lane in 0..32 {
            for (i, values) in d.iter().enumerate() {
                let (row, column) = c(lane, i);
                let start = self.c[row][column];
                let fma = |sum: f32, k: usize| self.a[row][k].mul_add(self.b[k][column], sum);
                let expected = match order {
                    SumOrder::First => (0..depth).fold(start, fma),
                    SumOrder::Second => (0..depth).rev().fold(0.0, fma) + start,
                    SumOrder::CutOff => {
                        let exact = |sum: f64, k: usize| {
                            sum + f64::from(self.a[row][k]) * f64::from(self.b[k][column])
                        };
                        let sum = (0..depth).fold(f64::from(start), exact);
                        let near = sum as f32;
                        match f64::from(near) {
                            n if near.is_finite() && n > sum && sum > 0.0 => near.next_down(),
                            n if near.is_finite() && n < sum && sum < 0.0 => near.next_up(),
                            _ => near,
                        }
                    }
                };
                let expected = if expected.is_nan() { NAN_F32 } else { expected.to_bits() };
                assert_eq!(values[lane].to_bits(), expected, "{order:?} {row} {column}");
            }
        }
    }
}

/// The bits of a number that the format holds exactly.
fn bits_of(format: Half, x: f32) -> u16 {
    match format {
        Half::F16 => half::f16::from_f32(x).to_bits(),
        Half::Bf16 => half::bf16::from_f32(x).to_bits(),
    }
}

fn element(format: Half, random: &mut Random, is_wild: bool) -> f32 {
    let bits = random.word() as u16;
    let x = match format {
        Half::F16 => half::f16::from_bits(bits).to_f32(),
        Half::Bf16 => half::bf16::from_bits(bits).to_f32(),
    };
    if is_wild {
        return x;
    }
    let tame = (random.word() as i32 as f32) * 2.0_f32.powi(-31);
    match format {
        Half::F16 => half::f16::from_f32(tame).to_f32(),
        Half::Bf16 => half::bf16::from_f32(tame).to_f32(),
    }
}

#[test]
fn products_of_16_bit_types() {
    let mut random = Random::new(21);
    for round in 0..400 {
        let is_wild = round % 4 == 3;
        for format in [Half::F16, Half::Bf16] {
            let mut other = Random::new(round);
            let operands = Operands::new(
                16,
                || element(format, &mut random, is_wild),
                || if is_wild { other.f32() } else { other.word() as i32 as f32 * 1e-9 },
            );
            let a: [[u32; 32]; 4] = std::array::from_fn(|register| {
                std::array::from_fn(|lane| {
                    let half = |i: usize| {
                        let (row, column) = a16(lane, 2 * register + i);
                        u32::from(bits_of(format, operands.a[row][column]))
                    };
                    half(1) << 16 | half(0)
                })
            });
            let b: [[u32; 32]; 2] = std::array::from_fn(|register| {
                std::array::from_fn(|lane| {
                    let half = |i: usize| {
                        let (row, column) = b16(lane, 2 * register + i);
                        u32::from(bits_of(format, operands.b[row][column]))
                    };
                    half(1) << 16 | half(0)
                })
            });
            let first_half = Operands {
                a: operands.a.iter().map(|row| row[..8].to_vec()).collect(),
                b: operands.b[..8].to_vec(),
                c: operands.c.clone(),
            };
            let start = operands.c_registers();
            for order in ORDERS {
                operands.assert_product(order, &mma::mma_16x8x16(format, &a, &b, &start, order));
                // k = 8 has the registers of the first eight columns of A.
                let d = mma::mma_16x8x8(format, &[a[0], a[1]], &b[0], &start, order);
                first_half.assert_product(order, &d);
            }
        }
    }
}

#[test]
fn products_of_tf32() {
    let mut random = Random::new(22);
    for round in 0..400 {
        let mut other = Random::new(round);
        let operands =
            Operands::new(8, || f32::from_bits(random.f32().to_bits() & !0x1fff), || other.f32());
        // The low bits of the registers must not count.
        let a: [[u32; 32]; 4] = std::array::from_fn(|i| {
            std::array::from_fn(|lane| {
                let (row, column) = a_tf32(lane, i);
                operands.a[row][column].to_bits() | other.word() & 0x1fff
            })
        });
        let b: [[u32; 32]; 2] = std::array::from_fn(|i| {
            std::array::from_fn(|lane| {
                let (row, column) = b_tf32(lane, i);
                operands.b[row][column].to_bits() | other.word() & 0x1fff
            })
        });
        let first_half = Operands {
            a: operands.a.iter().map(|row| row[..4].to_vec()).collect(),
            b: operands.b[..4].to_vec(),
            c: operands.c.clone(),
        };
        let start = operands.c_registers();
        for order in ORDERS {
            operands.assert_product(order, &mma::mma_16x8x8_tf32(&a, &b, &start, order));
            let d = mma::mma_16x8x4_tf32(&[a[0], a[1]], &b[0], &start, order);
            first_half.assert_product(order, &d);
        }
    }
}
