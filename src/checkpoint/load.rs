//! Reading a checkpoint of pre-training.

use std::collections::BTreeMap;
use std::path::Path;

use super::moments;
use super::save::tables;
use super::{
    CheckpointInfo, FileInfo, MODEL, OPTIMIZER, STATE, State, TEACHER, TensorFile,
    activation_dtype, read_info, resolve,
};
use crate::config::Config;
use crate::device::{DType, Device, Tensor};
use crate::glmae::model::{Networks, Weights};
use crate::nn::params::Params;
use crate::param_layout::ParamLayout;
use crate::{Error, Result};

/// A student for inference.
#[derive(Debug)]
pub struct Student {
    pub info: CheckpointInfo,
    pub nets: Networks,
    pub params: Params,
}

/// Loads everything a run needs to go on. `config` and `nets` must describe the same model: whether they do
/// is for the caller to find out, from [`read_info`].
///
/// Errors: [`Error::Data`] naming the file and tensor that is damaged or does not fit; [`Error::Io`].
pub fn load_state(
    path: &Path,
    device: &Device,
    config: &Config,
    nets: &Networks,
) -> Result<(CheckpointInfo, State)> {
    let path = resolve(path)?;
    let info = read_info(&path)?;
    let mut weights = Weights::zeros(device, activation_dtype(config, device)?, config, nets)?;
    read_model(&path, &info, config, nets, &mut weights.student)?;
    if let Some(teacher) = &mut weights.teacher {
        let file = TensorFile::read(&path.join(TEACHER), file_info(&path, &info.files, TEACHER)?)?;
        let layout = &nets.teacher_layout;
        let tensors = file.open(&expected("", layout))?;
        for entry in layout.entries() {
            tensors.copy(&entry.name, &mut teacher.value_mut(&entry.name)?)?;
        }
    }
    let mut state = State::from_weights(weights)?;
    let file = TensorFile::read(&path.join(OPTIMIZER), file_info(&path, &info.files, OPTIMIZER)?)?;
    let layout = &nets.student_layout;
    let all = 0..layout.len();
    let mut names = moments::names(layout, &all);
    let center = state.weights.center.as_ref().map(|c| ("center".to_owned(), c.shape().to_vec()));
    names.extend(center);
    let tensors = file.open(&names)?;
    moments::copy(&tensors, layout, [&all, &all], [&mut state.m, &mut state.v])?;
    if let Some(center) = &mut state.weights.center {
        tensors.copy("center", &mut center.as_mut())?;
    }
    state.weights.refresh_half()?;
    state.counters = info.counters;
    Ok((info, state))
}

/// Loads the student of a checkpoint with the networks of its own configuration.
///
/// Errors: as [`load_state`].
pub fn load_student(path: &Path, device: &Device) -> Result<Student> {
    let path = resolve(path)?;
    let info = read_info(&path)?;
    let nets = Networks::new(device, DType::F32, &info.config)?;
    let mut params = Params::zeros(device, DType::F32, nets.student_layout.clone(), false)?;
    read_model(&path, &info, &info.config, &nets, &mut params)?;
    Ok(Student { info, nets, params })
}

fn read_model(
    path: &Path,
    info: &CheckpointInfo,
    config: &Config,
    nets: &Networks,
    student: &mut Params,
) -> Result<()> {
    let file_path = path.join(MODEL);
    let file = TensorFile::read(&file_path, file_info(path, &info.files, MODEL)?)?;
    let tables = tables(config, nets)?;
    let mut names = expected("", &nets.student_layout);
    names.extend(tables.iter().map(|(name, t)| (name.clone(), t.shape().to_vec())));
    let tensors = file.open(&names)?;
    for entry in nets.student_layout.entries() {
        tensors.copy(&entry.name, &mut student.value_mut(&entry.name)?)?;
    }
    for (name, ours) in tables {
        let mut saved = Tensor::zeros(ours.device(), ours.dtype(), ours.shape())?;
        tensors.copy(&name, &mut saved.as_mut())?;
        let pairs = saved.to_f64_vec()?.into_iter().zip(ours.to_f64_vec()?);
        let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        if worst > 1e-5 {
            return Err(Error::data(
                &file_path,
                format!("of another model: the fixed table '{name}' differs by {worst:e}"),
            ));
        }
    }
    Ok(())
}

/// Names and shapes of a layout's parameters, under `prefix`.
pub(super) fn expected(prefix: &str, layout: &ParamLayout) -> Vec<(String, Vec<usize>)> {
    layout.entries().iter().map(|e| (format!("{prefix}{}", e.name), e.shape.clone())).collect()
}

pub(super) fn file_info<'a>(
    path: &Path,
    files: &'a BTreeMap<String, FileInfo>,
    name: &str,
) -> Result<&'a FileInfo> {
    files.get(name).ok_or_else(|| Error::data(path.join(STATE), format!("does not list {name}")))
}
