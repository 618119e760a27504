//! What `--encoder` takes: our runs, imported and foreign files; what it refuses; what a frozen one costs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use glmae::checkpoint::FinetuneState;
use glmae::checkpoint::segmenter::read_info;
use glmae::config::finetune::FinetuneConfig;
use glmae::device::emulated::{Mode, Schedule};
use glmae::device::{DType, Device};
use glmae::interchange::export::{ExportOptions, Target, export};
use glmae::interchange::file::{Values, write};
use glmae::interchange::{monai, read_encoder};
use glmae::nn::unetr::UnetrConfig;
use glmae::rng::{Purpose, Rng};
use glmae::train::finetune::encoder::{self, Origin};
use glmae::train::finetune::program::{FinetuneLoss, FinetuneProgram, FinetuneSettings};
use glmae::train::finetune::{FinetuneOptions, finetune};
use glmae::train::run::Launches;

use super::finetune::{balls, bytes, config, dry_run, options};
use super::{config as pretrain_config, run as pretrain, volumes};

/// A pre-training run with one head of 64 channels.
fn pretrained(folder: &Path) -> PathBuf {
    let (data, out) = (volumes(folder, 5), folder.join("pretrained"));
    let set =
        ["train.steps=2", "train.save_every=2", "model.depth=2", "model.dim=64", "model.heads=1"];
    pretrain(&pretrain_config(&data, &set), &out).unwrap();
    out
}

fn from(encoder: &Path, out: &Path) -> FinetuneOptions {
    options(out).with_encoder(encoder.to_owned())
}

fn partly(encoder: &Path, partial: bool) -> Origin {
    Origin::Encoder { path: encoder.to_owned(), partial }
}

/// The fields of the events of a kind in `log.jsonl`.
fn events(out: &Path, kind: &str) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(out.join("log.jsonl")).unwrap();
    let lines = text.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
    lines.filter(|v| v["kind"] == kind).collect()
}

#[test]
fn runs_imported_and_foreign_files_start_the_same_run() {
    let folder = tempfile::tempdir().unwrap();
    balls(folder.path());
    let run = pretrained(folder.path());
    let at = |name: &str| folder.path().join(name);
    let encoder = read_encoder(&run, false).unwrap();
    encoder.write(&at("encoder.safetensors")).unwrap();
    let v16 = Target::Monai(monai::Version::V1_6);
    for (target, name) in [(Target::Timm, "timm.safetensors"), (v16, "monai.safetensors")] {
        export(&run, target, &ExportOptions::default()).unwrap().write(&at(name), target).unwrap();
    }
    let config = config(folder.path(), &["train.epochs=1"]);
    let tune = |name: &str, encoder: &Path| {
        let out = at(name);
        let done = finetune(&config, &from(encoder, &out)).unwrap();
        let report = done.found.encoder.unwrap();
        let logged = events(&out, "encoder");
        assert_eq!(logged.len(), 1, "{name}");
        let loaded = logged[0]["report"]["loaded"].as_array().unwrap().len();
        assert_eq!(loaded, report.loaded.len(), "{name}");
        // Patch embedding, two blocks, norm, positions; the cls token where the file has it.
        let has_cls = report.loaded.contains(&"cls_token".to_owned());
        assert_eq!(loaded, 2 + 2 * 12 + 2 + 1 + usize::from(has_cls), "{name}");
        // The window has 4^3 patches, the pre-training's views 2^3.
        assert!(report.adapted.iter().any(|a| a.contains("[2, 2, 2] to [4, 4, 4]")), "{report:?}");
        assert!(report.missing.is_empty() && report.unexpected.is_empty());
        (bytes(&out, 3), read_info(&out.join("checkpoints/step_00000003")).unwrap())
    };
    let (reference, info) = tune("from_run", &run);
    let network = info.network().unwrap().vit();
    assert_eq!((network.dim, network.depth, network.heads, network.patch), (64, 2, 1, 4));
    for (name, encoder) in [
        ("from_checkpoint", run.join("checkpoints/step_00000002")),
        ("from_import", at("encoder.safetensors")),
        ("from_timm", at("timm.safetensors")),
        // MONAI's own norms have another eps; an export says that its weights have ours.
        ("from_monai", at("monai.safetensors")),
    ] {
        assert!(tune(name, &encoder).0 == reference, "{name}: other bits");
    }
    // A fine-tuned run, too, and a table of positions of its own size stays as it is.
    let out = at("from_tuned");
    let done = finetune(&config, &from(&at("from_run"), &out)).unwrap();
    let report = done.found.encoder.unwrap();
    assert!(report.source.contains("fine-tuned"), "{report:?}");
    assert!(report.ignored.iter().any(|n| n == "out.conv.conv.weight"), "{report:?}");
    assert!(!report.adapted.iter().any(|a| a.contains("interpolated")), "{report:?}");
    let again = read_encoder(&at("from_run"), false).unwrap();
    assert_eq!(again.tensors["pos_embed"].0, [1, 65, 64]);
}

