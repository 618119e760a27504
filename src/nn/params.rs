//! Flat parameters: all parameters of a branch in one contiguous buffer, with a layout table
//! ([`ParamLayout`]).
//!
//! Names are the official PyTorch ones, so that a checkpoint loads in PyTorch as it is. The
//! teacher's layout is a prefix of the student's, so EMA is one operation over flat memory.

use std::sync::Arc;

use crate::device::{DType, Device, Tensor, TensorMut};
use crate::param_layout::{ParamEntry, ParamId, ParamLayout};
use crate::tape::Param;
use crate::{Error, Result};

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
        layout.freeze_all(which);
        self.layout = Arc::new(layout);
    }

    /// The parameter as an op takes it.
    pub fn get(&self, id: ParamId) -> Result<Param> {
        let entry = self.layout.entry(id);
        let slot = (self.trains && entry.trains).then(|| self.layout.slot(id));
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
