//! Weights from and for other programs.

mod checkpoints;
mod files;
mod guesses;
mod hostile;
mod monai_check;
mod program;
mod segmenters;
mod tampered;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use glmae::checkpoint::State;
use glmae::checkpoint::{DataFingerprint, Snapshot, save};
use glmae::config::Config;
use glmae::device::{DType, Device};
use glmae::glmae::model::{Networks, Weights};
use glmae::interchange::file::{Values, write};
use glmae::interchange::{Encoder, ImportOptions, read_encoder_with};
use glmae::rng::{Purpose, Rng};

use crate::train::MICRO;

/// A model with grids of different sides; its local grid is 2 x 3 x 4.
const SET: &[&str] =
    &["views.local_size=[8, 12, 16]", "views.global_size=[16, 16, 16]", "model.depth=3"];

/// A checkpoint as a run would leave it, with drawn weights.
fn checkpoint(run: &Path, set: &[&str]) -> (Config, Networks, Weights, PathBuf) {
    let set: Vec<String> = SET.iter().chain(set).map(|s| (*s).to_owned()).collect();
    let config = Config::parse(MICRO, "micro", &set).unwrap();
    let nets = Networks::new(&Device::Cpu, DType::F32, &config).unwrap();
    let mut weights = Weights::init(&Device::Cpu, DType::F32, &config, &nets).unwrap();
    // Biases begin at zero, norms at one, and the teacher as the student: none may hide a mistake.
    let draw = |params: &mut glmae::nn::params::Params, seed: u64| {
        let mut rng = Rng::new(seed, Purpose::Test, 0, 0, 0);
        for e in params.layout().entries().to_vec() {
            let values: Vec<f64> = (0..e.len()).map(|_| rng.normal()).collect();
            params.value_mut(&e.name).unwrap().upload_f64(&values).unwrap();
        }
    };
    draw(&mut weights.student, 1);
    draw(weights.teacher.as_mut().unwrap(), 2);
    let state = State::from_weights(weights.clone()).unwrap();
    let data = DataFingerprint::default();
    let snapshot = Snapshot { config: &config, nets: &nets, state: &state, data, run: "test" };
    let path = save(run, &snapshot).unwrap();
    (config, nets, weights, path)
}

/// Tensors of drawn numbers by name.
type Named = BTreeMap<String, Values>;

fn drawn(names: &[(String, Vec<usize>)], seed: u64) -> Named {
    let mut rng = Rng::new(seed, Purpose::Test, 0, 0, 0);
    let mut one = |shape: &Vec<usize>| {
        (0..shape.iter().product()).map(|_| rng.normal() as f32).collect::<Vec<f32>>()
    };
    names.iter().map(|(name, shape)| (name.clone(), (shape.clone(), one(shape)))).collect()
}

/// Official names and shapes of an encoder of width 64, 2 blocks, patch 4, 24 tokens.
fn official() -> Vec<(String, Vec<usize>)> {
    let (d, h) = (64, 80);
    let mut names = vec![
        ("cls_token".to_owned(), vec![1, 1, d]),
        ("pos_embed".to_owned(), vec![1, 28, d]),
        ("patch_embed.proj.weight".to_owned(), vec![d, 2, 4, 4, 4]),
        ("patch_embed.proj.bias".to_owned(), vec![d]),
        ("norm.weight".to_owned(), vec![d]),
        ("norm.bias".to_owned(), vec![d]),
    ];
    for i in 0..2 {
        for (name, shape) in [
            ("norm1.weight", vec![d]),
            ("norm1.bias", vec![d]),
            ("attn.qkv.weight", vec![3 * d, d]),
            ("attn.qkv.bias", vec![3 * d]),
            ("attn.proj.weight", vec![d, d]),
            ("attn.proj.bias", vec![d]),
            ("norm2.weight", vec![d]),
            ("norm2.bias", vec![d]),
            ("mlp.fc1.weight", vec![h, d]),
            ("mlp.fc1.bias", vec![h]),
            ("mlp.fc2.weight", vec![d, h]),
            ("mlp.fc2.bias", vec![d]),
        ] {
            names.push((format!("blocks.{i}.{name}"), shape));
        }
    }
    names
}

fn put(folder: &Path, tensors: &Named) -> PathBuf {
    let path = folder.join("weights.safetensors");
    write(&path, tensors, &[]).unwrap();
    path
}

/// Reads a file whose one thing that nothing tells are the heads.
fn read_one_head(path: &Path, partial: bool) -> glmae::Result<Encoder> {
    let options = ImportOptions { partial, heads: Some(1), ..Default::default() };
    read_encoder_with(path, &options)
}
