//! Tensor maps: what the copy engine of sm_90 is told about a tensor in device memory, and about the boxes that a kernel
//! copies of it. Made on the host, passed to kernels by value (`kernels/include/hopper/tma.cuh`).

use super::abi::TensorMap;
use super::launch::DevicePtr;
use super::{DType, Device};
use crate::{Error, Result};

/// A contiguous tensor and the box of it that one copy takes, outermost dimension first. Rows of a box have 32, 64 or
/// 128 bytes and are swizzled by as many, or 16 and are not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Boxes<'a> {
    pub at: DevicePtr,
    pub dtype: DType,
    pub dims: &'a [usize],
    pub box_dims: &'a [usize],
}

impl Boxes<'_> {
    /// Innermost first: sizes, strides in bytes but the first, sizes of the box.
    fn parts(&self) -> (Vec<u64>, Vec<u64>, Vec<u32>) {
        let dims: Vec<u64> = self.dims.iter().rev().map(|&n| n as u64).collect();
        let mut stride = self.dtype.size() as u64;
        let strides = dims[..dims.len() - 1].iter().map(|n| {
            stride *= n;
            stride
        });
        let strides = strides.collect();
        let box_dims = self.box_dims.iter().rev().map(|&n| n as u32).collect();
        (dims, strides, box_dims)
    }

    /// Bytes of a row of a box.
    fn row_bytes(&self) -> usize {
        self.box_dims.last().map_or(0, |n| n.saturating_mul(self.dtype.size()))
    }

    /// The rules of `cuTensorMapEncodeTiled` that a tensor of ours can break.
    fn check(&self) -> Result<()> {
        let (dims, strides, box_dims) = self.parts();
        let wrong = if !matches!(self.dtype, DType::Bf16 | DType::F32) {
            "neither bf16 nor f32"
        } else if !self.at.0.is_multiple_of(16) || strides.iter().any(|n| !n.is_multiple_of(16)) {
            "an address or a stride that is no multiple of 16 bytes"
        } else if dims.iter().any(|n| !(1..=1 << 32).contains(n)) {
            "a side that is not 1 to 2^32"
        } else if dims.len() != box_dims.len() || box_dims.iter().any(|n| !(1..=256).contains(n)) {
            "a box whose sides are not 1 to 256"
        } else if !matches!(self.row_bytes(), 16 | 32 | 64 | 128) {
            "a box whose rows do not have 16, 32, 64 or 128 bytes"
        } else {
            return Ok(());
        };
        Err(Error::Device(format!("tensor map of {self:?}: {wrong}")))
    }
}

/// Whether a matrix with `columns` columns at an aligned place can be copied in boxes.
pub(crate) fn allows_boxes(columns: usize, dtype: DType) -> bool {
    (columns * dtype.size()).is_multiple_of(16)
}

impl Device {
    /// The map of these boxes, for kernels of this device.
    ///
    /// Errors: `Unsupported` on devices without a copy engine, `Device` for what it cannot copy.
    pub(super) fn tensor_map(&self, boxes: &Boxes<'_>) -> Result<TensorMap> {
        match self {
            Self::Cpu | Self::Emulated(_) => {
                Err(Error::Unsupported(format!("tensor maps on {}", self.name())))
            }
            Self::Dry(_) => boxes.check().map(|()| TensorMap { opaque: [0; 16] }),
            #[cfg(feature = "cuda")]
            Self::Ptx(_) => executed(boxes),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => {
                // The driver may ask for the context of this thread, though it only writes to the host.
                cuda.bind()?;
                driver(boxes)
            }
        }
    }
}

