//! Classes of images: learnt, resumed bit for bit, predicted, judged; and what does not fit is refused.

use std::fs;
use std::path::{Path, PathBuf};

use glmae::checkpoint::FinetuneState;
use glmae::checkpoint::segmenter::read_info;
use glmae::config::finetune::FinetuneConfig;
use glmae::data::nifti::{Stored, write_volume};
use glmae::data::volume::Volume;
use glmae::device::emulated::{Mode, Schedule};
use glmae::device::{DType, Device};
use glmae::infer::classify::classify;
use glmae::infer::predict::{PredictOptions, predict};
use glmae::interchange::{export, read_encoder};
use glmae::lab::opcheck::{GRAD_ATOL, GRAD_RTOL};
use glmae::nn::classifier::ClassifierConfig;
use glmae::nn::vit::VitConfig;
use glmae::rng::{Purpose, Rng};
use glmae::seg::class_table::{ClassPrediction, read, write};
use glmae::train::finetune::encoder;
use glmae::train::finetune::finetune;
use glmae::train::finetune::program::{FinetuneLoss, FinetuneProgram, FinetuneSettings};
use glmae::train::run::Launches;

use super::finetune::{bytes, dry_run, on_device, options, run};
use super::{config as pretrain_config, run as pretrain, volumes};
use crate::support::copy_folder;

pub const TASK: &str = r#"
title = "Bright or dark"
kind = "image_classes"
channels = ["CT"]
cases = [8, 4]
loss = "cross_entropy"
[image]
roi = [16, 16, 16]
intensity = { kind = "window", lo = -40.0, hi = 40.0 }
[labels]
names = ["dark", "bright"]
[split]
rule = "every"
every = 3
[[layout]]
id = "dark/*"
image = "dark/*.nii.gz"
class = 0
[[layout]]
id = "bright/*"
image = "bright/*.nii.gz"
class = 1
"#;

/// Twelve volumes of noise with a dark or a bright ball somewhere; one is smaller than the window.
pub fn balls(folder: &Path) -> PathBuf {
    let data = folder.join("classes");
    for (class, name) in ["dark", "bright"].into_iter().enumerate() {
        fs::create_dir_all(data.join(name)).unwrap();
        for i in 0..6usize {
            let dims = [if i == 1 { 14 } else { 17 + i % 2 }, 17, 18];
            let middle = [6 + i % 4, 9 - i % 3, 7 + i % 5];
            let mut affine = [[0.0; 4]; 4];
            (0..4).for_each(|a| affine[a][a] = 1.0);
            let value = |at: [usize; 3]| {
                let [d, h, w] = at;
                let inside =
                    (0..3).map(|a| (at[a] as f32 - middle[a] as f32).powi(2)).sum::<f32>() < 20.0;
                let noise = ((d * 7 + h * 13 + w * 29 + i * 5) % 11) as f32 - 5.0;
                noise + if inside { [-30.0, 30.0][class] } else { 0.0 }
            };
            let n = dims.iter().product::<usize>();
            let [_, nh, nw] = dims;
            let data_of = (0..n).map(|i| value([i / (nh * nw), i / nw % nh, i % nw])).collect();
            let volume = Volume::new(data_of, 1, dims, affine, 1).unwrap();
            let file = data.join(format!("{name}/scan_{i}.nii.gz"));
            write_volume(&file, &volume, Stored::F32).unwrap();
        }
    }
    fs::write(folder.join("classes.toml"), TASK).unwrap();
    data
}

fn config(folder: &Path, set: &[&str]) -> FinetuneConfig {
    let fixed = ["optim.lr=2e-2", "train.batch=4", "train.epochs=200", "train.validate_every=200"];
    let mut set: Vec<String> = fixed.iter().chain(set).map(|s| (*s).to_owned()).collect();
    set.push(format!("data.path={:?}", folder.join("classes")));
    set.push(format!("data.task={:?}", folder.join("classes.toml")));
    FinetuneConfig::parse(super::finetune::CONFIG, "test", &set).unwrap()
}

