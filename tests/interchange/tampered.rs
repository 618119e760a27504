//! Checkpoints whose numbers were changed and sealed again: anyone can compute a checksum. Every verb that
//! takes one must end at once, and say which number does not fit.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::Duration;

use glmae::checkpoint::segmenter as tuned;
use glmae::checkpoint::{self, DataFingerprint, FinetuneState};
use glmae::config::finetune::FinetuneConfig;
use glmae::device::{DType, Device};
use glmae::glmae::model::Networks;
use glmae::infer::predict::{PredictOptions, predict};
use glmae::infer::reconstruct::{ReconstructOptions, reconstruct};
use glmae::interchange::export::{ExportOptions, Target, export};
use glmae::interchange::read_encoder;
use glmae::nn::classifier::ClassifierConfig;
use glmae::nn::segmenter::Segmenter;
use glmae::nn::vit::VitConfig;
use glmae::train::finetune::encoder;
use glmae::{Error, Result};
use serde_json::Value;

use crate::train::{self, finetune as seg};

/// Written where a number was; the text that takes its place need not be one that JSON or TOML crates write.
const MARK: i64 = 7_070_707_070_707;
/// What integers become.
const INTEGERS: &[&str] =
    &["0", "-1", "2147483648", "4294967295", "9223372036854775807", "18446744073709551615"];
/// What floats become.
const FLOATS: &[&str] = &["0.0", "-1.0", "nan", "inf", "1e300", "4294967295.0"];
/// A verb that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// A `state.json` in parts.
struct State {
    file: PathBuf,
    sound: String,
    fields: Value,
}

/// Where a number is: a path of JSON, then, in a text, a path of TOML.
#[derive(Clone, Debug)]
struct Place {
    json: Vec<String>,
    toml: Vec<String>,
    is_float: bool,
}

impl Place {
    fn name(&self) -> String {
        [&self.json[..], &self.toml[..]].concat().join(".")
    }
}

impl State {
    fn read(folder: &Path) -> Self {
        let file = folder.join("state.json");
        let sound = fs::read_to_string(&file).unwrap();
        let mut fields: Value = serde_json::from_str(&sound).unwrap();
        fields.as_object_mut().unwrap().remove("crc32c").unwrap();
        Self { file, sound, fields }
    }

    /// All numbers, but the checksums of single tensors.
    fn numbers(&self) -> Vec<Place> {
        let mut found = Vec::new();
        in_json(&self.fields, &mut Vec::new(), &mut found);
        found.retain(|place| !place.json.iter().any(|part| part == "tensors"));
        found
    }

    /// Writes the file with another number, sealed as the program does it.
    fn write(&self, place: &Place, number: &str) {
        let mut fields = self.fields.clone();
        let leaf = place.json.iter().fold(&mut fields, |at, part| match at {
            Value::Array(items) => &mut items[part.parse::<usize>().unwrap()],
            other => &mut other[part.as_str()],
        });
        let marked = match place.toml.is_empty() {
            true => Value::from(MARK),
            false => {
                let mut table: toml::Value =
                    toml::Value::Table(leaf.as_str().unwrap().parse().unwrap());
                let at = place.toml.iter().fold(&mut table, |at, part| match at {
                    toml::Value::Array(items) => &mut items[part.parse::<usize>().unwrap()],
                    other => &mut other[part.as_str()],
                });
                *at = toml::Value::Integer(MARK);
                Value::from(toml::to_string(&table).unwrap())
            }
        };
        *leaf = marked;
        let json = serde_json::to_string_pretty(&fields).unwrap();
        let body = json.strip_suffix("\n}").unwrap().replace(&MARK.to_string(), number);
        let crc = crc32c::crc32c(body.as_bytes());
        fs::write(&self.file, format!("{body},\n  \"crc32c\": \"{crc:08x}\"\n}}\n")).unwrap();
    }

    fn restore(&self) {
        fs::write(&self.file, &self.sound).unwrap();
    }
}

