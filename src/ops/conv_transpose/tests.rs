//! Sizes that the registry's cases do not have: a weight gradient in several parts.

use super::{NAMES, Spec};
use crate::device::emulated::{Mode, Schedule};
use crate::device::{DType, Device};
use crate::lab::opcheck::{distance, rounded, run, within, within_bf16};
use crate::ops::gemm::plan_small;
use crate::ops::{OpCase, OpSpec, Tolerance};

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
            let ours = run(&Spec, &case, &inputs, &device, dtype).unwrap();
            let reference = run(&Spec, &case, &inputs, &Device::Cpu, DType::F64).unwrap();
            let check = |name: &str, a: &[f64], b: &[f64]| {
                let d = distance(a, b);
                let close = match dtype {
                    DType::Bf16 => within_bf16(&d),
                    _ => within(&d, Tolerance::Products { k: 780 }, 1.0),
                };
                assert!(close, "{name} {fan_in} {out} {dtype}: {d:?}");
            };
            check("y", &ours.outputs[0], &reference.outputs[0]);
            for ((name, a), (_, b)) in ours.gradients.iter().zip(&reference.gradients) {
                check(name, a, b);
            }
        }
    }
}
