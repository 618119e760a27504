//! Fine-tuning: it learns, resumes bit for bit, predicts on the grid of the input, and refuses what does
//! not fit.

use std::fs;
use std::path::{Path, PathBuf};

use glmae::checkpoint::FinetuneState;
use glmae::checkpoint::segmenter::{self, FinetuneInfo, FinetuneSnapshot};
use glmae::config::finetune::FinetuneConfig;
use glmae::data::ReadLimits;
use glmae::data::nifti::{ReadOptions, Stored, read_header, read_volume, write_volume};
use glmae::data::volume::Volume;
use glmae::device::emulated::{Mode, Schedule};
use glmae::device::{DType, Device};
use glmae::infer::predict::{InferChanges, PredictOptions, Progress, predict};
use glmae::train::finetune::{FinetuneOptions, Finetuned, finetune};
use glmae::train::run::{Launches, RunOptions, Summary};

use super::{config as pretrain_config, run as pretrain, volumes};

pub const TASK: &str = r#"
title = "Balls"
kind = "classes"
channels = ["CT"]
cases = [5, 1]
loss = "dice_ce"
[image]
roi = [16, 16, 16]
intensity = { kind = "percentile_scale", lo = 0.0, hi = 100.0 }
[labels]
names = ["background", "ball"]
[split]
rule = "every"
every = 6
[[layout]]
id = "case_*"
image = "images/case_*.nii.gz"
label = "labels/case_*.nii.gz"
"#;

pub const CONFIG: &str = r#"
[model]
feature_size = 4
patch = 4
dim = 12
depth = 2
heads = 2
mlp_ratio = 2.0
[optim]
lr = 3e-2
warmup_epochs = 0
[train]
epochs = 8
batch = 2
crops = 1
accumulation = 1
log_every = 1
validate_every = 4
save_every = 2
threads = 1
[data]
workers = 1
[infer]
windows = 2
"#;

/// Six volumes with a bright ball, whose label is the ball, on an oblique and mirrored grid.
pub fn balls(folder: &Path) -> PathBuf {
    let data = folder.join("balls");
    for sub in ["images", "labels"] {
        fs::create_dir_all(data.join(sub)).unwrap();
    }
    let affine =
        [[-1.0, 0.1, 0.0, 7.0], [0.1, 1.0, 0.0, -3.0], [0.0, 0.0, 2.0, 5.0], [0., 0., 0., 1.]];
    for i in 0..6usize {
        let dims = [18 + i % 2, 17, 20];
        let middle = [7 + i % 4, 9 - i % 3, 8 + i % 5];
        let ball = |at: [usize; 3]| {
            (0..3).map(|a| (at[a] as f64 - middle[a] as f64).powi(2)).sum::<f64>() < 16.0
        };
        let (mut image, mut label) = (Vec::new(), Vec::new());
        for d in 0..dims[0] {
            for h in 0..dims[1] {
                for w in 0..dims[2] {
                    let noise = ((d * 7 + h * 13 + w * 29 + i) % 11) as f32;
                    let inside = ball([d, h, w]);
                    image.push(noise + if inside { 40.0 } else { 0.0 });
                    label.push(f32::from(u8::from(inside)));
                }
            }
        }
        for (sub, values, stored) in [("images", image, Stored::F32), ("labels", label, Stored::U8)]
        {
            let volume = Volume::new(values, 1, dims, affine, 1).unwrap();
            write_volume(&data.join(format!("{sub}/case_{i}.nii.gz")), &volume, stored).unwrap();
        }
    }
    fs::write(folder.join("balls.toml"), TASK).unwrap();
    data
}

pub fn config(folder: &Path, set: &[&str]) -> FinetuneConfig {
    let mut set: Vec<String> = set.iter().map(|s| (*s).to_owned()).collect();
    set.push(format!("data.path={:?}", folder.join("balls")));
    set.push(format!("data.task={:?}", folder.join("balls.toml")));
    FinetuneConfig::parse(CONFIG, "test", &set).unwrap()
}

