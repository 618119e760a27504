//! Times every op of the registry, forward and backward apart, from what the op says about itself:
//! bench shape, inputs, bytes and FLOP.
//!
//! Inputs rotate over several times the last-level cache, because in a step no op finds its inputs
//! there by accident; one timed pass runs the op once on each set of inputs. On a GPU a pass is a
//! captured graph between two events where the op can be captured, so that the host does not show.

mod target;

use std::panic::{AssertUnwindSafe, catch_unwind};

use rayon::prelude::*;
use serde::Serialize;

pub use self::target::{Target, chosen, parse_shape};
use super::clock::Moment;
use super::opcheck::{Placed, output_weights};
use crate::device::{DType, Device, Tensor};
use crate::ops::gemm::products::{self, Product};
use crate::ops::tolerance::rounded;
use crate::ops::{OPS, OpArgs, OpCase, OpSpec};
use crate::rng::{Purpose, Rng};
use crate::tape::{ParamGrads, Tape, Var};
use crate::{Error, Result};

/// What to time.
#[derive(Clone, Debug)]
pub struct KernelBenchOptions {
    pub device: Device,
    /// Of the activations: f32 or bf16.
    pub dtype: DType,
    /// Empty: all ops at their own shapes.
    pub targets: Vec<Target>,
    /// Passes before the clock starts, and passes that are timed (at least 1).
    pub warmup: usize,
    pub repeats: usize,
    /// Whether to measure the rates that the others are compared with.
    pub ceilings: bool,
}

/// The measurements of one device.
#[derive(Clone, Debug, Serialize)]
pub struct KernelBench {
    pub device: String,
    pub dtype: String,
    pub ceilings: Ceilings,
    pub rows: Vec<Row>,
    /// What could not be timed, and why.
    pub skipped: Vec<String>,
}

/// Rates measured in the same run.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Ceilings {
    /// Copy within the device's memory, bytes read and written, 10^9 per second.
    pub copy_gb_s: Option<f64>,
    /// The op `linear` at a large shape, 10^9 FLOP per second.
    pub gemm_gflop_s: Option<f64>,
}

/// One op, one pass.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub op: String,
    pub case: String,
    /// `fwd` or `bwd`.
    pub pass: &'static str,
    /// Time of one call in microseconds: median, least and largest of the timed passes.
    pub us: f64,
    pub us_min: f64,
    pub us_max: f64,
    /// (largest - least) / median.
    pub spread: f64,
    pub repeats: usize,
    /// Sets of inputs that a pass goes through, and the bytes of one.
    pub sets: usize,
    pub set_bytes: usize,
    /// Whether the pass was replayed as a CUDA graph.
    pub graph: bool,
    /// Bytes that have to be moved and FLOP that have to be done once. Of a backward pass: twice those
    /// of the forward pass.
    pub bytes: u64,
    pub flops: u64,
    pub gb_s: f64,
    pub gflop_s: f64,
    pub share_of_copy: Option<f64>,
    pub share_of_gemm: Option<f64>,
    /// The matrix products of the pass: which kernel each was given, and what the choice rests on.
    pub products: Vec<Product>,
}

/// Runs the benchmark; `after` sees what there is after every op, should there be no end. One target that
/// cannot be timed is skipped when there are others.
///
/// Errors: `Config` for an unknown op or a shape that it does not take; those of the device.
pub fn bench_kernels(
    options: &KernelBenchOptions,
    after: &mut dyn FnMut(&KernelBench) -> Result<()>,
) -> Result<KernelBench> {
    let all: Vec<Target>;
    let targets = match options.targets.as_slice() {
        [] => {
            all = OPS.iter().map(|op| Target::of(op.name())).collect();
            &all[..]
        }
        targets => targets,
    };
    let cases = targets.iter().map(chosen).collect::<Result<Vec<_>>>()?;
    if options.dtype == DType::Bf16 && options.device == Device::Cpu {
        return Err(Error::Unsupported("bf16 on the CPU; its ops compute in f32 and f64".into()));
    }
    let mut bench = KernelBench {
        device: options.device.name(),
        dtype: options.dtype.to_string(),
        ceilings: Ceilings::default(),
        rows: Vec::new(),
        skipped: Vec::new(),
    };
    if options.ceilings && !options.device.is_simulated() {
        bench.ceilings = ceilings(options)?;
    }
    for (op, case) in cases {
        if options.device != Device::Cpu && !op.has_kernels() {
            bench.skipped.push(format!("{}: has no CUDA kernels yet", op.name()));
            continue;
        }
        match bench_op(op, &case, options, options.warmup, options.repeats) {
            Ok(rows) => {
                bench.rows.extend(rows.into_iter().map(|row| shares(row, &bench.ceilings)));
            }
            // A device that has failed would fail the others, too.
            Err(e @ Error::Device(_)) => return Err(e),
            Err(e) if targets.len() == 1 => return Err(e),
            Err(e) => bench.skipped.push(format!("{} {}: {e}", op.name(), case.label)),
        }
        after(&bench)?;
    }
    Ok(bench)
}

