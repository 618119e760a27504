//! Tests made from the registry of ops.

use glmae::device::emulated::{Mode, Schedule};
use glmae::device::{DType, Device};
use glmae::lab::check::ops::{mean_square, units};
use glmae::lab::opcheck::{Before, gradcheck, run_onto};
use glmae::ops::tolerance::{distance, rounded, within};
use glmae::ops::{OPS, Tolerance};
use rayon::prelude::*;

/// GLMAE_OPS=linear,layer_norm: only these.
fn only() -> Vec<String> {
    let only = std::env::var("GLMAE_OPS").unwrap_or_default();
    only.split(',').map(|o| o.trim().to_owned()).filter(|o| !o.is_empty()).collect()
}

fn chosen(name: &str) -> bool {
    only().is_empty() || only().iter().any(|o| o == name)
}

#[test]
fn gradients_of_every_op() {
    let ops: Vec<_> = OPS.iter().filter(|op| op.differentiable() && chosen(op.name())).collect();
    let cases: Vec<_> =
        ops.iter().flat_map(|op| op.cases().into_iter().map(move |case| (op, case))).collect();
    let entries = cases.par_iter().map(|(op, case)| {
        let check = gradcheck(***op, case, 64).unwrap();
        assert!(check.worst <= 1.0, "{} {}: {check:?}", op.name(), case.label);
        check.entries
    });
    let entries: usize = entries.sum();
    let (ops, cases) = (ops.len(), cases.len());
    let updates: Vec<_> =
        OPS.iter().filter(|op| !op.differentiable()).map(|op| op.name()).collect();
    println!("{ops} ops, {cases} cases, {entries} gradient entries checked, 0 skipped");
    println!("updates of state and data, which have no gradient: {}", updates.join(", "));
}

#[test]
fn f32_follows_the_f64_reference() {
    for op in OPS.iter().filter(|op| chosen(op.name())) {
        for (i, case) in op.cases().into_iter().enumerate() {
            let inputs = rounded(op.inputs(&case), DType::F32);
            let norm = mean_square(&inputs);
            let run = |dtype| run_onto(*op, &case, &inputs, &Device::Cpu, dtype, before(i));
            let (reference, ours) = (run(DType::F64).unwrap(), run(DType::F32).unwrap());
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

/// Gradients are written in one case and added to what is there in the next.
fn before(case: usize) -> Before {
    if case.is_multiple_of(2) { Before::Nothing } else { Before::Gradients }
}

const SCHEDULES: [Schedule; 3] =
    [Schedule::Ascending, Schedule::Descending, Schedule::Shuffled(17)];

/// The kernels themselves, every memory access checked, in f32 and bf16, under three schedules.
#[test]
fn emulated_kernels_follow_the_f64_reference() {
    kernels_follow_the_f64_reference("emulated", &|| {
        let mut devices =
            SCHEDULES.map(|schedule| Device::emulated(Mode::Checked, schedule)).to_vec();
        // The build without checks is optimised differently; its bits must be the same.
        devices.push(Device::emulated(Mode::Plain, Schedule::Ascending));
        devices
    });
}

/// The same on a GPU, where there is one; twice, and the second run must have the same bits. (`glmae
/// check ops` does it in processes that a faulting kernel does not take along.)
#[test]
fn cuda_kernels_follow_the_f64_reference() {
    match Device::parse("cuda:0") {
        Ok(gpu) => {
            println!("on {}", gpu.name());
            kernels_follow_the_f64_reference("CUDA", &|| vec![gpu.clone(), gpu.clone()]);
        }
        Err(e) => println!("skipped: no CUDA device ({e})"),
    }
}

/// The PTX that nvcc made of the kernels, every instruction executed and every access checked: what is compiled for
/// sm_80 and for sm_90a, under two schedules; and with all freedoms of the hardware taken the other way.
#[cfg(feature = "cuda")]
#[test]
fn compiled_kernels_follow_the_f64_reference() {
    use std::sync::Arc;

    use glmae::device::KernelSet;
    use glmae::device::ptx::{Arch, Numerics, Options, Ptx, Schedule, SumOrder};

    let device = |arch, options| match Ptx::new(arch, options) {
        Ok(ptx) => Some(Device::Ptx(Arc::new(ptx))),
        Err(e) => {
            println!("skipped: {e}");
            None
        }
    };
    let checked = |schedule| Options { schedule, ..Options::default() };
    let other = |sums| Options {
        checked: false,
        schedule: Schedule::Shuffled(5),
        numerics: Numerics { is_perturbed: true, sums },
        ..Options::default()
    };
    let hopper = |options| Options { kernels: KernelSet::Hopper, ..options };
    for (arch, options) in [
        (Arch::Sm80, checked(Schedule::Shuffled(23))),
        (Arch::Sm90a, hopper(checked(Schedule::Descending))),
        (Arch::Sm80, other(SumOrder::Second)),
        (Arch::Sm90a, hopper(other(SumOrder::CutOff))),
    ] {
        if device(arch, options).is_some() {
            let what = format!("{arch}, {options:?}");
            kernels_follow_the_f64_reference(&what, &|| {
                device(arch, options).into_iter().collect()
            });
        }
    }
}

/// Without the compiler for CUDA there is nothing to execute.
#[cfg(not(feature = "cuda"))]
#[test]
fn compiled_kernels_follow_the_f64_reference() {
    println!("skipped: a build without the feature cuda has no PTX");
}

/// Every case of every op that has kernels, on each of `devices` (fresh ones per case).
fn kernels_follow_the_f64_reference(what: &str, devices: &dyn Fn() -> Vec<Device>) {
    let (units, without) = units(&only(), None).unwrap();
    for unit in &units {
        let verdict = unit.check(&devices()).unwrap_or_else(|e| panic!("{}: {e}", unit.name()));
        assert!(verdict.compared > 0 || verdict.fault.is_some());
        assert!(verdict.fault.is_none(), "{}: {}", unit.name(), verdict.fault.unwrap());
    }
    assert!(!units.is_empty() || !without.is_empty());
    println!("{} cases on {what}; ops without kernels: {without:?}", units.len());
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