pub fn options(out: &Path) -> FinetuneOptions {
    FinetuneOptions::new(out, Device::Cpu)
}

pub fn on_device(out: &Path, device: Device, launches: Launches) -> FinetuneOptions {
    let run = RunOptions { launches, ..RunOptions::new(out, device) };
    FinetuneOptions { run, ..FinetuneOptions::new(out, Device::Cpu) }
}

pub fn dry_run(out: &Path) -> FinetuneOptions {
    let run = RunOptions { dry_run: true, ..RunOptions::new(out, Device::Cpu) };
    FinetuneOptions { run, ..FinetuneOptions::new(out, Device::Cpu) }
}

pub fn run(config: &FinetuneConfig, out: &Path) -> Summary<Finetuned> {
    finetune(config, &options(out)).unwrap()
}

pub fn bytes(out: &Path, step: u64) -> Vec<Vec<u8>> {
    let folder = out.join(format!("checkpoints/step_{step:08}"));
    ["model", "optimizer"]
        .map(|n| fs::read(folder.join(format!("{n}.safetensors"))).unwrap())
        .to_vec()
}

#[test]
fn it_learns_and_predicts_on_the_grid_of_the_input() {
    let folder = tempfile::tempdir().unwrap();
    let data = balls(folder.path());
    let out = folder.path().join("run");
    let done = run(&config(folder.path(), &["train.epochs=25"]), &out);
    assert_eq!((done.steps, done.found.training_cases, done.found.validation_cases), (75, 5, 1));
    let (mean, regions) = done.found.validation.unwrap();
    assert_eq!(regions.len(), 1);
    assert!(mean > 0.8, "Dice {mean}");
    assert!(done.found.best.unwrap().score >= mean && done.pictures.iter().all(|p| p.is_file()));

    // The validation case, predicted from the best checkpoint of the run folder.
    let input = data.join("images/case_5.nii.gz");
    let predicted = predict(
        &PredictOptions {
            probabilities: true,
            ..PredictOptions::new(&out, &input, folder.path().join("predictions"), Device::Cpu)
        },
        &mut |_| {},
    )
    .unwrap()
    .done;
    let read = |path: &Path| read_volume(path, &ReadOptions::default()).unwrap();
    let (image, labels) = (read(&input), read(&predicted[0].file));
    assert_eq!((image.dims, image.affine), (labels.dims, labels.affine));
    assert_eq!(image.space_code, labels.space_code);
    let truth = read(&data.join("labels/case_5.nii.gz"));
    let both = truth.data.iter().zip(&labels.data).filter(|(a, b)| **a > 0.5 && **b > 0.5).count();
    let sum = truth.data.iter().chain(&labels.data).filter(|v| **v > 0.5).count();
    assert!(2.0 * both as f64 / sum as f64 > 0.8, "{both} of {sum}");
    let probabilities = folder.path().join("predictions/case_5_prob.nii.gz");
    let read = read_volume(
        &probabilities,
        &ReadOptions { channels: glmae::data::nifti::Channels::UpTo(2), ..ReadOptions::default() },
    )
    .unwrap();
    let n = read.data.len() / 2;
    assert_eq!((read.channels, n), (2, truth.data.len()));
    assert!((0..n).all(|i| (read.data[i] + read.data[n + i] - 1.0).abs() < 1e-5));
}

#[test]
fn a_resumed_run_is_bit_exact_also_on_the_kernels() {
    let folder = tempfile::tempdir().unwrap();
    balls(folder.path());
    let whole = folder.path().join("whole");
    let set = [
        "train.epochs=4",
        "train.accumulation=2",
        "train.crops=2",
        "train.batch=1",
        "train.keep_last=9",
    ];
    let config = config(folder.path(), &set);
    run(&config, &whole);
    // As after a kill that left an earlier checkpoint only.
    let parts = folder.path().join("parts");
    let step = "checkpoints/step_00000006";
    crate::support::copy_folder(&whole.join(step), &parts.join(step));
    run(&config, &parts);
    assert!(bytes(&whole, 12) == bytes(&parts, 12), "the resumed run differs");
    for launches in [Launches::Single, Launches::Graph] {
        let device = Device::emulated(Mode::Plain, Schedule::Ascending);
        let out = folder.path().join(format!("{launches:?}"));
        let set = ["train.epochs=1", "train.accumulation=2", "train.crops=1", "train.batch=1"];
        let config = super::finetune::config(folder.path(), &set);
        finetune(&config, &on_device(&out, device, launches)).unwrap();
    }
    let [single, graph] = ["Single", "Graph"].map(|n| bytes(&folder.path().join(n), 3));
    assert!(single == graph, "a graph gives other bits");
}

