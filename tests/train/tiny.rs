//! Both kinds of run behind one face, as small as they can be: what one must keep, the other must, too. A step
//! takes about a millisecond; checkpoints come every [`EVERY`] steps.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use glmae::checkpoint::{self, segmenter};
use glmae::config::Config;
use glmae::config::finetune::FinetuneConfig;
use glmae::device::{DType, Device};
use glmae::glmae::model::Networks;
use glmae::train::finetune::encoder::Origin;
use glmae::train::finetune::{FinetuneOptions, finetune};
use glmae::train::pretrain::pretrain;
use glmae::train::run::{Resume, RunFolder, RunKind, RunOptions, resume};

use super::{MICRO, write_case};
use crate::support::fresh_rng;

/// Steps between two checkpoints: an epoch of the fine-tuning.
pub const EVERY: u64 = 2;

/// Two training cases and one for validation.
const TASK: &str = r#"
title = "Dots"
kind = "classes"
channels = ["CT"]
cases = [2, 1]
loss = "dice_ce"
[image]
roi = [16, 16, 16]
intensity = { kind = "percentile_scale", lo = 0.0, hi = 100.0 }
[labels]
names = ["background", "dot"]
[split]
rule = "every"
every = 3
[[layout]]
id = "case_*"
image = "images/case_*.nii.gz"
label = "labels/case_*.nii.gz"
"#;

const TUNING: &str = r#"
[model]
feature_size = 2
patch = 2
dim = 12
depth = 1
heads = 2
[optim]
lr = 3e-2
warmup_epochs = 0
[train]
epochs = 4
batch = 1
crops = 1
accumulation = 1
log_every = 1
validate_every = 1
save_every = 1
keep_last = 9
threads = 1
[data]
workers = 1
roi = [4, 4, 4]
[infer]
windows = 16
overlap = 0.0
"#;

/// What differs from [`MICRO`].
const PRETRAINING: [&str; 8] = [
    "model.patch=2",
    "views.global_size=[4,4,4]",
    "views.local_size=[4,4,4]",
    "train.steps=8",
    "train.save_every=2",
    "train.keep_last=9",
    "train.accumulation=1",
    "data.holdout_every=0",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Pretrain,
    Finetune,
}

pub const KINDS: [Kind; 2] = [Kind::Pretrain, Kind::Finetune];

/// A folder with random scans for both kinds of run.
pub struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    pub fn new() -> Self {
        let bench = Self { folder: tempfile::tempdir().unwrap() };
        let mut rng = fresh_rng();
        for sub in ["scans", "set/images", "set/labels"] {
            fs::create_dir_all(bench.at(sub)).unwrap();
        }
        for i in 0..3 {
            let mut noise = || -> Vec<f32> { (0..900).map(|_| rng.normal() as f32).collect() };
            let (scan, image) = (noise(), noise());
            let of = |values: Vec<f32>| move |d, h, w| values[(d * 10 + h) * 9 + w];
            let dims = [10, 10, 9];
            write_case(&bench.at(&format!("scans/case_{i}.nii.gz")), dims, of(scan));
            let is_dot = |d: usize, h: usize, w: usize| d.abs_diff(5) + h.abs_diff(5) + w < 8;
            let image = of(image);
            let seen = |d, h, w| image(d, h, w) + if is_dot(d, h, w) { 4.0 } else { 0.0 };
            write_case(&bench.at(&format!("set/images/case_{i}.nii.gz")), dims, seen);
            let label = |d, h, w| f32::from(u8::from(is_dot(d, h, w)));
            write_case(&bench.at(&format!("set/labels/case_{i}.nii.gz")), dims, label);
        }
        fs::write(bench.at("task.toml"), TASK).unwrap();
        fs::write(bench.at("tuning.toml"), TUNING).unwrap();
        fs::write(bench.at("micro.toml"), MICRO).unwrap();
        bench
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The same as text.
    pub fn text(&self, name: &str) -> String {
        self.at(name).to_str().unwrap().to_owned()
    }

    fn pretraining(&self, set: &[&str]) -> Config {
        let data = format!("data.path={:?}", self.at("scans"));
        let set = [&PRETRAINING[..], set, &[&data]].concat();
        let set: Vec<String> = set.into_iter().map(str::to_owned).collect();
        Config::parse(MICRO, "micro", &set).unwrap()
    }

    fn tuning(&self, set: &[&str]) -> FinetuneConfig {
        let places = [("path", "set"), ("task", "task.toml")]
            .map(|(key, place)| format!("data.{key}={:?}", self.at(place)));
        let set: Vec<String> = set.iter().map(|s| (*s).to_owned()).chain(places).collect();
        FinetuneConfig::parse(TUNING, "tuning", &set).unwrap()
    }

    /// A fine-tuning that begins with `origin`. Returns its warnings.
    pub fn tune(&self, out: &Path, origin: Origin, set: &[&str]) -> glmae::Result<Vec<String>> {
        let options = FinetuneOptions { origin, ..FinetuneOptions::new(out, Device::Cpu) };
        Ok(finetune(&self.tuning(set), &options)?.warnings)
    }

    /// A run from `resume`; a fine-tuning is one from scratch. Returns its warnings.
    pub fn run_from(
        &self,
        kind: Kind,
        out: &Path,
        resume: Resume,
        set: &[&str],
    ) -> glmae::Result<Vec<String>> {
        let options = RunOptions { resume, ..RunOptions::new(out, Device::Cpu) };
        match kind {
            Kind::Pretrain => Ok(pretrain(&self.pretraining(set), &options)?.warnings),
            Kind::Finetune => {
                let options =
                    FinetuneOptions { run: options, ..FinetuneOptions::new("", Device::Cpu) };
                Ok(finetune(&self.tuning(set), &options)?.warnings)
            }
        }
    }

    /// The same, from the newest checkpoint that is there.
    pub fn run(&self, kind: Kind, out: &Path, set: &[&str]) -> glmae::Result<Vec<String>> {
        self.run_from(kind, out, Resume::Auto, set)
    }

    /// The program: `glmae pretrain` or `glmae finetune` (without a word on how it begins).
    pub fn program(&self, kind: Kind, out: &Path, more: &[&str]) -> Command {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("glmae"));
        command.env_remove("RUST_LOG").arg("--out").arg(out);
        let args = match kind {
            Kind::Pretrain => {
                command.args(PRETRAINING.iter().flat_map(|set| ["--set", set]));
                vec![("--config", "micro.toml"), ("--data", "scans")]
            }
            Kind::Finetune => {
                vec![("--config", "tuning.toml"), ("--data", "set"), ("--task", "task.toml")]
            }
        };
        args.into_iter().for_each(|(flag, place)| {
            command.arg(flag).arg(self.at(place));
        });
        let mut whole = Command::new(command.get_program());
        whole.env_remove("RUST_LOG").arg(kind.verb()).args(command.get_args()).args(more);
        whole
    }

    /// Exit code and stderr of the program.
    pub fn said(&self, kind: Kind, out: &Path, more: &[&str]) -> (i32, String) {
        let output = self.program(kind, out, more).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code().unwrap_or(-1), text)
    }

    /// Starts the program; a fine-tuning goes on, or begins from scratch.
    pub fn spawn(&self, kind: Kind, out: &Path, set: &[&str]) -> Child {
        let mut command = self.program(kind, out, &[]);
        command.args(set.iter().flat_map(|set| ["--set", set]));
        command.args((kind == Kind::Finetune).then_some("--scratch"));
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// The step that a run into `out` would go on from, and what it would warn of.
    pub fn newest_sound(
        &self,
        kind: Kind,
        out: &Path,
    ) -> glmae::Result<Option<(u64, Vec<String>)>> {
        let device = Device::Cpu;
        let (config, auto) = (self.pretraining(&[]), Resume::Auto);
        let mut folder = RunFolder::look(out, kind.of(), &auto)?;
        let found = match kind {
            Kind::Pretrain => {
                let nets = Networks::new(&device, DType::F32, &config)?;
                resume(&mut folder, &auto, |path| {
                    let (info, _) = checkpoint::load_state(path, &device, &config, &nets)?;
                    Ok((info.step, ()))
                })
            }
            Kind::Finetune => resume(&mut folder, &auto, |path| {
                let (_, state) = segmenter::load_state(path, &device, DType::F32, false)?;
                Ok((state.counters.step, ()))
            }),
        };
        Ok(found?.map(|found| (found.step, found.warnings)))
    }
}

