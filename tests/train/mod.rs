//! The training run: checkpoints, resume, kills, refusals.

mod checkpoints;
pub mod classify;
mod damage;
mod devices;
mod emulated;
pub mod finetune;
mod finetune_devices;
mod finetune_encoders;
mod inputs;
mod kills;
mod nothing_lost;
mod old_format;
mod resume;
mod signals;
mod study;
mod tiny;

use std::fs;
use std::path::{Path, PathBuf};

use glmae::checkpoint::{self, State};
use glmae::config::Config;
use glmae::data::nifti::{Stored, write_volume};
use glmae::data::volume::Volume;
use glmae::device::{DType, Device};
use glmae::glmae::model::Networks;
use glmae::train::pretrain::{Pretrained, pretrain};
use glmae::train::run::{Resume, Resumed, RunFolder, RunKind, RunOptions, Summary, resume};

/// A model of a few thousand parameters whose run of 20 steps takes well under a second.
pub const MICRO: &str = r#"
[model]
patch = 4
dim = 12
depth = 1
heads = 2
dec_dim = 12
dec_depth = 1
dec_heads = 2
[head]
hidden = 16
bottleneck = 8
prototypes = 12
[views]
global_size = [8, 8, 8]
local_size = [8, 8, 8]
n_global = 1
n_local = 1
mask_ratio = 0.75
[loss]
norm_pix = false
teacher_targets = "standardise"
[optim]
lr = 1e-3
warmup = 4
freeze_last_layer = 2
[data]
intensity = "percentile"
percentiles = [0.0, 100.0]
foreground = -1.0
holdout_every = 4
workers = 1
[train]
steps = 20
batch = 2
accumulation = 2
log_every = 1
save_every = 5
picture_every = 0
keep_last = 2
threads = 1
"#;

/// `count` volumes of different sizes with smooth contents.
pub fn volumes(folder: &Path, count: usize) -> PathBuf {
    let data = folder.join("data");
    fs::create_dir_all(&data).unwrap();
    for i in 0..count {
        let dims = [9 + i % 3, 10, 8 + i % 4];
        write_case(&data.join(format!("case_{i}.nii.gz")), dims, |d, h, w| {
            let x = (0.3 * d as f32 + 0.1 * i as f32).sin() + (0.4 * h as f32).cos();
            x * (1.0 + 0.1 * w as f32)
        });
    }
    data
}

pub fn write_case(path: &Path, dims: [usize; 3], value: impl Fn(usize, usize, usize) -> f32) {
    let [nd, nh, nw] = dims;
    let data = (0..nd * nh * nw).map(|i| value(i / (nh * nw), i / nw % nh, i % nw)).collect();
    let mut affine = [[0.0; 4]; 4];
    (0..4).for_each(|i| affine[i][i] = 1.0);
    let volume = Volume::new(data, 1, dims, affine, 1).unwrap();
    write_volume(path, &volume, Stored::F32).unwrap();
}

pub fn config(data: &Path, set: &[&str]) -> Config {
    let set: Vec<String> = set.iter().map(|s| (*s).to_owned()).collect();
    let mut config = Config::parse(MICRO, "micro", &set).unwrap();
    config.data.path = data.to_string_lossy().into_owned();
    config
}

pub fn run(config: &Config, out: &Path) -> glmae::Result<Summary<Pretrained>> {
    run_with(config, out, Resume::Auto)
}

pub fn run_with(config: &Config, out: &Path, resume: Resume) -> glmae::Result<Summary<Pretrained>> {
    let options = RunOptions { resume, ..RunOptions::new(out, Device::Cpu) };
    pretrain(config, &options)
}

/// The bytes of everything a checkpoint must keep bit for bit.
pub fn tensors(out: &Path, step: u64) -> Vec<Vec<u8>> {
    let folder = out.join(format!("checkpoints/step_{step:08}"));
    ["model", "teacher", "optimizer"]
        .map(|name| fs::read(folder.join(format!("{name}.safetensors"))).unwrap())
        .to_vec()
}

/// What a run into `out` would go on from: the newest sound checkpoint, with the damaged ones as warnings.
pub fn newest_sound(out: &Path, config: &Config) -> Resumed<State> {
    let device = Device::Cpu;
    let nets = Networks::new(&device, DType::F32, config).unwrap();
    let mut folder = RunFolder::look(out, RunKind::Pretrain, &Resume::Auto).unwrap();
    let load = |path: &Path| {
        let (info, state) = checkpoint::load_state(path, &device, config, &nets)?;
        Ok((info.step, state))
    };
    resume(&mut folder, &Resume::Auto, load).unwrap().expect("a checkpoint")
}

/// Steps, losses, gradient norm and case order of `log.jsonl`: all but times.
pub fn log(out: &Path) -> Vec<String> {
    let text = fs::read_to_string(out.join("log.jsonl")).unwrap();
    let steps = text.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
    let steps = steps.filter(|v| v["kind"] == "step").map(|mut v| {
        let fields = v.as_object_mut().unwrap();
        fields.remove("steps_per_s");
        fields.remove("data_wait");
        v.to_string()
    });
    steps.collect()
}