#[test]
fn the_encoder_of_a_run_is_taken_over_and_may_be_frozen() {
    let folder = tempfile::tempdir().unwrap();
    balls(folder.path());
    let pretrained = folder.path().join("pretrained");
    let data = volumes(folder.path(), 5);
    pretrain(&pretrain_config(&data, &["train.steps=2", "train.save_every=2"]), &pretrained)
        .unwrap();
    let out = folder.path().join("run");
    let config = config(folder.path(), &["train.epochs=1", "model.frozen_encoder=true"]);
    // A model of one block cannot feed two levels.
    let options = options(&out).with_encoder(pretrained.clone());
    let error = finetune(&config, &options).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("levels"), "{error}");
    assert!(!out.exists());

    let deeper = ["train.steps=2", "train.save_every=2", "model.depth=2"];
    let pretrained = folder.path().join("deeper");
    pretrain(&pretrain_config(&data, &deeper), &pretrained).unwrap();
    let options = options.with_encoder(pretrained.clone());
    finetune(&config, &options).unwrap();
    let tensors = |path: PathBuf| fs::read(path).unwrap();
    let before = tensors(pretrained.join("checkpoints/step_00000002/model.safetensors"));
    let after = tensors(out.join("checkpoints/step_00000003/model.safetensors"));
    let (before, after) = (
        safetensors::SafeTensors::deserialize(&before).unwrap(),
        safetensors::SafeTensors::deserialize(&after).unwrap(),
    );
    let mut compared = 0;
    for name in after.names() {
        if let Some(ours) = name.strip_prefix("vit.") {
            let (a, b) = (before.tensor(ours).unwrap(), after.tensor(name).unwrap());
            assert_eq!(a.data(), b.data(), "{name}");
            compared += 1;
        }
    }
    assert_eq!(compared, 2 + 2 * 12 + 2);
}