fn glmae(args: &[&str]) -> (i32, String, String) {
    let mut command = assert_cmd::Command::new(assert_cmd::cargo::cargo_bin!("glmae"));
    let output = command.env_remove("RUST_LOG").args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn it_learns_predicts_and_is_judged() {
    let folder = tempfile::tempdir().unwrap();
    let data = balls(folder.path());
    let out = folder.path().join("run");
    let done = run(&config(folder.path(), &[]), &out);
    assert_eq!((done.steps, done.found.training_cases, done.found.validation_cases), (400, 8, 4));
    assert!(done.found.classifies && done.last.iter().map(|(name, _)| *name).eq(["loss"]));
    let (accuracy, parts) = done.found.validation.unwrap();
    let names: Vec<&str> = parts.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["balanced accuracy", "AUC (macro)", "AUC dark", "AUC bright"]);
    assert!(accuracy == 1.0 && parts.iter().all(|(_, v)| *v == 1.0), "{accuracy} {parts:?}");
    assert_eq!(done.found.best.unwrap().score, 1.0);
    let head = fs::read_to_string(out.join("metrics.csv")).unwrap();
    let head = head.lines().next().unwrap();
    assert!(head.contains("val_accuracy") && !head.contains("dice"), "{head}");

    // The whole set, training cases among it, from outside.
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let (checkpoint, set, to) = (text(&out), text(&data), text(&folder.path().join("out")));
    let predict_args = ["predict", "--checkpoint", &checkpoint, "--input", &set, "--out", &to];
    let (code, said, error) = glmae(&predict_args);
    assert!(code == 0 && said.contains("12 cases"), "{said}{error}");
    assert!(error.contains("dark/scan_1: smaller than the window"), "{error}");
    let (task, json) = (text(&folder.path().join("classes.toml")), text(&folder.path().join("j")));
    let judge = ["evaluate", "--pred", &to, "--ref", &set, "--task", &task, "--json", &json];
    let (code, said, error) = glmae(&judge);
    assert!(code == 0 && said.contains("12 cases"), "{said}{error}");
    let judged: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    assert_eq!((&judged["accuracy"], &judged["auc_macro"]), (&1.0.into(), &1.0.into()), "{said}");
    assert_eq!(judged["confusion"], serde_json::json!([[6, 0], [0, 6]]));
    assert_eq!(judged["metric_per_case"].as_array().unwrap().len(), 12);
    let (code, said, _) = glmae(&[&judge[..], &["--validation"]].concat());
    assert!(code == 0 && said.contains("4 cases"), "{said}");

    // Predictions of the library are those of the file; flags of label maps are refused.
    let again = folder.path().join("again");
    let options = PredictOptions::new(&out, data.join("dark"), &again, Device::Cpu);
    let classified = classify(&options, &mut |_| {}).unwrap();
    let names = classified.names.clone();
    assert_eq!(read(&classified.file, &names).unwrap(), classified.cases);
    let whole = read(&folder.path().join("out/predictions.csv"), &names).unwrap();
    for case in &classified.cases {
        let other = whole.iter().find(|w| w.id == format!("dark/{}", case.id)).unwrap();
        assert_eq!(case.probabilities, other.probabilities);
    }
    assert!(predict(&options, &mut |_| {}).is_err());
    let (code, _, error) = glmae(&[&predict_args[..], &["--gaussian"]].concat());
    assert!(code == 2 && error.contains("--gaussian"), "{error}");
    let (code, said, error) = glmae(&["inspect", &checkpoint]);
    assert!(code == 0 && said.contains("accuracy 1.0000 at epoch"), "{said}{error}");
    let (code, said, _) = glmae(&["inspect", &text(&out.join("checkpoints/best"))]);
    assert!(code == 0 && said.contains("classifier") && said.contains("pooled_norm"), "{said}");
}

