//! Every tile and split of the kernels, also those that the cases of the registry are too small for.

use super::launch::{Packed, partial_gradients};
use super::{Conv, reference, reference_dw};
use crate::device::emulated::{Mode, Schedule};
use crate::device::{DType, Device, Tensor};
use crate::lab::opcheck::{distance, within, within_bf16};
use crate::ops::grid::Grid;
use crate::ops::{Case, Tolerance};
use crate::tape::{GradMode, Param};

/// Several bricks, none of them full; two tiles of every width; chunks of channels that are not full.
const GRID: Grid = Grid { batch: 2, dims: [5, 3, 11] };
const CHANNELS: [usize; 2] = [24, 8];
const OUT: usize = 72;

/// Values that bf16 holds, on the host and on the device.
struct Operand {
    host: Vec<f64>,
    device: Tensor,
}

fn operand(device: &Device, dtype: DType, index: u32, shape: &[usize], std: f64) -> Operand {
    let case = Case::new(&["bricks"], &[7]);
    let values = case.normal(index, shape.iter().product(), 0.0, std);
    let host: Vec<f64> = values.into_iter().map(|x| half::bf16::from_f64(x).to_f64()).collect();
    Operand { device: Tensor::from_f64(device, dtype, &host, shape).unwrap(), host }
}

fn expect(name: &str, dtype: DType, ours: &[f64], reference: &[f64], k: usize) {
    let d = distance(ours, reference);
    let close = match dtype {
        DType::Bf16 => within_bf16(&d),
        _ => within(&d, Tolerance::Products { k }, 1.0),
    };
    assert!(close, "{name} {dtype}: {d:?}");
}

#[test]
fn every_tile_overwrites_and_adds() {
    for dtype in [DType::F32, DType::Bf16] {
        for tile in [16, 32, 64] {
            let device = Device::emulated(Mode::Checked, Schedule::Shuffled(3));
            let rows = GRID.rows();
            let a = operand(&device, dtype, 0, &[rows, CHANNELS[0]], 1.0);
            let b = operand(&device, dtype, 1, &[rows, CHANNELS[1]], 1.0);
            let weight = operand(&device, DType::F32, 2, &[OUT, 32, 3, 3, 3], 0.1);
            let bias = operand(&device, DType::F32, 3, &[OUT], 1.0);
            let param = Param { value: weight.device, half: None, slot: None };
            let strides = [32 * 27, 27];
            let packed =
                Packed::new(&param, dtype, [tile, OUT], &CHANNELS, 0, strides, false).unwrap();
            let inputs = [&a.device, &b.device];
            let mut y = Tensor::empty(&device, dtype, &[rows, OUT]).unwrap();
            let run = |y: &mut Tensor, mode| {
                let bias = Some(&bias.device);
                packed.convolve(&mut y.as_mut(), &inputs, bias, GRID, mode).unwrap();
                y.to_f64_vec().unwrap()
            };
            let hosts = [(&a.host[..], CHANNELS[0]), (&b.host[..], CHANNELS[1])];
            let mut want = vec![0.0; rows * OUT];
            reference(&mut want, &hosts, &weight.host, Some(&bias.host), OUT, GRID);
            let once = run(&mut y, GradMode::Overwrite);
            expect(&format!("y {tile}"), dtype, &once, &want, 32 * 27);
            let twice = run(&mut y, GradMode::Accumulate);
            let want: Vec<f64> = want.iter().zip(&once).map(|(a, b)| a + b).collect();
            expect(&format!("y += {tile}"), dtype, &twice, &want, 32 * 27);
        }
    }
}

#[test]
fn gradients_in_parts_of_one_of_several_and_of_all_bricks() {
    for dtype in [DType::F32, DType::Bf16] {
        let device = Device::emulated(Mode::Checked, Schedule::Shuffled(5));
        let (rows, all) = (GRID.rows(), CHANNELS[0] + CHANNELS[1]);
        let a = operand(&device, dtype, 0, &[rows, CHANNELS[0]], 1.0);
        let b = operand(&device, dtype, 1, &[rows, CHANNELS[1]], 1.0);
        let dy = operand(&device, dtype, 4, &[rows, OUT], 1.0);
        let conv = Conv { grid: GRID, channels: CHANNELS.to_vec(), out: OUT, is_wide: true };
        let hosts = [(&a.host[..], CHANNELS[0]), (&b.host[..], CHANNELS[1])];
        let mut want = vec![0.0; OUT * all * 27];
        reference_dw(&mut want, false, &dy.host, &hosts, OUT, GRID);
        let column = |n: usize| dy.host.iter().skip(n).step_by(OUT).sum::<f64>();
        let want_bias: Vec<f64> = (0..OUT).map(column).collect();
        for each in [1, 3, 100] {
            let inputs = [&a.device, &b.device];
            let (weights, biases) =
                partial_gradients(&conv, &dy.device, &inputs, each, true).unwrap();
            // 2 volumes of 2 x 1 x 2 bricks.
            assert_eq!(weights.shape()[0], 8usize.div_ceil(each));
            let sum = |parts: &Tensor, len: usize| {
                let mut sum = vec![0.0; len];
                for part in parts.to_f64_vec().unwrap().chunks_exact(len) {
                    sum.iter_mut().zip(part).for_each(|(s, x)| *s += x);
                }
                sum
            };
            let by_tap = sum(&weights, want.len());
            let at = |i: usize| by_tap[i % 27 * OUT * all + i / 27];
            let ours: Vec<f64> = (0..want.len()).map(at).collect();
            // f32 whatever the operands, which bf16 holds exactly.
            expect(&format!("dw {each} of {dtype}"), DType::F32, &ours, &want, rows);
            let ours = sum(&biases, OUT);
            expect(&format!("db {each} of {dtype}"), DType::F32, &ours, &want_bias, rows);
        }
    }
}
