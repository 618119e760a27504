//! Sizes that the registry's cases do not have: a weight gradient in several parts.

use super::{NAMES, Spec, grid};
use crate::device::emulated::{Mode, Schedule};
use crate::device::{DType, Device, Tensor};
use crate::ops::gemm::plan_small;
use crate::ops::tolerance::{distance, rounded, within, within_bf16};
use crate::ops::{Input, OpCase, OpSpec, Tolerance};
use crate::param_layout::ParamLayout;
use crate::tape::{Param, ParamGrads, Tape};

/// The output, and the gradients of input and weight for a fixed random one of the output.
fn run(case: &OpCase, inputs: &[Input], device: &Device, dtype: DType) -> [Vec<f64>; 3] {
    let tensor = |i: usize, dtype| {
        Tensor::from_f64(device, dtype, &inputs[i].data, &inputs[i].shape).unwrap()
    };
    let mut layout = ParamLayout::default();
    let id = layout.add("weight", &inputs[1].shape);
    let half = (dtype == DType::Bf16).then(|| tensor(1, dtype));
    let slot = Some(layout.slot(id));
    let weight = Param { value: tensor(1, dtype.master()), half, slot };
    let mut tape = Tape::new(device);
    let x = tape.leaf(tensor(0, dtype));
    let y = tape.conv_transpose(&x, grid(case), &weight).unwrap();
    // Numbers that every dtype holds.
    let dy = case.normal(2, y.value().len(), 0.0, 1.0).into_iter();
    let dy: Vec<f64> = dy.map(|x| half::bf16::from_f64(x).to_f64()).collect();
    let dy = Tensor::from_f64(device, y.value().dtype(), &dy, y.shape()).unwrap();
    let mut grads = ParamGrads::new(device, dtype.master(), &layout).unwrap();
    let mut values = tape.backward_from(&[(y.clone(), dy)], &mut grads).unwrap();
    let dx = values.take(&x).unwrap().to_f64_vec().unwrap();
    let dw = grads.finish(&layout).unwrap().to_f64_vec().unwrap();
    [y.value().to_f64_vec().unwrap(), dx, dw[layout.entry(id).range()].to_vec()]
}

#[test]
fn a_weight_gradient_in_several_parts() {
    // 16-byte loads, and sides that do not allow them.
    for (fan_in, out) in [(8, 16), (5, 6)] {
        let case = OpCase::new(&NAMES, &[2, 5, 6, 13, fan_in, out]);
        for dtype in [DType::F32, DType::Bf16] {
            let vectors = out == 16;
            let plan = plan_small(dtype, [8 * out, fan_in, 780], vectors, true);
            assert!(plan.parts > 1, "one part tests nothing");
            let inputs = rounded(Spec.inputs(&case), dtype);
            let device = Device::emulated(Mode::Checked, Schedule::Shuffled(9));
            let ours = run(&case, &inputs, &device, dtype);
            let reference = run(&case, &inputs, &Device::Cpu, DType::F64);
            for (name, (a, b)) in ["y", "dx", "dw"].iter().zip(ours.iter().zip(&reference)) {
                let d = distance(a, b);
                let close = match dtype {
                    DType::Bf16 => within_bf16(&d),
                    _ => within(&d, Tolerance::Products { k: 780 }, 1.0),
                };
                assert!(close, "{name} {fan_in} {out} {dtype}: {d:?}");
            }
        }
    }
}
