//! Tests made from the registry of ops.

use glmae::device::emulated::{Mode, Schedule};
use glmae::device::{DType, Device};
use glmae::lab::opcheck::{
    Before, Outcome, distance, gradcheck, rounded, run_onto, within, within_bf16,
};
use glmae::ops::{Input, OPS, Tolerance};

/// GLMAE_OPS=linear,layer_norm: only these.
fn chosen(name: &str) -> bool {
    let only = std::env::var("GLMAE_OPS").ok();
    only.is_none_or(|o| o.split(',').any(|o| o.trim() == name))
}

#[test]
fn gradients_of_every_op() {
    let (mut cases, mut entries, mut ops) = (0, 0, 0);
    for op in OPS.iter().filter(|op| op.differentiable() && chosen(op.name())) {
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

/// The first place where two runs have different bits.
fn difference(a: &Outcome, b: &Outcome) -> Option<String> {
    let first = |what: &str, a: &[f64], b: &[f64]| {
        let at = a.iter().zip(b).position(|(a, b)| a.to_bits() != b.to_bits())?;
        Some(format!("{what} element {at}: {:e} and {:e}", a[at], b[at]))
    };
    let outputs = a.outputs.iter().zip(&b.outputs).enumerate();
    let gradients = a.gradients.iter().zip(&b.gradients);
    outputs
        .filter_map(|(i, (a, b))| first(&format!("output {i}"), a, b))
        .chain(gradients.filter_map(|(a, b)| first(&format!("gradient of {}", a.0), &a.1, &b.1)))
        .next()
}

/// Gradients are written in one case and added to what is there in the next.
fn before(case: usize) -> Before {
    if case.is_multiple_of(2) { Before::Nothing } else { Before::Gradients }
}

fn mean_square(inputs: &[Input]) -> f64 {
    let of = |i: &Input| i.data.iter().map(|x| x * x).sum::<f64>() / (i.data.len() as f64);
    inputs.iter().map(of).fold(1.0, f64::max)
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

/// The same on a GPU, where there is one; twice, and the second run must have the same bits.
#[test]
fn cuda_kernels_follow_the_f64_reference() {
    match Device::parse("cuda:0") {
        Ok(gpu) => {
            println!("on {}", gpu.name());
            kernels_follow_the_f64_reference("CUDA", &|| vec![gpu.clone(), gpu.clone()]);
        }
        // The bundle for GPU machines sets this: there a GPU that does not open is a failure.
        Err(e) if std::env::var_os("GLMAE_REQUIRE_CUDA").is_some() => panic!("no CUDA device: {e}"),
        Err(e) => println!("skipped: no CUDA device ({e})"),
    }
}

/// Every case of every op that has kernels, on each of `devices` (fresh ones per case): the bits must
/// agree between them, the values with the f64 reference.
fn kernels_follow_the_f64_reference(what: &str, devices: &dyn Fn() -> Vec<Device>) {
    let only = std::env::var("GLMAE_OPS").ok();
    let (mut runs, mut missing) = (0, Vec::new());
    for op in OPS.iter().filter(|op| chosen(op.name())) {
        if !op.has_kernels() {
            missing.push(op.name());
            continue;
        }
        for (i, case) in op.cases().into_iter().enumerate() {
            for dtype in [DType::F32, DType::Bf16] {
                let inputs = rounded(op.inputs(&case), dtype);
                let norm = mean_square(&inputs);
                // Every case writes its gradients in one dtype and adds them in the other.
                let before = before(i + usize::from(dtype == DType::Bf16));
                let run = |device, dtype| run_onto(*op, &case, &inputs, device, dtype, before);
                let reference = run(&Device::Cpu, DType::F64).unwrap();
                let name = format!("{} {} {dtype}", op.name(), case.label);
                let mut first = None;
                for (i, device) in devices().iter().enumerate() {
                    let outcome = run(device, dtype).unwrap_or_else(|e| panic!("{name}: {e}"));
                    runs += 1;
                    let first = first.get_or_insert_with(|| outcome.clone());
                    let other = difference(first, &outcome);
                    assert!(
                        other.is_none(),
                        "{name}: the bits of run {i} differ from the first: {}",
                        other.unwrap_or_default()
                    );
                }
                let ours = first.unwrap();
                let class = op.tolerance(&case);
                let sums = if class == Tolerance::Bitwise { Tolerance::Reduction } else { class };
                let close = |d: &_, class| match dtype {
                    DType::Bf16 => within_bf16(d),
                    _ => within(d, class, norm),
                };
                for (i, (a, b)) in ours.outputs.iter().zip(&reference.outputs).enumerate() {
                    let d = distance(a, b);
                    assert!(close(&d, class), "{name} output {i}: {d:?}");
                }
                for ((input, a), (_, b)) in ours.gradients.iter().zip(&reference.gradients) {
                    let d = distance(a, b);
                    assert!(close(&d, sums), "{name} gradient of {input}: {d:?}");
                }
            }
        }
    }
    assert!(runs > 0 || !missing.is_empty(), "no op is called {only:?}");
    println!("{runs} {what} runs; ops without kernels: {missing:?}");
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