fn in_json(value: &Value, path: &mut Vec<String>, found: &mut Vec<Place>) {
    let mut inside = |part: String, value: &Value| {
        path.push(part);
        in_json(value, path, found);
        path.pop();
    };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(k, v)| inside(k.clone(), v)),
        Value::Array(items) => items.iter().enumerate().for_each(|(i, v)| inside(i.to_string(), v)),
        Value::Number(n) => {
            found.push(Place { json: path.clone(), toml: vec![], is_float: n.is_f64() });
        }
        Value::String(text) => {
            if let Ok(table) = text.parse::<toml::Table>() {
                in_toml(&toml::Value::Table(table), path, &mut Vec::new(), found);
            }
        }
        _ => {}
    }
}

fn in_toml(value: &toml::Value, json: &[String], path: &mut Vec<String>, found: &mut Vec<Place>) {
    let mut inside = |part: String, value: &toml::Value| {
        path.push(part);
        in_toml(value, json, path, found);
        path.pop();
    };
    match value {
        toml::Value::Table(t) => t.iter().for_each(|(k, v)| inside(k.clone(), v)),
        toml::Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, v)| inside(i.to_string(), v));
        }
        toml::Value::Integer(_) | toml::Value::Float(_) => found.push(Place {
            json: json.to_vec(),
            toml: path.clone(),
            is_float: value.is_float(),
        }),
        _ => {}
    }
}

