//! A tensor: a contiguous row-major piece of a buffer, with a shape and a dtype.
//!
//! Tensors are immutable once shared. An op writes into a tensor that it alone holds
//! ([`Tensor::host_mut`] refuses otherwise); a flat parameter buffer is updated when no view of
//! it is alive. There is no other interior mutability, so all of this is safe Rust.

use std::sync::Arc;

use super::launch::DevicePtr;
use super::storage::Storage;
use super::{DType, Device, Element};
use crate::{Error, Result, parallel};

fn rounded<T: Element>(data: &[f64]) -> Vec<T> {
    parallel::map(data, T::from_f64)
}

/// A contiguous row-major tensor on a device. Cloning shares the memory.
#[derive(Clone)]
pub struct Tensor {
    device: Device,
    memory: Arc<Storage>,
    offset: usize,
    shape: Vec<usize>,
    dtype: DType,
}

impl Tensor {
    /// A tensor with unspecified contents.
    pub fn empty(device: &Device, dtype: DType, shape: &[usize]) -> Result<Self> {
        let bytes =
            shape.iter().try_fold(dtype.size(), |acc, &n| acc.checked_mul(n)).ok_or_else(|| {
                Error::shape("tensor", "a size that fits memory", format!("{shape:?}"))
            })?;
        Ok(Self {
            device: device.clone(),
            memory: Arc::new(Storage::new(device, bytes)?),
            offset: 0,
            shape: shape.to_vec(),
            dtype,
        })
    }

    /// A tensor of zeros.
    pub fn zeros(device: &Device, dtype: DType, shape: &[usize]) -> Result<Self> {
        let mut out = Self::empty(device, dtype, shape)?;
        out.as_mut().fill_zero()?;
        Ok(out)
    }

    /// Uploads `data`; its length must be the product of `shape`.
    pub fn from_slice<T: Element>(device: &Device, data: &[T], shape: &[usize]) -> Result<Self> {
        let mut out = Self::empty(device, T::DTYPE, shape)?;
        if out.len() != data.len() {
            return Err(Error::shape(
                "tensor",
                format!("{shape:?}"),
                format!("{} values", data.len()),
            ));
        }
        match device {
            Device::Cpu => out.host_mut::<T>()?.copy_from_slice(data),
            _ if data.is_empty() => {}
            _ => device.upload(out.as_mut().ptr_mut()?, bytemuck::cast_slice(data))?,
        }
        Ok(out)
    }

    /// Uploads f64 values, rounded to `dtype`.
    pub fn from_f64(device: &Device, dtype: DType, data: &[f64], shape: &[usize]) -> Result<Self> {
        match dtype {
            DType::F32 => Self::from_slice(device, &rounded::<f32>(data), shape),
            DType::F64 => Self::from_slice(device, &rounded::<f64>(data), shape),
            DType::Bf16 => Self::from_slice(device, &rounded::<half::bf16>(data), shape),
            DType::U8 => Self::from_slice(device, &rounded::<u8>(data), shape),
            DType::I16 => Self::from_slice(device, &rounded::<i16>(data), shape),
            DType::I32 => Self::from_slice(device, &rounded::<i32>(data), shape),
            DType::I64 => Self::from_slice(device, &rounded::<i64>(data), shape),
        }
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Rows and columns of a matrix; an error that names `op` for any other rank.
    pub fn matrix(&self, op: &'static str) -> Result<(usize, usize)> {
        match self.shape[..] {
            [rows, cols] => Ok((rows, cols)),
            _ => Err(Error::shape(op, "a matrix", format!("{:?}", self.shape))),
        }
    }

    /// Fails unless the shape is `expected`.
    pub fn expect_shape(&self, op: &'static str, expected: &[usize]) -> Result<()> {
        if self.shape == expected {
            return Ok(());
        }
        Err(Error::shape(op, format!("{expected:?}"), format!("{:?}", self.shape)))
    }

    /// The same elements under another shape.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self> {
        if shape.iter().product::<usize>() != self.len() {
            return Err(Error::shape("reshape", format!("{:?}", self.shape), format!("{shape:?}")));
        }
        Ok(Self { shape: shape.to_vec(), ..self.clone() })
    }

    /// `shape` elements from element `offset` on, sharing the memory.
    pub fn view(&self, offset: usize, shape: &[usize]) -> Result<Self> {
        let end = shape.iter().product::<usize>().checked_add(offset);
        if end.is_none_or(|end| end > self.len()) {
            return Err(Error::shape(
                "view",
                format!("within {} elements", self.len()),
                format!("{shape:?} at {offset}"),
            ));
        }
        Ok(Self { offset: self.offset + offset, shape: shape.to_vec(), ..self.clone() })
    }

    /// The elements in host memory. Only for CPU tensors of type `T`.
    pub fn host<T: Element>(&self) -> Result<&[T]> {
        self.expect_dtype::<T>()?;
        Ok(bytemuck::cast_slice(self.host_bytes()?))
    }

    /// Whether the first element lies at a multiple of `bytes`. Allocations are aligned to 256.
    pub(crate) fn is_aligned(&self, bytes: usize) -> bool {
        (self.offset * self.dtype.size()).is_multiple_of(bytes)
    }

