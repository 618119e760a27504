//! Times whole fine-tuning steps of a UNETR on random crops, as `bench_torch.py --parts unetr` times
//! MONAI's: forward, Dice and cross-entropy, backward, AdamW.

use std::time::Instant;

use serde::Serialize;

use super::bench_step::{median, peak_tensor_bytes};
use crate::Result;
use crate::checkpoint::FinetuneState;
use crate::device::{DType, Device, memory};
use crate::nn::unetr::UnetrConfig;
use crate::rng::{Purpose, Rng};
use crate::train::finetune::encoder;
use crate::train::finetune::program::{FinetuneLoss, FinetuneProgram, FinetuneSettings};
use crate::train::run::Launches;

/// What to time.
#[derive(Clone, Debug)]
pub struct UnetrBenchOptions {
    pub device: Device,
    pub dtype: DType,
    pub launches: Launches,
    /// Crops per step, their edge in voxels, and channels at full resolution.
    pub batch: usize,
    pub roi: usize,
    pub feature_size: usize,
    pub warmup: usize,
    pub repeats: usize,
}

/// The measurement; names as in [`super::bench_step::StepBench`].
#[derive(Clone, Debug, Serialize)]
pub struct UnetrBench {
    pub device: String,
    pub dtype: String,
    pub batch: usize,
    pub roi: usize,
    pub feature_size: usize,
    pub ms: f64,
    pub ms_min: f64,
    pub ms_max: f64,
    pub n: usize,
    pub crops_per_s: f64,
    pub peak_tensor_mb: f64,
    pub parameters: usize,
    pub loss: f64,
    pub ready_s: f64,
}

/// MONAI's UNETR (ViT-B, 1 channel, 14 classes) at the sizes of `options`.
///
/// Errors: `Config` for a crop that the network does not take; [`crate::Error::NotFinite`]; the device's.
pub fn bench_unetr(options: &UnetrBenchOptions) -> Result<UnetrBench> {
    let begin = Instant::now();
    memory::reset_peak();
    let network = UnetrConfig {
        in_chans: 1,
        outputs: 14,
        roi: [options.roi; 3],
        patch: 16,
        dim: 768,
        depth: 12,
        heads: 12,
        mlp_hidden: 3072,
        feature_size: options.feature_size,
        norm_eps: 1e-5,
    };
    network.check()?;
    let segmenter = encoder::start(&options.device, options.dtype, &network, 1, None)?;
    let mut state = FinetuneState::new(segmenter)?;
    let settings = FinetuneSettings {
        lr: 1e-4,
        weight_decay: 1e-5,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        clip_grad: 0.0,
    };
    let loss = FinetuneLoss::DiceCe { dice: 1.0, ce: 1.0 };
    let mut program =
        FinetuneProgram::new(&state, &settings, loss, options.batch, 1, options.launches)?;
    let voxels = options.batch * options.roi.pow(3);
    let mut rng = Rng::new(1, Purpose::Test, 0, 0, 0);
    let image: Vec<f32> = rng.uniforms(voxels).into_iter().map(|x| x as f32).collect();
    let labels: Vec<u8> = (0..voxels).map(|_| rng.below(14) as u8).collect();
    program.batch_mut().fill_f32(&network.vit(), &image, &labels)?;
    let mut last = 0.0;
    let mut step = || -> Result<()> {
        program.micro_batch(&state.segmenter)?;
        program.update(&mut state, &settings)?;
        last = program.finish(&mut state, &settings)?.checked()?.loss();
        Ok(())
    };
    step()?;
    let ready_s = begin.elapsed().as_secs_f64();
    (0..options.warmup).try_for_each(|_| step())?;
    let mut times = Vec::new();
    for _ in 0..options.repeats.max(1) {
        let start = Instant::now();
        step()?;
        times.push(1e3 * start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    let ms = median(&times);
    Ok(UnetrBench {
        device: options.device.name(),
        dtype: options.dtype.name().into(),
        batch: options.batch,
        roi: options.roi,
        feature_size: options.feature_size,
        ms,
        ms_min: times.first().copied().unwrap_or(f64::NAN),
        ms_max: times.last().copied().unwrap_or(f64::NAN),
        n: times.len(),
        crops_per_s: 1e3 * options.batch as f64 / ms,
        peak_tensor_mb: peak_tensor_bytes(&options.device) as f64 / f64::from(1 << 20),
        parameters: state.segmenter.params.layout().count(),
        loss: last,
        ready_s,
    })
}
