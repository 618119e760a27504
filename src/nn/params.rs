//! Flat parameters: all parameters of a branch in one contiguous buffer, with a layout table.
//!
//! Names are the official PyTorch ones, so that a checkpoint loads in PyTorch as it is. The
//! teacher's layout is a prefix of the student's, so EMA is one operation over flat memory.

use std::collections::HashMap;
use std::sync::Arc;

use crate::device::{DType, Device, Tensor, TensorMut};
use crate::tape::{Param, ParamSlot};
use crate::{Error, Result};

/// One parameter in the flat buffer.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamEntry {
    /// Checkpoint name, e.g. `blocks.0.attn.qkv.weight`.
    pub name: String,
    /// First element in the flat buffer.
    pub offset: usize,
    pub shape: Vec<usize>,
    /// Weight decay applies (not for biases and 1-D parameters).
    pub decays: bool,
    /// A gradient is wanted.
    pub trains: bool,
}

impl ParamEntry {
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn range(&self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.len()
    }
}

/// Index of a parameter in its layout. Modules hold these, never tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParamId(usize);

/// The layout table of a branch: names, offsets, shapes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ParamLayout {
    entries: Vec<ParamEntry>,
    by_name: HashMap<String, usize>,
    len: usize,
}

impl ParamLayout {
    /// Appends a parameter. Offsets are multiples of 64 elements, so that every parameter can be
    /// read with the widest vector loads; the gaps stay zero.
    pub fn add(&mut self, name: impl Into<String>, shape: &[usize]) -> ParamId {
        let name = name.into();
        let decays = shape.len() > 1 && !name.ends_with(".bias");
        let index = self.entries.len();
        let entry =
            ParamEntry { offset: self.len, shape: shape.to_vec(), decays, trains: true, name };
        self.len = (self.len + entry.len()).next_multiple_of(64);
        self.by_name.insert(entry.name.clone(), index);
        self.entries.push(entry);
        ParamId(index)
    }

    /// Excludes a parameter from training; it keeps its value.
    pub fn freeze(&mut self, id: ParamId) {
        self.entries[id.0].trains = false;
    }

    /// In order of their offsets.
    pub fn entries(&self) -> &[ParamEntry] {
        &self.entries
    }

    pub fn entry(&self, id: ParamId) -> &ParamEntry {
        &self.entries[id.0]
    }

    pub fn find(&self, name: &str) -> Option<&ParamEntry> {
        self.by_name.get(name).map(|&i| &self.entries[i])
    }

    /// Elements of the flat buffer, padding included.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Elements of all parameters, without padding.
    pub fn count(&self) -> usize {
        self.entries.iter().map(ParamEntry::len).sum()
    }
}

/// The parameters of a branch: layout and flat buffer.
#[derive(Clone, Debug)]
pub struct Params {
    layout: Arc<ParamLayout>,
    /// Master values.
    flat: Tensor,
    /// The same, rounded to bf16, when activations are bf16.
    half: Option<Tensor>,
    trains: bool,
}

impl Params {
    /// Zeros, for activations of `dtype`: with bf16 the values are f32 and have a bf16 copy beside
    /// them. `trains`: whether gradients are wanted (the teacher's are not).
    pub fn zeros(
        device: &Device,
        dtype: DType,
        layout: Arc<ParamLayout>,
        trains: bool,
    ) -> Result<Self> {
        let flat = Tensor::zeros(device, dtype.master(), &[layout.len()])?;
        let half = match dtype {
            DType::Bf16 => Some(Tensor::zeros(device, dtype, &[layout.len()])?),
            _ => None,
        };
        Ok(Self { layout, flat, half, trains })
    }

    /// Rounds the values into the bf16 copy, if the parameters have one. The optimiser writes the copy
    /// itself ([`crate::ops::adamw_ema`]); other code that writes values calls this afterwards.
    pub fn refresh_half(&mut self) -> Result<()> {
        let Some(half) = &mut self.half else { return Ok(()) };
        let rounded: Vec<half::bf16> =
            self.flat.to_vec::<f32>()?.into_iter().map(half::bf16::from_f32).collect();
        half.as_mut().upload(&rounded)
    }

    /// The bf16 copy, if the parameters have one.
    pub fn half(&self) -> Option<&Tensor> {
        self.half.as_ref()
    }

    /// The dtype of activations that go with these parameters: bf16 when there is a bf16 copy.
    pub fn activation_dtype(&self) -> DType {
        self.half.as_ref().unwrap_or(&self.flat).dtype()
    }

    /// Master values and bf16 copy, for the optimiser to write.
    pub fn buffers_mut(&mut self) -> (&mut Tensor, Option<&mut Tensor>) {
        (&mut self.flat, self.half.as_mut())
    }

    pub fn layout(&self) -> &ParamLayout {
        &self.layout
    }

    /// Excludes parameters from training; they keep their values.
    pub fn freeze(&mut self, which: impl Fn(&str) -> bool) {
        let mut layout = (*self.layout).clone();
        for entry in layout.entries.iter_mut().filter(|e| which(&e.name)) {
            entry.trains = false;
        }
        self.layout = Arc::new(layout);
    }

    /// The parameter as an op takes it.
    pub fn get(&self, id: ParamId) -> Result<Param> {
        let entry = &self.layout.entries[id.0];
        let slot = (self.trains && entry.trains)
            .then_some(ParamSlot { index: id.0, offset: entry.offset });
        let half = match &self.half {
            Some(half) => Some(half.view(entry.offset, &entry.shape)?),
            None => None,
        };
        Ok(Param { value: self.flat.view(entry.offset, &entry.shape)?, half, slot })
    }

    /// The value of a parameter by its checkpoint name.
    pub fn value(&self, name: &str) -> Result<Tensor> {
        let entry = self.named(name)?;
        self.flat.view(entry.offset, &entry.shape)
    }

    /// The parameter for writing (loading, initialising).
    pub fn value_mut(&mut self, name: &str) -> Result<TensorMut<'_>> {
        let entry = self.named(name)?;
        let (offset, shape) = (entry.offset, entry.shape.clone());
        TensorMut::new(&mut self.flat, offset, &shape)
    }

    fn named(&self, name: &str) -> Result<&ParamEntry> {
        self.layout
            .find(name)
            .ok_or_else(|| Error::Config(format!("no parameter is called '{name}'")))
    }

    pub fn flat(&self) -> &Tensor {
        &self.flat
    }

    pub fn flat_mut(&mut self) -> &mut Tensor {
        &mut self.flat
    }
}
