//! Segmentation through the library: describes a task, trains a small UNETR on it, and labels a volume window
//! by window on the volume's own grid.
//!
//! `cargo run --example segment`

use std::fs;

use glmae::config::finetune::FinetuneConfig;
use glmae::data::nifti::{ReadOptions, Stored, read_volume, write_volume};
use glmae::data::volume::Volume;
use glmae::device::Device;
use glmae::infer::predict::{InferChanges, PredictOptions, predict};
use glmae::rng::{Purpose, Rng};
use glmae::train::finetune::{FinetuneOptions, finetune};
use glmae::{Error, Result};

/// What a task file holds (docs/evaluation.md): the last of every six cases is for validation.
const TASK: &str = r#"
title = "Balls"
kind = "classes"
channels = ["CT"]
cases = [5, 1]
loss = "dice_ce"
image = { roi = [16, 16, 16], intensity = { kind = "window", lo = -200.0, hi = 200.0 } }
labels = { names = ["background", "ball"] }
split = { rule = "every", every = 6 }
layout = [{ id = "case_*", image = "images/case_*.nii.gz", label = "labels/case_*.nii.gz" }]
"#;

/// Settings of a network that trains in a moment; what is not named has its default.
const SETTINGS: &str = r#"
model = { feature_size = 4, patch = 4, dim = 12, depth = 2, heads = 2, mlp_ratio = 2.0 }
optim = { lr = 3e-2, warmup_epochs = 0 }
train = { epochs = 12, batch = 2, crops = 1, accumulation = 1, validate_every = 12, save_every = 12 }
infer = { windows = 2 }
"#;

pub fn main() -> Result<()> {
    let folder = tempfile::tempdir().map_err(Error::io("a temporary folder", "create"))?;
    let (root, data) = (folder.path(), folder.path().join("data"));
    for sub in ["images", "labels"] {
        fs::create_dir_all(data.join(sub)).map_err(Error::io(&data, "create"))?;
    }
    for i in 0..6 {
        let [image, label] = case(i)?;
        write_volume(&data.join(format!("images/case_{i}.nii.gz")), &image, Stored::I16)?;
        write_volume(&data.join(format!("labels/case_{i}.nii.gz")), &label, Stored::U8)?;
    }
    let task = root.join("balls.toml");
    fs::write(&task, TASK).map_err(Error::io(&task, "write"))?;

    let set = [format!("data.task={task:?}"), format!("data.path={data:?}")];
    let config = FinetuneConfig::parse(SETTINGS, "example", &set)?;
    // From random weights; `.with_encoder(PATH)` starts from a pre-training.
    let options = FinetuneOptions::new(root.join("run"), Device::Cpu);
    let done = finetune(&config, &options)?;
    println!("{} updates, best validation {:?}", done.steps, done.found.best);

    let input = root.join("new.nii.gz");
    let [image, label] = case(6)?;
    write_volume(&input, &image, Stored::I16)?;
    let mut options = PredictOptions::new(root.join("run"), &input, root.join("out"), Device::Cpu);
    options.changes =
        InferChanges { overlap: Some(0.25), gaussian: Some(true), ..Default::default() };
    let predictions = predict(&options, &mut |_| {})?;
    for case in &predictions.done {
        let labels = read_volume(&case.file, &ReadOptions::default())?;
        assert_eq!((labels.dims, labels.affine), (image.dims, image.affine));
        println!(
            "{}: {:?} voxels of each class, Dice {:.3}",
            case.id,
            case.voxels,
            dice(&labels, &label)
        );
    }
    assert_eq!(predictions.done.len(), 1);
    Ok(())
}

/// A bright ball in noise on a mirrored grid, and its label.
fn case(index: u32) -> Result<[Volume; 2]> {
    let mut rng = Rng::new(1, Purpose::Test, 0, index, 0);
    let middle = [0; 3].map(|_| rng.range(7.0, 13.0));
    let (mut image, mut label) = (Vec::new(), Vec::new());
    for i in 0..20 * 20 * 20 {
        let at = [i / 400, i / 20 % 20, i % 20];
        let inside = (0..3).map(|a| (at[a] as f64 - middle[a]).powi(2)).sum::<f64>() < 16.0;
        image.push((10.0 * rng.normal() + if inside { 60.0 } else { -100.0 }).round() as f32);
        label.push(f32::from(u8::from(inside)));
    }
    let affine = [[-1., 0., 0., 9.], [0., 1., 0., -3.], [0., 0., 2., 5.], [0., 0., 0., 1.]];
    Ok([Volume::new(image, 1, [20; 3], affine, 1)?, Volume::new(label, 1, [20; 3], affine, 1)?])
}

fn dice(a: &Volume, b: &Volume) -> f64 {
    let both = a.data.iter().zip(&b.data).filter(|(a, b)| **a > 0.0 && **b > 0.0).count();
    let size = |v: &Volume| v.data.iter().filter(|v| **v > 0.0).count();
    2.0 * both as f64 / (size(a) + size(b)).max(1) as f64
}
