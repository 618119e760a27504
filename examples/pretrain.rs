//! Pre-training through the library: draws a few volumes, trains the preset `tiny` on them for some steps,
//! stops half-way, goes on, and reads the metrics back.
//!
//! `cargo run --example pretrain`

use std::fs;
use std::path::Path;

use glmae::config::Config;
use glmae::data::nifti::{Stored, write_volume};
use glmae::data::volume::Volume;
use glmae::device::Device;
use glmae::rng::{Purpose, Rng};
use glmae::train::pretrain::pretrain;
use glmae::train::run::RunOptions;
use glmae::{Error, Result};

pub fn main() -> Result<()> {
    let folder = tempfile::tempdir().map_err(Error::io("a temporary folder", "create"))?;
    let (scans, out) = (folder.path().join("scans"), folder.path().join("run"));
    fs::create_dir_all(&scans).map_err(Error::io(&scans, "create"))?;
    for i in 0..4 {
        write_volume(&scans.join(format!("scan_{i}.nii.gz")), &ball(i)?, Stored::I16)?;
    }

    // A preset or a TOML file, then overrides as `--set` has them.
    let set = |steps: u64| {
        vec![
            format!("data.path={:?}", scans.display().to_string()),
            format!("train.steps={steps}"),
            "train.log_every=2".into(),
            "train.picture_every=0".into(),
            "optim.warmup=0".into(),
        ]
    };
    let options = RunOptions::new(&out, Device::Cpu);
    let first = pretrain(&Config::load("tiny", &set(6))?, &options)?;
    // The same folder again: the run goes on from its newest checkpoint.
    let second = pretrain(&Config::load("tiny", &set(12))?, &options)?;
    println!("{} steps, then up to {}", first.steps, second.steps);
    for warning in &second.warnings {
        println!("warning: {warning}");
    }

    let [steps, errors] = columns(&out.join("metrics.csv"), ["step", "rec_global"])?;
    // The square error of hidden patches of global views, one term of the loss.
    for (step, error) in steps.iter().zip(&errors) {
        println!("step {step:>2}  rec_global {error:.4}");
    }
    assert_eq!(steps, [1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0]);
    assert!(errors.last() < errors.first());
    println!("the encoder is in {}", second.checkpoint.unwrap_or_default().display());
    Ok(())
}

/// A bright ball in noise, 40 voxels of 2 mm along each axis, in Hounsfield units.
fn ball(index: u32) -> Result<Volume> {
    let mut rng = Rng::new(1, Purpose::Test, 0, index, 0);
    let middle = [0; 3].map(|_| rng.range(14.0, 26.0));
    let mut voxels = Vec::with_capacity(40 * 40 * 40);
    for i in 0..40 * 40 * 40 {
        let at = [i / 1600, i / 40 % 40, i % 40];
        let distance = (0..3).map(|a| (at[a] as f64 - middle[a]).powi(2)).sum::<f64>().sqrt();
        let hu = if distance < 9.0 { 60.0 } else { -100.0 };
        voxels.push((hu + 20.0 * rng.normal()).round() as f32);
    }
    let mut affine = [[0.0; 4]; 4];
    (affine[0][0], affine[1][1], affine[2][2], affine[3][3]) = (2.0, 2.0, 2.0, 1.0);
    Volume::new(voxels, 1, [40; 3], affine, 1)
}

/// Two columns of a CSV file.
fn columns(file: &Path, names: [&str; 2]) -> Result<[Vec<f64>; 2]> {
    let text = fs::read_to_string(file).map_err(Error::io(file, "read"))?;
    let mut lines = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let head = lines.next().unwrap_or_default();
    let rows: Vec<_> = lines.collect();
    Ok(names.map(|name| {
        let at = head.iter().position(|column| *column == name).unwrap_or_default();
        rows.iter().map(|row| row[at].parse().unwrap_or(f64::NAN)).collect()
    }))
}