/// Nothing is kept for what does not train, and the same bits come of it; also from a checkpoint of an older
/// version, which has moments of 0 for it.
#[test]
fn a_frozen_encoder_has_no_moments_and_resumes_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    balls(folder.path());
    let at = |name: &str| folder.path().join(name);
    let free = ["train.epochs=4", "train.batch=1", "train.keep_last=99", "train.validate_every=99"];
    let frozen = config(folder.path(), &[&free[..], &["model.frozen_encoder=true"]].concat());
    let free = config(folder.path(), &free);
    run(&frozen, &at("whole"));
    let step = "checkpoints/step_00000010";
    let names = |out: &Path| -> Vec<String> {
        let file = fs::read(out.join(step).join("optimizer.safetensors")).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
        tensors.names().into_iter().map(str::to_owned).collect()
    };
    let kept = names(&at("whole"));
    assert!(!kept.is_empty() && !kept.iter().any(|name| name.contains(".vit.")), "{kept:?}");
    crate::support::copy_folder(&at("whole").join(step), &at("parts").join(step));
    run(&frozen, &at("parts"));
    assert!(bytes(&at("whole"), 20) == bytes(&at("parts"), 20), "the resumed run differs");

    // With moments of everything, as an older version wrote them.
    let load = |frozen| {
        segmenter::load_state(&at("whole").join(step), &Device::Cpu, DType::F32, frozen).unwrap()
    };
    let save = |name: &str, config: &FinetuneConfig, state: &FinetuneState, info: &FinetuneInfo| {
        let snapshot = FinetuneSnapshot {
            config,
            task: info.task_text(),
            data: info.data,
            best: info.best(),
            run: info.run.as_deref().unwrap(),
            start: info.start.as_ref().unwrap(),
        };
        segmenter::save(&at(name), state, &snapshot, false).unwrap()
    };
    let (info, state) = load(false);
    let (_, without) = load(true);
    let encoder = state.m.len() - without.m.len();
    assert!(encoder > 0 && state.m.len() == state.segmenter.params.flat().len());
    let m = state.m.to_vec::<f32>().unwrap();
    assert!(m[..encoder].iter().all(|&m| m == 0.0), "never updated");
    assert_eq!(m[encoder..], without.m.to_vec::<f32>().unwrap());
    save("older", &frozen, &state, &info);
    assert!(names(&at("older")).len() > kept.len());
    run(&frozen, &at("older"));
    assert!(bytes(&at("whole"), 20) == bytes(&at("older"), 20), "an older checkpoint differs");

    // An encoder may thaw: its moments begin at 0. What a run that had none frozen wrote must be complete.
    crate::support::copy_folder(&at("whole").join(step), &at("thawed").join(step));
    run(&free, &at("thawed"));
    assert!(bytes(&at("whole"), 20)[0] != bytes(&at("thawed"), 20)[0], "it trains");
    let incomplete = save("incomplete", &free, &without, &info);
    let error = segmenter::load_state(&incomplete, &Device::Cpu, DType::F32, true).unwrap_err();
    assert_eq!(error.exit_code(), 3);
    assert!(
        error.to_string().contains("'m.vit.") && error.to_string().contains("is missing"),
        "{error}"
    );
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let data = balls(folder.path());
    let label = data.join("labels/case_1.nii.gz");
    let good = fs::read(&label).unwrap();
    let refused = |set: &[&str], code: u8, words: &[&str]| {
        let out = folder.path().join("refused");
        let error = finetune(&config(folder.path(), set), &options(&out)).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.exit_code(), code, "{text}");
        assert!(words.iter().all(|w| text.contains(w)), "{text}");
        assert!(!out.exists(), "{text}");
    };
    let all = ["train.batch=5"];
    // Another grid, a class that is none, a label that is missing.
    let other = read_volume(&label, &ReadOptions::default()).unwrap();
    let mut moved = other.clone();
    moved.affine[0][3] += 4.0;
    write_volume(&label, &moved, Stored::U8).unwrap();
    refused(&all, 3, &["case_1", "grid"]);
    let mut wrong = other.clone();
    wrong.data[100] = 7.0;
    write_volume(&label, &wrong, Stored::U8).unwrap();
    refused(&all, 3, &["case_1", "7"]);
    fs::remove_file(&label).unwrap();
    refused(&all, 3, &["case_1"]);
    fs::write(&label, good).unwrap();
    refused(&["data.roi=[18,16,16]"], 2, &["multiples of the patch"]);
    refused(&["data.subset=3"], 2, &["subset"]);
    refused(&["model.patch=3"], 2, &["patch"]);
    // A window larger than the volumes is padded.
    let out = folder.path().join("large");
    let config = config(folder.path(), &["data.roi=[32,16,24]", "train.epochs=1"]);
    finetune(&config, &options(&out)).unwrap();
}

