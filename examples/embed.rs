//! Features of a volume: reads an encoder from safetensors with PyTorch's names, and prints what it says of
//! each patch of a scan.
//!
//! `cargo run --example embed`: a random encoder, written and read again.
//! `cargo run --example embed -- vit.safetensors 12`: yours (timm, MONAI), with the number of its heads.
//! `cargo run --example embed -- runs/ct`: that of a run, which says its heads itself.

use std::path::Path;
use std::sync::Arc;

use glmae::atomic::Disk;
use glmae::checkpoint::write_tensors;
use glmae::data::synthetic::scan;
use glmae::data::{PrepareConfig, prepare_volume};
use glmae::device::{DType, Device, Tensor};
use glmae::interchange::{Encoder, ImportOptions, read_encoder_with};
use glmae::nn::init::init;
use glmae::nn::params::Params;
use glmae::nn::pos_embed::sincos_3d;
use glmae::nn::vit::{ENCODER, Vit, VitConfig};
use glmae::param_layout::ParamLayout;
use glmae::tape::{Tape, Var};
use glmae::{Error, Result};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let file = arguments.next();
    run(file.as_deref().map(Path::new), arguments.next().and_then(|heads| heads.parse().ok()))
}

pub fn run(file: Option<&Path>, heads: Option<usize>) -> Result<()> {
    let folder = tempfile::tempdir().map_err(Error::io("a temporary folder", "create"))?;
    let drawn = folder.path().join("vit.safetensors");
    let encoder = match file {
        Some(file) => read_encoder_with(file, &ImportOptions { heads, ..Default::default() })?,
        None => {
            write_random(&drawn)?;
            // No shape of a state dict tells the number of heads, so it has to be said.
            read_encoder_with(&drawn, &ImportOptions { heads: Some(3), ..Default::default() })?
        }
    };
    encoder.report.lines().iter().for_each(|line| println!("{line}"));

    // A scan as training sees it: turned to RAS, intensities mapped, cut to the body, then the first voxels.
    let image = scan(1, 0)?.image;
    let how = PrepareConfig { min_size: [48; 3], ..PrepareConfig::default() };
    let prepared = prepare_volume("scan", image, Path::new("scan"), &how)?;
    let [_, h, w] = prepared.dims();
    let at = |i: usize| prepared.voxels()[(i / 2304 * h + i / 48 % 48) * w + i % 48];
    let window: Vec<f32> = (0..48 * 48 * 48).map(at).collect();

    let (features, grid, dim) = embed(encoder, &window, [48; 3])?;
    println!("{grid:?} patches, {dim} features each");
    for (i, token) in features.chunks_exact(dim).step_by(61).enumerate() {
        println!("patch {:>3}  {:?} ...", 61 * i, &token[..4]);
    }
    assert_eq!(features.len(), grid.iter().product::<usize>() * dim);
    assert!(features.iter().all(|value| value.is_finite()));
    Ok(())
}

/// `[tokens, dim]` after the last norm, the grid of the tokens, and `dim`, for a window `roi` of one channel.
fn embed(
    mut encoder: Encoder,
    voxels: &[f32],
    roi: [usize; 3],
) -> Result<(Vec<f32>, [usize; 3], usize)> {
    let config = encoder.config.vit(encoder.config.in_chans, roi);
    config.check("embed")?;
    // The table of positions is interpolated where the window has another grid than the pre-training.
    encoder.adapt_grid(config.grid())?;
    let device = Device::Cpu;
    let mut layout = ParamLayout::default();
    let vit = Vit::new(&mut layout, &config);
    let mut params = Params::zeros(&device, DType::F32, Arc::new(layout), false)?;
    for entry in params.layout().entries().to_vec() {
        let (_, values) = encoder.get(entry.name.trim_start_matches(ENCODER))?;
        params.value_mut(&entry.name)?.upload(values)?;
    }
    let (_, positions) = encoder.get("pos_embed")?;
    // Row 0 is the cls token's, which this network does not have.
    let positions =
        Tensor::from_slice(&device, &positions[config.dim..], &[config.tokens(), config.dim])?;
    let voxels = Tensor::from_slice(&device, voxels, &[voxels.len()])?;

    let mut tape = Tape::inference(&device);
    let inputs = [&Var::constant(voxels), &Var::constant(positions)];
    let plan = Vit::plan(&config, &device, 1)?;
    let tokens = vit.forward(&mut tape, &params, &plan, inputs, |_, _| {})?;
    let tokens = vit.norm.forward(&mut tape, &params, &tokens)?;
    Ok((tokens.value().to_f32_vec()?, config.grid(), config.dim))
}

/// A random ViT of width 48 for patches of 8, trained on windows of 32 if it were trained, under the names of
/// timm and of the official code.
fn write_random(file: &Path) -> Result<()> {
    let sizes = VitConfig {
        in_chans: 1,
        roi: [32; 3],
        patch: 8,
        dim: 48,
        depth: 2,
        heads: 3,
        mlp_hidden: 192,
        norm_eps: 1e-6,
    };
    let mut layout = ParamLayout::default();
    Vit::new(&mut layout, &sizes);
    let mut params = Params::zeros(&Device::Cpu, DType::F32, Arc::new(layout), false)?;
    init(&mut params, 1)?;
    let table = sincos_3d(sizes.grid(), 48);
    let table = Tensor::from_f64(&Device::Cpu, DType::F32, &table, &[1, 1 + sizes.tokens(), 48])?;
    let cls = Tensor::zeros(&Device::Cpu, DType::F32, &[1, 1, 48])?;
    let mut tensors = vec![("pos_embed".to_owned(), table), ("cls_token".to_owned(), cls)];
    for entry in params.layout().entries() {
        tensors.push((entry.name.replace(ENCODER, ""), params.value(&entry.name)?));
    }
    write_tensors(&Disk, file, &tensors, &[])?;
    Ok(())
}