#[test]
fn what_is_no_whole_encoder_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    balls(folder.path());
    let run_folder = pretrained(folder.path());
    let config = config(folder.path(), &["train.epochs=1"]);
    let out = folder.path().join("out");
    let refused = |encoder: &Path, partial: bool, code: u8, words: &[&str]| {
        let options = FinetuneOptions { origin: partly(encoder, partial), ..options(&out) };
        let error = finetune(&config, &options).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.exit_code(), code, "{text}");
        assert!(words.iter().all(|w| text.contains(w)), "{words:?}: {text}");
        assert!(!out.exists(), "{text}");
    };
    let file = folder.path().join("weights.safetensors");
    let put = |tensors: &BTreeMap<String, Values>| write(&file, tensors, &[]).unwrap();
    // Without an encoder: other weights, an empty folder, a run without checkpoints, a pickle.
    put(&BTreeMap::from([("decoder.weight".to_owned(), (vec![2], vec![1.0, 2.0]))]));
    refused(&file, false, 3, &["weights.safetensors", "holds no ViT encoder", "decoder.weight"]);
    refused(&file, true, 3, &["holds no ViT encoder"]);
    let empty = folder.path().join("empty/checkpoints");
    fs::create_dir_all(&empty).unwrap();
    refused(empty.parent().unwrap(), false, 3, &["empty", "run folder with a checkpoint"]);
    refused(&folder.path().join("nowhere"), false, 1, &["nowhere"]);
    fs::write(folder.path().join("w.pth"), b"PK\x03\x04\x00\x00\x08\x08....").unwrap();
    refused(&folder.path().join("w.pth"), false, 3, &["pickle"]);
    // Heads that the file does not tell: the way out is named.
    let mut encoder = read_encoder(&run_folder, false).unwrap();
    let narrow = folder.path().join("narrow");
    let set = ["train.steps=1", "train.save_every=1", "model.depth=2"];
    pretrain(&pretrain_config(&folder.path().join("data"), &set), &narrow).unwrap();
    put(&read_encoder(&narrow, false).unwrap().tensors);
    refused(&file, false, 2, &["--heads", "glmae import"]);
    // Something missing, something unknown: by name, and a partial load takes the rest.
    encoder.tensors.remove("blocks.1.mlp.fc2.bias").unwrap();
    encoder.write(&file).unwrap();
    refused(&file, false, 3, &["blocks.1.mlp.fc2.bias", "--partial"]);
    encoder.tensors.insert("blocks.0.ls1.gamma".into(), (vec![64], vec![1.0; 64]));
    encoder.write(&file).unwrap();
    let done = finetune(&config, &FinetuneOptions { origin: partly(&file, true), ..options(&out) })
        .unwrap();
    let report = done.found.encoder.unwrap();
    assert_eq!(report.missing, ["blocks.1.mlp.fc2.bias"]);
    assert_eq!(report.unexpected, ["blocks.0.ls1.gamma"]);
    let logged = &events(&out, "encoder")[0]["report"];
    assert_eq!(logged["missing"][0], "blocks.1.mlp.fc2.bias");
    assert_eq!(logged["unexpected"][0], "blocks.0.ls1.gamma");
}

