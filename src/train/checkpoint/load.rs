//! Reading a checkpoint.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::save::tables;
use super::tensors::TensorFile;
use super::{
    CheckpointInfo, FileInfo, MODEL, OPTIMIZER, TEACHER, check_same_model, list, read_info, resolve,
};
use crate::config::Config;
use crate::device::{DType, Device, Tensor, TensorMut};
use crate::glmae::model::{Networks, Weights};
use crate::nn::params::Params;
use crate::param_layout::ParamLayout;
use crate::train::state::{State, activation_dtype};
use crate::{Error, Result};

/// A state to go on from.
#[derive(Debug)]
pub struct Resumed {
    pub path: PathBuf,
    pub info: CheckpointInfo,
    pub state: State,
    /// Newer checkpoints that could not be used, and keys that were changed.
    pub warnings: Vec<String>,
}

/// A student for inference.
#[derive(Debug)]
pub struct Student {
    pub info: CheckpointInfo,
    pub nets: Networks,
    pub params: Params,
}

/// Loads everything a run needs to go on. `config` must describe the same model.
///
/// Errors: [`Error::Config`] with the changed keys for another model; [`Error::Data`] naming the
/// file and tensor that is damaged or does not fit; [`Error::Io`].
pub fn load_state(
    path: &Path,
    device: &Device,
    config: &Config,
    nets: &Networks,
) -> Result<Resumed> {
    let path = resolve(path)?;
    let info = read_info(&path)?;
    let changed = check_same_model(&info.config, config)?;
    let warnings = changed.into_iter().map(|line| format!("changed since: {line}")).collect();
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
    let mut names = expected("m.", layout);
    names.extend(expected("v.", layout));
    let center = state.weights.center.as_ref().map(|c| ("center".to_owned(), c.shape().to_vec()));
    names.extend(center);
    let tensors = file.open(&names)?;
    for (prefix, flat) in [("m.", &mut state.m), ("v.", &mut state.v)] {
        for e in layout.entries() {
            let mut out = TensorMut::new(flat, e.offset, &e.shape)?;
            tensors.copy(&format!("{prefix}{}", e.name), &mut out)?;
        }
    }
    if let Some(center) = &mut state.weights.center {
        tensors.copy("center", &mut center.as_mut())?;
    }
    state.weights.refresh_half()?;
    state.counters = info.counters;
    Ok(Resumed { path, info, state, warnings })
}

/// Loads the newest checkpoint of a run folder that is sound; `None` when the folder has none.
/// Damaged newer ones become warnings.
///
/// Errors: as [`load_state`]; [`Error::Data`] when there are checkpoints and all are damaged.
pub fn resume_latest(
    run: &Path,
    device: &Device,
    config: &Config,
    nets: &Networks,
) -> Result<Option<Resumed>> {
    let (mut warnings, mut newest) = (Vec::new(), None);
    for (_, path) in list(run)?.into_iter().rev() {
        // Without its state.json a folder would be taken for a run folder.
        let loaded = match path.join(super::STATE).is_file() {
            true => load_state(&path, device, config, nets),
            false => Err(Error::data(&path, "damaged: state.json is missing")),
        };
        match loaded {
            Ok(mut resumed) => {
                warnings.append(&mut resumed.warnings);
                resumed.warnings = warnings;
                return Ok(Some(resumed));
            }
            Err(e @ (Error::Data { .. } | Error::Io { .. })) => {
                warnings.push(format!("checkpoint not used: {e}"));
                newest.get_or_insert(e);
            }
            Err(e) => return Err(e),
        }
    }
    match newest {
        None => Ok(None),
        Some(e) => Err(Error::data(
            run,
            format!(
                "none of its checkpoints can be used (the newest: {e}); start anew in another --out"
            ),
        )),
    }
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
pub(crate) fn expected(prefix: &str, layout: &ParamLayout) -> Vec<(String, Vec<usize>)> {
    layout.entries().iter().map(|e| (format!("{prefix}{}", e.name), e.shape.clone())).collect()
}

pub(crate) fn file_info<'a>(
    path: &Path,
    files: &'a BTreeMap<String, FileInfo>,
    name: &str,
) -> Result<&'a FileInfo> {
    files
        .get(name)
        .ok_or_else(|| Error::data(path.join(super::STATE), format!("does not list {name}")))
}