/// Columns, batches and what one of them leaves to the next: labels and probabilities are the same bytes.
#[test]
fn predictions_do_not_depend_on_memory() {
    let folder = tempfile::tempdir().unwrap();
    balls(folder.path());
    let out = folder.path().join("run");
    run(&config(folder.path(), &["train.epochs=1"]), &out);
    // Sums of 16 x 70 x 91 voxels and two classes are 1.2 MB as a whole; padded in d. An LPS grid.
    let dims = [15, 70, 91];
    let data = (0..dims.iter().product::<usize>()).map(|i| (i * 37 % 1013) as f32).collect();
    let affine =
        [[-1.0, 0.0, 0.0, 7.0], [0.0, -1.0, 0.0, 3.0], [0.0, 0.0, 1.5, 5.0], [0., 0., 0., 1.]];
    let input = folder.path().join("large.nii.gz");
    write_volume(&input, &Volume::new(data, 1, dims, affine, 1).unwrap(), Stored::I16).unwrap();
    let emulated = Device::emulated(Mode::Plain, Schedule::Ascending);
    // Label map and probabilities of each device.
    let mut all = [Vec::new(), Vec::new()];
    let mut windows = Vec::new();
    for (memory, batch, device) in [
        (512, 1, &Device::Cpu),
        (512, 7, &Device::Cpu),
        (1, 1, &Device::Cpu),
        (1, 3, &Device::Cpu),
        (512, 7, &emulated),
        (1, 3, &emulated),
    ] {
        let to = folder.path().join(format!("{memory}_{batch}_{}", device.name()));
        let options = PredictOptions {
            changes: InferChanges {
                memory_mib: Some(memory),
                windows: Some(batch),
                gaussian: Some(true),
                ..InferChanges::default()
            },
            probabilities: true,
            ..PredictOptions::new(&out, &input, &to, device.clone())
        };
        let mut count = 0;
        predict(&options, &mut |p| {
            if let Progress::Windows { of, .. } = p {
                count = of;
            }
        })
        .unwrap();
        windows.push(count);
        let files = ["large.nii.gz", "large_prob.nii.gz"].map(|n| fs::read(to.join(n)).unwrap());
        all[usize::from(*device != Device::Cpu)].push(files);
        assert_eq!(fs::read_dir(&to).unwrap().count(), 2, "no temporary file is left");
    }
    assert!(windows[0] == windows[1] && windows[2] > windows[0], "{windows:?}");
    for files in &all {
        assert!(files.iter().all(|f| *f == files[0]), "other bits with other memory");
    }
    let none = InferChanges { memory_mib: Some(0), ..InferChanges::default() };
    let options = PredictOptions {
        changes: none,
        ..PredictOptions::new(&out, &input, folder.path().join("none"), Device::Cpu)
    };
    assert_eq!(predict(&options, &mut |_| {}).unwrap_err().exit_code(), 2);
}

