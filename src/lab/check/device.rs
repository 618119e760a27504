//! The device by itself: memory, uploads of every size on both ways, one kernel, one graph, the clock,
//! running out of memory. Takes seconds; what fails here would fail everything after it.

use std::io;
use std::thread::Builder;
use std::time::Instant;

use super::{Finding, primitives};
use crate::device::{DType, Device, Tensor};
use crate::lab::clock::Moment;
use crate::rng::{Purpose, Rng};
use crate::tape::accumulate;
use crate::{Error, Result};

/// Elements of the uploads: none, one, odd, around a page of pinned memory, and beyond what is in flight on
/// the copy stream (16 MiB and more).
const SIZES: [usize; 7] = [0, 1, 7, 65_535, 65_536, 1_048_577, 7_000_003];

/// Looks at `device`; a check that cannot go on is a finding that did not pass.
pub fn check(device: &Device) -> Vec<Finding> {
    type Check = (&'static str, fn(&Device) -> Result<String>);
    const CHECKS: [Check; 9] = [
        ("memory is given and filled", filled),
        ("uploads come back as they were", uploaded),
        ("uploads on four threads", from_threads),
        ("a kernel computes", launched),
        ("the primitives of kernels", primitives::check),
        ("a graph replays what it recorded", replayed),
        ("nobody else gets into a graph", alone),
        ("the clock runs", timed),
        ("too much memory is refused, and the device goes on", refused),
    ];
    let mut findings = Vec::new();
    for (what, check) in CHECKS {
        let begin = Instant::now();
        let (seen, passed) = match check(device) {
            Ok(seen) => (seen, true),
            Err(e) => (e.to_string(), false),
        };
        let seconds = begin.elapsed().as_secs_f64();
        findings.push(Finding { what: what.into(), seen, passed, seconds });
    }
    findings
}

fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = Rng::new(seed, Purpose::Test, 0, 0, 0);
    (0..n).map(|_| rng.range(-1.0, 1.0) as f32).collect()
}

fn wrong(what: impl Into<String>) -> Error {
    Error::Device(what.into())
}

fn same(what: &str, got: &[f32], expected: impl Fn(usize) -> f32) -> Result<()> {
    match got.iter().enumerate().find(|(i, x)| x.to_bits() != expected(*i).to_bits()) {
        None => Ok(()),
        Some((i, x)) => Err(wrong(format!("{what}: element {i} is {x}, expected {}", expected(i)))),
    }
}

fn filled(device: &Device) -> Result<String> {
    let mut tensors = Vec::new();
    for n in SIZES {
        let tensor = Tensor::zeros(device, DType::F32, &[n])?;
        same("zeros", &tensor.to_vec::<f32>()?, |_| 0.0)?;
        tensors.push(tensor);
    }
    Ok(format!("{} allocations on {}", tensors.len(), device.name()))
}

/// Several in flight before the first is read; pinned buffers are reused meanwhile.
fn uploaded(device: &Device) -> Result<String> {
    let rounds = 3;
    let mut sent = Vec::new();
    for round in 0..rounds {
        for n in SIZES {
            let data = numbers(n, round);
            sent.push((Tensor::from_slice(device, &data, &[n])?, data));
        }
    }
    let mut bytes = 0;
    for (tensor, data) in &sent {
        same("upload", &tensor.to_vec::<f32>()?, |i| data[i])?;
        bytes += 4 * data.len();
    }
    Ok(format!("{} uploads, {:.0} MiB", sent.len(), bytes as f64 / f64::from(1 << 20)))
}

fn from_threads(device: &Device) -> Result<String> {
    let threads = 4;
    std::thread::scope(|scope| {
        let work = |seed: u64| {
            move || -> Result<()> {
                for round in 0..4u64 {
                    let data = numbers(300_000 + 1000 * seed as usize, 10 * seed + round);
                    let mut sum = Tensor::from_slice(device, &data, &[data.len()])?;
                    let other = sum.duplicate()?;
                    accumulate(&mut sum.as_mut(), &other)?;
                    same("sum", &sum.to_vec::<f32>()?, |i| data[i] + data[i])?;
                }
                Ok(())
            }
        };
        let start = |seed| Builder::new().spawn_scoped(scope, work(seed));
        let started = (0..threads).map(start).collect::<io::Result<Vec<_>>>();
        for thread in started.map_err(|e| Error::threads(&e))? {
            thread.join().map_err(|_| wrong("a thread panicked"))??;
        }
        Ok(format!("{threads} threads"))
    })
}

