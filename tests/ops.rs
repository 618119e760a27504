//! Tests made from the registry of ops.

use glmae::device::emulated::{Mode, Schedule};
use glmae::device::{DType, Device};
use glmae::lab::opcheck::{distance, gradcheck, rounded, run, within, within_bf16};
use glmae::ops::{Input, OPS, Tolerance};

#[test]
fn gradients_of_every_op() {
    let (mut cases, mut entries, mut ops) = (0, 0, 0);
    for op in OPS.iter().filter(|op| op.differentiable()) {
        for case in op.cases() {
            let check = gradcheck(*op, &case, 64).unwrap();
            assert!(check.worst <= 1.0, "{} {}: {check:?}", op.name(), case.label);
            cases += 1;
            entries += check.entries;
        }
        ops += 1;
    }
    let updates: Vec<_> =
        OPS.iter().filter(|op| !op.differentiable()).map(|op| op.name()).collect();
    println!("{ops} ops, {cases} cases, {entries} gradient entries checked, 0 skipped");
    println!("updates of state and data, which have no gradient: {}", updates.join(", "));
}

#[test]
fn f32_follows_the_f64_reference() {
    for op in OPS {
        for case in op.cases() {
            let inputs = rounded(op.inputs(&case), DType::F32);
            let norm = mean_square(&inputs);
            let reference = run(*op, &case, &inputs, &Device::Cpu, DType::F64).unwrap();
            let ours = run(*op, &case, &inputs, &Device::Cpu, DType::F32).unwrap();
            let class = op.tolerance(&case);
            let name = format!("{} {}", op.name(), case.label);
            for (i, (a, b)) in ours.outputs.iter().zip(&reference.outputs).enumerate() {
                let d = distance(a, b);
                assert!(within(&d, class, norm), "{name} output {i}: {d:?}");
            }
            // A gradient sums over the places where a value is used, also where the op only moves it.
            let sums = if class == Tolerance::Bitwise { Tolerance::Reduction } else { class };
            for ((input, a), (_, b)) in ours.gradients.iter().zip(&reference.gradients) {
                let d = distance(a, b);
                assert!(within(&d, sums, norm), "{name} gradient of {input}: {d:?}");
            }
        }
    }
}

fn mean_square(inputs: &[Input]) -> f64 {
    let of = |i: &Input| i.data.iter().map(|x| x * x).sum::<f64>() / (i.data.len() as f64);
    inputs.iter().map(of).fold(1.0, f64::max)
}

const SCHEDULES: [Schedule; 3] =
    [Schedule::Ascending, Schedule::Descending, Schedule::Shuffled(17)];

/// The kernels themselves, every memory access checked, in f32 and bf16, under three schedules.
/// The environment variable GLMAE_OPS (names, separated by commas) restricts it while one works on
/// a kernel.
#[test]
fn emulated_kernels_follow_the_f64_reference() {
    let (mut runs, mut missing) = (0, Vec::new());
    let wanted = std::env::var("GLMAE_OPS").ok();
    for op in OPS {
        if wanted.as_ref().is_some_and(|names| !names.split(',').any(|n| n == op.name())) {
            continue;
        }
        if !op.has_kernels() {
            missing.push(op.name());
            continue;
        }
        for case in op.cases() {
            for dtype in [DType::F32, DType::Bf16] {
                let inputs = rounded(op.inputs(&case), dtype);
                let norm = mean_square(&inputs);
                let reference = run(*op, &case, &inputs, &Device::Cpu, DType::F64).unwrap();
                let name = format!("{} {} {dtype}", op.name(), case.label);
                let outcomes = SCHEDULES.map(|schedule| {
                    let device = Device::emulated(Mode::Checked, schedule);
                    run(*op, &case, &inputs, &device, dtype)
                        .unwrap_or_else(|e| panic!("{name}: {e}"))
                });
                assert_eq!(outcomes[0], outcomes[1], "{name}: descending differs");
                assert_eq!(outcomes[0], outcomes[2], "{name}: shuffled differs");
                let class = op.tolerance(&case);
                let sums = if class == Tolerance::Bitwise { Tolerance::Reduction } else { class };
                let close = |d: &_, class| match dtype {
                    DType::Bf16 => within_bf16(d),
                    _ => within(d, class, norm),
                };
                for (i, (a, b)) in outcomes[0].outputs.iter().zip(&reference.outputs).enumerate() {
                    let d = distance(a, b);
                    assert!(close(&d, class), "{name} output {i}: {d:?}");
                }
                for ((input, a), (_, b)) in outcomes[0].gradients.iter().zip(&reference.gradients) {
                    let d = distance(a, b);
                    assert!(close(&d, sums), "{name} gradient of {input}: {d:?}");
                }
                runs += SCHEDULES.len();
            }
        }
    }
    println!("{runs} emulated runs; ops without kernels: {missing:?}");
}

#[test]
fn names_and_cases_are_complete() {
    for op in OPS {
        assert_eq!(OPS.iter().filter(|o| o.name() == op.name()).count(), 1);
        let labels: Vec<_> = op.cases().into_iter().map(|c| c.label).collect();
        assert!(labels.len() >= 4, "{}: {labels:?}", op.name());
        assert!(labels.iter().any(|l| l.contains("offset")), "{}: no offset data", op.name());
        assert!(op.bytes(&op.bench_case(), 4) > 0);
        let file = format!("{}/src/ops/{}.rs", env!("CARGO_MANIFEST_DIR"), op.name());
        let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert!(text.contains("Shapes:") && text.contains("Errors:"), "{file} lacks headings");
    }
}