fn network() -> UnetrConfig {
    UnetrConfig {
        in_chans: 1,
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

/// One step from the same start; gradients and new values by name.
fn one_step(device: &Device, frozen: bool) -> BTreeMap<String, [Vec<f64>; 2]> {
    let mut segmenter = encoder::start(device, DType::F32, &network(), 5, None).unwrap();
    if frozen {
        segmenter.freeze_encoder();
    }
    let mut state = FinetuneState::new(segmenter).unwrap();
    let settings = FinetuneSettings {
        lr: 1e-2,
        weight_decay: 1e-2,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        clip_grad: 0.0,
    };
    let loss = FinetuneLoss::DiceCe { dice: 1.0, ce: 1.0 };
    let mut program =
        FinetuneProgram::new(&state, &settings, loss, 2, 1, Launches::Single).unwrap();
    let n = 2 * 8 * 16 * 8;
    let mut rng = Rng::new(11, Purpose::Test, 0, 0, 0);
    let voxels: Vec<f32> = (0..n).map(|_| rng.normal() as f32).collect();
    let labels: Vec<u8> = (0..n).map(|i| (i / 5 % 3) as u8).collect();
    program.batch_mut().fill_f32(&network().vit(), &voxels, &labels).unwrap();
    program.micro_batch(&state.segmenter).unwrap();
    program.update(&mut state, &settings).unwrap();
    assert!(program.finish(&mut state, &settings).unwrap().not_finite.is_none());
    let of = |e: &glmae::param_layout::ParamEntry| {
        let gradient = program.grads().flat().view(e.offset, &e.shape).unwrap();
        let value = state.segmenter.params.value(&e.name).unwrap();
        (e.name.clone(), [gradient, value].map(|t| t.to_f64_vec().unwrap()))
    };
    state.segmenter.params.layout().entries().iter().map(of).collect()
}

/// The rest of the network learns exactly as it would in that step; the encoder has no gradient, and not even
/// weight decay moves it. (That its activations are not kept: `train::finetune::memory`.)
#[test]
fn a_frozen_encoder_changes_nothing_else() {
    for device in [Device::Cpu, Device::emulated(Mode::Plain, Schedule::Ascending)] {
        let start = encoder::start(&device, DType::F32, &network(), 5, None).unwrap();
        let (free, frozen) = (one_step(&device, false), one_step(&device, true));
        for (name, [gradient, value]) in &frozen {
            let [free_gradient, free_value] = &free[name];
            if name.starts_with("vit.") {
                assert!(gradient.iter().all(|&g| g == 0.0), "{name}");
                assert_eq!(*value, start.params.value(name).unwrap().to_f64_vec().unwrap());
                assert_ne!(value, free_value, "{name} would not have moved anyway");
            } else {
                assert_eq!(gradient, free_gradient, "{name}");
                assert_eq!(value, free_value, "{name}");
            }
        }
    }
}

/// As users run it: on a machine without a GPU, for one; nothing is written.
#[test]
fn a_dry_run_plans_for_a_gpu_that_is_not_here() {
    let folder = tempfile::tempdir().unwrap();
    let data = balls(folder.path());
    let encoder = pretrained(folder.path());
    let out = folder.path().join("out");
    let text = |device: &str, more: &[&str]| {
        let mut command = assert_cmd::Command::new(assert_cmd::cargo::cargo_bin!("glmae"));
        command.env_remove("RUST_LOG").args(["finetune", "--dry-run", "--device", device]);
        command.arg("--data").arg(&data).arg("--out").arg(&out);
        command.arg("--task").arg(folder.path().join("balls.toml"));
        command.args(["--set", "model.feature_size=8"]).args(more);
        let output = command.output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{device}: {error}");
        assert!(!out.exists());
        String::from_utf8(output.stdout).unwrap()
    };
    let encoder = encoder.to_str().unwrap();
    let cuda = text("cuda", &["--encoder", encoder]);
    for words in ["5 training, 1 validation", "glmae checkpoint, student", "activations in bf16"] {
        assert!(cuda.contains(words), "'{words}' is not in: {cuda}");
    }
    for class in ["weights", "moments", "gradients", "activations", "crops", "peak"] {
        assert!(cuda.lines().any(|l| l.trim().starts_with(class)), "{class}: {cuda}");
    }
    assert!(text("cpu", &["--encoder", encoder]).contains("activations in f32"));
    // A case that cannot be used is found.
    let config = |set: &[&str]| -> FinetuneConfig { config(folder.path(), set) };
    fs::remove_file(data.join("labels/case_0.nii.gz")).unwrap();
    let dry = dry_run(&out);
    assert_eq!(finetune(&config(&[]), &dry).unwrap_err().exit_code(), 3);
    assert!(!out.exists());
}