#[test]
fn a_resumed_run_is_bit_exact_also_on_the_kernels() {
    let folder = tempfile::tempdir().unwrap();
    balls(folder.path());
    let at = |name: &str| folder.path().join(name);
    let set = [
        "train.epochs=4",
        "train.batch=2",
        "train.accumulation=2",
        "train.crops=2",
        "train.keep_last=9",
        "train.validate_every=2",
    ];
    let config = config(folder.path(), &set);
    let whole = run(&config, &at("whole"));
    let step = "checkpoints/step_00000004";
    copy_folder(&at("whole").join(step), &at("parts").join(step));
    let parts = run(&config, &at("parts"));
    assert!(bytes(&at("whole"), 8) == bytes(&at("parts"), 8), "the resumed run differs");
    assert_eq!(whole.found.validation, parts.found.validation);
    let on = |name: &str, launches: Launches, precision: &str| {
        let device = Device::emulated(Mode::Plain, Schedule::Ascending);
        let set = [&set[..], &["train.epochs=2", precision]].concat();
        let config = super::classify::config(folder.path(), &set);
        finetune(&config, &on_device(&at(name), device, launches)).unwrap();
    };
    for precision in ["train.precision=f32", "train.precision=bf16"] {
        on(&format!("single {precision}"), Launches::Single, precision);
        on(&format!("graph {precision}"), Launches::Graph, precision);
        let [single, graph] =
            ["single", "graph"].map(|name| bytes(&at(&format!("{name} {precision}")), 4));
        assert!(single == graph, "{precision}: a graph gives other bits");
    }
}

#[test]
fn the_encoder_of_a_run_is_taken_over_frozen_and_given_on() {
    let folder = tempfile::tempdir().unwrap();
    balls(folder.path());
    let pretrained = folder.path().join("pretrained");
    let data = volumes(folder.path(), 5);
    pretrain(&pretrain_config(&data, &["train.steps=2", "train.save_every=2"]), &pretrained)
        .unwrap();
    let out = folder.path().join("run");
    let config = config(folder.path(), &["train.epochs=2", "model.frozen_encoder=true"]);
    let from = |encoder: &Path, out: &Path| options(out).with_encoder(encoder);
    // One block is enough here.
    let done = finetune(&config, &from(&pretrained, &out)).unwrap();
    let report = done.found.encoder.unwrap();
    assert!(report.missing.is_empty() && !report.loaded.is_empty(), "{report:?}");
    let read = |path: PathBuf| fs::read(path).unwrap();
    let before = read(pretrained.join("checkpoints/step_00000002/model.safetensors"));
    let after = read(out.join("checkpoints/step_00000004/model.safetensors"));
    let open = |bytes| safetensors::SafeTensors::deserialize(bytes).unwrap();
    let (before, after) = (open(&before), open(&after));
    let mut compared = 0;
    for name in after.names() {
        if let Some(ours) = name.strip_prefix("vit.") {
            let (a, b) = (before.tensor(ours).unwrap(), after.tensor(name).unwrap());
            assert_eq!(a.data(), b.data(), "{name}");
            compared += 1;
        }
    }
    assert_eq!(compared, 2 + 12 + 2);
    let zeros = after.tensor("head.conv.bias").unwrap().data().iter().all(|&b| b == 0);
    assert!(!zeros, "the last layer learns");

    // Its encoder starts another run and is exported, alone.
    let encoder = read_encoder(&out, false).unwrap();
    assert!(encoder.report.source.contains("fine-tuned"));
    assert!(encoder.report.ignored.iter().any(|n| n == "head.conv.weight"));
    assert_eq!(encoder.tensors["pos_embed"].0, [1, 65, 12]);
    finetune(&config, &from(&out, &folder.path().join("again"))).unwrap();
    let target = export::Target::Timm;
    let exported = export::export(&out, target, &export::ExportOptions::default()).unwrap();
    assert!(exported.tensors.contains_key("blocks.0.attn.qkv.weight"));
    assert!(!exported.tensors.keys().any(|name| name.starts_with("head")));
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let data = balls(folder.path());
    let out = folder.path().join("refused");
    let refused = |set: &[&str], code: u8, words: &[&str]| {
        let error = finetune(&config(folder.path(), set), &options(&out)).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.exit_code(), code, "{text}");
        assert!(words.iter().all(|w| text.contains(w)), "{words:?}: {text}");
        assert!(!out.exists(), "{text}");
    };
    refused(&["model.heads=5"], 2, &["classifier", "heads"]);
    refused(&["data.roi=[18,16,16]"], 2, &["multiples of the patch"]);
    // A volume that cannot be read, first or later.
    let file = data.join("dark/scan_0.nii.gz");
    let good = fs::read(&file).unwrap();
    fs::write(&file, &good[..good.len() / 2]).unwrap();
    refused(&["train.batch=8"], 3, &["scan_0"]);
    fs::write(&file, &good).unwrap();
    // A dry run reads a case and writes nothing.
    let dry = dry_run(&out);
    let plan = finetune(&config(folder.path(), &[]), &dry).unwrap().plan;
    assert!(plan.peak_bytes > 0 && !out.exists());
    // A class whose folder is gone leaves one only.
    fs::rename(data.join("bright"), folder.path().join("bright")).unwrap();
    refused(&[], 3, &["dark", "nothing to tell apart"]);
    fs::rename(data.join("dark"), folder.path().join("dark")).unwrap();
    refused(&[], 3, &["no file matches"]);
}

