//! Tensor maps: what a bulk tensor copy is told about the tensor in global memory (sections 5.5 and
//! 5.5.8), made under the rules of `cuTensorMapEncodeTiled` and `cuTensorMapEncodeIm2col` (CUDA
//! driver API, "Tensor Map Object Management").
//!
//! Everything is listed innermost dimension first, as in these functions. So the corners of an
//! im2col box are {W, H, D} here. The driver's page writes {D, H, W}, but CUTLASS hands it W first,
//! next to sizes and strides that are innermost first.
//!
//! Refused by name, although the driver has them: packed 4-bit and 6-bit elements and swizzles
//! with an atomicity above 16 bytes (both Blackwell's), and the element types whose values the copy
//! changes (flushed or rounded to tf32). A map has no word for interleaved layouts.

mod bytes;
mod error;
#[cfg(test)]
mod tests;

pub use error::MapError;

use super::swizzle::Swizzle;

/// The most dimensions of a tensor.
pub const MAX_RANK: usize = 5;

/// What the tensor holds, as far as copies change no values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    U8,
    U16,
    U32,
    I32,
    U64,
    I64,
    F16,
    F32,
    F64,
    Bf16,
}

impl Element {
    /// In the order of `CUtensorMapDataType`.
    const ALL: [Self; 10] = [
        Self::U8,
        Self::U16,
        Self::U32,
        Self::I32,
        Self::U64,
        Self::I64,
        Self::F16,
        Self::F32,
        Self::F64,
        Self::Bf16,
    ];

    /// The type of this number in `CUtensorMapDataType`.
    pub fn from_driver(number: u32) -> Result<Self, MapError> {
        match number {
            10..=12 => Err(MapError::Unsupported("an element type that changes values")),
            13..=15 => Err(MapError::Unsupported("packed 4-bit or 6-bit elements")),
            _ => Self::ALL
                .get(number as usize)
                .copied()
                .ok_or(MapError::UnknownNumber { what: "element type", number }),
        }
    }

    pub fn bytes(self) -> u32 {
        match self {
            Self::U8 => 1,
            Self::U16 | Self::F16 | Self::Bf16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    pub fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::F32 | Self::F64 | Self::Bf16)
    }
}

/// The swizzle of this number in `CUtensorMapSwizzle`.
pub fn swizzle_from_driver(number: u32) -> Result<Swizzle, MapError> {
    match number {
        0 => Ok(Swizzle::None),
        1 => Ok(Swizzle::B32),
        2 => Ok(Swizzle::B64),
        3 => Ok(Swizzle::B128),
        4..=6 => Err(MapError::Unsupported("a 128-byte swizzle with an atomicity above 16 bytes")),
        _ => Err(MapError::UnknownNumber { what: "swizzle", number }),
    }
}

/// `CUtensorMapL2promotion`: kept, without effect here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promotion {
    None,
    B64,
    B128,
    B256,
}

impl Promotion {
    /// The promotion of this number in `CUtensorMapL2promotion`.
    pub fn from_driver(number: u32) -> Result<Self, MapError> {
        match number {
            0 => Ok(Self::None),
            1 => Ok(Self::B64),
            2 => Ok(Self::B128),
            3 => Ok(Self::B256),
            _ => Err(MapError::UnknownNumber { what: "L2 promotion", number }),
        }
    }
}

/// What loads put in place of elements outside the tensor (section 5.5.3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    Zeros,
    /// A NaN that no document gives the bits of.
    Nan,
}

impl Fill {
    /// The fill of this number in `CUtensorMapFloatOOBfill`.
    pub fn from_driver(number: u32) -> Result<Self, MapError> {
        match number {
            0 => Ok(Self::Zeros),
            1 => Ok(Self::Nan),
            _ => Err(MapError::UnknownNumber { what: "fill", number }),
        }
    }
}

/// What both kinds of map say.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    pub element: Element,
    /// The address of element 0.
    pub base: u64,
    /// Elements, of every dimension.
    pub dims: &'a [u64],
    /// Bytes, of every dimension but the innermost.
    pub strides: &'a [u64],
    /// Every how many elements one is copied. The innermost is ignored, as by the driver.
    pub element_strides: &'a [u32],
    pub swizzle: Swizzle,
    pub promotion: Promotion,
    pub fill: Fill,
}

