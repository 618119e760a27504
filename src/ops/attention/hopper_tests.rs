//! Hopper's attention, executed from its PTX: lengths around every way of working, several heads, runs, items a block.

use glmae_simt::profile::Profile;

use super::packing::Packing;
use super::{launch, reference, reference_backward};
use crate::device::ptx::Schedule;
use crate::device::{DType, Device, Tensor};
use crate::ops::gemm::hopper::tests::hopper_device;
use crate::ops::linear::tests::{Operand, expect, operand};

/// Heads, columns of a head, lengths.
pub(super) type Case<'a> = (usize, usize, &'a [usize]);

/// Every way: narrow, 128 keys, 192, 256, steps with a last one of 64 and of 128; one row, full and nearly empty items; heads
/// that are not pairs; several runs, in any order.
const CASES: [Case<'_>; 12] = [
    (1, 64, &[1]),
    (3, 64, &[55, 55]),
    (2, 32, &[64, 64, 65]),
    (2, 48, &[7, 128]),
    (1, 64, &[129, 129]),
    (2, 64, &[193, 17, 17]),
    (1, 48, &[251]),
    (1, 32, &[256, 40, 217, 217, 100]),
    (1, 64, &[257]),
    (2, 32, &[330, 9, 9]),
    (1, 48, &[449]),
    (1, 64, &[513, 300]),
];

/// What goes in, in values that bf16 holds, and what has to come out.
pub(super) struct Inputs {
    pub packing: Packing,
    pub qkv: Operand,
    pub dout: Operand,
    pub out: Vec<f64>,
    pub lse: Vec<f64>,
    pub dqkv: Vec<f64>,
}

impl Inputs {
    pub fn new(device: &Device, (heads, d, lengths): Case<'_>) -> Self {
        let packing = Packing::new(device, lengths).unwrap();
        let (rows, width) = (packing.total(), heads * d);
        let qkv = operand(device, DType::Bf16, 0, &[rows, 3 * width], 1.0);
        let dout = operand(device, DType::Bf16, 1, &[rows, width], 1.0);
        let cu: Vec<i32> = packing.cu_seqlens.to_vec().unwrap();
        let (mut out, mut lse) = (vec![0.0; rows * width], vec![0.0; heads * rows]);
        reference(&mut out, &mut lse, &qkv.host, &cu, heads);
        let mut dqkv = vec![0.0; rows * 3 * width];
        reference_backward(&mut dqkv, &dout.host, &qkv.host, &out, &lse, &cu, heads);
        Self { packing, qkv, dout, out, lse, dqkv }
    }

    /// At most so many blocks, so that each takes several items one after the other.
    pub fn on(mut self, blocks: usize) -> Self {
        let parts = self.packing.work.as_mut().and_then(|work| work.hopper.as_mut()).unwrap();
        parts.iter_mut().for_each(|part| part.most_blocks = blocks);
        self
    }

    /// Every part of the gradient is written.
    pub fn backward(&self, out: &Tensor, lse: &Tensor) -> crate::Result<Tensor> {
        let qkv = &self.qkv.device;
        let mut dqkv = Tensor::empty(qkv.device(), DType::Bf16, qkv.shape())?;
        launch::backward(&mut dqkv, out, lse, &self.dout.device, qkv, &self.packing)?;
        Ok(dqkv)
    }

    pub fn forward(&self, heads: usize) -> crate::Result<[Tensor; 2]> {
        let qkv = &self.qkv.device;
        let (rows, width) = qkv.matrix("test")?;
        let mut out = Tensor::empty(qkv.device(), DType::Bf16, &[rows, width / 3])?;
        let mut lse = Tensor::empty(qkv.device(), DType::F32, &[heads, rows])?;
        launch::forward(&mut out, &mut lse, qkv, &self.packing)?;
        Ok([out, lse])
    }
}

