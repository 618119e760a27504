//! Hopper's convolutions, executed from their PTX: every variant, with bricks that are not full along any axis, chunks of 16
//! and of 8 channels, one input and two, tiles of output channels that are not full, several items a block.

use glmae_simt::profile::Profile;

use super::hopper::{BACKWARD, Backward, FORWARD, Forward};
use super::launch::Filter;
use super::{Conv, reference, reference_dw, reference_dx};
use crate::Result;
use crate::device::ptx::Schedule;
use crate::device::{DType, Device, Tensor};
use crate::ops::gemm::hopper::tests::hopper_device;
use crate::ops::grid::VoxelGrid;
use crate::ops::linear::tests::{Operand, expect, operand};
use crate::tape::{GradMode, Param};

const SCHEDULES: [Schedule; 3] = [Schedule::Shuffled(3), Schedule::Ascending, Schedule::Descending];

/// What goes in, in values that bf16 holds, and what has to come out.
pub(super) struct Inputs {
    pub conv: Conv,
    inputs: Vec<Operand>,
    weight: Operand,
    bias: Operand,
    dy: Operand,
}

impl Inputs {
    pub fn new(device: &Device, grid: VoxelGrid, channels: &[usize], out: usize) -> Self {
        let conv = Conv { grid, channels: channels.to_vec(), out, is_wide: true };
        let (rows, all) = (grid.rows(), conv.all_channels());
        let x = |(i, &c): (usize, &usize)| operand(device, DType::Bf16, i as u32, &[rows, c], 1.0);
        let std = 1.0 / (27.0 * all as f64).sqrt();
        Self {
            inputs: channels.iter().enumerate().map(x).collect(),
            weight: operand(device, DType::F32, 2, &[out, all, 3, 3, 3], std),
            bias: operand(device, DType::F32, 3, &[out], 1.0),
            dy: operand(device, DType::Bf16, 4, &[rows, out], 1.0),
            conv,
        }
    }

    fn param(&self) -> Param {
        Param { value: self.weight.device.clone(), half: None, slot: None }
    }

    fn values(&self) -> Vec<&Tensor> {
        self.inputs.iter().map(|x| &x.device).collect()
    }

    fn hosts(&self) -> Vec<(&[f64], usize)> {
        self.inputs.iter().zip(&self.conv.channels).map(|(x, &c)| (&x.host[..], c)).collect()
    }

    /// The result, and what it has to be.
    pub fn forward(&self, tile: Forward) -> Result<(Tensor, Vec<f64>)> {
        let Conv { grid, out, .. } = self.conv;
        let mut y = Tensor::empty(self.dy.device.device(), DType::Bf16, &[grid.rows(), out])?;
        let param = self.param();
        let (filter, bias) = (Filter::forward(&self.conv, &param), Some(&self.bias.device));
        let (to, mode) = (&mut y.as_mut(), GradMode::Overwrite);
        tile.convolve(&filter, to, &self.values(), bias, grid, mode)?;
        let mut want = vec![0.0; grid.rows() * out];
        reference(&mut want, &self.hosts(), &self.weight.host, Some(&self.bias.host), out, grid);
        Ok((y, want))
    }

    /// The gradient of the last input, added to what is there.
    fn backward_x(&self, tile: Forward) -> Result<(Tensor, Vec<f64>)> {
        let grid = self.conv.grid;
        let range = self.conv.ranges().last().unwrap();
        let param = self.param();
        let filter = Filter::backward(&self.conv, &param, &range);
        let there = self.inputs.last().unwrap();
        let mut dx = Tensor::from_f64(
            there.device.device(),
            DType::Bf16,
            &there.host,
            &[grid.rows(), range.len()],
        )?;
        let (to, mode) = (&mut dx.as_mut(), GradMode::Accumulate);
        tile.convolve(&filter, to, &[&self.dy.device], None, grid, mode)?;
        let mut want = there.host.clone();
        let (dy, weight) = (&self.dy.host, &self.weight.host);
        reference_dx(&mut want, true, dy, weight, range, self.conv.all_channels(), grid);
        Ok((dx, want))
    }

