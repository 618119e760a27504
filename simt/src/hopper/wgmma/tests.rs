use std::convert::Infallible;

use super::*;
use crate::hopper::random::Random;
use crate::hopper::swizzle::Swizzle;

fn wgmma(input: Input, n: u32) -> Wgmma {
    Wgmma {
        input,
        n,
        scale_d: true,
        negate_a: false,
        negate_b: false,
        a_major: Some(Major::K),
        b_major: Major::K,
        order: SumOrder::First,
    }
}

/// CuTe's layouts of a warpgroup's registers give the element's number in a column-major matrix of
/// 64 rows: thread (4, 8, 4), value (2, 2, ..).
fn cute(thread: usize, threads: [usize; 3], value: usize, values: [usize; 3]) -> (usize, usize) {
    let number = thread % 4 * threads[0]
        + thread / 4 % 8 * threads[1]
        + thread / 32 * threads[2]
        + value % 2 * values[0]
        + value / 2 % 2 * values[1]
        + value / 4 * values[2];
    (number % 64, number / 64)
}

#[test]
fn a_in_registers_as_in_cute() {
    for thread in 0..128 {
        for register in 0..4 {
            for i in 0..2 {
                // ALayout_64x16: ((4,8,4),(2,2,2)):((128,1,16),(64,8,512)).
                let expected = cute(thread, [128, 1, 16], 2 * register + i, [64, 8, 512]);
                let found = a_position(Input::Bf16, thread / 32, thread % 32, register, i);
                assert_eq!(found, expected);
            }
            // ALayout_64x8: ((4,8,4),(2,2)):((64,1,16),(8,256)).
            let expected = cute(thread, [64, 1, 16], register, [8, 256, 0]);
            assert_eq!(a_position(Input::Tf32, thread / 32, thread % 32, register, 0), expected);
        }
    }
}

/// The bits of a small whole number.
fn bits(input: Input, value: i64) -> u32 {
    match input {
        Input::F16 => f16::from_f32(value as f32).to_bits().into(),
        Input::Bf16 => (value as f32).to_bits() >> 16,
        // The bits that tf32 cuts off must not matter.
        Input::Tf32 => (value as f32).to_bits() | 0x1abc,
    }
}

/// An operand of small whole numbers, and itself in shared memory.
struct Operand {
    values: Vec<Vec<i64>>,
    shared: Vec<u8>,
}

impl Operand {
    fn new(random: &mut Random, input: Input, mn_count: u32, d: &Descriptor, major: Major) -> Self {
        let k_count = input.k();
        let mut values = vec![vec![0; k_count]; mn_count as usize];
        let mut shared = vec![0; 1 << 17];
        for (mn, line) in values.iter_mut().enumerate() {
            for (k, value) in line.iter_mut().enumerate() {
                *value = random.within(-8, 8);
                let at = d.element_address(major, mn as u32, k as u32, input.bytes()) as usize;
                let bytes = bits(input, *value).to_le_bytes();
                let count = input.bytes() as usize;
                shared[at..at + count].copy_from_slice(&bytes[..count]);
            }
        }
        Self { values, shared }
    }

    fn read(&self, address: u32) -> Result<[u8; 16], Infallible> {
        let at = address as usize;
        assert_eq!(at % 16, 0);
        Ok(self.shared[at..at + 16].try_into().unwrap())
    }
}

/// A descriptor whose eight-row groups follow each other, and then the blocks beside them.
fn packed(swizzle: Swizzle, major: Major, mn_count: u32, input: Input) -> Descriptor {
    let across = if major == Major::K { mn_count } else { input.k() as u32 };
    let group = 8 * swizzle.span();
    let block = across.div_ceil(8) * group;
    let (leading, stride) = match (swizzle, major) {
        (Swizzle::None, Major::Mn) => (group, block),
        _ => (block, group),
    };
    let d = Descriptor { start: 2048, leading, stride, base_offset: 0, swizzle };
    d.check(major, mn_count, input.bytes()).unwrap();
    d
}

/// D of whole numbers in registers.
fn accumulators(values: &[Vec<i64>], n: u32) -> Vec<Vec<Lanes>> {
    let mut d = vec![vec![[0; 32]; n as usize / 2]; 4];
    for (warp, registers) in d.iter_mut().enumerate() {
        for (register, lanes) in registers.iter_mut().enumerate() {
            for (lane, bits) in lanes.iter_mut().enumerate() {
                let (row, column) = cute(warp * 32 + lane, [128, 1, 16], register, [64, 8, 512]);
                *bits = (values[row][column] as f32).to_bits();
            }
        }
    }
    d
}

fn run(w: &Wgmma, d: &mut [Vec<Lanes>], a: &Matrix, b: &Matrix) -> Result<(), WgmmaError> {
    d.iter_mut().enumerate().try_for_each(|(warp, d)| w.accumulate_warp(d, a, warp, b))
}

