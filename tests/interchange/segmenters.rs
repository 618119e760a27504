//! Fine-tuned networks, out and back in.

use std::path::{Path, PathBuf};

use glmae::checkpoint::DataFingerprint;
use glmae::checkpoint::FinetuneState;
use glmae::checkpoint::segmenter::{FinetuneSnapshot, Start, save};
use glmae::config::finetune::FinetuneConfig;
use glmae::device::{DType, Device, Tensor};
use glmae::interchange::export::{ExportOptions, Target, export};
use glmae::interchange::file::TensorSource;
use glmae::interchange::segmenter::SegmenterWeights;
use glmae::interchange::{ImportOptions, monai, read_encoder, read_encoder_with};
use glmae::nn::segmenter::Segmenter;
use glmae::nn::segmenter::channels_last;
use glmae::nn::unetr::UnetrConfig;
use glmae::rng::{Purpose, Rng};
use glmae::tape::{Tape, Var};

use super::Named;
use crate::train::finetune::TASK;

fn monai_sized() -> UnetrConfig {
    UnetrConfig {
        in_chans: 2,
        outputs: 3,
        roi: [32, 16, 48],
        patch: 16,
        dim: 24,
        depth: 12,
        heads: 3,
        mlp_hidden: 40,
        feature_size: 4,
        norm_eps: 1e-6,
    }
}

/// A checkpoint as a run would leave it, with drawn weights; `is_best` as the best one.
fn checkpoint(run: &Path, config: &UnetrConfig, seed: u64, is_best: bool) -> (Segmenter, PathBuf) {
    let mut rng = Rng::new(seed, Purpose::Test, 0, 0, 0);
    let rows = config.tokens() * config.dim;
    let positions: Vec<f64> = (0..rows).map(|_| f64::from(rng.normal() as f32)).collect();
    let mut segmenter = Segmenter::zeros(&Device::Cpu, DType::F32, config, &positions).unwrap();
    for e in segmenter.params.layout().entries().to_vec() {
        let values: Vec<f64> = (0..e.len()).map(|_| 0.2 * rng.normal()).collect();
        segmenter.params.value_mut(&e.name).unwrap().upload_f64(&values).unwrap();
    }
    let state = FinetuneState::new(segmenter).unwrap();
    let settings = FinetuneConfig::default();
    let data = DataFingerprint::default();
    let (run_name, start) = ("test", &Start::Scratch);
    let snapshot =
        FinetuneSnapshot { config: &settings, task: TASK, data, best: None, run: run_name, start };
    let path = save(run, &state, &snapshot, is_best).unwrap();
    (state.segmenter, path)
}

fn logits(segmenter: &Segmenter) -> Vec<f64> {
    let (c, device) = (&segmenter.net.config, Device::Cpu);
    let n: usize = c.roi.iter().product();
    let mut rng = Rng::new(9, Purpose::Test, 0, 0, 0);
    let voxels: Vec<f32> = (0..c.in_chans * n).map(|_| rng.normal() as f32).collect();
    let image = channels_last(&voxels, c.in_chans, n);
    let voxels = Tensor::from_slice(&device, &voxels, &[voxels.len()]).unwrap();
    let image = Tensor::from_slice(&device, &image, &[n, c.in_chans]).unwrap();
    let positions = segmenter.positions_of(1).unwrap();
    let inputs = [voxels, image, positions].map(Var::constant);
    let plan = segmenter.net.plan(&device, 1).unwrap();
    let mut tape = Tape::inference(&device);
    let inputs = [&inputs[0], &inputs[1], &inputs[2]];
    let pass = segmenter.net.forward(&mut tape, &segmenter.params, &plan, inputs, false).unwrap();
    pass.logits.value().to_f64_vec().unwrap()
}

fn read(path: &Path) -> Named {
    let mut source = TensorSource::open(path).unwrap();
    let names = source.names();
    names.into_iter().map(|name| (name.clone(), source.read(&name).unwrap())).collect()
}

#[test]
fn a_fine_tuned_run_goes_out_whole_and_comes_back_bit_by_bit() {
    let folder = tempfile::tempdir().unwrap();
    let (run, config) = (folder.path().join("run"), monai_sized());
    checkpoint(&run, &config, 1, false);
    let (segmenter, best) = checkpoint(&run, &config, 2, true);
    let ours = SegmenterWeights::of(&segmenter).unwrap();
    let expected = logits(&segmenter);
    assert!(expected.iter().all(|x| x.is_finite()) && expected.iter().any(|&x| x != expected[0]));
    let file = folder.path().join("unetr.safetensors");
    for target in Target::ALL {
        for perceptron in [false, true] {
            if target == Target::Timm && perceptron {
                continue;
            }
            let options = ExportOptions { perceptron, ..Default::default() };
            // A run means its best network, as for prediction.
            let exported = export(&run, target, &options).unwrap();
            assert_eq!(exported, export(&best, target, &options).unwrap());
            assert_eq!(
                exported,
                export(&best.join("model.safetensors"), target, &options).unwrap()
            );
            exported.write(&file, target).unwrap();
            let theirs = read(&file);
            for name in ["out.conv.conv.bias", "decoder2.conv_block.conv1.conv.weight"] {
                assert_eq!(theirs[name], ours.tensors[name], "{target} {name}");
            }
            let back = SegmenterWeights::from_state_dict(&config, &theirs).unwrap();
            assert_eq!(back, ours, "{target}");
            assert!(logits(&back.load(&Device::Cpu, DType::F32).unwrap()) == expected, "{target}");
            // And its encoder as one to fine-tune.
            let told =
                ImportOptions { heads: Some(3), grid: Some([2, 1, 3]), ..Default::default() };
            let encoder = read_encoder_with(&file, &told).unwrap();
            assert_eq!(encoder.tensors, read_encoder(&run, false).unwrap().tensors, "{target}");
        }
    }
    let mut theirs = read(&file);
    theirs.remove("out.conv.conv.bias");
    let error = SegmenterWeights::from_state_dict(&config, &theirs).unwrap_err().to_string();
    assert!(error.contains("out.conv.conv.bias") && error.contains("missing"), "{error}");
}

#[test]
fn sizes_that_monai_has_not_give_their_encoder() {
    let folder = tempfile::tempdir().unwrap();
    let small = UnetrConfig { patch: 4, depth: 3, roi: [8, 12, 16], ..monai_sized() };
    let (_, path) = checkpoint(folder.path(), &small, 3, false);
    let target = Target::Monai(monai::Version::V1_6);
    let error = export(&path, target, &ExportOptions::default()).unwrap_err().to_string();
    assert!(error.contains("patch 16") && error.contains("--encoder-only"), "{error}");
    let options = ExportOptions { encoder_only: true, ..Default::default() };
    let exported = export(&path, target, &options).unwrap();
    assert!(exported.construct.contains("nets.ViT(in_channels=2, img_size=(8, 12, 16)"));
    let ours = read_encoder(&path, false).unwrap();
    assert_eq!((ours.grid, ours.config.heads), (Some([2, 3, 4]), 3));
    let name = "blocks.2.mlp.fc1.weight";
    assert_eq!(exported.tensors["blocks.2.mlp.linear1.weight"], ours.tensors[name]);
    // The segmenter's own file says its sizes, too.
    let file = folder.path().join("segmenter.safetensors");
    let weights = SegmenterWeights::of(&checkpoint(folder.path(), &small, 3, true).0).unwrap();
    weights.write(&file).unwrap();
    let from_file = read_encoder(&file, false).unwrap();
    assert_eq!((from_file.tensors, from_file.config), (ours.tensors, ours.config));
}