fn no_bank_is_met_twice(device: &Device, kernel: &str) {
    let Device::Ptx(ptx) = device else { panic!("not executed from PTX") };
    let counts = ptx.take_counts();
    let mut ran = 0;
    for (name, of) in counts.iter().filter(|(name, _)| name.contains("_hopper_")) {
        let sums = Profile::new(&of.program, &of.counts).total;
        assert_eq!(sums.passes, sums.least_passes, "{name}");
        assert!(sums.tensor_flops > 0, "{name}");
        ran += usize::from(name.contains(kernel));
    }
    assert!(ran > 0, "no kernel {kernel} ran");
}

fn for_every_case(check: impl Fn(&Device, Case<'_>, Inputs)) {
    for (i, case) in CASES.into_iter().enumerate() {
        let schedules = [Schedule::Shuffled(3), Schedule::Ascending, Schedule::Descending];
        let Some(device) = hopper_device(schedules[i % 3]) else { return };
        check(&device, case, Inputs::new(&device, case).on(1 + i % 2));
    }
}

#[test]
fn forward_of_all_lengths() {
    for_every_case(|device, case, inputs| {
        let [out, lse] = inputs.forward(case.0).unwrap();
        expect(&format!("out of {case:?}"), DType::Bf16, &out, &inputs.out);
        expect(&format!("lse of {case:?}"), DType::Bf16, &lse, &inputs.lse);
        no_bank_is_met_twice(device, "attention_fwd");
    });
}

/// Lengths from 1 to 1100, around all that the kernels treat apart and in between, by different schedules and grids: the
/// same bits, and the right ones.
#[test]
fn ragged_lengths_have_the_same_bits_in_any_order_and_grid() {
    let around = [1, 16, 63, 65, 127, 191, 255, 258, 320, 385, 511, 640];
    let between = [1100, 2, 37, 74, 111, 148, 222, 29, 296, 333, 407, 897];
    for (i, lengths) in around.into_iter().zip(between).enumerate() {
        let (d, heads) = ([32, 64, 48][i % 3], 1 + i % 2);
        let case = (heads, d, &[lengths.0, lengths.1, lengths.1][..]);
        let mut bits: Option<[Vec<f64>; 3]> = None;
        for (schedule, blocks) in [(Schedule::Shuffled(7), 132), (Schedule::Descending, 2)] {
            let Some(device) = hopper_device(schedule) else { return };
            let inputs = Inputs::new(&device, case).on(blocks);
            let [out, lse] = inputs.forward(heads).unwrap();
            let dqkv = inputs.backward(&out, &lse).unwrap();
            expect(&format!("out of {case:?}"), DType::Bf16, &out, &inputs.out);
            expect(&format!("dqkv of {case:?}"), DType::Bf16, &dqkv, &inputs.dqkv);
            let now = [&out, &lse, &dqkv].map(|t| t.to_f64_vec().unwrap());
            assert!(bits.get_or_insert_with(|| now.clone()) == &now, "{case:?}");
        }
    }
}

/// More runs than the kernels take: the others do it.
#[test]
fn many_lengths_are_left_to_the_kernels_for_every_gpu() {
    let Some(device) = hopper_device(Schedule::Ascending) else { return };
    for (count, kernel) in [(8, "attention_fwd_bf16_hopper_d32"), (9, "attention_fwd_bf16_d32")] {
        let lengths: Vec<usize> = (1..=count).collect();
        let inputs = Inputs::new(&device, (1, 32, &lengths));
        let [out, _] = inputs.forward(1).unwrap();
        expect("out", DType::Bf16, &out, &inputs.out);
        let Device::Ptx(ptx) = &device else { panic!("not executed from PTX") };
        let names: Vec<&str> = ptx.take_counts().into_keys().collect();
        assert_eq!(names, [kernel]);
    }
}

#[test]
fn backward_of_all_lengths() {
    for_every_case(|device, case, inputs| {
        let [out, lse] = inputs.forward(case.0).unwrap();
        let dqkv = inputs.backward(&out, &lse).unwrap();
        expect(&format!("dqkv of {case:?}"), DType::Bf16, &dqkv, &inputs.dqkv);
        no_bank_is_met_twice(device, "attention_bwd");
    });
}
