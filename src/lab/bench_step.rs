//! Times whole training steps on random data, the way the PyTorch reference times its own: inputs
//! in memory, forward, backward and every update inside the clock, the median of many steps.

use std::time::Instant;

use serde::Serialize;

use crate::checkpoint::State;
use crate::config::{Config, ViewKind, cores};
use crate::device::{DType, Device, Tensor, memory};
use crate::glmae::batch::{Batch, BatchShape};
use crate::glmae::mask::Mask;
use crate::glmae::model::Networks;
use crate::rng::{Purpose, Rng};
use crate::train::pretrain::program::StepProgram;
use crate::train::run::Launches;
use crate::{Result, parallel};

/// What to time.
#[derive(Clone, Debug)]
pub struct StepBenchOptions {
    pub device: Device,
    /// Of activations: f32, f64 (CPU) or bf16 (kernels).
    pub dtype: DType,
    pub launches: Launches,
    /// Worker threads of the CPU; 0: all cores.
    pub threads: usize,
    /// Steps before the clock starts, and steps that are timed (at least 1).
    pub warmup: usize,
    pub repeats: usize,
}

/// The measurement. Names and meanings are those of the reference's `bench_torch.py`.
#[derive(Clone, Debug, Serialize)]
pub struct StepBench {
    pub device: String,
    pub dtype: String,
    pub threads: usize,
    /// Median, least and largest time of a step in milliseconds, and how many were timed.
    pub ms: f64,
    pub ms_min: f64,
    pub ms_max: f64,
    pub n: usize,
    /// Work that the method needs in one step ([`step_gflop`]), and the rate it was done at.
    pub gflop: f64,
    pub gflop_per_s: f64,
    /// Patch tokens of all views, masked ones included, and volumes, over the median time.
    pub tokens_per_s: f64,
    pub volumes_per_s: f64,
    /// Peak resident memory of the process in MiB since it began; absent where the operating
    /// system does not tell.
    pub peak_rss_mb: Option<f64>,
    /// Peak bytes of live tensors during the steps, in MiB.
    pub peak_tensor_mb: f64,
    /// Parameters of the student.
    pub parameters: usize,
    /// Total loss of the last step: a run that goes wrong shows here.
    pub loss: f64,
    /// Seconds from the start until the first step was done.
    pub ready_s: f64,
    pub times_ms: Vec<f64>,
}

/// Floating-point operations of one step in 10^9: what the method needs, not what an engine
/// spends. Visible patches only are embedded, masked rows only are predicted; a backward pass is
/// two products per product, for attention 10/4 of its forward pass.
///
/// Source: `step_gflop` of the PyTorch reference (`bench_torch.py`). An objective without a teacher
/// leaves out the teacher and the head, one without global views their share.
pub fn step_gflop(config: &Config) -> f64 {
    let (m, h) = (&config.model, &config.head);
    let shape = BatchShape::new(config, config.train.batch);
    let (dim, dec_dim, voxels) = (m.dim as f64, m.dec_dim as f64, m.patch_voxels() as f64);
    // Per kind: sequences, tokens, visible tokens.
    let kinds = ViewKind::ALL.map(|kind| {
        let tokens = shape.tokens(kind);
        (shape.count(kind) as f64, tokens as f64, config.views.visible(tokens) as f64)
    });
    let blocks = |streams: &[(f64, f64)], dim: f64, depth: usize, gemms: f64, attentions: f64| {
        let per_block = streams.iter().map(|&(rows, length)| {
            let gemm = 2.0 * rows * length * dim * dim * (4.0 + 2.0 * m.mlp_ratio);
            gemms * gemm + attentions * 4.0 * rows * length * length * dim
        });
        depth as f64 * per_block.sum::<f64>()
    };
    let full = kinds.map(|(rows, tokens, _)| (rows, tokens + 1.0));
    let kept = kinds.map(|(rows, _, visible)| (rows, visible + 1.0));
    let sum = |term: fn(&(f64, f64, f64)) -> f64| kinds.iter().map(term).sum::<f64>();

    let mut flop = blocks(&kept, dim, m.depth, 3.0, 3.5);
    flop += blocks(&full, dec_dim, m.dec_depth, 3.0, 3.5);
    flop += 2.0 * voxels * dim * 2.0 * sum(|&(rows, _, visible)| rows * visible);
    flop += 6.0 * dim * dec_dim * sum(|&(rows, _, visible)| rows * (visible + 1.0));
    flop += 6.0 * dec_dim * voxels * sum(|&(rows, tokens, visible)| rows * (tokens - visible));
    if config.loss.objective.has_teacher() {
        let (rows, tokens, _) = kinds[ViewKind::Global as usize];
        flop += blocks(&full[..1], dim, m.depth, 1.0, 1.0);
        flop += 2.0 * voxels * dim * rows * tokens;
    }
    if config.loss.objective.has_head() {
        let (rows, ..) = kinds[ViewKind::Global as usize];
        let (hidden, bottleneck) = (h.hidden as f64, h.bottleneck as f64);
        let head =
            dim * hidden + hidden * hidden + hidden * bottleneck + bottleneck * h.prototypes as f64;
        flop += 2.0 * head * (3.0 * sum(|&(rows, ..)| rows) + rows);
    }
    flop * config.train.accumulation as f64 / 1e9
}

