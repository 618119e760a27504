//! The shared-memory matrix descriptor of wgmma (section 9.7.15.5.1.2): where the elements of an
//! operand lie.
//!
//! ```text
//! bits 13..0    start address >> 4
//!      29..16   LBO >> 4, the leading dimension byte offset
//!      45..32   SBO >> 4, the stride dimension byte offset
//!      51..49   base offset
//!      63..62   swizzle: 0 none, 1 128B, 2 64B, 3 32B
//! ```
//!
//! # Layouts
//!
//! An operand is `mn` x `k` elements: `mn` is 64 rows of A or N columns of B, `k` is 32 bytes. In
//! the manual's pictures an element has 128 bits, so T = 16 / element bytes real elements stand
//! side by side in one of its elements. A *core matrix* is eight such: 8 x 16 bytes = 128 bytes.
//! Below, S is the span of the swizzle (32, 64 or 128 bytes).
//!
//! ```text
//! K-major (not transposed): 16 bytes run along k.
//!
//!   no swizzle: core matrices         with a swizzle: rows of S bytes
//!
//!            k: 0..T   T..2T                   k: 0..T  T..2T
//!   mn 0    [ 16 B ]  [ 16 B ]        mn 0    [ 16 B ][ 16 B ].. S bytes ..
//!      1    [ 16 B ]  [ 16 B ]           1    [ 16 B ][ 16 B ]
//!     ..     (128 B)   at + LBO         ..
//!      7                                 7     (8 * S bytes: one atom)
//!      8    at + SBO                     8    at + SBO
//!
//!   ((8,m),(T,2)):((T,SBO),(1,LBO))   ((8,m),(T,2)):((S,SBO),(1,16 B)), LBO is not used
//!
//! MN-major (transposed): 16 bytes run along mn.
//!
//!   no swizzle: core matrices         with a swizzle: rows of S bytes
//!
//!        mn: 0..T     T..2T               mn: 0 .. S bytes       next S bytes
//!   k 0     [ 16 B ]  at + SBO        k 0    [ 16 B ][ 16 B ]..   at + LBO
//!     1     [ 16 B ]                    1    [ 16 B ][ 16 B ]..
//!    ..      (128 B)                   ..
//!     7                                 7     (8 * S bytes: one atom)
//!     8     at + LBO                    8    at + SBO
//!
//!   ((T,1,m),(8,k)):((1,T,SBO),(T,LBO))   ((T,S/16,m),(8,k)):((1,T,LBO),(S,SBO))
//! ```
//!
//! These are the canonical layouts of section 9.7.15.5.1.2.1.3 and of CuTe; the sum of the start
//! address and the offset is then swizzled as an absolute address. That is why a K-major operand
//! steps to the next 32 bytes of k by a start address 32 bytes further, inside the atom.
//!
//! # Where sources disagree
//!
//! - Manuals of 2024 (8.5) called LBO the distance of core matrices along k and SBO that along mn,
//!   for every layout. For MN-major with a swizzle that is the other way round. The newer manual,
//!   its worked examples and CuTe agree with each other; they are followed.
//! - The base offset: the manual wants `(pattern start >> 7) & 7` where the pattern of the swizzle
//!   does not start at a multiple of its period, but does not say how the hardware uses it. The
//!   manual has it for every swizzle, CuTe's comment for 128B and 64B only, and CuTe always leaves
//!   it 0. Bulk tensor copies swizzle absolute addresses, so what they write has its pattern at
//!   multiples of the period. Anything but 0 is refused.
//! - A start address in the middle of a pattern (rows 1..7 of an atom) with base offset 0 reads
//!   right under the rule of absolute addresses. The manual does not promise it, and it is how a
//!   stage that is aligned to 128 bytes only looks; [`Descriptor::check`] refuses it.

use std::fmt;

use super::swizzle::Swizzle;

#[cfg(test)]
mod tests;

/// The bytes of k that one wgmma takes of an operand.
pub const K_BYTES: u32 = 32;

/// Along which dimension 16 bytes run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Major {
    K,
    Mn,
}

/// A decoded descriptor; addresses and offsets are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    pub start: u32,
    /// LBO.
    pub leading: u32,
    /// SBO.
    pub stride: u32,
    pub base_offset: u32,
    pub swizzle: Swizzle,
}

/// Bits that no field covers.
const RESERVED: u64 = !(0x3fff | 0x3fff << 16 | 0x3fff << 32 | 7 << 49 | 3 << 62);

impl Descriptor {
    pub fn decode(bits: u64) -> Result<Self, DescriptorError> {
        if bits & RESERVED != 0 {
            return Err(DescriptorError::ReservedBits(bits & RESERVED));
        }
        let field = |shift: u32| ((bits >> shift & 0x3fff) as u32) << 4;
        Ok(Self {
            start: field(0),
            leading: field(16),
            stride: field(32),
            base_offset: (bits >> 49 & 7) as u32,
            swizzle: match bits >> 62 {
                0 => Swizzle::None,
                1 => Swizzle::B128,
                2 => Swizzle::B64,
                _ => Swizzle::B32,
            },
        })
    }