/// One forward and one backward pass; `after` is told of each when it is done.
#[cfg(feature = "cuda")]
pub(super) fn passes(
    op: &dyn OpSpec,
    case: &OpCase,
    device: &Device,
    dtype: DType,
    after: &mut dyn FnMut(&'static str) -> Result<()>,
) -> Result<()> {
    let options = KernelBenchOptions {
        device: device.clone(),
        dtype,
        targets: Vec::new(),
        warmup: 0,
        repeats: 1,
        ceilings: false,
    };
    let mut sets = sets(op, case, &options)?;
    let Some(set) = sets.first_mut() else { return Ok(()) };
    set.arm(device)?;
    // What came before was only to know the shapes of the outputs.
    if let Device::Ptx(ptx) = device {
        ptx.take_counts();
    }
    set.forward(op, case)?;
    after("fwd")?;
    if op.differentiable() {
        set.backward()?;
        after("bwd")?;
    }
    Ok(())
}

fn shares(row: Row, ceilings: &Ceilings) -> Row {
    Row {
        share_of_copy: ceilings.copy_gb_s.map(|c| row.gb_s / c),
        share_of_gemm: ceilings.gemm_gflop_s.map(|c| row.gflop_s / c),
        ..row
    }
}

/// One set of inputs, and what its runs keep.
struct Set {
    placed: Placed,
    seeds: Vec<Tensor>,
    grads: Option<ParamGrads>,
    /// Of the forward pass, for the backward pass to use up.
    done: Option<(Tape<'static>, Vec<Var>)>,
    args: Option<(Tape<'static>, OpArgs)>,
}

impl Set {
    /// Before a forward pass: its arguments, on a fresh tape.
    fn arm(&mut self, device: &Device) -> Result<()> {
        self.done = None;
        let mut tape = Tape::new(device);
        let args = self.placed.args(&mut tape)?;
        self.args = Some((tape, args));
        if let Some(grads) = &mut self.grads {
            grads.clear();
        }
        Ok(())
    }

    fn forward(&mut self, op: &dyn OpSpec, case: &OpCase) -> Result<()> {
        if let Some((mut tape, args)) = self.args.take() {
            let outputs = op.run(&mut tape, case, &args)?;
            self.done = Some((tape, outputs));
        }
        Ok(())
    }

    fn backward(&mut self) -> Result<()> {
        if let (Some((tape, outputs)), Some(grads)) = (self.done.take(), &mut self.grads) {
            let seeds: Vec<(Var, Tensor)> = outputs
                .into_iter()
                .zip(&self.seeds)
                .filter(|(y, _)| y.id().is_some())
                .map(|(y, seed)| (y, seed.clone()))
                .collect();
            tape.backward_from(&seeds, grads)?;
        }
        Ok(())
    }
}

/// Bytes that the inputs must rotate over, and the most sets.
fn rotation(device: &Device) -> (usize, usize) {
    match device {
        // Last-level caches of hosts have up to some ten MB per socket.
        Device::Cpu => (192 << 20, 32),
        Device::Emulated(_) | Device::Dry(_) => (0, 1),
        #[cfg(feature = "cuda")]
        Device::Ptx(_) => (0, 1),
        // The largest L2 there is has 60 MB (H100, H200).
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => (192 << 20, 128),
    }
}

fn sets(op: &dyn OpSpec, case: &OpCase, options: &KernelBenchOptions) -> Result<Vec<Set>> {
    let device = &options.device;
    // Cases are written by the op's author; sizes from outside may not go together.
    let inputs = catch_unwind(AssertUnwindSafe(|| op.inputs(case))).map_err(|_| {
        Error::Config(format!("{} does not take the shape {}", op.name(), case.label))
    })?;
    let inputs = rounded(inputs, options.dtype);
    let first = Placed::new(&inputs, device, options.dtype)?;
    let mut tape = Tape::new(device);
    let args = first.args(&mut tape)?;
    let outputs = op.run(&mut tape, case, &args)?;
    let seed = |(i, y): (usize, &Var)| {
        let weights = output_weights(case, i, y.value().len());
        Tensor::from_f64(device, y.value().dtype(), &weights, y.shape())
    };
    let seeds: Vec<Tensor> = outputs.iter().enumerate().map(seed).collect::<Result<_>>()?;
    drop((tape, args, outputs));
    let (wanted, most) = rotation(device);
    let count = wanted.div_ceil(first.bytes().max(1)).clamp(1, most);
    let mut placed = vec![first];
    while placed.len() < count {
        placed.push(placed[0].duplicate()?);
    }
    let set = |placed: Placed| {
        let grads = if op.differentiable() { Some(placed.grads()?) } else { None };
        let seeds = seeds.iter().map(Tensor::duplicate).collect::<Result<_>>()?;
        Ok(Set { placed, seeds, grads, done: None, args: None })
    };
    placed.into_iter().map(set).collect()
}

fn bench_op(
    op: &dyn OpSpec,
    case: &OpCase,
    options: &KernelBenchOptions,
    warmup: usize,
    repeats: usize,
) -> Result<Vec<Row>> {
    let device = &options.device;
    let mut sets = sets(op, case, options)?;
    let (mut forward, mut backward) = (Vec::new(), Vec::new());
    let mut graph = [false; 2];
    let mut asked = [Vec::new(), Vec::new()];
    // Once without a clock in any case: pools fill, modules load.
    for pass in 0..1 + warmup + repeats {
        sets.iter_mut().try_for_each(|set| set.arm(device))?;
        let timed = pass > warmup;
        let mut all = || time(device, || sets.iter_mut().try_for_each(|set| set.forward(op, case)));
        // Written down in the first pass only: that takes time of its own.
        let seconds = match pass {
            0 => noted(&mut asked[0], all)?,
            _ => all()?,
        };
        if timed {
            forward.push(seconds);
        }
        if op.differentiable() {
            let mut all = || time(device, || sets.iter_mut().try_for_each(Set::backward));
            let seconds = match pass {
                0 => noted(&mut asked[1], all)?,
                _ => all()?,
            };
            if timed {
                backward.push(seconds);
            }
        }
    }
    let on_gpu = *device != Device::Cpu && !device.is_simulated();
    if on_gpu && let Some(times) = replayed(op, case, &mut sets, options)? {
        (forward, backward) = times;
        graph = [true; 2];
    }
    let (bytes, flops) = (op.bytes(case, options.dtype.size()), op.flops(case));
    let mut rows = Vec::new();
    // Every set asks for the same.
    let [of_forward, of_backward] = asked.map(|mut all| {
        all.truncate(all.len() / sets.len());
        all
    });
    for (pass, times, factor, graph, products) in
        [("fwd", forward, 1, graph[0], of_forward), ("bwd", backward, 2, graph[1], of_backward)]
    {
        if !times.is_empty() {
            let (bytes, flops) = (factor * bytes, factor * flops);
            let row = row(op, case, pass, times, (bytes, flops), &sets, graph);
            rows.push(Row { products, ..row });
        }
    }
    Ok(rows)
}

/// What `work` gives; the products that it asks for into `asked`.
fn noted<T>(asked: &mut Vec<Product>, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let (done, products) = products::record(work);
    *asked = products;
    done
}

/// Seconds from the start of `work` until the device has done it.
fn time(device: &Device, work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let begin = Moment::now(device)?;
    work()?;
    begin.seconds_to(&Moment::now(device)?)
}

/// Times of the forward and of the backward passes as replayed graphs.
type Times = (Vec<f64>, Vec<f64>);

/// `None` where the op cannot be captured (it uploads a table, say), or off a GPU.
#[cfg(not(feature = "cuda"))]
fn replayed(
    _: &dyn OpSpec,
    _: &OpCase,
    _: &mut [Set],
    _: &KernelBenchOptions,
) -> Result<Option<Times>> {
    Ok(None)
}

/// `None` where the op cannot be captured (it uploads a table, say), or off a GPU.
#[cfg(feature = "cuda")]
fn replayed(
    op: &dyn OpSpec,
    case: &OpCase,
    sets: &mut [Set],
    options: &KernelBenchOptions,
) -> Result<Option<Times>> {
    let Device::Cuda(cuda) = &options.device else { return Ok(None) };
    sets.iter_mut().try_for_each(|set| set.arm(&options.device))?;
    let forward = cuda.capture(|| sets.iter_mut().try_for_each(|set| set.forward(op, case)));
    let forward = match forward {
        Ok((graph, ())) => graph,
        Err(Error::Unsupported(_)) => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut graphs = vec![forward];
    if op.differentiable() {
        match cuda.capture(|| sets.iter_mut().try_for_each(Set::backward)) {
            Ok((graph, ())) => graphs.push(graph),
            Err(Error::Unsupported(_)) => return Ok(None),
            Err(e) => return Err(e),
        }
    }
    let mut times = [Vec::new(), Vec::new()];
    for pass in 0..options.warmup + options.repeats {
        for (graph, times) in graphs.iter_mut().zip(&mut times) {
            let seconds = time(&options.device, || graph.replay())?;
            if pass >= options.warmup {
                times.push(seconds);
            }
        }
    }
    let [forward, backward] = times;
    Ok(Some((forward, backward)))
}

fn row(
    op: &dyn OpSpec,
    case: &OpCase,
    pass: &'static str,
    mut times: Vec<f64>,
    (bytes, flops): (u64, u64),
    sets: &[Set],
    graph: bool,
) -> Row {
    times.sort_by(f64::total_cmp);
    let us = |seconds: f64| seconds * 1e6 / sets.len() as f64;
    let median = us(times[times.len() / 2]);
    let (least, largest) = (us(times[0]), us(times[times.len() - 1]));
    Row {
        op: op.name().into(),
        case: case.label.clone(),
        pass,
        us: median,
        us_min: least,
        us_max: largest,
        spread: (largest - least) / median.max(f64::MIN_POSITIVE),
        repeats: times.len(),
        sets: sets.len(),
        set_bytes: sets.first().map_or(0, |set| set.placed.bytes()),
        graph,
        bytes,
        flops,
        gb_s: bytes as f64 / (median * 1e3).max(f64::MIN_POSITIVE),
        gflop_s: flops as f64 / (median * 1e3).max(f64::MIN_POSITIVE),
        share_of_copy: None,
        share_of_gemm: None,
        products: Vec::new(),
    }
}

/// The rate of a copy of a tensor much larger than any cache, and of a large product.
fn ceilings(options: &KernelBenchOptions) -> Result<Ceilings> {
    let device = &options.device;
    let (copied, product) = match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => (1usize << 28, [8192, 4096, 8192]),
        _ => (64 << 20, [1024, 768, 768]),
    };
    // Numbers, not zeros: memory may be compressed.
    let mut rng = Rng::new(1, Purpose::Test, 0, 0, 0);
    let numbers: Vec<f32> = (0..copied / 4).map(|_| f32::from_bits(rng.next_u32())).collect();
    let from = Tensor::from_slice(device, &numbers, &[numbers.len()])?;
    let mut seconds = Vec::new();
    let mut to = Tensor::zeros(device, DType::F32, &[copied / 4])?;
    for _ in 0..8 {
        seconds.push(match device {
            // On all threads: one cannot use the bandwidth of a socket.
            Device::Cpu => time(device, || copy_on_all_threads(&mut to, &from))?,
            // The copy of the pass before is dropped first, so its memory is reused.
            _ => time(device, || from.duplicate().map(drop))?,
        });
    }
    seconds.sort_by(f64::total_cmp);
    let copy_gb_s = 2.0 * copied as f64 / seconds[seconds.len() / 2] * 1e-9;
    let mut gemm_gflop_s = None;
    let linear = OPS.iter().find(|op| op.name() == "linear");
    if let Some(op) = linear.filter(|op| *device == Device::Cpu || op.has_kernels()) {
        let [m, k, n] = product;
        let names = ["rows", "in", "out", "epilogue", "bias"];
        let case = OpCase::new(&names, &[m, k, n, 0, 0]);
        let rows = bench_op(*op, &case, options, 1, 5)?;
        gemm_gflop_s = rows.first().map(|row| row.flops as f64 / (row.us_min * 1e3));
    }
    Ok(Ceilings { copy_gb_s: Some(copy_gb_s), gemm_gflop_s })
}

fn copy_on_all_threads(to: &mut Tensor, from: &Tensor) -> Result<()> {
    const PIECE: usize = 1 << 16;
    let pieces = from.host::<f32>()?.par_chunks(PIECE);
    let to = to.host_mut::<f32>()?.par_chunks_mut(PIECE);
    to.zip(pieces).for_each(|(to, from)| to.copy_from_slice(from));
    Ok(())
}

#[cfg(test)]
mod tests;
