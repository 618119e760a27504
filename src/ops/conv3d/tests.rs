//! Every tile and split of the kernels, also those that the cases of the registry are too small for.

use super::launch::{Filter, Packed, partial_gradients};
use super::{Conv, reference, reference_dw};
use crate::device::emulated::{Mode, Schedule};
use crate::device::{DType, Device, Tensor};
use crate::ops::grid::VoxelGrid;
use crate::ops::tolerance::{distance, within, within_bf16};
use crate::ops::{OpCase, Tolerance};
use crate::tape::{GradMode, Param, Tape, Var};

/// Several bricks, none of them full; chunks of channels that are
/// not full, and channels whose taps along w share a chunk (5: in bf16 only).
const GRID: VoxelGrid = VoxelGrid { batch: 2, dims: [5, 3, 11] };
const CHANNELS: [&[usize]; 3] = [&[24, 8], &[2], &[5]];
/// Output channels of the gradients: a whole block and a part of one.
const OUT: usize = 40;

/// Values that bf16 holds, on the host and on the device.
struct Operand {
    host: Vec<f64>,
    device: Tensor,
}

fn operand(device: &Device, dtype: DType, index: u32, shape: &[usize], std: f64) -> Operand {
    let case = OpCase::new(&["bricks"], &[7]);
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

/// The inputs of a run, each on the host and on the device.
fn inputs(device: &Device, dtype: DType, channels: &[usize]) -> Vec<Operand> {
    let shapes = channels.iter().map(|&c| [GRID.rows(), c]).enumerate();
    shapes.map(|(i, shape)| operand(device, dtype, i as u32, &shape, 1.0)).collect()
}

fn hosts<'a>(inputs: &'a [Operand], channels: &[usize]) -> Vec<(&'a [f64], usize)> {
    inputs.iter().zip(channels).map(|(x, &c)| (&x.host[..], c)).collect()
}

#[test]
fn every_tile_overwrites_and_adds() {
    for dtype in [DType::F32, DType::Bf16] {
        for (channels, tile) in CHANNELS.into_iter().flat_map(|c| [16, 32, 64].map(|n| (c, n))) {
            let device = Device::emulated(Mode::Checked, Schedule::Shuffled(3));
            // A whole tile and a part of one.
            let (rows, all, out) = (GRID.rows(), channels.iter().sum(), tile + 8);
            let inputs = inputs(&device, dtype, channels);
            let weight = operand(&device, DType::F32, 2, &[out, all, 3, 3, 3], 0.1);
            let bias = operand(&device, DType::F32, 3, &[out], 1.0);
            let param = Param { value: weight.device, half: None, slot: None };
            let conv = Conv { grid: GRID, channels: channels.to_vec(), out, is_wide: true };
            let packed = Packed::new(&Filter::forward(&conv, &param), dtype, tile).unwrap();
            let values: Vec<&Tensor> = inputs.iter().map(|x| &x.device).collect();
            let mut y = Tensor::empty(&device, dtype, &[rows, out]).unwrap();
            let run = |y: &mut Tensor, mode| {
                let bias = Some(&bias.device);
                packed.convolve(&mut y.as_mut(), &values, bias, GRID, mode).unwrap();
                y.to_f64_vec().unwrap()
            };
            let mut want = vec![0.0; rows * out];
            let hosts = hosts(&inputs, channels);
            reference(&mut want, &hosts, &weight.host, Some(&bias.host), out, GRID);
            let once = run(&mut y, GradMode::Overwrite);
            expect(&format!("y {channels:?} {tile}"), dtype, &once, &want, all * 27);
            let twice = run(&mut y, GradMode::Accumulate);
            let want: Vec<f64> = want.iter().zip(&once).map(|(a, b)| a + b).collect();
            expect(&format!("y += {channels:?} {tile}"), dtype, &twice, &want, all * 27);
        }
    }
}

/// Scores of bf16 activations have the digits of f32: rounded to bf16 they would miss by 2^-9.
#[test]
fn scores_of_bf16_are_f32() {
    for (fan_in, out) in [(24, 14), (13, 5), (64, 65)] {
        let device = Device::emulated(Mode::Checked, Schedule::Shuffled(4));
        let x = operand(&device, DType::Bf16, 0, &[GRID.rows(), fan_in], 1.0);
        let weight = operand(&device, DType::F32, 1, &[out, fan_in, 1, 1, 1], 0.3);
        let bias = operand(&device, DType::F32, 2, &[out], 1.0);
        let param = |value: &Tensor| Param { value: value.clone(), half: None, slot: None };
        let (w, b) = (param(&weight.device), param(&bias.device));
        let x_var = Var::constant(x.device);
        let mut tape = Tape::inference(&device);
        let y = tape.conv3d_scores(&x_var, GRID, &w, Some(&b)).unwrap();
        assert_eq!(y.value().dtype(), DType::F32);
        let rows = x.host.chunks_exact(fan_in).flat_map(|x| {
            let weights = weight.host.chunks_exact(fan_in).zip(&bias.host);
            weights.map(move |(w, b)| b + x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>())
        });
        let want: Vec<f64> = rows.collect();
        let ours = y.value().to_f64_vec().unwrap();
        expect(&format!("scores {fan_in} {out}"), DType::F32, &ours, &want, fan_in);
        let wide = operand(&device, DType::F32, 1, &[out, fan_in, 3, 3, 3], 0.3);
        assert!(tape.conv3d_scores(&x_var, GRID, &param(&wide.device), None).is_err());
    }
}

#[test]
fn gradients_in_parts_of_one_of_several_and_of_all_bricks() {
    for (dtype, channels) in
        [DType::F32, DType::Bf16].into_iter().flat_map(|t| CHANNELS.map(|c| (t, c)))
    {
        let device = Device::emulated(Mode::Checked, Schedule::Shuffled(5));
        let (rows, all) = (GRID.rows(), channels.iter().sum::<usize>());
        let inputs = inputs(&device, dtype, channels);
        let dy = operand(&device, dtype, 4, &[rows, OUT], 1.0);
        let conv = Conv { grid: GRID, channels: channels.to_vec(), out: OUT, is_wide: true };
        let mut want = vec![0.0; OUT * all * 27];
        reference_dw(&mut want, false, &dy.host, &hosts(&inputs, channels), OUT, GRID);
        let column = |n: usize| dy.host.iter().skip(n).step_by(OUT).sum::<f64>();
        let want_bias: Vec<f64> = (0..OUT).map(column).collect();
        for each in [1, 3, 100] {
            let values: Vec<&Tensor> = inputs.iter().map(|x| &x.device).collect();
            let (weights, biases) =
                partial_gradients(&conv, &dy.device, &values, each, true).unwrap();
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
            let name = format!("{channels:?} in parts of {each}, of {dtype}");
            expect(&format!("dw {name}"), DType::F32, &ours, &want, rows);
            let ours = sum(biases.as_ref().unwrap(), OUT);
            expect(&format!("db {name}"), DType::F32, &ours, &want_bias, rows);
        }
    }
}