/// As the executor of PTX reads it, under the rules of the driver.
#[cfg(feature = "cuda")]
fn executed(boxes: &Boxes<'_>) -> Result<TensorMap> {
    use glmae_simt::hopper::swizzle::Swizzle;
    use glmae_simt::hopper::tensor_map::{Element, Fill, Promotion, Tensor, TensorMap as Map};
    let (dims, strides, box_dims) = boxes.parts();
    let tensor = Tensor {
        element: match boxes.dtype {
            DType::Bf16 => Element::Bf16,
            DType::F32 => Element::F32,
            other => return Err(unsupported(other)),
        },
        base: boxes.at.0,
        dims: &dims,
        strides: &strides,
        element_strides: &[1; 5][..dims.len()],
        swizzle: match boxes.row_bytes() {
            16 => Swizzle::None,
            32 => Swizzle::B32,
            64 => Swizzle::B64,
            128 => Swizzle::B128,
            n => return Err(Error::Device(format!("tensor map of {boxes:?}: rows of {n} bytes"))),
        },
        promotion: Promotion::B256,
        fill: Fill::Zeros,
    };
    let map = Map::tiled(&tensor, &box_dims);
    let map = map.map_err(|e| Error::Device(format!("tensor map of {boxes:?}: {e}")))?;
    Ok(TensorMap { opaque: bytemuck::cast(map.to_bytes()) })
}

#[cfg(feature = "cuda")]
fn driver(boxes: &Boxes<'_>) -> Result<TensorMap> {
    use cudarc::driver::{DriverError, sys};
    boxes.check()?;
    let (dims, strides, box_dims) = boxes.parts();
    let element = match boxes.dtype {
        DType::Bf16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        DType::F32 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
        other => return Err(unsupported(other)),
    };
    let swizzle = match boxes.row_bytes() {
        16 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
        32 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_32B,
        64 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_64B,
        _ => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
    };
    let mut map = TensorMap { opaque: [0; 16] };
    // SAFETY: the map has the size and the alignment of a CUtensorMap, and every array as many entries as the rank says;
    // the tensor is only described, not read.
    let code = unsafe {
        sys::cuTensorMapEncodeTiled(
            (&raw mut map).cast(),
            element,
            dims.len() as u32,
            boxes.at.0 as *mut std::ffi::c_void,
            dims.as_ptr(),
            strides.as_ptr(),
            box_dims.as_ptr(),
            [1u32; 5].as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            swizzle,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    };
    match code {
        sys::CUresult::CUDA_SUCCESS => Ok(map),
        code => Err(Error::Device(format!("tensor map of {boxes:?}: {}", DriverError(code)))),
    }
}

#[cfg(feature = "cuda")]
fn unsupported(dtype: DType) -> Error {
    Error::Unsupported(format!("tensor maps of {dtype}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_strides_are_innermost_first() {
        let at = DevicePtr(1024);
        let boxes = Boxes { at, dtype: DType::F32, dims: &[3, 5, 8], box_dims: &[1, 2, 4] };
        assert_eq!(boxes.parts(), (vec![8, 5, 3], vec![32, 160], vec![4, 2, 1]));
    }

    #[test]
    fn rows_of_whole_pieces_of_16_bytes_can_be_copied() {
        assert!(allows_boxes(8, DType::Bf16) && allows_boxes(4, DType::F32));
        assert!(!allows_boxes(12, DType::Bf16) && !allows_boxes(6, DType::F32));
    }

    /// By our own check, and by that of the executor of PTX, which has all rules of the driver.
    #[test]
    fn what_cannot_be_copied_is_an_error_with_the_tensor() {
        let boxes =
            |dims, box_dims| Boxes { at: DevicePtr(1024), dtype: DType::Bf16, dims, box_dims };
        let checks = [
            |b: &Boxes<'_>| b.check(),
            #[cfg(feature = "cuda")]
            |b: &Boxes<'_>| executed(b).map(|_| ()),
        ];
        for check in checks {
            assert!(check(&boxes(&[3, 8], &[2, 64])).is_ok());
            let aside = Boxes { at: DevicePtr(1032), ..boxes(&[3, 8], &[2, 64]) };
            for wrong in [
                boxes(&[3, 12], &[2, 64]),
                boxes(&[3, 8], &[2, 128]),
                boxes(&[3, 8], &[2, 48]),
                boxes(&[3, 8], &[512, 64]),
                boxes(&[0, 8], &[2, 64]),
                aside,
            ] {
                let message = check(&wrong).unwrap_err().to_string();
                assert!(message.contains("tensor map of Boxes"), "{message}");
            }
        }
    }
}
