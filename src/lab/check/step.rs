//! Whole training steps of a device against the CPU's, and against themselves: again, and as a graph.

use std::time::Instant;

use super::Finding;
use crate::checkpoint::State;
use crate::config::Config;
use crate::device::{DType, Device};
use crate::glmae::batch::BatchShape;
use crate::glmae::model::Networks;
use crate::lab::bench_step::random_batch;
use crate::train::pretrain::program::StepProgram;
use crate::train::run::Launches;
use crate::{Error, Result};

/// How far a loss may be from the CPU's, both in f32; what 20 steps of the emulated kernels keep, too.
const F32_BOUND: f64 = 1e-4;
/// The same of bf16 against f32, over the first steps (later the two part, as training is chaotic).
const BF16_BOUND: f64 = 0.02;
const BF16_STEPS: usize = 5;

/// Losses of every step, and all of the state after the last.
#[derive(PartialEq)]
struct Trained {
    losses: Vec<Vec<(&'static str, f64)>>,
    state: Vec<Vec<f64>>,
}

/// Trains `steps` steps of `config` on random volumes, on the CPU and on `device`.
///
/// Errors: those of the CPU's run; a device that fails is a finding that did not pass.
pub fn check(config: &Config, device: &Device, steps: usize) -> Result<Vec<Finding>> {
    let cpu = train(config, &Device::Cpu, DType::F32, Launches::Single, steps)?;
    let mut findings = Vec::new();
    let mut look = |what: &str, body: &mut dyn FnMut() -> Result<String>| {
        let begin = Instant::now();
        let (seen, passed) = match body() {
            Ok(seen) => (seen, true),
            Err(e) => (e.to_string(), false),
        };
        let seconds = begin.elapsed().as_secs_f64();
        findings.push(Finding { what: format!("{steps} steps: {what}"), seen, passed, seconds });
    };
    let run = |dtype, launches| train(config, device, dtype, launches, steps);
    let mut graph = None;
    look("f32 losses follow the CPU's", &mut || {
        let ours = run(DType::F32, Launches::Graph)?;
        let seen = close(&ours, &cpu, steps, F32_BOUND)?;
        graph = Some(ours);
        Ok(seen)
    });
    look("f32, a second run has the same bits", &mut || {
        equal(&run(DType::F32, Launches::Graph)?, graph.as_ref())
    });
    look("f32, single launches give the bits of the graph", &mut || {
        equal(&run(DType::F32, Launches::Single)?, graph.as_ref())
    });
    if *device != Device::Cpu {
        let mut half = None;
        look("bf16 losses follow f32 over the first steps", &mut || {
            let ours = run(DType::Bf16, Launches::Graph)?;
            let seen = close(&ours, &cpu, BF16_STEPS.min(steps), BF16_BOUND)?;
            half = Some(ours);
            Ok(seen)
        });
        look("bf16, single launches give the bits of the graph", &mut || {
            equal(&run(DType::Bf16, Launches::Single)?, half.as_ref())
        });
    }
    Ok(findings)
}

fn close(ours: &Trained, reference: &Trained, steps: usize, bound: f64) -> Result<String> {
    let mut worst = (0.0, String::new());
    for (step, (a, b)) in ours.losses.iter().zip(&reference.losses).take(steps).enumerate() {
        for (&(name, a), &(_, b)) in a.iter().zip(b) {
            let apart = (a - b).abs() / b.abs().max(f64::MIN_POSITIVE);
            if apart.is_nan() || apart > worst.0 {
                worst = (apart, format!("step {step} {name}: {a}, on the CPU {b}"));
            }
            if apart.is_nan() {
                return Err(Error::NotFinite(worst.1));
            }
        }
    }
    match worst.0 <= bound {
        true => Ok(format!("largest relative difference {:.1e}", worst.0)),
        false => Err(Error::Device(format!("{} ({:.1e}, at most {bound:.0e})", worst.1, worst.0))),
    }
}

fn equal(ours: &Trained, other: Option<&Trained>) -> Result<String> {
    match other {
        Some(other) if ours == other => Ok("all bits equal".into()),
        Some(other) => {
            let first = ours.losses.iter().zip(&other.losses).position(|(a, b)| a != b);
            let from =
                first.map_or("in the state alone".into(), |step| format!("from step {step}"));
            Err(Error::Device(format!("the bits differ, {from} on")))
        }
        None => Err(Error::Device("there is no first run to compare with".into())),
    }
}

fn train(
    config: &Config,
    device: &Device,
    dtype: DType,
    launches: Launches,
    steps: usize,
) -> Result<Trained> {
    let nets = Networks::new(device, dtype, config)?;
    let mut state = State::init(device, dtype, config, &nets)?;
    let shape = BatchShape::new(config, config.train.batch);
    let mut program = StepProgram::new(config, &state, &shape, 1, launches)?;
    let mut losses = Vec::new();
    for step in 0..steps {
        let batch = random_batch(config, device, dtype, step as u32)?;
        losses.push(program.step(config, &nets, &mut state, &[batch])?.checked()?.losses);
    }
    let State { weights, m, v, .. } = &state;
    let mut tensors = vec![weights.student.flat().to_f64_vec()?, m.to_f64_vec()?, v.to_f64_vec()?];
    if let Some(teacher) = &weights.teacher {
        tensors.push(teacher.flat().to_f64_vec()?);
    }
    if let Some(center) = &weights.center {
        tensors.push(center.to_f64_vec()?);
    }
    Ok(Trained { losses, state: tensors })
}
