//! A tensor map as the 128 bytes that a kernel gets as a parameter.
//!
//! The real encoding is opaque. This one begins with a magic number and ends with a checksum, so
//! that a kernel that was given anything else is found out.
//!
//! ```text
//! byte   0  magic                  44  strides of dimensions 1..5, u64
//!        8  element, rank           76  element strides, u8
//!       10  access, swizzle         81  tiled: box sizes, u16
//!       12  promotion, fill             im2col: corners, i16; channels and pixels, u16
//!       14  zeros                       zeros
//!       16  base, u64              120  checksum
//!       24  sizes - 1, u32
//! ```

use super::swizzle_from_driver;
use super::{Access, Element, Fill, MAX_RANK, MapError, Promotion, TensorMap};

const MAGIC: [u8; 8] = *b"tensmap1";
const CHECKSUM: usize = 120;

impl TensorMap {
    /// The alignment that a tensor map in memory needs (driver API; the C++ type asks for 128).
    pub const ALIGNMENT: u64 = 64;

    pub fn to_bytes(&self) -> [u8; 128] {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend(MAGIC);
        let element = Element::ALL.iter().position(|e| *e == self.element).unwrap_or_default();
        bytes.extend([element as u8, self.rank as u8]);
        bytes.push(matches!(self.access, Access::Im2col { .. }) as u8);
        bytes.extend([self.swizzle as u8, self.promotion as u8, self.fill as u8, 0, 0]);
        bytes.extend(self.base.to_le_bytes());
        bytes.extend(self.dims.iter().flat_map(|d| ((d - 1) as u32).to_le_bytes()));
        bytes.extend(self.strides[1..].iter().flat_map(|s| s.to_le_bytes()));
        bytes.extend(self.element_strides.iter().map(|s| *s as u8));
        match self.access {
            Access::Tiled { box_dims } => {
                bytes.extend(box_dims.iter().flat_map(|d| (*d as u16).to_le_bytes()));
            }
            Access::Im2col { lower, upper, channels, pixels } => {
                bytes.extend(
                    [lower, upper].iter().flatten().flat_map(|c| (*c as i16).to_le_bytes()),
                );
                bytes.extend([channels, pixels].iter().flat_map(|c| (*c as u16).to_le_bytes()));
            }
        }
        bytes.resize(CHECKSUM, 0);
        let sum = checksum(&bytes);
        bytes.extend(sum.to_le_bytes());
        bytes.try_into().expect("120 bytes and 8")
    }

    /// The map that [`TensorMap::to_bytes`] made these bytes of.
    pub fn from_bytes(bytes: &[u8; 128]) -> Result<Self, MapError> {
        let mut reader = Reader(bytes);
        if reader.take::<8>() != MAGIC {
            return Err(MapError::NotAMap);
        }
        if bytes[CHECKSUM..] != checksum(&bytes[..CHECKSUM]).to_le_bytes() {
            return Err(MapError::Damaged);
        }
        let [element, rank, access, swizzle, promotion, fill, _, _] = reader.take::<8>();
        let rank = usize::from(rank);
        if !(1..=MAX_RANK).contains(&rank) {
            return Err(MapError::Damaged);
        }
        let base = u64::from_le_bytes(reader.take());
        let dims = std::array::from_fn(|_| u64::from(u32::from_le_bytes(reader.take())) + 1);
        let element = Element::from_driver(element.into())?;
        let mut strides = [u64::from(element.bytes()); MAX_RANK];
        for stride in &mut strides[1..] {
            *stride = u64::from_le_bytes(reader.take());
        }
        let element_strides = std::array::from_fn(|_| u32::from(reader.take::<1>()[0]));
        let access = match access {
            0 => Access::Tiled { box_dims: std::array::from_fn(|_| reader.unsigned()) },
            _ => Access::Im2col {
                lower: std::array::from_fn(|_| reader.signed()),
                upper: std::array::from_fn(|_| reader.signed()),
                channels: reader.unsigned(),
                pixels: reader.unsigned(),
            },
        };
        let map = Self {
            element,
            rank,
            base,
            dims,
            strides,
            element_strides,
            access,
            swizzle: swizzle_from_driver(swizzle.into())?,
            promotion: Promotion::from_driver(promotion.into())?,
            fill: Fill::from_driver(fill.into())?,
        }
        .remade()?;
        // Whatever the fields do not cover must be what `to_bytes` puts there.
        if map.to_bytes() == *bytes { Ok(map) } else { Err(MapError::Damaged) }
    }
}

/// The next bytes of a map.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (taken, rest) = self.0.split_first_chunk().expect("the fields fit 128 bytes");
        self.0 = rest;
        *taken
    }

    fn unsigned(&mut self) -> u32 {
        u16::from_le_bytes(self.take()).into()
    }

    fn signed(&mut self) -> i32 {
        i16::from_le_bytes(self.take()).into()
    }
}

/// FNV-1a.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
