//! The encoder of one of our own checkpoints, of pre-training or of fine-tuning.

use std::collections::BTreeMap;
use std::path::Path;

use super::encoder::{Encoder, EncoderConfig, ImportReport};
use super::file::Values;
use super::segmenter::{POSITIONS, SegmenterWeights, tensors_of};
use crate::Error;
use crate::Result;
use crate::checkpoint::segmenter::{find, load_segmenter};
use crate::checkpoint::{STATE, TEACHER, TensorFile, load_student, read_info, resolve};
use crate::config::{Config, ViewKind};
use crate::device::{DType, Device};
use crate::glmae::batch::BatchShape;
use crate::glmae::model::Networks;
use crate::nn::NORM_EPS;
use crate::nn::params::Params;
use crate::nn::vit::{ENCODER, VitConfig};

/// Whether a path means a checkpoint: a folder, or a file in one.
pub fn is_checkpoint(path: &Path) -> bool {
    let beside = path.parent().is_some_and(|folder| folder.join(STATE).is_file());
    path.is_dir() || (path.is_file() && beside)
}

/// The segmentation network of a checkpoint of fine-tuning, `None` for other checkpoints.
///
/// Errors: as [`find`] and [`load_segmenter`].
pub fn segmenter(path: &Path) -> Result<Option<SegmenterWeights>> {
    let Some(folder) = find(path)? else { return Ok(None) };
    let (_, segmenter) = load_segmenter(&folder, &Device::Cpu, DType::F32)?;
    match segmenter.net.classifies() {
        true => Ok(None),
        false => SegmenterWeights::of(&segmenter).map(Some),
    }
}

/// The encoder of a segmentation network. Its table of positions gets a row of zeros for the cls token,
/// of which the network has none.
pub fn encoder_of(weights: SegmenterWeights, source: &str) -> Result<Encoder> {
    encoder_under(&weights.config.vit(), weights.tensors, source)
}

fn encoder_under(c: &VitConfig, all: BTreeMap<String, Values>, source: &str) -> Result<Encoder> {
    let config = EncoderConfig::from(c);
    let grid = Some(c.grid());
    let mut report = ImportReport { source: source.into(), ..Default::default() };
    let mut tensors = BTreeMap::new();
    for (name, (mut shape, mut values)) in all {
        let Some(inner) = name.strip_prefix(ENCODER) else {
            report.ignored.push(name);
            continue;
        };
        if name == POSITIONS {
            values.splice(0..0, std::iter::repeat_n(0.0, config.dim));
            shape[1] += 1;
            report.adapted.push("pos_embed: a row of zeros for the cls token".into());
        }
        tensors.insert(inner.to_owned(), (shape, values));
    }
    report.loaded = tensors.keys().cloned().collect();
    Ok(Encoder { config, grid, tensors, report })
}

/// The student's encoder, or the teacher's when the path is the teacher's file, with the table of
/// positions of the local grid; the encoder of a fine-tuned network.
pub fn read(path: &Path) -> Result<Encoder> {
    if let Some(folder) = find(path)? {
        let (_, tuned) = load_segmenter(&folder, &Device::Cpu, DType::F32)?;
        let source = "glmae checkpoint, fine-tuned";
        return encoder_under(&tuned.net.config, tensors_of(&tuned)?, source);
    }
    let is_teacher = path.file_name().is_some_and(|name| name == TEACHER);
    let folder = resolve(path)?;
    let (config, nets, params) = match is_teacher {
        true => teacher(&folder)?,
        false => {
            let student = load_student(&folder, &Device::Cpu)?;
            (student.info.config, student.nets, student.params)
        }
    };
    let mut tensors = BTreeMap::new();
    let mut report = ImportReport {
        source: match is_teacher {
            true => "glmae checkpoint, teacher".into(),
            false => "glmae checkpoint, student".into(),
        },
        ..Default::default()
    };
    for entry in params.layout().entries() {
        if !is_of_encoder(&entry.name) {
            report.ignored.push(entry.name.clone());
            continue;
        }
        let values = params.value(&entry.name)?.to_f32_vec()?;
        tensors.insert(entry.name.clone(), (entry.shape.clone(), values));
    }
    tensors.insert("pos_embed".into(), positions(&config, &nets)?);
    report.loaded = tensors.keys().cloned().collect();
    let model = &config.model;
    Ok(Encoder {
        config: EncoderConfig {
            in_chans: model.in_chans,
            patch: model.patch,
            dim: model.dim,
            depth: model.depth,
            heads: model.heads,
            mlp_hidden: model.mlp_hidden(),
            norm_eps: NORM_EPS,
        },
        grid: Some(BatchShape::new(&config, 1).grid(ViewKind::Local)),
        tensors,
        report,
    })
}

fn is_of_encoder(name: &str) -> bool {
    let front = name.split('.').next().unwrap_or_default();
    ["cls_token", "patch_embed", "blocks", "norm"].contains(&front)
}

/// `[1, 1 + N, dim]` of the local grid.
fn positions(config: &Config, nets: &Networks) -> Result<Values> {
    let (dim, shape) = (config.model.dim, BatchShape::new(config, 1));
    let rows = 1 + shape.tokens(ViewKind::Local);
    let table = &nets.tables.encoder;
    let view = table.view(nets.tables.first(ViewKind::Local) * dim, &[1, rows, dim])?;
    Ok((vec![1, rows, dim], view.to_f32_vec()?))
}

fn teacher(folder: &Path) -> Result<(Config, Networks, Params)> {
    let info = read_info(folder)?;
    let nets = Networks::new(&Device::Cpu, DType::F32, &info.config)?;
    let layout = nets.teacher_layout.clone();
    let file = folder.join(TEACHER);
    let sums = info.files.get(TEACHER);
    let sums = sums.ok_or_else(|| Error::data(&file, "not part of its checkpoint"))?;
    let names: Vec<_> =
        layout.entries().iter().map(|e| (e.name.clone(), e.shape.clone())).collect();
    let file = TensorFile::read(&file, sums)?;
    let tensors = file.open(&names)?;
    let mut params = Params::zeros(&Device::Cpu, DType::F32, layout, false)?;
    for (name, _) in &names {
        tensors.copy(name, &mut params.value_mut(name)?)?;
    }
    Ok((info.config, nets, params))
}