/// Times steps of `config` on uniformly random voxels and random masks. The learning rate and the
/// rest of the schedule are held at the end of the warm-up, as the reference does.
///
/// Errors: a device without the ops; [`crate::Error::NotFinite`] when a step's numbers are not finite.
pub fn bench_step(config: &Config, options: &StepBenchOptions) -> Result<StepBench> {
    parallel::in_pool(cores::threads(options.threads), || timed(config, options))
}

fn timed(config: &Config, options: &StepBenchOptions) -> Result<StepBench> {
    let begin = Instant::now();
    memory::reset_peak();
    let nets = Networks::new(&options.device, options.dtype, config)?;
    let mut state = State::init(&options.device, options.dtype, config, &nets)?;
    let batches = (0..config.train.accumulation)
        .map(|i| random_batch(config, &options.device, options.dtype, i as u32))
        .collect::<Result<Vec<_>>>()?;
    let shape = BatchShape::new(config, config.train.batch);
    let mut program = StepProgram::new(config, &state, &shape, batches.len(), options.launches)?;
    // A single batch stays in place, as the reference's does.
    program.batch_mut().assign(&batches[0])?;
    let mut loss = 0.0;
    let mut step = || -> Result<()> {
        state.counters.step = config.optim.warmup.max(1);
        for batch in &batches {
            if batches.len() > 1 {
                program.batch_mut().assign(batch)?;
            }
            program.micro_batch(config, &nets, &state)?;
        }
        program.update(config, &mut state)?;
        loss = program.finish(config, &mut state)?.checked()?.loss();
        Ok(())
    };
    step()?;
    let ready_s = begin.elapsed().as_secs_f64();
    for _ in 0..options.warmup {
        step()?;
    }
    let mut times_ms = Vec::new();
    for _ in 0..options.repeats.max(1) {
        let start = Instant::now();
        step()?;
        times_ms.push(1e3 * start.elapsed().as_secs_f64());
    }
    let mut ordered = times_ms.clone();
    ordered.sort_by(f64::total_cmp);
    let (gflop, ms) = (step_gflop(config), median(&ordered));
    let volumes = (config.train.batch * config.train.accumulation) as f64;
    let tokens: usize = ViewKind::ALL.iter().map(|&k| shape.count(k) * shape.tokens(k)).sum();
    Ok(StepBench {
        device: options.device.name(),
        dtype: options.dtype.name().into(),
        threads: rayon::current_num_threads(),
        ms,
        ms_min: ordered.first().copied().unwrap_or(f64::NAN),
        ms_max: ordered.last().copied().unwrap_or(f64::NAN),
        n: ordered.len(),
        gflop,
        gflop_per_s: 1e3 * gflop / ms,
        tokens_per_s: 1e3 * (tokens * config.train.accumulation) as f64 / ms,
        volumes_per_s: 1e3 * volumes / ms,
        peak_rss_mb: peak_rss_bytes().map(|b| b as f64 / f64::from(1 << 20)),
        peak_tensor_mb: peak_tensor_bytes(&options.device) as f64 / f64::from(1 << 20),
        parameters: state.weights.student.layout().count(),
        loss,
        ready_s,
        times_ms,
    })
}