    /// Where the elements are on a GPU. Only for tensors that are on one.
    pub(super) fn ptr(&self) -> Result<DevicePtr> {
        match &*self.memory {
            Storage::Device(memory) => Ok(memory.ptr.offset(self.offset * self.dtype.size())),
            Storage::Host(_) => Err(not_here("a GPU", &self.device)),
        }
    }

    /// The elements for writing. Only for CPU tensors of type `T` whose memory no other tensor shares.
    pub fn host_mut<T: Element>(&mut self) -> Result<&mut [T]> {
        self.expect_dtype::<T>()?;
        Ok(bytemuck::cast_slice_mut(self.host_bytes_mut()?))
    }

    /// The whole tensor as a mutable view.
    pub fn as_mut(&mut self) -> TensorMut<'_> {
        TensorMut { offset: 0, shape: self.shape.clone(), tensor: self }
    }

    /// True when no other tensor shares the memory, so that it may be written.
    pub fn is_unique(&mut self) -> bool {
        Arc::get_mut(&mut self.memory).is_some()
    }

    /// A copy with memory of its own.
    pub fn duplicate(&self) -> Result<Self> {
        let mut out = Self::empty(&self.device, self.dtype, &self.shape)?;
        match &self.device {
            Device::Cpu => out.host_bytes_mut()?.copy_from_slice(self.host_bytes()?),
            device => {
                let to = out.as_mut().ptr_mut()?;
                device.copy(to, self.ptr()?, self.len() * self.dtype.size())?;
            }
        }
        Ok(out)
    }

    /// Downloads the elements.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        self.expect_dtype::<T>()?;
        if self.device == Device::Cpu {
            return Ok(self.host::<T>()?.to_vec());
        }
        let mut out = vec![T::zeroed(); self.len()];
        self.device.download(self.ptr()?, bytemuck::cast_slice_mut(&mut out))?;
        Ok(out)
    }

    /// Downloads the elements as f32; f64 ones are rounded.
    pub fn to_f32_vec(&self) -> Result<Vec<f32>> {
        match self.dtype {
            DType::F32 => self.to_vec::<f32>(),
            DType::Bf16 => {
                Ok(self.to_vec::<half::bf16>()?.into_iter().map(half::bf16::to_f32).collect())
            }
            _ => Ok(self.to_f64_vec()?.into_iter().map(|x| x as f32).collect()),
        }
    }

    /// Downloads the elements as f64, whatever the dtype.
    pub fn to_f64_vec(&self) -> Result<Vec<f64>> {
        fn cast<T: Element>(tensor: &Tensor) -> Result<Vec<f64>> {
            Ok(tensor.to_vec::<T>()?.into_iter().map(T::to_f64).collect())
        }
        match self.dtype {
            DType::F32 => cast::<f32>(self),
            DType::F64 => cast::<f64>(self),
            DType::Bf16 => cast::<half::bf16>(self),
            DType::U8 => cast::<u8>(self),
            DType::I16 => cast::<i16>(self),
            DType::I32 => cast::<i32>(self),
            DType::I64 => cast::<i64>(self),
        }
    }

    fn expect_dtype<T: Element>(&self) -> Result<()> {
        if self.dtype == T::DTYPE {
            return Ok(());
        }
        Err(Error::shape("tensor access", T::DTYPE.name(), self.dtype.name()))
    }

    fn host_bytes(&self) -> Result<&[u8]> {
        let size = self.dtype.size();
        match &*self.memory {
            Storage::Host(memory) => {
                Ok(&memory.bytes()[self.offset * size..(self.offset + self.len()) * size])
            }
            Storage::Device(_) => Err(not_here("the CPU", &self.device)),
        }
    }

    fn host_bytes_mut(&mut self) -> Result<&mut [u8]> {
        let size = self.dtype.size();
        let range = self.offset * size..(self.offset + self.len()) * size;
        match Arc::get_mut(&mut self.memory).ok_or_else(is_shared)? {
            Storage::Host(memory) => Ok(&mut memory.bytes_mut()[range]),
            Storage::Device(_) => Err(not_here("the CPU", &self.device)),
        }
    }
}

fn is_shared() -> Error {
    Error::shape("tensor write", "memory that nobody else holds", "shared memory")
}

fn not_here(expected: &str, device: &Device) -> Error {
    Error::shape("tensor access", format!("a tensor on {expected}"), device.name())
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor({:?} {} on {})", self.shape, self.dtype, self.device.name())
    }
}

/// A piece of a tensor borrowed for writing: a gradient slot, a range of a flat buffer.
pub struct TensorMut<'a> {
    tensor: &'a mut Tensor,
    offset: usize,
    shape: Vec<usize>,
}

impl<'a> TensorMut<'a> {
    /// `shape` elements of `tensor` from element `offset` on.
    pub fn new(tensor: &'a mut Tensor, offset: usize, shape: &[usize]) -> Result<Self> {
        tensor.view(offset, shape)?;
        Ok(Self { tensor, offset, shape: shape.to_vec() })
    }

    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub fn dtype(&self) -> DType {
        self.tensor.dtype
    }

    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn device(&self) -> &Device {
        &self.tensor.device
    }