    /// The gradient of the weight, `[out, c, tap]`, summed over the parts in their order.
    pub fn backward_weight(&self, tile: Backward, each: usize) -> Result<(Tensor, Vec<f64>)> {
        let Conv { grid, out, .. } = self.conv;
        let parts = tile.partial_gradients(&self.conv, &self.dy.device, &self.values(), each)?;
        let all = out * self.conv.all_channels();
        let mut sum = vec![0.0; 27 * all];
        for part in parts.to_f64_vec()?.chunks_exact(27 * all) {
            for (i, to) in sum.iter_mut().enumerate() {
                *to += part[i % 27 * all + i / 27];
            }
        }
        let mut want = vec![0.0; 27 * all];
        reference_dw(&mut want, false, &self.dy.host, &self.hosts(), out, grid);
        Ok((Tensor::from_f64(&Device::Cpu, DType::F32, &sum, &[27 * all])?, want))
    }
}

fn no_bank_is_met_twice(device: &Device, kernel: &str) {
    let Device::Ptx(ptx) = device else { panic!("not executed from PTX") };
    let counts = ptx.take_counts();
    let mut ran = 0;
    for (name, of) in counts.iter().filter(|(name, _)| name.contains(kernel)) {
        let sums = Profile::new(&of.program, &of.counts).total;
        assert_eq!(sums.passes, sums.least_passes, "{name}");
        assert!(sums.tensor_flops > 0, "{name}");
        ran += 1;
    }
    assert!(ran > 0, "no kernel {kernel} ran");
}

/// Two bricks along every axis, one full and one nearly empty; two volumes.
const GRIDS: [VoxelGrid; 2] =
    [VoxelGrid { batch: 1, dims: [9, 3, 10] }, VoxelGrid { batch: 2, dims: [3, 9, 7] }];

#[test]
fn forward_of_every_variant() {
    for (i, tile) in FORWARD.into_iter().enumerate() {
        let Some(device) = hopper_device(SCHEDULES[i % 3]) else { return };
        // A whole tile and a part of one; whole chunks and a half of one.
        let channels: &[usize] = if i % 2 == 0 { &[16, 8] } else { &[24] };
        let inputs = Inputs::new(&device, GRIDS[i % 2], channels, tile.n + 8);
        let name = format!("y of {tile:?}");
        let bits = [1, 3].map(|most_blocks| {
            let (y, want) = inputs.forward(Forward { most_blocks, ..tile }).unwrap();
            expect(&name, DType::Bf16, &y, &want);
            y.to_f64_vec().unwrap()
        });
        assert!(bits[0] == bits[1], "{name}: the grid shows");
        no_bank_is_met_twice(&device, "conv3d_fwd");
    }
}

/// Taps are mirrored, the channels of the second input found, and the sum is added to what is there.
#[test]
fn gradient_of_an_input() {
    for (i, tile) in FORWARD.into_iter().enumerate() {
        let Some(device) = hopper_device(SCHEDULES[(i + 1) % 3]) else { return };
        let inputs = Inputs::new(&device, GRIDS[(i + 1) % 2], &[8, tile.n], 24);
        let (dx, want) = inputs.backward_x(tile).unwrap();
        expect(&format!("dx of {tile:?}"), DType::Bf16, &dx, &want);
    }
}

#[test]
fn gradient_of_the_weight_in_parts() {
    for (i, tile) in BACKWARD.into_iter().enumerate() {
        let channels: &[usize] = if i % 2 == 0 { &[24] } else { &[16, 8] };
        for each in [1, 2, 100] {
            let Some(device) = hopper_device(SCHEDULES[(i + each) % 3]) else { return };
            let inputs = Inputs::new(&device, GRIDS[i % 2], channels, tile.n + 8);
            let (dw, want) = inputs.backward_weight(tile, each).unwrap();
            expect(&format!("dw of {tile:?} in parts of {each}"), DType::F32, &dw, &want);
            no_bank_is_met_twice(&device, "conv3d_bwd_params");
        }
    }
}

/// What is taken for the layers of a UNETR of 16 and of 48 features.
#[test]
fn the_choice_follows_what_is_counted() {
    let grid = |edge| VoxelGrid { batch: 2, dims: [edge; 3] };
    let forward = |edge, out| Forward::choose(grid(edge), out).n;
    assert_eq!([16, 32, 48, 96].map(|out| forward(96, out)), [16, 32, 48, 96]);
    assert_eq!([8, 24, 64, 128].map(|out| forward(96, out)), [16, 32, 64, 64]);
    // So few bricks that narrow tiles fill more of the multiprocessors.
    assert_eq!(forward(6, 384), 16);
    let backward = |out| Backward::choose(out).n;
    assert_eq!([8, 16, 32, 48, 64, 96, 128].map(backward), [16, 16, 32, 48, 64, 48, 64]);
}
