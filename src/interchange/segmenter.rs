//! A segmentation network in one file: `glmae-segmenter-1`.
//!
//! Safetensors: parameters under our names (`vit.patch_embed.proj.weight`, `encoder1.layer...`, f32)
//! and `vit.pos_embed` `[1, tokens, dim]`; the metadata has `format` and `config`, a
//! [`UnetrConfig`] in JSON.

use std::collections::BTreeMap;
use std::path::Path;

use super::file::{TensorSource, Values, write};
use super::{monai, patch};
use crate::device::{DType, Device};
use crate::nn::network::NetworkConfig;
use crate::nn::segmenter::Segmenter;
use crate::nn::sizes::Claims;
use crate::nn::unetr::{Unetr, UnetrConfig};
use crate::param_layout::ParamLayout;
use crate::{Error, Result};

/// `format` of the metadata.
pub const FORMAT: &str = "glmae-segmenter-1";
/// The position rows, without a cls row.
pub const POSITIONS: &str = "vit.pos_embed";

/// A network's sizes and values under our names.
#[derive(Clone, Debug, PartialEq)]
pub struct SegmenterWeights {
    pub config: UnetrConfig,
    /// All parameters, and [`POSITIONS`].
    pub tensors: BTreeMap<String, Values>,
}

impl SegmenterWeights {
    /// Copies a network to the host. Errors: [`Error::Unsupported`] for one that is no UNETR.
    pub fn of(segmenter: &Segmenter) -> Result<Self> {
        let NetworkConfig::Unetr(config) = segmenter.net.sizes() else {
            return Err(Error::Unsupported("a classifier as a segmentation network".into()));
        };
        Ok(Self { config: config.clone(), tensors: tensors_of(segmenter)? })
    }

    /// Writes the file. Errors: [`Error::Io`].
    pub fn write(&self, path: &Path) -> Result<()> {
        let config = serde_json::to_string(&self.config)
            .map_err(|e| Error::Config(format!("segmenter: {e}")))?;
        write(path, &self.tensors, &[("format", FORMAT.into()), ("config", config)])
    }

    /// Whether a file says that it is one. Errors: as [`TensorSource::open`].
    pub fn is_one(path: &Path) -> Result<bool> {
        Ok(TensorSource::open(path)?.note("format") == Some(FORMAT))
    }

    /// Reads the file.
    ///
    /// Errors: [`Error::Data`] naming the tensor that is missing, unknown, of another shape or not
    /// finite; [`Error::Config`] for sizes that do not go together; [`Error::Io`].
    pub fn read(path: &Path) -> Result<Self> {
        let mut source = TensorSource::open(path)?;
        let bad = |reason: String| Error::data(path, reason);
        if source.note("format") != Some(FORMAT) {
            return Err(bad(format!("its metadata does not say format = {FORMAT}")));
        }
        let text = source.note("config").unwrap_or_default();
        let config: UnetrConfig =
            serde_json::from_str(text).map_err(|e| bad(format!("its metadata 'config': {e}")))?;
        config.check()?;
        // Before a layout of that many blocks is made.
        Claims::new(path, source.header()).unetr(&config, POSITIONS)?;
        let names = source.names();
        let mut layout = ParamLayout::default();
        Unetr::new(&mut layout, &config)?;
        let entries = layout.entries().iter().map(|e| (e.name.clone(), e.shape.clone()));
        let mut wanted: BTreeMap<String, Vec<usize>> = entries.collect();
        wanted.insert(POSITIONS.into(), vec![1, config.tokens(), config.dim]);
        if let Some(extra) = names.iter().find(|name| !wanted.contains_key(*name)) {
            let extra = super::file::shown(extra);
            return Err(bad(format!("has a tensor '{extra}', a network of its sizes has none")));
        }
        let mut tensors = BTreeMap::new();
        for (name, shape) in wanted {
            match source.shape(&name) {
                Some(found) if found == shape => {}
                found => {
                    let found = found.map_or("missing".into(), |s| format!("{s:?}"));
                    return Err(bad(format!("tensor '{name}' is {found}, {shape:?} is needed")));
                }
            }
            let values = source.read(&name)?;
            tensors.insert(name, values);
        }
        Ok(Self { config, tensors })
    }

    /// The network of a state dict of MONAI's `UNETR` (any release, "conv" or "perceptron"), or of one under
    /// our own names: the way back of [`super::export::segmenter`]. Layers that MONAI does not use are
    /// left out.
    ///
    /// Errors: [`Error::Config`] for sizes that do not go together, or naming the tensor that is missing
    /// or of another shape.
    pub fn from_state_dict(
        config: &UnetrConfig,
        theirs: &BTreeMap<String, Values>,
    ) -> Result<Self> {
        let mut layout = ParamLayout::default();
        Unetr::new(&mut layout, config)?;
        let mut wanted: Vec<(String, Vec<usize>)> =
            layout.entries().iter().map(|e| (e.name.clone(), e.shape.clone())).collect();
        wanted.push((POSITIONS.into(), vec![1, config.tokens(), config.dim]));
        let mut tensors = BTreeMap::new();
        for (name, shape) in wanted {
            let monai = monai::name(&name);
            let linear = monai.replace("patch_embeddings.", "patch_embeddings.1.");
            let found = [&name, &monai, &linear].into_iter().find_map(|n| theirs.get(n));
            let mut values = found.cloned();
            if let Some((found, kernel)) = &mut values
                && (found.len(), shape.len()) == (2, 5)
                && found.iter().product::<usize>() == shape.iter().product::<usize>()
            {
                *kernel = patch::from_perceptron(kernel, config.in_chans, config.patch);
                found.clone_from(&shape);
            }
            match values {
                Some(values) if values.0 == shape => tensors.insert(name, values),
                other => {
                    let found = other.map_or("missing".into(), |v| format!("{:?}", v.0));
                    return Err(Error::Config(format!(
                        "state dict: tensor '{monai}' is {found}, {shape:?} is needed"
                    )));
                }
            };
        }
        Ok(Self { config: config.clone(), tensors })
    }

    /// The network with these values, for activations of `dtype`.
    pub fn load(&self, device: &Device, dtype: DType) -> Result<Segmenter> {
        let missing = |name: &str| Error::Config(format!("segmenter: no tensor '{name}'"));
        let get = |name: &str| self.tensors.get(name).ok_or_else(|| missing(name));
        let doubles = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
        let positions = doubles(&get(POSITIONS)?.1);
        let mut segmenter = Segmenter::zeros(device, dtype, &self.config, &positions)?;
        for e in segmenter.params.layout().entries().to_vec() {
            let (shape, values) = get(&e.name)?;
            if *shape != e.shape {
                let expected = format!("{}: {:?}", e.name, e.shape);
                return Err(Error::shape("segmenter", expected, format!("{shape:?}")));
            }
            segmenter.params.value_mut(&e.name)?.upload_f64(&doubles(values))?;
        }
        segmenter.params.refresh_half()?;
        Ok(segmenter)
    }
}

/// All parameters of a network, and [`POSITIONS`].
pub(super) fn tensors_of(segmenter: &Segmenter) -> Result<BTreeMap<String, Values>> {
    let mut tensors = BTreeMap::new();
    for e in segmenter.params.layout().entries() {
        let values = segmenter.params.value(&e.name)?.to_f32_vec()?;
        tensors.insert(e.name.clone(), (e.shape.clone(), values));
    }
    let (config, rows) = (&segmenter.net.config, segmenter.positions.to_f32_vec()?);
    tensors.insert(POSITIONS.into(), (vec![1, config.tokens(), config.dim], rows));
    Ok(tensors)
}
