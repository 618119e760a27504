//! What a fine-tuning run will need, before it starts; see [`MemoryPlan`].

use std::sync::Arc;

use super::dtype;
use super::program::{FinetuneLoss, FinetuneProgram};
use super::training::settings;
use crate::Result;
use crate::checkpoint::FinetuneState;
use crate::config::finetune::{FinetuneConfig, Infer};
use crate::device::{DType, Device, Dry, class};
use crate::infer::classify::Images;
use crate::infer::segment::{Decision, Predictor, windows_at_once};
use crate::nn::network::NetworkConfig;
use crate::nn::segmenter::Segmenter;
use crate::train::run::{Launches, MemoryPlan};

/// The plan of a run of `config` with `network` on `device`. For the CPU, whose paths keep a little less or
/// more, it is the plan of the kernels in f32: a close estimate. `validation` are sizes `d h w` that no
/// validation case exceeds, each of its own: what it takes to label them comes between steps, beside all that
/// steps keep.
///
/// Errors: those that the first step would meet.
pub fn plan(
    config: &FinetuneConfig,
    network: &NetworkConfig,
    loss: FinetuneLoss,
    device: &Device,
    validation: &[[usize; 3]],
) -> Result<MemoryPlan> {
    let dtype = dtype(config, device)?;
    let dry = Arc::new(Dry::new(device.kernel_set()));
    let books = Device::Dry(dry.clone());
    let (mut state, mut program) = parts(config, network, loss, &books, dtype, Launches::Graph)?;
    let plan = MemoryPlan::of_steps(&dry, || run(&mut program, config, &mut state))?;
    judge(&state.segmenter, config, loss, device, validation)?;
    Ok(MemoryPlan {
        student_parameters: state.segmenter.params.layout().count() as u64,
        dtype: dtype.name(),
        ..plan.with_peak_of(&dry)
    })
}

/// What a validation holds, with the windows at once that `device` has.
fn judge(
    segmenter: &Segmenter,
    config: &FinetuneConfig,
    loss: FinetuneLoss,
    device: &Device,
    validation: &[[usize; 3]],
) -> Result<()> {
    let _class = class::scope("validation");
    let decision = match loss {
        FinetuneLoss::CrossEntropy => {
            return match validation.is_empty() {
                true => Ok(()),
                false => Images::new(segmenter, config.infer.windows)?.rehearse(),
            };
        }
        FinetuneLoss::DiceRegions => Decision::Regions,
        FinetuneLoss::DiceCe { .. } => Decision::Classes,
    };
    if validation.is_empty() {
        return Ok(());
    }
    let windows = at_once(config, segmenter.net.sizes(), device);
    let settings = Infer { windows, ..config.infer };
    Predictor::new(segmenter, settings)?.rehearse(validation, decision)
}

/// Windows that go through the network at a time in a validation.
fn at_once(config: &FinetuneConfig, network: &NetworkConfig, device: &Device) -> usize {
    windows_at_once(&config.infer, network.outputs(), network.vit().roi, device)
}

/// Bytes of the host that a validation takes beside its case: windows as they are cut, voxel by voxel, and
/// before they are rounded for the device; labels and the truth, a byte each per voxel.
pub fn judging_bytes(
    config: &FinetuneConfig,
    network: &NetworkConfig,
    device: &Device,
    validation: &[[usize; 3]],
) -> u64 {
    let count = |dims: &[usize; 3]| dims.iter().map(|&n| n as u64).product::<u64>();
    let Some(largest) = validation.iter().map(count).max() else { return 0 };
    let vit = network.vit();
    let window = count(&vit.roi) * vit.in_chans as u64 * at_once(config, network, device) as u64;
    16 * window + 2 * largest
}

/// What a run holds, with weights of zeros.
fn parts(
    config: &FinetuneConfig,
    network: &NetworkConfig,
    loss: FinetuneLoss,
    device: &Device,
    dtype: DType,
    launches: Launches,
) -> Result<(FinetuneState, FinetuneProgram)> {
    let positions = vec![0.0; network.vit().tokens() * network.vit().dim];
    let mut state = FinetuneState::new(Segmenter::zeros(device, dtype, network, &positions)?)?;
    if config.model.frozen_encoder {
        state.segmenter.freeze_encoder();
    }
    let t = &config.train;
    let settings = settings(config, 0, 1);
    let crops = t.batch * t.crops;
    let program = FinetuneProgram::new(&state, &settings, loss, crops, t.accumulation, launches)?;
    Ok((state, program))
}