/// A verb: its name, and what it does up to the point where the checkpoint is read and used.
type Verb = (&'static str, Box<dyn Fn() -> Result<()> + Send + Sync>);

fn verb(name: &'static str, f: impl Fn() -> Result<()> + Send + Sync + 'static) -> Verb {
    (name, Box::new(f))
}

/// Runs every verb on every changed number of `state`. Returns how many verbs refused, and for each place
/// the messages.
fn tamper(state: &State, verbs: Vec<Verb>, only: impl Fn(&Place) -> bool) -> Vec<(String, String)> {
    let verbs = std::sync::Arc::new(verbs);
    let mut refused = Vec::new();
    for (name, f) in verbs.iter() {
        f().unwrap_or_else(|e| panic!("{name} of a sound checkpoint: {e}"));
    }
    for place in state.numbers().into_iter().filter(only) {
        let numbers = if place.is_float { FLOATS } else { INTEGERS };
        for number in numbers {
            state.write(&place, number);
            for i in 0..verbs.len() {
                let what = format!("{} = {number}, {}", place.name(), verbs[i].0);
                let (done, result) = channel();
                let verbs = std::sync::Arc::clone(&verbs);
                std::thread::spawn(move || drop(done.send((verbs[i].1)())));
                match result.recv_timeout(PATIENCE) {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => {
                        let ours = matches!(error, Error::Data { .. });
                        assert!(ours, "{what}: {error:?}");
                        refused.push((what, error.to_string()));
                    }
                    Err(e) => panic!("{what}: no result, {e}"),
                }
            }
        }
    }
    state.restore();
    refused
}

/// Every verb refused these, and named the key.
fn assert_named(refused: &[(String, String)], keys: &[&str], verbs: usize) {
    for key in keys {
        for number in ["2147483648", "4294967295", "9223372036854775807"] {
            let claim = format!("{key} = {number}, ");
            let of: Vec<_> = refused.iter().filter(|(what, _)| what.contains(&claim)).collect();
            assert!(of.len() >= verbs, "{claim} was refused by {} of {verbs} verbs", of.len());
            let last = key.trim_end_matches(|c: char| c == '.' || c.is_ascii_digit());
            let last = last.rsplit('.').next().unwrap();
            for (what, text) in of {
                assert!(text.contains(last) && text.contains("state.json"), "{what}: {text}");
            }
        }
    }
}

#[test]
fn no_number_of_a_pre_training_leads_astray() {
    let folder = tempfile::tempdir().unwrap();
    let data = train::volumes(folder.path(), 5);
    let config = train::config(&data, &["train.steps=2", "train.save_every=2"]);
    let out = folder.path().join("run");
    train::run(&config, &out).unwrap();
    let newest = out.join("checkpoints/step_00000002");
    let state = State::read(&newest);
    let nets = Networks::new(&Device::Cpu, DType::F32, &config).unwrap();
    let at = |name: &str| folder.path().join(name);
    let (a, b, c, d, e) =
        (newest.clone(), newest.clone(), newest.clone(), newest.clone(), newest.clone());
    let teacher = newest.join("teacher.safetensors");
    let (input, look) = (data.join("case_0.nii.gz"), at("look"));
    let (resumed, restarted) = (config.clone(), config.clone());
    let mut verbs = vec![
        verb("inspect", move || checkpoint::read_info(&a).map(|_| ())),
        verb("import", move || read_encoder(&b, false).map(|_| ())),
        verb("import teacher", move || read_encoder(&teacher, false).map(|_| ())),
        verb("export", move || export(&c, Target::Timm, &ExportOptions::default()).map(|_| ())),
        verb("finetune --encoder", move || encoder::read(&d, false).map(|_| ())),
        verb("reconstruct", move || {
            let options = ReconstructOptions {
                checkpoint: e.clone(),
                input: input.clone(),
                out: look.clone(),
                mask_ratio: None,
                seed: 0,
                device: Device::Cpu,
            };
            reconstruct(&options).map(|_| ())
        }),
    ];
    let count = verbs.len();
    let newest_again = newest.clone();
    verbs.push(verb("resume", move || {
        match checkpoint::load_state(&newest_again, &Device::Cpu, &resumed, &nets) {
            // A size that fits the weights, and is not the one of this run.
            Err(Error::Config(text)) if text.contains("of another model") => Ok(()),
            other => other.map(|_| ()),
        }
    }));
    let refused = tamper(&state, verbs, |_| true);
    let keys = [
        "model.in_chans",
        "model.patch",
        "model.dim",
        "model.depth",
        "model.heads",
        "model.dec_dim",
        "model.dec_depth",
        "model.dec_heads",
        "head.hidden",
        "head.bottleneck",
        "head.prototypes",
        "views.global_size.0",
        "views.global_size.2",
        "views.local_size.1",
        "counters.step",
    ];
    assert_named(&refused, &keys, count);
    // A run that goes on from other counters of its own.
    let counters = |place: &Place| place.json.first().is_some_and(|part| part == "counters");
    let goes_on = verb("pretrain --resume", move || {
        let result =
            train::run_with(&restarted, &out, glmae::train::run::Resume::From(newest.clone()));
        result.map(|_| ())
    });
    tamper(&state, vec![goes_on], counters);
}

#[test]
fn no_number_of_a_fine_tuning_leads_astray() {
    let folder = tempfile::tempdir().unwrap();
    let data = seg::balls(folder.path());
    let config = seg::config(folder.path(), &["train.epochs=1"]);
    let out = folder.path().join("run");
    seg::run(&config, &out);
    let newest = out.join("checkpoints/step_00000003");
    let state = State::read(&newest);
    let at = |name: &str| folder.path().join(name);
    let copies = [(); 6].map(|()| newest.clone());
    let [a, b, c, d, e, f] = copies;
    let (input, predictions) = (data.join("images/case_5.nii.gz"), at("predictions"));
    let verbs = vec![
        verb("inspect", move || tuned::read_info(&a).map(|_| ())),
        verb("import", move || read_encoder(&b, false).map(|_| ())),
        verb("export", move || {
            let options = ExportOptions { encoder_only: true, ..Default::default() };
            export(&c, Target::Timm, &options).map(|_| ())
        }),
        verb("finetune --encoder", move || encoder::read(&d, false).map(|_| ())),
        verb("resume", move || tuned::load_state(&e, &Device::Cpu, DType::F32, false).map(|_| ())),
        verb("predict", move || {
            let options =
                PredictOptions::new(f.clone(), input.clone(), predictions.clone(), Device::Cpu);
            predict(&options, &mut |_| {}).map(|_| ())
        }),
    ];
    let count = verbs.len();
    let refused = tamper(&state, verbs, |_| true);
    let keys = [
        "network.in_chans",
        "network.outputs",
        "network.roi.0",
        "network.roi.2",
        "network.patch",
        "network.dim",
        "network.depth",
        "network.heads",
        "network.mlp_hidden",
        "network.feature_size",
        "step",
        "bad_in_a_row",
    ];
    // `bad_in_a_row` is of 32 bits: larger ones are no number of its kind.
    assert_named(&refused, &keys[..11], count);
    assert!(refused.iter().any(|(what, _)| what.starts_with(keys[11])));
}

#[test]
fn no_number_of_a_classifier_leads_astray() {
    let folder = tempfile::tempdir().unwrap();
    let vit = VitConfig {
        in_chans: 1,
        roi: [8, 16, 8],
        patch: 4,
        dim: 12,
        depth: 2,
        heads: 2,
        mlp_hidden: 24,
        norm_eps: 1e-6,
    };
    let sizes = ClassifierConfig { vit, outputs: 3, pooled_norm: true };
    let zeros = vec![0.0; 16 * 12];
    let segmenter = Segmenter::zeros(&Device::Cpu, DType::F32, &sizes, &zeros).unwrap();
    let settings = FinetuneConfig::default();
    let data = DataFingerprint::default();
    let snapshot = tuned::FinetuneSnapshot {
        config: &settings,
        task: seg::TASK,
        data,
        best: None,
        run: "test",
        start: &tuned::Start::Scratch,
    };
    let run = folder.path().join("run");
    let path =
        tuned::save(&run, &FinetuneState::new(segmenter).unwrap(), &snapshot, false).unwrap();
    let state = State::read(&path);
    let again = path.clone();
    let verbs = vec![
        verb("import", move || read_encoder(&path, false).map(|_| ())),
        verb("resume", move || {
            tuned::load_state(&again, &Device::Cpu, DType::F32, false).map(|_| ())
        }),
    ];
    let of_network = |place: &Place| place.json.first().is_some_and(|part| part == "network");
    let refused = tamper(&state, verbs, of_network);
    let keys = ["in_chans", "outputs", "roi.1", "patch", "dim", "depth", "heads", "mlp_hidden"];
    let keys = keys.map(|key| format!("network.{key}"));
    assert_named(&refused, &keys.each_ref().map(String::as_str), 2);
}

/// As users meet it: at once, with exit code 3 and the field's name.
#[test]
fn the_program_refuses_them_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let data = seg::balls(folder.path());
    let (tuned, pre) = (folder.path().join("tuned"), folder.path().join("pre"));
    seg::run(&seg::config(folder.path(), &["train.epochs=1"]), &tuned);
    let scans = train::volumes(folder.path(), 5);
    train::run(&train::config(&scans, &["train.steps=1"]), &pre).unwrap();
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let (image, scan) =
        (text(&data.join("images/case_5.nii.gz")), text(&scans.join("case_0.nii.gz")));
    let run = |args: &[&str]| {
        let mut command = assert_cmd::Command::new(assert_cmd::cargo::cargo_bin!("glmae"));
        command.env_remove("RUST_LOG").timeout(PATIENCE).args(args);
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let place = |json: &str, toml: &[&str]| Place {
        json: vec![json.into()],
        toml: toml.iter().map(|part| (*part).to_owned()).collect(),
        is_float: false,
    };
    let out = text(&folder.path().join("out"));
    let best = tuned.join("checkpoints/best");
    let state = State::read(&best);
    state.write(&place("network", &["depth"]), "18446744073709551615");
    let best = text(&best);
    for args in [
        &["predict", "--checkpoint", &best, "--input", &image, "--out", &out][..],
        &["import", &best, "--out", &out],
        &["export", &best, "--target", "monai-1.6", "--out", &out],
    ] {
        let (code, error) = run(args);
        assert!(code == Some(3) && error.contains("depth"), "{args:?}: {code:?} {error}");
    }
    assert_eq!(run(&["inspect", &best]).0, Some(0));
    let step = pre.join("checkpoints/step_00000001");
    let state = State::read(&step);
    for (key, number) in [("depth", "4294967295"), ("dim", "2147483648"), ("patch", "4294967295")] {
        state.write(&place("config", &["model", key]), number);
        let step = text(&step);
        for args in [
            &["import", &step, "--out", &out][..],
            &["reconstruct", "--checkpoint", &step, "--input", &scan, "--out", &out],
            &["export", &step, "--target", "timm", "--out", &out],
        ] {
            let (code, error) = run(args);
            assert!(code == Some(3) && error.contains(key), "{args:?}: {code:?} {error}");
        }
        assert_eq!(run(&["inspect", &step]).0, Some(0));
    }
}
