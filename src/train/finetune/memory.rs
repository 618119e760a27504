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
    if validation.is_empty() {
        return Ok(());
    }
    segmenter.params.flat().device().release_unused()?;
    let _class = class::scope("validation");
    let windows = at_once(config, segmenter.net.sizes(), device);
    match decision(loss) {
        None => Images::new(segmenter, windows)?.rehearse(),
        Some(decision) => {
            let settings = Infer { windows, ..config.infer };
            Predictor::new(segmenter, settings)?.rehearse(validation, decision)
        }
    }
}

/// How the scores of a network that was trained with `loss` become labels; `None` for classes of images.
fn decision(loss: FinetuneLoss) -> Option<Decision> {
    match loss {
        FinetuneLoss::CrossEntropy => None,
        FinetuneLoss::DiceRegions => Some(Decision::Regions),
        FinetuneLoss::DiceCe { .. } => Some(Decision::Classes),
    }
}

/// Windows, or images, that go through the network at a time in a validation.
fn at_once(config: &FinetuneConfig, network: &NetworkConfig, device: &Device) -> usize {
    match network {
        NetworkConfig::Classifier(_) => config.infer.windows,
        _ => windows_at_once(&config.infer, network.outputs(), network.vit().roi, device),
    }
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
    let mut segmenter = Segmenter::zeros(device, dtype, network, &positions)?;
    if config.model.frozen_encoder {
        segmenter.freeze_encoder();
    }
    let state = FinetuneState::new(segmenter)?;
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
    use std::path::Path;

    use super::*;
    use crate::config::Precision;
    use crate::data::intensity::Intensity;
    use crate::data::nifti::{Stored, write_volume};
    use crate::data::{Case, PrepareConfig, Volume, prepare, prepared_dims};
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

    /// A case of `dims` with two channels, as it is in its files.
    fn case(folder: &Path, dims: [usize; 3]) -> (Case, PrepareConfig) {
        let mut affine = [[0.0; 4]; 4];
        (0..4).for_each(|a| affine[a][a] = 1.0);
        let data = (0..dims.iter().product()).map(|i: usize| (i % 7) as f32).collect();
        let volume = Volume::new(data, 1, dims, affine, 1).unwrap();
        let images = ["0", "1"].map(|channel| folder.join(format!("{channel}.nii")));
        images.iter().for_each(|path| write_volume(path, &volume, Stored::U8).unwrap());
        let how = PrepareConfig {
            channels: 2,
            intensity: Intensity::Identity,
            foreground_threshold: None,
            min_size: unetr().roi,
            ..PrepareConfig::default()
        };
        (Case { id: "case".into(), images: images.to_vec(), label: None }, how)
    }

    /// What labels a volume after a real step holds, at most, what the plan says: exactly, where the sums of the
    /// whole volume fit `infer.memory_mib`; no more than that, where they do not.
    #[test]
    fn a_validation_is_part_of_the_peak() {
        let regions = FinetuneLoss::DiceRegions;
        for (dims, loss, set, fits) in [
            ([12, 40, 24], LOSS, &["infer.windows=8"][..], true),
            ([12, 40, 3], regions, &["infer.windows=9", "model.frozen_encoder=true"], true),
            (
                [8, 96, 96],
                LOSS,
                &["infer.windows=8", "infer.memory_mib=1", "infer.overlap=0.0"],
                false,
            ),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let (case, how) = case(folder.path(), dims);
            let sizes = [prepared_dims(&case, &how).unwrap()];
            let (config, device) = (config(set), emulated());
            let steps = plan(&config, &network(), loss, &device, &[]).unwrap();
            let plan = plan(&config, &network(), loss, &device, &sizes).unwrap();
            assert!(plan.peak_bytes > steps.peak_bytes && plan.class("validation") > 0, "{set:?}");
            assert_eq!(plan.classes.iter().map(|c| c.1).sum::<u64>(), plan.peak_bytes);
            assert!(plan.reserved_bytes >= plan.peak_bytes);
            let single = Launches::Single;
            let (mut state, mut program) =
                parts(&config, &network(), loss, &device, DType::F32, single).unwrap();
            run(&mut program, &config, &mut state).unwrap();
            let predictor = Predictor::new(&state.segmenter, config.infer).unwrap();
            let decision = decision(loss).unwrap();
            let prepared = prepare(&case, &how).unwrap();
            assert_eq!(prepared.dims(), sizes[0]);
            predictor.labels(&prepared, decision, &mut |_, _| {}).unwrap();
            let Device::Emulated(emulated) = &device else { panic!("not emulated") };
            let peak = emulated.usage().peak as u64;
            match fits {
                true => assert_eq!(peak, plan.peak_bytes, "{dims:?} {set:?}"),
                false => assert!(peak <= plan.peak_bytes && peak > steps.peak_bytes, "{peak}"),
            }
        }
    }

    #[test]
    fn classes_of_images_are_judged_in_the_plan() {
        let vit = unetr().vit();
        let network =
            NetworkConfig::Classifier(ClassifierConfig { vit, outputs: 3, pooled_norm: true });
        let (config, loss) = (config(&["infer.windows=64"]), FinetuneLoss::CrossEntropy);
        let peak = |validation: &[[usize; 3]]| {
            let plan = plan(&config, &network, loss, &emulated(), validation).unwrap();
            assert!(
                judging_bytes(&config, &network, &emulated(), validation) > 0
                    || validation.is_empty()
            );
            plan.peak_bytes
        };
        assert!(peak(&[[9, 9, 9]]) > peak(&[]));
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
        // Nor has it moments: they are of the rest alone, to the byte.
        let mut segmenter =
            Segmenter::zeros(&Device::Cpu, DType::F32, network(), &[0.0; 16 * 16]).unwrap();
        let all = segmenter.params.layout().len();
        segmenter.freeze_encoder();
        let rest = segmenter.params.layout().trained();
        assert!(rest.len() < all && rest.end == all && rest.start.is_multiple_of(64));
        // Allocations are whole pieces of 512 bytes.
        let moments = |n: usize| 2 * (4 * n).next_multiple_of(512) as u64;
        assert_eq!(frozen.class("moments"), moments(rest.len()));
        assert_eq!(base.class("moments"), moments(all));
        assert!(frozen.peak_bytes < base.peak_bytes && frozen.launches < base.launches);
    }
}