#[test]
fn broken_tables_are_refused_by_line() {
    let folder = tempfile::tempdir().unwrap();
    let data = balls(folder.path());
    let names = ["dark", "bright"].map(str::to_owned);
    let file = folder.path().join("p.csv");
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (set, table, task) = (data.to_str().unwrap().to_owned(), at("p.csv"), at("classes.toml"));
    let judge = ["evaluate", "--pred", &table, "--ref", &set, "--task", &task];
    const HEAD: &str = "id,predicted,p_dark,p_bright\n";
    for (text, words) in [
        ("id,class,p_dark,p_bright\na,dark,1,0\n", "columns"),
        ("id,predicted,p_bright,p_dark\na,dark,1,0\n", "columns"),
        ("", "columns"),
        (HEAD, "no case"),
        (&format!("{HEAD}a,dark,1,0\na,dark,1,0\n"), "line 3: a is there twice"),
        (&format!("{HEAD},dark,1,0\n"), "line 2: no id"),
        (&format!("{HEAD}a,grey,1,0\n"), "grey"),
        (&format!("{HEAD}a,dark,1\n"), "line 2: 3 cells"),
        (&format!("{HEAD}a,dark,1,x\n"), "p_bright"),
        (&format!("{HEAD}a,dark,NaN,1\n"), "p_dark"),
        (&format!("{HEAD}a,dark,1.5,-0.5\n"), "no probability"),
        (&format!("{HEAD}a,dark,0.6,0.3\n"), "sum to 0.8999999999999999"),
        (&format!("{HEAD}b,dark,1,0\na,dark,inf,0\n"), "line 3"),
    ] {
        fs::write(&file, text).unwrap();
        let error = read(&file, &names).unwrap_err();
        assert_eq!(error.exit_code(), 3, "{text}");
        assert!(error.to_string().contains(words), "{words}: {error}");
        let (code, _, said) = glmae(&judge);
        assert!(code == 3 && said.contains(words), "{said}");
    }
    fs::write(&file, [HEAD.as_bytes(), b"a\xff,dark,1,0\n"].concat()).unwrap();
    assert_eq!(read(&file, &names).unwrap_err().exit_code(), 3);
    // Sound ones without partners.
    fs::write(&file, format!("{HEAD}dark/scan_0,dark,0.75,0.25\nother,dark,1,0\n")).unwrap();
    let (code, _, said) = glmae(&judge);
    assert!(code == 3 && said.contains("other") && said.contains("--allow-missing"), "{said}");
    let (code, said, _) = glmae(&[&judge[..], &["--allow-missing"]].concat());
    assert!(code == 0 && said.contains("1 case") && said.contains("undefined"), "{said}");
    fs::write(&file, format!("{HEAD}other,dark,1,0\n")).unwrap();
    let (code, _, said) = glmae(&[&judge[..], &["--allow-missing"]].concat());
    assert!(code == 3 && said.contains("no prediction has the id"), "{said}");
    // References in a table of their own.
    fs::write(folder.path().join("r.csv"), "id,class\nother,bright\n").unwrap();
    let refs = at("r.csv");
    let (code, said, error) =
        glmae(&["evaluate", "--pred", &table, "--ref", &refs, "--task", &task]);
    assert!(code == 0 && said.contains("0.0000"), "{said}{error}");
    // Names with commas and quotes come back as they were.
    let odd = ["a, \"b\"", "c"].map(str::to_owned);
    let probabilities = vec![1.0 / 3.0, 2.0 / 3.0];
    let rows = vec![ClassPrediction { id: "x,\"y\"".into(), predicted: 0, probabilities }];
    write(&file, &odd, &rows).unwrap();
    assert_eq!(read(&file, &odd).unwrap(), rows);
}

