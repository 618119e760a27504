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

#[test]
fn backward_of_all_lengths() {
    for_every_case(|device, case, inputs| {
        let [out, lse] = inputs.forward(case.0).unwrap();
        let dqkv = inputs.backward(&out, &lse).unwrap();
        expect(&format!("dqkv of {case:?}"), DType::Bf16, &dqkv, &inputs.dqkv);
        no_bank_is_met_twice(device, "attention_bwd");
    });
}