fn launched(device: &Device) -> Result<String> {
    let n = 1_000_003;
    let (a, b) = (numbers(n, 1), numbers(n, 2));
    let mut sum = Tensor::from_slice(device, &a, &[n])?;
    accumulate(&mut sum.as_mut(), &Tensor::from_slice(device, &b, &[n])?)?;
    same("a + b", &sum.to_vec::<f32>()?, |i| a[i] + b[i])?;
    Ok(format!("{n} sums"))
}

/// Three replays of one addition, with new data uploaded between them.
fn replayed(device: &Device) -> Result<String> {
    if !device.captures() {
        return Ok("this device has no graphs".into());
    }
    let n = 100_003;
    let (a, b) = (numbers(n, 3), numbers(n, 4));
    let mut sum = Tensor::from_slice(device, &a, &[n])?;
    let mut other = Tensor::from_slice(device, &b, &[n])?;
    // Once without a graph: the module is loaded then.
    accumulate(&mut sum.as_mut(), &other)?;
    let (mut graph, ()) = device.capture(|| {
        // Memory of its own within the capture, as a step needs it.
        let doubled = other.duplicate()?;
        accumulate(&mut sum.as_mut(), &doubled)
    })?;
    let mut expected: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
    for round in 0..3 {
        let next = numbers(n, 5 + round);
        other.as_mut().upload(&next)?;
        graph.replay()?;
        expected.iter_mut().zip(&next).for_each(|(sum, x)| *sum += x);
    }
    same("replayed sums", &sum.to_vec::<f32>()?, |i| expected[i])?;
    Ok("3 replays with uploads between them".into())
}

/// Another thread's work would become part of the graph, and its memory the graph's.
fn alone(device: &Device) -> Result<String> {
    if !device.captures() {
        return Ok("this device has no graphs".into());
    }
    let n = 1000;
    let mut a = Tensor::from_slice(device, &numbers(n, 6), &[n])?;
    let b = Tensor::from_slice(device, &numbers(n, 7), &[n])?;
    accumulate(&mut a.as_mut(), &b)?;
    let (graph, refusals) = device.capture(|| {
        let others = || {
            let made = Tensor::zeros(device, DType::F32, &[n]);
            [made.is_err(), b.duplicate().is_err()]
        };
        let others = std::thread::scope(|scope| {
            let thread = Builder::new().spawn_scoped(scope, others);
            thread.map(|thread| thread.join()).map_err(|e| Error::threads(&e))
        });
        accumulate(&mut a.as_mut(), &b)?;
        Ok(others)
    })?;
    drop(graph);
    match refusals? {
        Ok([true, true]) => Ok("an allocation and a copy of another thread were refused".into()),
        _ => Err(wrong("another thread started work during a capture")),
    }
}

fn timed(device: &Device) -> Result<String> {
    let n = 16 << 20;
    let from = Tensor::from_slice(device, &numbers(n, 9), &[n])?;
    let begin = Moment::now(device)?;
    let copy = from.duplicate()?;
    let seconds = begin.seconds_to(&Moment::now(device)?)?;
    drop(copy);
    if !(seconds > 0.0 && seconds < 60.0) {
        return Err(wrong(format!("a copy of 64 MiB took {seconds} s by the device's clock")));
    }
    Ok(format!("copied at {:.0} GB/s (cold)", 2e-9 * (4 * n) as f64 / seconds))
}

fn refused(device: &Device) -> Result<String> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => {
            // More than any card has; Linux would promise the CPU's memory, so only a GPU is asked.
            match cuda.alloc(1 << 46, "more than there is") {
                Err(Error::OutOfMemory(_)) => launched(device),
                Err(e) => Err(e),
                Ok(_) => Err(wrong("64 TiB were given")),
            }
        }
        _ => Ok("only asked of a GPU".into()),
    }
}