/// Median of ordered values: the mean of the middle two when their number is even.
pub fn median(ordered: &[f64]) -> f64 {
    let half = ordered.len() / 2;
    match (ordered.len() % 2, ordered.get(half), ordered.get(half.wrapping_sub(1))) {
        (1, Some(middle), _) => *middle,
        (_, Some(above), Some(below)) => 0.5 * (above + below),
        _ => f64::NAN,
    }
}

/// Uniformly random voxels and random masks, others for every `index`.
pub(super) fn random_batch(
    config: &Config,
    device: &Device,
    dtype: DType,
    index: u32,
) -> Result<Batch> {
    let shape = BatchShape::new(config, config.train.batch);
    let mut rng = Rng::new(config.train.seed, Purpose::Test, 0, index, 0);
    let voxels = rng.uniforms(shape.voxels());
    let masks = shape
        .kinds()
        .enumerate()
        .map(|(view, kind)| {
            let mut rng = Rng::new(config.train.seed, Purpose::Mask, 0, index, view as u32);
            let tokens = shape.tokens(kind);
            Mask::random(&mut rng, tokens, config.views.visible(tokens))
        })
        .collect();
    let patches = Tensor::from_f64(device, dtype, &voxels, &shape.matrix())?;
    Batch::new(&shape, masks, patches)
}

/// The most bytes of live tensors so far.
pub(super) fn peak_tensor_bytes(device: &Device) -> usize {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => cuda.usage().peak,
        _ => memory::live_and_peak_bytes().1,
    }
}

/// The most resident memory this process ever had, in bytes (Linux: `VmHWM`).
pub fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::preset;

    #[test]
    fn work_is_what_the_reference_counts() {
        // Printed by bench_torch.py for its presets of the same sizes, to three digits.
        for (name, gflop) in [("tiny", 0.135), ("small", 33.5)] {
            let ours = step_gflop(&preset(name).unwrap());
            assert!((ours / gflop - 1.0).abs() < 5e-3, "{name}: {ours} instead of {gflop}");
        }
    }

    #[test]
    fn fewer_terms_are_less_work_and_accumulation_is_more() {
        let gflop = |set: &str| step_gflop(&Config::load("tiny", &[set.into()]).unwrap());
        let full = gflop("loss.objective=gl-mae");
        assert!(gflop("loss.objective=mae3d") < gflop("loss.objective=+global"));
        assert!(gflop("loss.objective=+global") < full);
        assert!((gflop("train.accumulation=3") / full - 3.0).abs() < 1e-12);
    }

    #[test]
    fn median_of_even_and_odd_numbers() {
        assert_eq!((median(&[1.0, 2.0, 9.0]), median(&[1.0, 2.0, 4.0, 9.0])), (2.0, 3.0));
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_measurement_is_complete() {
        let config = Config::load("tiny", &["train.batch=1".into()]).unwrap();
        let (device, dtype) = (Device::Cpu, DType::F32);
        let launches = Launches::Graph;
        let options =
            StepBenchOptions { device, dtype, launches, threads: 1, warmup: 0, repeats: 3 };
        let b = bench_step(&config, &options).unwrap();
        assert_eq!((b.n, b.times_ms.len(), b.threads), (3, 3, 1));
        assert!(b.ms_min <= b.ms && b.ms <= b.ms_max && b.loss.is_finite());
        // 2 x 64 and 2 x 8 tokens.
        assert!((b.tokens_per_s * b.ms / 1e3 - 144.0).abs() < 1e-6);
        assert!(b.peak_tensor_mb > 0.0 && b.parameters > 100_000);
    }
}