    /// The descriptor's 64 bits; each address and offset must be a multiple of 16 below 2^18.
    pub fn encode(&self) -> Result<u64, DescriptorError> {
        let field = |value: u32, shift: u32| {
            if value.is_multiple_of(16) && value < 1 << 18 {
                Ok(u64::from(value >> 4) << shift)
            } else {
                Err(DescriptorError::NotEncodable(value))
            }
        };
        let mode = match self.swizzle {
            Swizzle::None => 0,
            Swizzle::B128 => 1,
            Swizzle::B64 => 2,
            Swizzle::B32 => 3,
        };
        if self.base_offset > 7 {
            return Err(DescriptorError::NotEncodable(self.base_offset));
        }
        Ok(field(self.start, 0)?
            | field(self.leading, 16)?
            | field(self.stride, 32)?
            | u64::from(self.base_offset) << 49
            | mode << 62)
    }

    /// Whether an operand of `mn` elements can be read without leaving what the layouts describe.
    pub fn check(&self, major: Major, mn: u32, element_bytes: u32) -> Result<(), DescriptorError> {
        let swizzle = self.swizzle;
        let span = swizzle.span();
        if self.base_offset != 0 {
            return Err(DescriptorError::BaseOffset(self.base_offset));
        }
        if swizzle != Swizzle::None {
            if swizzle.phase(self.start) != 0 {
                return Err(DescriptorError::PatternStart { start: self.start, swizzle });
            }
            // The bytes of a row that belong to the operand.
            let row = match major {
                Major::K => K_BYTES,
                Major::Mn => span.min(mn * element_bytes),
            };
            if self.start % span + row > span {
                return Err(DescriptorError::LeavesRow { start: self.start, swizzle, bytes: row });
            }
        }
        let (along, across) = match major {
            Major::K => (K_BYTES, mn),
            Major::Mn => (mn * element_bytes, K_BYTES / element_bytes),
        };
        let (block, group) = self.block_and_group(major);
        if along > span && block == 0 || across > 8 && group == 0 {
            return Err(DescriptorError::ZeroOffset);
        }
        Ok(())
    }

    /// The address in shared memory of element (mn, k). Nothing is checked; an address can lie
    /// beyond the shared memory.
    pub fn element_address(&self, major: Major, mn: u32, k: u32, element_bytes: u32) -> u32 {
        let (along, across) = match major {
            Major::K => (k * element_bytes, mn),
            Major::Mn => (mn * element_bytes, k),
        };
        let (block, group) = self.block_and_group(major);
        let row = self.swizzle.span();
        // In a K-major operand with a swizzle, along / row is 0: LBO is not used.
        let offset = across % 8 * row + across / 8 * group + along / row * block + along % row;
        self.swizzle.apply(self.start + offset)
    }

    /// The offsets to the next row's worth of bytes, and to the next eight rows.
    fn block_and_group(&self, major: Major) -> (u32, u32) {
        if major == Major::Mn && self.swizzle == Swizzle::None {
            (self.stride, self.leading)
        } else {
            (self.leading, self.stride)
        }
    }
}

/// Why a descriptor describes no operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DescriptorError {
    /// These bits are set although they belong to no field.
    ReservedBits(u64),
    /// No field can hold this.
    NotEncodable(u32),
    BaseOffset(u32),
    /// The start address lies in the middle of the swizzle's pattern.
    PatternStart {
        start: u32,
        swizzle: Swizzle,
    },
    /// The operand's rows would run over the end of the swizzle's rows.
    LeavesRow {
        start: u32,
        swizzle: Swizzle,
        bytes: u32,
    },
    /// An offset that the operand needs is 0, so that parts of it would lie on each other.
    ZeroOffset,
}

impl std::error::Error for DescriptorError {}

impl fmt::Display for DescriptorError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "matrix descriptor: ")?;
        match self {
            Self::ReservedBits(bits) => write!(f, "the reserved bits {bits:#x} are set"),
            Self::NotEncodable(value) => write!(f, "no field can hold {value:#x}"),
            Self::BaseOffset(value) => write!(f, "base offset {value}; only 0 is supported"),
            Self::PatternStart { start, swizzle } => write!(
                f,
                "the start address {start:#x} lies in the middle of the swizzle's pattern, which \
                 repeats every {} bytes",
                swizzle.period()
            ),
            Self::LeavesRow { start, swizzle, bytes } => write!(
                f,
                "{bytes} bytes from the start address {start:#x} run over the end of a row of the \
                 swizzle, which has {} bytes",
                swizzle.span()
            ),
            Self::ZeroOffset => {
                write!(f, "the leading or stride byte offset is 0 where the operand needs it")
            }
        }
    }
}