impl Kind {
    pub fn of(self) -> RunKind {
        match self {
            Self::Pretrain => RunKind::Pretrain,
            Self::Finetune => RunKind::Finetune,
        }
    }

    pub fn other(self) -> Self {
        match self {
            Self::Pretrain => Self::Finetune,
            Self::Finetune => Self::Pretrain,
        }
    }

    pub fn verb(self) -> &'static str {
        match self {
            Self::Pretrain => "pretrain",
            Self::Finetune => "finetune",
        }
    }

    /// The setting of a run of `n` steps, a multiple of [`EVERY`].
    pub fn steps(self, n: u64) -> String {
        match self {
            Self::Pretrain => format!("train.steps={n}"),
            Self::Finetune => format!("train.epochs={}", n / EVERY),
        }
    }

    /// The setting that leaves out what a run does beside its steps and checkpoints.
    pub fn plain(self) -> &'static str {
        match self {
            Self::Pretrain => "train.picture_every=0",
            Self::Finetune => "train.validate_every=1000000",
        }
    }

    /// The files of a checkpoint.
    pub fn files(self) -> &'static [&'static str] {
        let all =
            &["state.json", "model.safetensors", "optimizer.safetensors", "teacher.safetensors"];
        match self {
            Self::Pretrain => all,
            Self::Finetune => &all[..3],
        }
    }

    /// The bytes of everything that a checkpoint must keep bit for bit.
    pub fn weights(self, out: &Path, step: u64) -> Vec<Vec<u8>> {
        let folder = step_folder(out, step);
        self.files()[1..].iter().map(|name| fs::read(folder.join(name)).unwrap()).collect()
    }
}

pub fn step_folder(out: &Path, step: u64) -> PathBuf {
    out.join("checkpoints").join(checkpoint::folder_name(step))
}

/// The steps of which a run folder has checkpoints.
pub fn steps(out: &Path) -> Vec<u64> {
    checkpoint::list(out).unwrap().into_iter().map(|(step, _)| step).collect()
}

/// Waits until a child that runs into `out` has come so far, or has ended.
pub fn wait_until(child: &mut Child, what: &str, is_there: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_there() && child.try_wait().unwrap().is_none() {
        assert!(started.elapsed() < Duration::from_secs(60), "no {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until a child has written a checkpoint of `step` or later.
pub fn wait_for_step(out: &Path, child: &mut Child, step: u64) {
    let is_there = || steps(out).last().is_some_and(|newest| *newest >= step);
    wait_until(child, "checkpoint", is_there);
    assert!(is_there(), "the child ended before step {step}");
}

pub fn signal(child: &Child, name: &str) {
    let line = format!("kill -{name} {}", child.id());
    assert!(Command::new("sh").args(["-c", &line]).status().unwrap().success());
}
