//! Checkpoints that revision bf94d1a wrote (tests/fixtures/format-1): they load bit for bit, resume and infer.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use glmae::checkpoint::{self, segmenter};
use glmae::config::Config;
use glmae::config::finetune::FinetuneConfig;
use glmae::device::{DType, Device};
use glmae::infer::predict::{PredictOptions, predict};
use glmae::infer::reconstruct::{ReconstructOptions, reconstruct};
use glmae::interchange::read_encoder;
use glmae::nn::params::Params;
use glmae::train::finetune::encoder::Origin;
use glmae::train::finetune::{FinetuneOptions, finetune};
use serde_json::Value;

use super::finetune::balls;
use super::tiny::{step_folder, steps};
use super::{log, run, volumes};
use crate::support::{copy_folder, files_under};

/// CRC-32C of the weights' files, when they were written.
const PRETRAINED: u64 = 615_667_609;
const TUNED: u64 = 534_201_025;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/format-1").join(name)
}

fn state(checkpoint: &Path) -> Value {
    serde_json::from_slice(&fs::read(checkpoint.join("state.json")).unwrap()).unwrap()
}

/// Every value is the one that the old version wrote: its `state.json` has a checksum of each tensor.
fn assert_loaded(params: &Params, checkpoint: &Path, crc: u64) {
    let file = &state(checkpoint)["files"]["model.safetensors"];
    assert_eq!(file["crc32c"], crc, "the fixture itself has changed");
    let written: BTreeMap<String, u32> = serde_json::from_value(file["tensors"].clone()).unwrap();
    for entry in params.layout().entries() {
        let values = params.value(&entry.name).unwrap().to_vec::<f32>().unwrap();
        assert_eq!(
            crc32c::crc32c(bytemuck::cast_slice(&values)),
            written[&entry.name],
            "{}",
            entry.name
        );
    }
}

#[test]
fn a_pre_training_of_the_old_format_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (volumes(folder.path(), 5), folder.path().join("pre"));
    copy_folder(&fixture("pre"), &out);
    let old = step_folder(&out, 2);
    let student = checkpoint::load_student(&out, &Device::Cpu).unwrap();
    assert_loaded(&student.params, &old, PRETRAINED);
    assert_eq!(read_encoder(&out, false).unwrap().tensors["patch_embed.proj.bias"].0, [6]);
    let options = ReconstructOptions {
        checkpoint: out.clone(),
        input: data.join("case_0.nii.gz"),
        out: folder.path().join("look"),
        mask_ratio: None,
        seed: 0,
        device: Device::Cpu,
    };
    assert!(reconstruct(&options).unwrap().explained.is_finite());

    let (lines, before) = (log(&out), files_under(&old));
    let set = ["train.steps=4", "train.keep_last=1"].map(str::to_owned);
    let text = fs::read_to_string(fixture("pretrain.toml")).unwrap();
    let mut config = Config::parse(&text, "fixture", &set).unwrap();
    config.data.path = data.to_str().unwrap().to_owned();
    let done = run(&config, &out).unwrap();
    assert_eq!(done.steps, 4);
    // It goes on: the same cases, the lines of the old steps are still there, and nobody removes what an older
    // version wrote without saying which run it was of.
    assert!(!done.warnings.iter().any(|w| w.contains("cases changed")), "{:?}", done.warnings);
    assert_eq!(log(&out)[..2], lines);
    assert_eq!(log(&out).len(), 4);
    assert_eq!(steps(&out), [2, 4]);
    assert!(files_under(&old) == before);
}

#[test]
fn a_fine_tuning_of_the_old_format_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (balls(folder.path()), folder.path().join("seg"));
    copy_folder(&fixture("seg"), &out);
    let (old, best) = (step_folder(&out, 3), out.join("checkpoints/best"));
    for checkpoint in [&old, &best] {
        let (_, loaded) = segmenter::load_segmenter(checkpoint, &Device::Cpu, DType::F32).unwrap();
        assert_loaded(&loaded.params, checkpoint, TUNED);
    }
    let input = data.join("images/case_5.nii.gz");
    let options = PredictOptions::new(&out, &input, folder.path().join("maps"), Device::Cpu);
    assert_eq!(predict(&options, &mut |_| {}).unwrap().done.len(), 1);

    let text = fs::read_to_string(fixture("finetune.toml")).unwrap();
    let mut config = FinetuneConfig::parse(&text, "fixture", &["train.epochs=2".into()]).unwrap();
    config.data.path = data.to_str().unwrap().to_owned();
    config.data.task = fixture("task.toml").to_str().unwrap().to_owned();
    let (lines, before) = (log(&out), files_under(&old));
    let mut twin = folder.path().join("twin");
    copy_folder(&out, &twin);
    let tune = |out: &Path, origin: Origin| {
        let options = FinetuneOptions { origin, ..FinetuneOptions::new(out, Device::Cpu) };
        finetune(&config, &options).unwrap()
    };
    let done = tune(&out, Origin::AsBegun);
    assert_eq!(done.steps, 6);
    assert!(!done.warnings.iter().any(|w| w.contains("cases changed")), "{:?}", done.warnings);
    assert_eq!(log(&out)[..3], lines);
    assert_eq!(steps(&out), [3, 6]);
    assert!(files_under(&old) == before);
    // It does not say what it began with: what the user says is taken, and that is said.
    let done = tune(&twin, Origin::Scratch);
    let said =
        |w: &String| w.contains("does not say what it began with") && w.contains("--scratch");
    assert!(done.warnings.iter().any(said), "{:?}", done.warnings);
    twin.push("checkpoints/step_00000006/model.safetensors");
    let ours = step_folder(&out, 6).join("model.safetensors");
    assert!(fs::read(twin).unwrap() == fs::read(ours).unwrap());
}
