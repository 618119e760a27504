//! One op on two devices. Layer norm runs forward and backward on the CPU, then through its CUDA kernels on
//! the emulated device, which checks every load and store. At last a kernel is told a wrong size, to show
//! what the device says about it.
//!
//! `cargo run --example op`

use std::sync::Arc;

use glmae::Result;
use glmae::device::emulated::{Mode, Schedule};
use glmae::device::launch::{Arg, LaunchConfig};
use glmae::device::{DType, Device, Tensor};
use glmae::lab::opcheck::gradcheck;
use glmae::nn::params::Params;
use glmae::ops::OPS;
use glmae::param_layout::ParamLayout;
use glmae::tape::{ParamGrads, Tape};

const ROWS: usize = 6;
const COLUMNS: usize = 40;

pub fn main() -> Result<()> {
    let [y, dx, dweight] = layer_norm(&Device::Cpu)?;
    println!("cpu        y[0] = {:.6}, dx[0] = {:.6}, dweight[0] = {:.6}", y[0], dx[0], dweight[0]);

    for schedule in [Schedule::Ascending, Schedule::Shuffled(7)] {
        let kernels = layer_norm(&Device::emulated(Mode::Checked, schedule))?;
        let worst = [&y, &dx, &dweight].into_iter().zip(&kernels).map(|(a, b)| distance(a, b));
        let worst = worst.fold(0.0, f64::max);
        println!("emulated   largest difference {worst:.1e}, threads in the order {schedule:?}");
        assert!(worst < 1e-5);
    }

    // The check that every op of the registry passes: its backward pass against central differences.
    for op in OPS.iter().filter(|op| op.name() == "layer_norm") {
        let case = &op.cases()[1];
        let check = gradcheck(*op, case, 64)?;
        println!("gradients  {} entries of the case {}", check.entries, case.label);
        assert!(check.worst <= 1.0, "{check:?}");
    }

    println!("a fault    {}", stray_write()?);
    Ok(())
}

/// Result, and gradients of the input and the weight, of `sum_i i y_i / n`.
fn layer_norm(device: &Device) -> Result<[Vec<f64>; 3]> {
    let mut layout = ParamLayout::default();
    let (weight, bias) = (layout.add("weight", &[COLUMNS]), layout.add("bias", &[COLUMNS]));
    let mut params = Params::zeros(device, DType::F32, Arc::new(layout), true)?;
    params.value_mut("weight")?.upload(&[2.0f32; COLUMNS])?;

    let n = ROWS * COLUMNS;
    let x: Vec<f32> = (0..n).map(|i| ((i * i) % 17) as f32).collect();
    let ramp: Vec<f32> = (0..n).map(|i| i as f32 / n as f32).collect();
    let mut tape = Tape::new(device);
    let x = tape.leaf(Tensor::from_slice(device, &x, &[ROWS, COLUMNS])?);
    let y = tape.layer_norm(&x, &params.get(weight)?, &params.get(bias)?, 1e-6)?;

    let mut grads = ParamGrads::new(device, DType::F32, params.layout())?;
    let dy = Tensor::from_slice(device, &ramp, &[ROWS, COLUMNS])?;
    let mut inputs = tape.backward_from(&[(y.clone(), dy)], &mut grads)?;
    let dx = inputs.take(&x).map_or(Ok(Vec::new()), |dx| dx.to_f64_vec())?;
    let flat = grads.finish(params.layout())?.to_f64_vec()?;
    let dweight = flat[params.layout().entry(weight).range()].to_vec();
    Ok([y.value().to_f64_vec()?, dx, dweight])
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// Adds 9 numbers to 9, where there are 8: what the device says.
fn stray_write() -> Result<String> {
    let Device::Emulated(device) = Device::emulated(Mode::Checked, Schedule::Ascending) else {
        return Ok(String::new());
    };
    let (target, source) = (device.alloc(32, "target")?, device.alloc(36, "source")?);
    device.upload(target, &[0; 32])?;
    device.upload(source, &[0; 36])?;
    let args = [Arg::from(target), Arg::from(source), Arg::from(9i64)];
    let outcome = device.launch("accumulate_update_f32", &LaunchConfig::linear(1, 32), &args);
    Ok(outcome.expect_err("one element too many").to_string())
}