/// How a copy walks through the tensor; entries beyond the rank are those of a single element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Elements of the tensor that a box spans, in every dimension.
    Tiled { box_dims: [u32; MAX_RANK] },
    /// The box of filter positions is `lower ..= dim - 1 + upper` in {W, H, D}.
    Im2col { lower: [i32; 3], upper: [i32; 3], channels: u32, pixels: u32 },
}

/// A tensor map that keeps every rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMap {
    element: Element,
    rank: usize,
    base: u64,
    dims: [u64; MAX_RANK],
    strides: [u64; MAX_RANK],
    element_strides: [u32; MAX_RANK],
    access: Access,
    swizzle: Swizzle,
    promotion: Promotion,
    fill: Fill,
}

impl TensorMap {
    /// `cuTensorMapEncodeTiled`.
    pub fn tiled(tensor: &Tensor, box_dims: &[u32]) -> Result<Self, MapError> {
        let mut map = Self::new(tensor, 1)?;
        check_count("box sizes", box_dims.len(), map.rank)?;
        let mut sizes = [1; MAX_RANK];
        for (dimension, &size) in box_dims.iter().enumerate() {
            if !(1..=256).contains(&size) {
                return Err(MapError::BoxSize { dimension, size });
            }
            sizes[dimension] = size;
        }
        map.check_inner(sizes[0])?;
        map.access = Access::Tiled { box_dims: sizes };
        Ok(map)
    }

    /// `cuTensorMapEncodeIm2col`; corners are {W, H, D}, as many as the tensor has.
    pub fn im2col(
        tensor: &Tensor,
        lower: &[i32],
        upper: &[i32],
        channels: u32,
        pixels: u32,
    ) -> Result<Self, MapError> {
        let mut map = Self::new(tensor, 3)?;
        let spatial = map.rank - 2;
        check_count("lower corners", lower.len(), spatial)?;
        check_count("upper corners", upper.len(), spatial)?;
        let limit = [1 << 15, 1 << 7, 1 << 4][spatial - 1];
        let (mut low, mut high) = ([0; 3], [0; 3]);
        for dimension in 0..spatial {
            for corner in [lower[dimension], upper[dimension]] {
                if !(-limit..limit).contains(&corner) {
                    return Err(MapError::Corner { dimension: dimension + 1, corner, limit });
                }
            }
            (low[dimension], high[dimension]) = (lower[dimension], upper[dimension]);
            let last = map.dims[dimension + 1] as i64 - 1 + i64::from(upper[dimension]);
            if i64::from(lower[dimension]) > last {
                return Err(MapError::EmptyBox { dimension: dimension + 1 });
            }
        }
        if !(1..=256).contains(&channels) {
            return Err(MapError::Channels(channels));
        }
        if !(1..=1024).contains(&pixels) {
            return Err(MapError::Pixels(pixels));
        }
        map.check_inner(channels)?;
        map.access = Access::Im2col { lower: low, upper: high, channels, pixels };
        Ok(map)
    }