#[test]
fn products_of_whole_numbers_are_exact() {
    let mut random = Random::new(4);
    for round in 0..120 {
        let input = random.pick(&[Input::F16, Input::Bf16, Input::Tf32]);
        let majors: &[Major] =
            if input == Input::Tf32 { &[Major::K] } else { &[Major::K, Major::Mn] };
        let n = 8 * random.within(1, 32) as u32;
        let (a_major, b_major) = (random.pick(majors), random.pick(majors));
        let a_descriptor = packed(random.pick(&Swizzle::ALL), a_major, 64, input);
        let b_descriptor = packed(random.pick(&Swizzle::ALL), b_major, n, input);
        let w = Wgmma {
            scale_d: round % 3 > 0,
            negate_a: random.within(0, 1) == 1,
            negate_b: random.within(0, 1) == 1,
            a_major: Some(a_major),
            b_major,
            order: random.pick(&SumOrder::ALL),
            ..wgmma(input, n)
        };
        let a = Operand::new(&mut random, input, 64, &a_descriptor, a_major);
        let b = Operand::new(&mut random, input, n, &b_descriptor, b_major);
        let old: Vec<Vec<i64>> =
            (0..64).map(|_| (0..n).map(|_| random.within(-1000, 1000)).collect()).collect();
        let mut d = accumulators(&old, n);
        let a_matrix = w.a_from_shared(&a_descriptor, |at| a.read(at)).unwrap();
        let b_matrix = w.b_from_shared(&b_descriptor, |at| b.read(at)).unwrap();
        run(&w, &mut d, &a_matrix, &b_matrix).unwrap();

        let sign = if w.negate_a == w.negate_b { 1 } else { -1 };
        let mut expected = old;
        for (row, line) in expected.iter_mut().enumerate() {
            for (column, value) in line.iter_mut().enumerate() {
                let pairs = a.values[row].iter().zip(&b.values[column]);
                let product: i64 = pairs.map(|(x, y)| x * y).sum();
                *value = sign * product + if w.scale_d { *value } else { 0 };
            }
        }
        assert!(d == accumulators(&expected, n), "{w:?}");
    }
}

#[test]
fn a_from_registers_is_a_from_shared_memory() {
    let mut random = Random::new(5);
    for input in [Input::F16, Input::Bf16, Input::Tf32] {
        let descriptor = Descriptor {
            start: 0,
            leading: 1024,
            stride: 128,
            base_offset: 0,
            swizzle: Swizzle::None,
        };
        let a = Operand::new(&mut random, input, 64, &descriptor, Major::K);
        let mut warps = [[[0; 32]; 4]; 4];
        let elements = 4 / input.bytes() as usize;
        for thread in 0..128 {
            for value in 0..4 * elements {
                let (row, k) = match input {
                    Input::Tf32 => cute(thread, [64, 1, 16], value, [8, 256, 0]),
                    _ => cute(thread, [128, 1, 16], value, [64, 8, 512]),
                };
                let shift = value % elements * 16;
                let word = bits(input, a.values[row][k]) << shift;
                warps[thread / 32][value / elements][thread % 32] |= word;
            }
        }
        let w = Wgmma { a_major: None, ..wgmma(input, 8) };
        let expected = w.a_from_shared(&descriptor, |at| a.read(at)).unwrap();
        for (warp, registers) in warps.iter().enumerate() {
            let rows = w.a_of_warp(registers);
            let values = 16 * input.k();
            assert_eq!(rows.values, expected.values[warp * values..][..values]);
        }
        for (row, line) in a.values.iter().enumerate() {
            for (k, value) in line.iter().enumerate() {
                assert_eq!(expected.values[expected.index(row, k)], *value as f32);
            }
        }
    }
}

/// A matrix of which only the first row or column is not zero.
fn first_line(values: &[f32], mn_count: usize) -> Matrix {
    let mut matrix = Matrix::zeros(mn_count, values.len());
    for (k, value) in values.iter().enumerate() {
        matrix.set(0, k, *value);
    }
    matrix
}

/// Only one element of the product is not zero: it must come to the register that has it in figure 149.
#[test]
fn accumulators_as_in_the_figure() {
    for (thread, register, row, column) in [
        (0, 0, 0, 0),
        (0, 1, 0, 1),
        (0, 2, 8, 0),
        (0, 3, 8, 1),
        (0, 4, 0, 8),
        (0, 6, 8, 8),
        (1, 0, 0, 2),
        (3, 1, 0, 7),
        (4, 0, 1, 0),
        (31, 0, 7, 6),
        (31, 3, 15, 7),
        (32, 0, 16, 0),
        (64, 0, 32, 0),
        (127, 127, 63, 255),
    ] {
        let (mut a, mut b) = (Matrix::zeros(64, 16), Matrix::zeros(256, 16));
        a.set(row, 0, 1.0);
        b.set(column, 0, 1.0);
        let mut d = vec![vec![[0; 32]; 128]; 4];
        run(&wgmma(Input::Bf16, 256), &mut d, &a, &b).unwrap();
        let mut expected = vec![vec![[0; 32]; 128]; 4];
        expected[thread / 32][register][thread % 32] = 1.0_f32.to_bits();
        assert!(d == expected, "thread {thread}, d{register}");
    }
}