    /// See [`Tensor::is_aligned`].
    pub(crate) fn is_aligned(&self, bytes: usize) -> bool {
        let elements = self.tensor.offset + self.offset;
        (elements * self.tensor.dtype.size()).is_multiple_of(bytes)
    }

    /// Where the elements are on a GPU, for a kernel to write. Nobody else may hold the memory.
    pub(super) fn ptr_mut(&mut self) -> Result<DevicePtr> {
        if !self.tensor.is_unique() {
            return Err(is_shared());
        }
        Ok(self.tensor.ptr()?.offset(self.offset * self.tensor.dtype.size()))
    }

    /// Sets every element to zero.
    pub fn fill_zero(&mut self) -> Result<()> {
        let size = self.tensor.dtype.size();
        let (start, bytes) = (self.offset * size, self.len() * size);
        match self.tensor.device.clone() {
            Device::Cpu => self.tensor.host_bytes_mut()?[start..start + bytes].fill(0),
            _ if bytes == 0 => {}
            device => device.fill_zero(self.ptr_mut()?, bytes)?,
        }
        Ok(())
    }

    /// Uploads `data`, which must have as many elements.
    pub fn upload<T: Element>(&mut self, data: &[T]) -> Result<()> {
        if self.len() != data.len() || T::DTYPE != self.dtype() {
            let got = format!("{} {}", data.len(), T::DTYPE);
            return Err(Error::shape("upload", format!("{} {}", self.len(), self.dtype()), got));
        }
        match self.device().clone() {
            Device::Cpu => self.host_mut::<T>()?.copy_from_slice(data),
            _ if data.is_empty() => {}
            device => device.upload(self.ptr_mut()?, bytemuck::cast_slice(data))?,
        }
        Ok(())
    }

    /// Copies `from`, a tensor on the same device or on the CPU with as many elements of this dtype.
    pub fn assign(&mut self, from: &Tensor) -> Result<()> {
        if self.len() != from.len() || self.dtype() != from.dtype {
            let expected = format!("{} {}", self.len(), self.dtype());
            return Err(Error::shape("assign", expected, format!("{from:?}")));
        }
        let bytes = self.len() * self.dtype().size();
        match (self.device().clone(), &from.device) {
            (Device::Cpu, Device::Cpu) => {
                let start = self.offset * self.tensor.dtype.size();
                let to = self.tensor.host_bytes_mut()?;
                to[start..start + bytes].copy_from_slice(from.host_bytes()?);
                Ok(())
            }
            _ if bytes == 0 => Ok(()),
            (device, Device::Cpu) => device.upload(self.ptr_mut()?, from.host_bytes()?),
            (device, there) if device == *there => device.copy(self.ptr_mut()?, from.ptr()?, bytes),
            (device, there) => Err(Error::shape("assign", device.name(), there.name())),
        }
    }

    /// Uploads f64 values, rounded to the dtype.
    pub fn upload_f64(&mut self, data: &[f64]) -> Result<()> {
        match self.dtype() {
            DType::F32 => self.upload(&rounded::<f32>(data)),
            DType::F64 => self.upload(&rounded::<f64>(data)),
            DType::Bf16 => self.upload(&rounded::<half::bf16>(data)),
            DType::U8 => self.upload(&rounded::<u8>(data)),
            DType::I16 => self.upload(&rounded::<i16>(data)),
            DType::I32 => self.upload(&rounded::<i32>(data)),
            DType::I64 => self.upload(&rounded::<i64>(data)),
        }
    }

    /// The elements for writing; see [`Tensor::host_mut`].
    pub fn host_mut<T: Element>(&mut self) -> Result<&mut [T]> {
        let range = self.offset..self.offset + self.shape.iter().product::<usize>();
        Ok(&mut self.tensor.host_mut::<T>()?[range])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_memory_is_not_written() {
        let mut a = Tensor::from_slice(&Device::Cpu, &[1.0f32, 2.0, 3.0], &[3]).unwrap();
        let b = a.view(1, &[2]).unwrap();
        assert!(a.host_mut::<f32>().is_err());
        assert_eq!(b.host::<f32>().unwrap(), [2.0, 3.0]);
        drop(b);
        a.host_mut::<f32>().unwrap()[0] = 7.0;
        assert_eq!(a.to_f64_vec().unwrap(), [7.0, 2.0, 3.0]);
    }

    #[test]
    fn wrong_accesses_are_errors() {
        let a = Tensor::zeros(&Device::Cpu, DType::F32, &[2, 3]).unwrap();
        assert!(a.host::<f64>().is_err());
        assert!(a.view(4, &[3]).is_err());
        assert!(a.view(usize::MAX, &[3]).is_err());
        assert!(a.reshape(&[7]).is_err());
        assert!(Tensor::empty(&Device::Cpu, DType::F32, &[usize::MAX, 3]).is_err());
        assert!(Tensor::from_slice(&Device::Cpu, &[1i32], &[2]).is_err());
    }
}
