//! A kernel launch written down argument by argument, in the order of the kernel's parameters:
//! outputs, saved values, inputs, parameters, sizes.

use super::abi::TensorMap;
use super::launch::{Arg, DevicePtr, LaunchConfig};
use super::tensor_map::Boxes;
use super::{DType, Device, Tensor, TensorMut};
use crate::{Error, Result};

/// A launch that is being put together.
pub(crate) struct KernelCall<'d> {
    device: &'d Device,
    name: String,
    args: Vec<Arg<'d>>,
}

impl<'d> KernelCall<'d> {
    /// Kernel `<stem>_<dtype>`, e.g. `layer_norm_fwd_bf16`.
    pub fn typed(device: &'d Device, stem: &str, dtype: DType) -> Self {
        Self::new(device, &format!("{stem}_{dtype}"))
    }

    pub fn new(device: &'d Device, name: &str) -> Self {
        Self { device, name: name.to_owned(), args: Vec::new() }
    }

    /// A tensor that the kernel writes; no other tensor may share its memory.
    pub fn output(mut self, tensor: &mut Tensor) -> Result<Self> {
        self.args.push(Arg::Ptr(tensor.as_mut().ptr_mut()?));
        Ok(self)
    }

    /// A gradient slot or another borrowed piece that the kernel writes.
    pub fn output_mut(mut self, tensor: &mut TensorMut<'_>) -> Result<Self> {
        self.args.push(Arg::Ptr(tensor.ptr_mut()?));
        Ok(self)
    }

    /// A tensor that the kernel reads.
    pub fn input(mut self, tensor: &Tensor) -> Result<Self> {
        if tensor.device() != self.device {
            let got = tensor.device().name();
            return Err(Error::Shape { op: "launch", expected: self.device.name(), got });
        }
        self.args.push(Arg::Ptr(tensor.ptr()?));
        Ok(self)
    }

    /// A tensor that may be absent: the kernel gets a null pointer.
    pub fn optional(self, tensor: Option<&Tensor>) -> Result<Self> {
        match tensor {
            Some(tensor) => self.input(tensor),
            None => Ok(self.value(DevicePtr::NULL)),
        }
    }

    /// A tensor that the kernel writes, or a null pointer for `None`.
    pub fn optional_output(self, tensor: Option<&mut Tensor>) -> Result<Self> {
        match tensor {
            Some(tensor) => self.output(tensor),
            None => Ok(self.value(DevicePtr::NULL)),
        }
    }

    /// A tensor that the kernel reads in boxes of `box_dims`, as contiguous rows of `dims`.
    pub fn boxes(self, tensor: &Tensor, dims: &[usize], box_dims: &[usize]) -> Result<Self> {
        let (at, dtype) = (tensor.ptr()?, tensor.dtype());
        let map = self.device.tensor_map(&Boxes { at, dtype, dims, box_dims })?;
        Ok(self.value(map))
    }

    /// A tensor that the kernel writes in boxes, likewise.
    pub fn output_boxes(
        self,
        tensor: &mut TensorMut<'_>,
        dims: &[usize],
        box_dims: &[usize],
    ) -> Result<Self> {
        let (at, dtype) = (tensor.ptr_mut()?, tensor.dtype());
        let map = self.device.tensor_map(&Boxes { at, dtype, dims, box_dims })?;
        Ok(self.value(map))
    }

    /// In place of boxes that the kernel does not use.
    pub fn no_boxes(self) -> Self {
        self.value(TensorMap { opaque: [0; 16] })
    }

    /// A scalar: i32, u32, i64, u64 or f32, exactly as the kernel declares it.
    pub fn value(mut self, value: impl Into<Arg<'d>>) -> Self {
        self.args.push(value.into());
        self
    }

    pub fn launch(self, config: LaunchConfig) -> Result<()> {
        self.device.launch(&self.name, &config, &self.args)
    }
}