fn network(pooled_norm: bool) -> ClassifierConfig {
    let vit = VitConfig {
        in_chans: 2,
        roi: [4, 6, 4],
        patch: 2,
        dim: 12,
        depth: 2,
        heads: 2,
        mlp_hidden: 10,
        norm_eps: 1e-6,
    };
    ClassifierConfig { vit, outputs: 3, pooled_norm }
}

const SETTINGS: FinetuneSettings = FinetuneSettings {
    lr: 1e-2,
    weight_decay: 0.0,
    beta1: 0.9,
    beta2: 0.999,
    eps: 1e-8,
    clip_grad: 0.0,
};
const BATCH: usize = 4;

/// A network with no bias of zeros and no scale of ones, and a program with a batch in place.
fn prepared(
    device: &Device,
    dtype: DType,
    net: &ClassifierConfig,
) -> (FinetuneState, FinetuneProgram) {
    let mut segmenter = encoder::start(device, dtype, net, 5, None).unwrap();
    let random = |len: usize, stream: u32, std: f64| -> Vec<f64> {
        let mut rng = Rng::new(11, Purpose::Test, 0, stream, 0);
        (0..len).map(|_| std * rng.normal()).collect()
    };
    let flat = segmenter.params.flat().to_f64_vec().unwrap();
    let noise = random(flat.len(), 0, 0.1);
    let moved: Vec<f64> = flat.iter().zip(noise).map(|(x, n)| x + n).collect();
    segmenter.params.flat_mut().as_mut().upload_f64(&moved).unwrap();
    segmenter.params.refresh_half().unwrap();
    let state = FinetuneState::new(segmenter).unwrap();
    let single = Launches::Single;
    let loss = FinetuneLoss::CrossEntropy;
    let mut program = FinetuneProgram::new(&state, &SETTINGS, loss, BATCH, 1, single).unwrap();
    let voxels = random(BATCH * 2 * 4 * 6 * 4, 1, 1.0);
    program.batch_mut().fill(&net.vit, &voxels, &[0, 2, 1, 2]).unwrap();
    (state, program)
}

/// Every entry of every parameter of the whole classifier, in f64.
#[test]
fn gradients_are_those_of_differences() {
    for pooled_norm in [true, false] {
        let net = network(pooled_norm);
        let (mut state, mut program) = prepared(&Device::Cpu, DType::F64, &net);
        program.micro_batch(&state.segmenter).unwrap();
        program.update(&mut state, &FinetuneSettings { lr: 0.0, ..SETTINGS }).unwrap();
        program.finish(&mut state, &SETTINGS).unwrap();
        let analytic = program.grads().flat().to_f64_vec().unwrap();
        let mut checked = 0;
        let entries = state.segmenter.params.layout().entries().to_vec();
        for entry in &entries {
            if !entry.trains {
                assert!(!pooled_norm && entry.name.starts_with("vit.norm."), "{}", entry.name);
                continue;
            }
            for i in entry.range() {
                let mut loss = |h: f64| {
                    let x = state.segmenter.params.flat_mut().host_mut::<f64>().unwrap();
                    let old = x[i];
                    x[i] += h;
                    program.micro_batch(&state.segmenter).unwrap();
                    program.update(&mut state, &FinetuneSettings { lr: 0.0, ..SETTINGS }).unwrap();
                    let value = program.finish(&mut state, &SETTINGS).unwrap().loss();
                    state.segmenter.params.flat_mut().host_mut::<f64>().unwrap()[i] = old;
                    value
                };
                let mut slope = |h: f64| (loss(h) - loss(-h)) / (2.0 * h);
                let h = 1e-3;
                let numeric = (4.0 * slope(h / 2.0) - slope(h)) / 3.0;
                let gap = (analytic[i] - numeric).abs();
                assert!(
                    gap <= GRAD_ATOL + GRAD_RTOL * numeric.abs(),
                    "{}[{}]: analytic {} numeric {numeric}",
                    entry.name,
                    i - entry.offset,
                    analytic[i]
                );
                checked += 1;
            }
        }
        println!("pooled_norm {pooled_norm}: {checked} parameter entries checked");
        assert!(checked > 1500, "{checked}");
    }
}