    /// The rules that both kinds have in common.
    fn new(tensor: &Tensor, least_rank: usize) -> Result<Self, MapError> {
        let rank = tensor.dims.len();
        if !(least_rank..=MAX_RANK).contains(&rank) {
            return Err(MapError::Rank { rank, least: least_rank });
        }
        check_count("strides", tensor.strides.len(), rank - 1)?;
        check_count("element strides", tensor.element_strides.len(), rank)?;
        if !tensor.base.is_multiple_of(16) {
            return Err(MapError::BaseUnaligned(tensor.base));
        }
        if tensor.fill == Fill::Nan && !tensor.element.is_float() {
            return Err(MapError::NanFill(tensor.element));
        }
        let element_bytes = u64::from(tensor.element.bytes());
        let mut dims = [1; MAX_RANK];
        let mut strides = [0; MAX_RANK];
        let mut element_strides = [1; MAX_RANK];
        strides[0] = element_bytes;
        for (dimension, &size) in tensor.dims.iter().enumerate() {
            if !(1..=1 << 32).contains(&size) {
                return Err(MapError::TensorSize { dimension, size });
            }
            dims[dimension] = size;
        }
        for (i, &stride) in tensor.strides.iter().enumerate() {
            let dimension = i + 1;
            if !stride.is_multiple_of(16) {
                return Err(MapError::StrideUnaligned { dimension, stride });
            }
            if stride >= 1 << 40 {
                return Err(MapError::StrideTooLong { dimension, stride });
            }
            strides[dimension] = stride;
        }
        for (dimension, &stride) in tensor.element_strides.iter().enumerate() {
            if !(1..=8).contains(&stride) {
                return Err(MapError::ElementStride { dimension, stride });
            }
            // Dimension 0 has no such stride without an interleaved layout (section 5.5.3.2).
            if dimension > 0 {
                element_strides[dimension] = stride;
            }
        }
        let extent: u128 =
            (0..rank).map(|d| u128::from(dims[d] - 1) * u128::from(strides[d])).sum();
        if u128::from(tensor.base) + extent + u128::from(element_bytes) > 1 << 64 {
            return Err(MapError::AddressRange);
        }
        Ok(Self {
            element: tensor.element,
            rank,
            base: tensor.base,
            dims,
            strides,
            element_strides,
            access: Access::Tiled { box_dims: [1; MAX_RANK] },
            swizzle: tensor.swizzle,
            promotion: tensor.promotion,
            fill: tensor.fill,
        })
    }

    /// A row of the box is whole 16-byte chunks (section 5.5.3.1) and fits the swizzle's span.
    fn check_inner(&self, elements: u32) -> Result<(), MapError> {
        let bytes = elements * self.element.bytes();
        if !bytes.is_multiple_of(16) {
            return Err(MapError::InnerBytes { bytes });
        }
        if self.swizzle != Swizzle::None && bytes > self.swizzle.span() {
            return Err(MapError::InnerTooLong { bytes, swizzle: self.swizzle });
        }
        Ok(())
    }

    /// The map made again from its own parts, so that they meet every rule.
    fn remade(&self) -> Result<Self, MapError> {
        let rank = self.rank;
        let tensor = Tensor {
            element: self.element,
            base: self.base,
            dims: &self.dims[..rank],
            strides: &self.strides[1..rank],
            element_strides: &self.element_strides[..rank],
            swizzle: self.swizzle,
            promotion: self.promotion,
            fill: self.fill,
        };
        match self.access {
            Access::Tiled { box_dims } => Self::tiled(&tensor, &box_dims[..rank]),
            Access::Im2col { lower, upper, channels, pixels } => {
                // A rank below 3 is refused by `im2col` itself.
                let spatial = rank.saturating_sub(2);
                Self::im2col(&tensor, &lower[..spatial], &upper[..spatial], channels, pixels)
            }
        }
    }

    pub fn element(&self) -> Element {
        self.element
    }

    pub fn rank(&self) -> usize {
        self.rank
    }

    pub fn base(&self) -> u64 {
        self.base
    }

    /// Elements, 1 beyond the rank.
    pub fn dims(&self) -> &[u64; MAX_RANK] {
        &self.dims
    }

    /// Bytes, of the innermost dimension, too; 0 beyond the rank.
    pub fn strides(&self) -> &[u64; MAX_RANK] {
        &self.strides
    }

    /// 1 beyond the rank and in dimension 0.
    pub fn element_strides(&self) -> &[u32; MAX_RANK] {
        &self.element_strides
    }

    pub fn access(&self) -> Access {
        self.access
    }

    pub fn swizzle(&self) -> Swizzle {
        self.swizzle
    }

    pub fn fill(&self) -> Fill {
        self.fill
    }
}

fn check_count(what: &'static str, count: usize, expected: usize) -> Result<(), MapError> {
    if count == expected { Ok(()) } else { Err(MapError::Count { what, count, expected }) }
}
