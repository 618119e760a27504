//! What is wrong with a tensor map, by the name of the rule it breaks.

use std::fmt;

use super::{Element, Swizzle};

/// The rule that a tensor map breaks, or that its bytes are none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapError {
    /// The hardware or the driver has it; this crate has not.
    Unsupported(&'static str),
    UnknownNumber {
        what: &'static str,
        number: u32,
    },
    Rank {
        rank: usize,
        least: usize,
    },
    Count {
        what: &'static str,
        count: usize,
        expected: usize,
    },
    BaseUnaligned(u64),
    TensorSize {
        dimension: usize,
        size: u64,
    },
    StrideUnaligned {
        dimension: usize,
        stride: u64,
    },
    StrideTooLong {
        dimension: usize,
        stride: u64,
    },
    AddressRange,
    ElementStride {
        dimension: usize,
        stride: u32,
    },
    BoxSize {
        dimension: usize,
        size: u32,
    },
    InnerBytes {
        bytes: u32,
    },
    InnerTooLong {
        bytes: u32,
        swizzle: Swizzle,
    },
    NanFill(Element),
    Corner {
        dimension: usize,
        corner: i32,
        limit: i32,
    },
    EmptyBox {
        dimension: usize,
    },
    Channels(u32),
    Pixels(u32),
    /// The bytes do not begin as a tensor map does.
    NotAMap,
    /// The bytes begin as a tensor map does, but were changed since.
    Damaged,
}

impl std::error::Error for MapError {}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "tensor map: ")?;
        match self {
            Self::Unsupported(what) => write!(f, "{what} is not supported"),
            Self::UnknownNumber { what, number } => write!(f, "no {what} has the number {number}"),
            Self::Rank { rank, least } => {
                write!(f, "rank {rank}; there must be {least} to 5 dimensions")
            }
            Self::Count { what, count, expected } => {
                write!(f, "{count} {what} where there must be {expected}")
            }
            Self::BaseUnaligned(base) => {
                write!(f, "the base address {base:#x} is no multiple of 16")
            }
            Self::TensorSize { dimension, size } => {
                write!(f, "size {size} of dimension {dimension}; it must be 1 to 2^32")
            }
            Self::StrideUnaligned { dimension, stride } => write!(
                f,
                "the stride of dimension {dimension}, {stride} bytes, is no multiple of 16"
            ),
            Self::StrideTooLong { dimension, stride } => write!(
                f,
                "the stride of dimension {dimension}, {stride} bytes, is not less than 2^40"
            ),
            Self::AddressRange => write!(f, "the tensor reaches beyond the address space"),
            Self::ElementStride { dimension, stride } => {
                write!(f, "element stride {stride} of dimension {dimension}; it must be 1 to 8")
            }
            Self::BoxSize { dimension, size } => {
                write!(f, "box size {size} in dimension {dimension}; it must be 1 to 256")
            }
            Self::InnerBytes { bytes } => {
                write!(f, "a row of the box is {bytes} bytes, which is no multiple of 16")
            }
            Self::InnerTooLong { bytes, swizzle } => write!(
                f,
                "a row of the box is {bytes} bytes; a swizzle of {} bytes allows no more than that",
                swizzle.span()
            ),
            Self::NanFill(element) => {
                write!(f, "a fill with NaN for {element:?}, which has none")
            }
            Self::Corner { dimension, corner, limit } => write!(
                f,
                "corner {corner} in dimension {dimension}; it must be {} to {}",
                -limit,
                limit - 1
            ),
            Self::EmptyBox { dimension } => {
                write!(f, "the corners leave no pixel in dimension {dimension}")
            }
            Self::Channels(count) => {
                write!(f, "{count} channels per pixel; there must be 1 to 256")
            }
            Self::Pixels(count) => {
                write!(f, "{count} pixels per column; there must be 1 to 1024")
            }
            Self::NotAMap => write!(f, "these 128 bytes are none"),
            Self::Damaged => write!(f, "its 128 bytes were changed after it was made"),
        }
    }
}