/// Starts a step.
fn run(
    program: &mut FinetuneProgram,
    config: &FinetuneConfig,
    state: &mut FinetuneState,
) -> Result<()> {
    for _ in 0..config.train.accumulation {
        program.micro_batch(&state.segmenter)?;
    }
    program.update(state, &settings(config, 0, 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Precision;
    use crate::device::emulated::{Mode, Schedule};
    use crate::nn::classifier::ClassifierConfig;
    use crate::nn::unetr::UnetrConfig;

    const LOSS: FinetuneLoss = FinetuneLoss::DiceCe { dice: 1.0, ce: 1.0 };

    fn network() -> NetworkConfig {
        NetworkConfig::Unetr(unetr())
    }

    fn unetr() -> UnetrConfig {
        UnetrConfig {
            in_chans: 2,
            outputs: 3,
            roi: [8, 16, 8],
            patch: 4,
            dim: 16,
            depth: 3,
            heads: 2,
            mlp_hidden: 24,
            feature_size: 8,
            norm_eps: 1e-6,
        }
    }

    fn config(set: &[&str]) -> FinetuneConfig {
        let set: Vec<String> = set.iter().map(|s| s.to_string()).collect();
        FinetuneConfig::parse("[train]\nbatch = 1\ncrops = 2\n", "test", &set).unwrap()
    }

    fn emulated() -> Device {
        Device::emulated(Mode::Plain, Schedule::Ascending)
    }

    /// The same step on a device with memory holds, at most, exactly what the plan says.
    #[test]
    fn the_peak_is_that_of_a_real_step() {
        let frozen = "model.frozen_encoder=true";
        let classifier = NetworkConfig::Classifier(ClassifierConfig {
            vit: unetr().vit(),
            outputs: 3,
            pooled_norm: true,
        });
        let twice = &["train.accumulation=2"][..];
        for (network, loss, set) in [
            (network(), LOSS, twice),
            (network(), LOSS, &[frozen]),
            (classifier, FinetuneLoss::CrossEntropy, twice),
        ] {
            for precision in [Precision::F32, Precision::Bf16] {
                let mut config = config(set);
                config.train.precision = precision;
                let device = emulated();
                let plan = plan(&config, &network, loss, &device, &[]).unwrap();
                assert_eq!(plan.classes.iter().map(|c| c.1).sum::<u64>(), plan.peak_bytes);
                let dtype = dtype(&config, &device).unwrap();
                let single = Launches::Single;
                let (mut state, mut program) =
                    parts(&config, &network, loss, &device, dtype, single).unwrap();
                for _ in 0..2 {
                    run(&mut program, &config, &mut state).unwrap();
                }
                let Device::Emulated(emulated) = &device else { panic!("not emulated") };
                let peak = emulated.usage().peak as u64;
                assert_eq!(peak, plan.peak_bytes, "{precision:?} {set:?}");
            }
        }
    }

    #[test]
    fn crops_precision_and_a_frozen_encoder_show_where_they_should() {
        let plan = |set: &[&str]| plan(&config(set), &network(), LOSS, &emulated(), &[]).unwrap();
        let base = plan(&[]);
        let flat = 4 * base.student_parameters;
        for (class, copies) in [("weights", 1), ("gradients", 1), ("moments", 2)] {
            // Gaps of the layout, and the position rows among the weights.
            let bytes = base.class(class);
            assert!(bytes >= copies * flat && bytes < copies * flat * 12 / 10, "{class}: {bytes}");
        }
        let wide = plan(&["train.crops=4"]);
        assert_eq!(base.class("weights"), wide.class("weights"));
        assert!(wide.class("activations") > base.class("activations") * 17 / 10);
        let half = plan(&["train.precision=bf16"]);
        assert!(half.class("activations") < base.class("activations") * 3 / 4);
        assert_eq!(half.dtype, "bf16");
        // A frozen encoder keeps nothing for a backward pass, and takes fewer launches.
        let frozen = plan(&["model.frozen_encoder=true"]);
        assert!(frozen.class("activations") < base.class("activations"));
        assert!(frozen.peak_bytes < base.peak_bytes && frozen.launches < base.launches);
    }
}
