//! What `scripts/check-monai-export.sh` compares MONAI with: a network, an image, our results.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use glmae::device::{DType, Device, Tensor};
use glmae::interchange::file::{Values, write};
use glmae::interchange::segmenter::SegmenterWeights;
use glmae::nn::pos_embed::sincos_3d;
use glmae::nn::segmenter::Segmenter;
use glmae::nn::unetr::UnetrConfig;
use glmae::rng::{Purpose, Rng};
use glmae::tape::{Tape, Var};

use super::checkpoint;

const CONFIG: UnetrConfig = UnetrConfig {
    in_chans: 2,
    outputs: 3,
    roi: [48, 32, 16],
    patch: 16,
    dim: 24,
    depth: 12,
    heads: 3,
    mlp_hidden: 40,
    feature_size: 4,
    norm_eps: 1e-6,
};

/// Weights of the size that training leaves: norms around one, the rest small.
fn segmenter() -> Segmenter {
    let table = sincos_3d(CONFIG.grid(), CONFIG.dim);
    let positions = &table[CONFIG.dim..];
    let mut segmenter = Segmenter::zeros(&Device::Cpu, DType::F32, &CONFIG, positions).unwrap();
    let mut rng = Rng::new(21, Purpose::Test, 0, 0, 0);
    for e in segmenter.params.layout().entries().to_vec() {
        let is_norm = e.name.contains("norm") && e.name.ends_with(".weight");
        let fan_in = e.shape.iter().skip(1).product::<usize>().max(10) as f64;
        let one = |rng: &mut Rng| f64::from(is_norm) + rng.normal() / fan_in.sqrt();
        let values: Vec<f64> = (0..e.len()).map(|_| one(&mut rng)).collect();
        segmenter.params.value_mut(&e.name).unwrap().upload_f64(&values).unwrap();
    }
    segmenter
}

/// Our logits `[1, outputs, d, h, w]` and final tokens `[1, tokens, dim]`.
fn results(segmenter: &Segmenter, image: &[f32]) -> BTreeMap<String, Values> {
    let (c, voxels) = (CONFIG.in_chans, CONFIG.roi.iter().product::<usize>());
    let planar = Tensor::from_slice(&Device::Cpu, image, &[c * voxels]).unwrap();
    let last: Vec<f32> =
        (0..voxels).flat_map(|v| (0..c).map(move |i| image[i * voxels + v])).collect();
    let last = Tensor::from_slice(&Device::Cpu, &last, &[voxels, c]).unwrap();
    let plan = segmenter.net.plan(&Device::Cpu, 1).unwrap();
    let mut tape = Tape::inference(&Device::Cpu);
    let inputs = [planar, last, segmenter.positions_of(1).unwrap()].map(Var::constant);
    let [a, b, p] = &inputs;
    let pass = segmenter.net.forward(&mut tape, &segmenter.params, &plan, [a, b, p], true).unwrap();
    let rows = pass.logits.value().to_f32_vec().unwrap();
    let k = CONFIG.outputs;
    let logits = (0..k).flat_map(|o| rows.iter().skip(o).step_by(k).copied()).collect();
    let [d, h, w] = CONFIG.roi;
    let tokens = pass.activations.iter().find(|(name, ..)| name == "tokens").unwrap();
    let tokens = tokens.1.value().to_f32_vec().unwrap();
    BTreeMap::from([
        ("image".into(), (vec![1, c, d, h, w], image.to_vec())),
        ("logits".into(), (vec![1, k, d, h, w], logits)),
        ("tokens".into(), (vec![1, CONFIG.tokens(), CONFIG.dim], tokens)),
    ])
}

#[test]
fn writes_what_the_check_against_monai_needs() {
    let Some(folder) = std::env::var_os("GLMAE_MONAI_CHECK").map(PathBuf::from) else {
        println!("skipped: scripts/check-monai-export.sh sets GLMAE_MONAI_CHECK");
        return;
    };
    fs::create_dir_all(&folder).unwrap();
    let segmenter = segmenter();
    SegmenterWeights::of(&segmenter).unwrap().write(&folder.join("segmenter.safetensors")).unwrap();
    let mut rng = Rng::new(22, Purpose::Test, 0, 0, 0);
    let count = CONFIG.in_chans * CONFIG.roi.iter().product::<usize>();
    let image: Vec<f32> = (0..count).map(|_| rng.normal() as f32).collect();
    write(&folder.join("results.safetensors"), &results(&segmenter, &image), &[]).unwrap();
    checkpoint(&folder.join("run"), &["model.in_chans=2"]);
}
