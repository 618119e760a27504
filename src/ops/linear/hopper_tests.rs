//! Every tile of Hopper's kernels with everything that can follow, executed from its PTX: sizes that no tile divides, one
//! block of k and several with a tail, a single row.

use glmae_simt::profile::Profile;

use super::launch::{Forward, InputGradient};
use super::product::{gelu, gelu_derivative};
use super::tests::{Operand, expect, expect_param_gradients, operand, product};
use crate::device::ptx::Schedule;
use crate::device::{DType, Device, Tensor};
use crate::ops::gemm::Choice;
use crate::ops::gemm::hopper::tests::hopper_device;
use crate::ops::gemm::hopper::{Follows, Plan, TILES, Tile};
use crate::tape::GradMode;

/// Rows, out, in. Several tiles of every shape, the last of them not full; sums of one block of k, of fewer than the ring has
/// stages, of as many, and of more than twice as many.
const SIZES: [[usize; 3]; 5] =
    [[150, 200, 136], [1, 8, 8], [257, 264, 64], [200, 320, 520], [260, 520, 256]];

pub(in crate::ops) fn for_every_tile(check: impl Fn(&Device, [usize; 3], Tile)) {
    for (i, size) in SIZES.into_iter().enumerate() {
        for (j, tile) in TILES.into_iter().enumerate() {
            let schedules = [Schedule::Shuffled(3), Schedule::Ascending, Schedule::Descending];
            let Some(device) = hopper_device(schedules[(i + j) % 3]) else { return };
            check(&device, size, tile);
            no_bank_is_met_twice(&device);
        }
    }
}

/// What goes in, in values that bf16 holds.
pub(super) struct Inputs {
    pub x: Operand,
    pub w: Operand,
    pub residual: Operand,
    pub dy: Operand,
}

pub(super) fn inputs(device: &Device, dtype: DType, [rows, out, fan_in]: [usize; 3]) -> Inputs {
    Inputs {
        x: operand(device, dtype, 0, &[rows, fan_in], 1.0),
        w: operand(device, dtype, 1, &[out, fan_in], 0.1),
        residual: operand(device, dtype, 3, &[rows, out], 1.0),
        dy: operand(device, dtype, 4, &[rows, out], 1.0),
    }
}

/// Panels, and what the row sums read: as few passes through shared memory as their bytes need.
fn no_bank_is_met_twice(device: &Device) {
    let Device::Ptx(ptx) = device else { panic!("not executed from PTX") };
    let counts = ptx.take_counts();
    let hopper = counts.iter().filter(|(kernel, _)| kernel.contains("_hopper_"));
    let mut requests = 0;
    for (kernel, of) in hopper {
        let sums = Profile::new(&of.program, &of.counts).total;
        assert_eq!(sums.passes, sums.least_passes, "{kernel}");
        assert!(sums.tensor_flops > 0, "{kernel}");
        requests += sums.passes;
    }
    assert!(requests > 0, "no kernel of Hopper ran");
}

/// By one or two clusters, so that each takes several tiles one after the other.
pub(in crate::ops) fn hopper(tile: Tile, size: [usize; 3], parts: usize) -> Choice {
    Choice::Hopper(Plan::new(tile, size, parts).on(1 + size[2] / 64 % 2))
}

#[test]
fn forward_with_all_that_can_follow() {
    for_every_tile(|device, [rows, out, fan_in], tile| {
        let dtype = DType::Bf16;
        let Inputs { x, w, residual, .. } = inputs(device, dtype, [rows, out, fan_in]);
        let bias = operand(device, DType::F32, 2, &[out], 1.0);
        let size = [rows, out, fan_in];
        let mut forward = Forward::new(&x.device, &w.device).unwrap();
        forward.choice = Some(hopper(tile, size, 1));
        let sum = product(size, |i, k| x.host[i * fan_in + k], |k, j| w.host[j * fan_in + k]);
        let biased: Vec<f64> =
            sum.iter().enumerate().map(|(i, s)| s + bias.host[i % out]).collect();
        for follows in [Follows::Nothing, Follows::Gelu, Follows::GeluKeep, Follows::Add] {
            if !tile.can(follows) {
                continue;
            }
            let mut y = Tensor::empty(device, dtype, &[rows, out]).unwrap();
            let mut pre = Tensor::empty(device, dtype, &[rows, out]).unwrap();
            let keeps = follows == Follows::GeluKeep;
            let adds = (follows == Follows::Add).then_some(&residual.device);
            // Without a bias where nothing else follows.
            let b = Some(&bias.device).filter(|_| follows != Follows::Nothing);
            let applies_gelu = keeps || follows == Follows::Gelu;
            forward.run(&mut y, Some(&mut pre).filter(|_| keeps), b, adds, applies_gelu).unwrap();
            let name = format!("{} {follows:?} {size:?}", tile.variant);
            let expected: Vec<f64> = match follows {
                Follows::Nothing => sum.clone(),
                Follows::Add => biased.iter().zip(&residual.host).map(|(s, r)| s + r).collect(),
                _ => biased.iter().map(|&u| gelu(u)).collect(),
            };
            expect(&format!("y {name}"), dtype, &y, &expected);
            if keeps {
                expect(&format!("pre {name}"), dtype, &pre, &biased);
            }
        }
    });
}

#[test]
fn gradient_of_x_overwrites_adds_and_passes_a_gelu() {
    for_every_tile(|device, [rows, out, fan_in], tile| {
        let dtype = DType::Bf16;
        let Inputs { w, dy, .. } = inputs(device, dtype, [rows, out, fan_in]);
        let pre = operand(device, dtype, 5, &[rows, fan_in], 1.0);
        let size = [rows, fan_in, out];
        let mut gradient = InputGradient::new(&dy.device, &w.device).unwrap();
        gradient.choice = Some(hopper(tile, size, 1));
        let sum = product(size, |i, k| dy.host[i * out + k], |k, j| w.host[k * fan_in + j]);
        let mut dx = Tensor::empty(device, dtype, &[rows, fan_in]).unwrap();
        gradient.run(&mut dx.as_mut(), None, GradMode::Overwrite).unwrap();
        let name = format!("{} {size:?}", tile.variant);
        expect(&format!("dx {name}"), dtype, &dx, &sum);
        if !tile.can(Follows::Add) {
            return;
        }
        let held = dx.to_f64_vec().unwrap();
        gradient.run(&mut dx.as_mut(), None, GradMode::Accumulate).unwrap();
        let both: Vec<f64> = sum.iter().zip(&held).map(|(a, b)| a + b).collect();
        expect(&format!("dx += {name}"), dtype, &dx, &both);
        gradient.run(&mut dx.as_mut(), Some(&pre.device), GradMode::Overwrite).unwrap();
        let fused: Vec<f64> =
            sum.iter().zip(&pre.host).map(|(s, &u)| s * gelu_derivative(u)).collect();
        expect(&format!("dx through gelu {name}"), dtype, &dx, &fused);
    });
}

#[test]
fn gradients_of_parameters_in_one_and_in_several_parts() {
    for_every_tile(|device, sizes, tile| {
        let cut = |size, parts| hopper(tile, size, parts);
        expect_param_gradients(device, DType::Bf16, tile.variant, sizes, &cut);
    });
}