#[test]
fn volumes_smaller_than_the_window_are_padded_and_named() {
    let root = tempfile::tempdir().unwrap();
    balls(root.path());
    let out = root.path().join("run");
    let set = ["data.roi=[24, 16, 24]", "train.epochs=1", "train.validate_every=1"];
    finetune(&config(root.path(), &set), &options(&out)).unwrap();
    let log = fs::read_to_string(out.join("log.jsonl")).unwrap();
    let named = log.lines().filter(|l| l.contains(r#""kind":"padded""#)).count();
    assert_eq!(named, 5, "{log}");
    assert!(log.contains("17 x 20 voxels, padded to 24 x 17 x 24"), "{log}");

    let predictions = root.path().join("predictions");
    let input = root.path().join("balls/images/case_5.nii.gz");
    let mut told = Vec::new();
    let made = predict(&PredictOptions::new(&out, &input, &predictions, Device::Cpu), &mut |p| {
        if let Progress::Padded { id, how } = p {
            told.push(format!("{id}: {how}"));
        }
    });
    assert_eq!((made.unwrap().done.len(), told.len()), (1, 1), "{told:?}");
}

/// A run of one epoch on the balls: the folder of it all, the set, the run.
fn tuned() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let data = balls(root.path());
    let out = root.path().join("run");
    finetune(&config(root.path(), &["train.epochs=1"]), &options(&out)).unwrap();
    (root, data, out)
}

#[test]
fn a_case_that_cannot_be_read_does_not_keep_the_others_from_being_done() {
    let (root, data, out) = tuned();
    let scans = root.path().join("scans");
    fs::create_dir(&scans).unwrap();
    let image = |i: usize| data.join(format!("images/case_{i}.nii.gz"));
    fs::copy(image(0), scans.join("a.nii.gz")).unwrap();
    let half = fs::read(image(1)).unwrap();
    fs::write(scans.join("b.nii.gz"), &half[..half.len() / 2]).unwrap();
    fs::copy(image(2), scans.join("c.nii.gz")).unwrap();
    fs::copy(image(3), scans.join("d_mask.nii.gz")).unwrap();
    let to = root.path().join("to");
    let made = predict(&PredictOptions::new(&out, &scans, &to, Device::Cpu), &mut |_| {}).unwrap();
    let ids = |cases: Vec<&String>| cases.into_iter().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(ids(made.done.iter().map(|c| &c.id).collect()), "a c");
    assert_eq!(ids(made.failed.iter().map(|c| &c.0).collect()), "b");
    assert_eq!((made.failed[0].1.exit_code(), made.left_out.labels.len()), (3, 1));
    assert!(to.join("a.nii.gz").is_file() && to.join("c.nii.gz").is_file());
    // The only one: its error is that of the call.
    let alone = PredictOptions::new(&out, scans.join("b.nii.gz"), &to, Device::Cpu);
    assert_eq!(predict(&alone, &mut |_| {}).unwrap_err().exit_code(), 3);
}

#[test]
fn a_prediction_never_replaces_the_image_it_is_made_of() {
    let (_root, data, out) = tuned();
    let images = data.join("images");
    let before = fs::read(images.join("case_0.nii.gz")).unwrap();
    let into = PredictOptions::new(&out, &images, &images, Device::Cpu);
    let error = predict(&into, &mut |_| {}).unwrap_err();
    assert!(
        error.exit_code() == 2 && error.to_string().contains("choose another --out"),
        "{error}"
    );
    assert_eq!(fs::read(images.join("case_0.nii.gz")).unwrap(), before);
}

/// qform and sform differ in code and place, units are micrometres: the label map says all of it likewise.
#[test]
fn a_prediction_lies_where_its_image_lies_word_for_word() {
    let (root, data, out) = tuned();
    let volume = read_volume(&data.join("images/case_0.nii.gz"), &ReadOptions::default()).unwrap();
    let plain = root.path().join("scan.nii");
    write_volume(&plain, &volume, Stored::F32).unwrap();
    let mut bytes = fs::read(&plain).unwrap();
    for (codes, at, moved) in [([1i16, 4], 268, 5.5f32), ([0, 3], 268, 0.0), ([1, 0], 76, 1.0)] {
        bytes[123] = 3;
        bytes[252..254].copy_from_slice(&codes[0].to_le_bytes());
        bytes[254..256].copy_from_slice(&codes[1].to_le_bytes());
        bytes[at..at + 4].copy_from_slice(&moved.to_le_bytes());
        fs::write(&plain, &bytes).unwrap();
        let to = root.path().join("to");
        let made = predict(&PredictOptions::new(&out, &plain, &to, Device::Cpu), &mut |_| {});
        let header = |path: &Path| read_header(path, &ReadLimits::default()).unwrap();
        let (image, labels) = (header(&plain), header(&made.unwrap().done[0].file));
        assert_eq!(image.placement, labels.placement);
        assert_eq!((image.affine, image.space_code), (labels.affine, labels.space_code));
        assert_eq!([labels.placement.qform_code, labels.placement.sform_code], codes);
    }
}

#[test]
fn a_run_does_not_go_on_with_other_classes() {
    let (root, _, out) = tuned();
    let renamed = TASK.replace(r#""ball"]"#, r#""cube"]"#);
    fs::write(root.path().join("balls.toml"), renamed).unwrap();
    let error = finetune(&config(root.path(), &["train.epochs=2"]), &options(&out)).unwrap_err();
    assert!(error.to_string().contains("other classes"), "{error}");
    // Under another title it is the same task; one case more is told.
    fs::write(root.path().join("balls.toml"), TASK.replace("\"Balls\"", "\"Same balls\"")).unwrap();
    for kind in ["images", "labels"] {
        let file = |i: usize| root.path().join(format!("balls/{kind}/case_{i}.nii.gz"));
        fs::copy(file(4), file(6)).unwrap();
    }
    let done = finetune(&config(root.path(), &["train.epochs=2"]), &options(&out)).unwrap();
    assert!(done.warnings.iter().any(|w| w.contains("the training cases changed")), "{done:?}");
}