/// A step on the kernels against the f64 reference, with the bounds of docs/numerics.md: relative L2 of
/// every parameter's gradient. The gradient of the key bias is zero but for rounding and is left out.
#[test]
fn a_step_on_the_kernels_is_that_of_the_cpu() {
    let net = network(true);
    let step = |device: &Device, dtype: DType| {
        let (mut state, mut program) = prepared(device, dtype, &net);
        program.micro_batch(&state.segmenter).unwrap();
        program.update(&mut state, &SETTINGS).unwrap();
        let report = program.finish(&mut state, &SETTINGS).unwrap();
        let all = state.segmenter.params.layout().entries().iter().map(|e| {
            let gradient = program.grads().flat().view(e.offset, &e.shape).unwrap();
            let mut gradient = gradient.to_f64_vec().unwrap();
            if e.name.ends_with("attn.qkv.bias") {
                gradient.drain(net.vit.dim..2 * net.vit.dim);
            }
            (e.name.clone(), gradient)
        });
        (report, all.collect::<Vec<_>>())
    };
    let (reference, gradients) = step(&Device::Cpu, DType::F64);
    let emulated = || Device::emulated(Mode::Checked, Schedule::Shuffled(3));
    for (device, dtype, loss, bound) in [
        (Device::Cpu, DType::F32, 1e-5, 1e-5),
        (emulated(), DType::F32, 1e-5, 1e-5),
        (emulated(), DType::Bf16, 5e-3, 5e-2),
    ] {
        let (report, ours) = step(&device, dtype);
        let gap = (report.loss() - reference.loss()).abs() / reference.loss();
        assert!(gap <= loss && report.losses.len() == 1, "{dtype} {gap:.1e}");
        let mut worst = (0.0, String::new());
        let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
        for ((name, a), (_, b)) in ours.iter().zip(&gradients) {
            let gap = norm(&mut a.iter().zip(b).map(|(a, b)| a - b));
            let relative = gap / norm(&mut b.iter().copied());
            if relative > worst.0 {
                worst = (relative, name.clone());
            }
        }
        println!("{} {dtype}: loss {gap:.1e}, gradients {worst:?}", device.name());
        assert!(worst.0 <= bound, "{dtype}: {worst:?}");
    }
}

#[test]
fn checkpoints_say_what_they_hold() {
    let folder = tempfile::tempdir().unwrap();
    balls(folder.path());
    let out = folder.path().join("run");
    let set = ["train.epochs=1", "model.pooled_norm=false", "train.validate_every=0"];
    run(&config(folder.path(), &set), &out);
    let info = read_info(&out.join("checkpoints/step_00000002")).unwrap();
    let network = info.network().unwrap();
    assert_eq!((network.kind(), network.outputs()), ("classifier", 2));
    // Another network does not go on with it.
    let other = config(folder.path(), &["train.epochs=2", "model.pooled_norm=true"]);
    let error = finetune(&other, &options(&out)).unwrap_err();
    assert!(error.exit_code() == 2 && error.to_string().contains("another network"), "{error}");
}