#[test]
fn the_orders() {
    let products: Vec<f32> = (0..16).map(|i| [3e7, 1.0, -3e7, 1.25][i % 4] + i as f32).collect();
    let (a, b) = (first_line(&products, 64), first_line(&[1.0; 16], 8));
    let mut results = Vec::new();
    for order in SumOrder::ALL {
        let mut d = vec![vec![[0x3f80_0000; 32]; 4]; 4];
        run(&Wgmma { order, ..wgmma(Input::Bf16, 8) }, &mut d, &a, &b).unwrap();
        results.push(f32::from_bits(d[0][0][0]));
    }
    let p = &products;
    let first = p.iter().fold(1.0, |sum, p| sum + p);
    let pair = |i: usize| p[i] + p[i + 1];
    let four = |i: usize| pair(i) + pair(i + 2);
    let eight = |i: usize| four(i) + four(i + 4);
    // The large ones cancel: what is left has room in f32.
    let exact = p.iter().fold(1.0f64, |sum, &p| sum + f64::from(p));
    assert_eq!(results, [first, 1.0 + (eight(0) + eight(8)), exact as f32]);
    assert_ne!(results[0], results[1]);
    assert_ne!(results[0], results[2]);
}

#[test]
fn without_scale_d_the_old_value_is_not_read() {
    let mut d = vec![vec![[f32::NAN.to_bits(); 32]; 4]; 4];
    let (a, b) = (first_line(&[2.0; 8], 64), first_line(&[3.0; 8], 8));
    let w = Wgmma { scale_d: false, ..wgmma(Input::Tf32, 8) };
    run(&w, &mut d, &a, &b).unwrap();
    assert_eq!(f32::from_bits(d[0][0][0]), 48.0);
    assert!(d.iter().flatten().flatten().all(|bits| !f32::from_bits(*bits).is_nan()));
    run(&wgmma(Input::Tf32, 8), &mut d, &a, &b).unwrap();
    assert_eq!(f32::from_bits(d[0][0][0]), 96.0);
}

#[test]
fn bits_of_the_inputs() {
    assert_eq!(Input::Bf16.value(0x3fc0), 1.5);
    assert_eq!(Input::F16.value(0x3e00), 1.5);
    assert_eq!(Input::F16.value(0x0001), 2.0_f32.powi(-24));
    // 1 + 2^-10 stays, 2^-11 is cut off, not rounded.
    assert_eq!(Input::Tf32.value(0x3f80_2000), 1.0 + 2.0_f32.powi(-10));
    assert_eq!(Input::Tf32.value(0x3f80_1fff), 1.0);
    assert_eq!(Input::Bf16.values(0x3fc0_4000).collect::<Vec<_>>(), [2.0, 1.5]);
    assert_eq!((Input::F16.k(), Input::Bf16.k(), Input::Tf32.k()), (16, 16, 8));
}

#[test]
fn what_is_no_instruction_is_named() {
    for n in [0, 4, 12, 264] {
        assert_eq!(wgmma(Input::Bf16, n).check(), Err(WgmmaError::Columns(n)));
    }
    for n in (8..=256).step_by(8) {
        assert_eq!(wgmma(Input::Tf32, n).check(), Ok(()));
    }
    let b = Wgmma { b_major: Major::Mn, ..wgmma(Input::Tf32, 8) };
    let a = Wgmma { a_major: Some(Major::Mn), ..wgmma(Input::Tf32, 8) };
    assert_eq!([a.check(), b.check()], [Err(WgmmaError::Transposed); 2]);
    assert_eq!(Wgmma { input: Input::F16, ..b }.check(), Ok(()));

    let (a, b) = (first_line(&[0.0; 16], 64), first_line(&[0.0; 16], 16));
    let mut d = vec![vec![[0; 32]; 8]; 4];
    assert_eq!(run(&wgmma(Input::Bf16, 16), &mut d, &a, &b), Ok(()));
    assert_eq!(run(&wgmma(Input::Bf16, 16), &mut d, &b, &a), Err(WgmmaError::OperandSize));
    assert_eq!(run(&wgmma(Input::Bf16, 12), &mut d, &a, &b), Err(WgmmaError::Columns(12)));
    d[3].pop();
    assert_eq!(
        run(&wgmma(Input::Bf16, 16), &mut d, &a, &b),
        Err(WgmmaError::Registers { count: 7, n: 16 })
    );
}

#[test]
fn an_error_of_a_read_comes_back() {
    let descriptor =
        Descriptor { start: 0, leading: 0, stride: 128, base_offset: 0, swizzle: Swizzle::None };
    let read = |address| if address < 256 { Ok([0; 16]) } else { Err(address) };
    let found = wgmma(Input::Bf16, 64).b_from_shared(&descriptor, read);
    assert_eq!(found, Err(256));
}
