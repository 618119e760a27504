//! Which bytes a bulk tensor copy moves (sections 5.5.3 and 5.5.4, and "Tensor copy" with its
//! restrictions).
//!
//! In shared memory the box is dense, innermost dimension first. It is walked row by row here: a
//! row is one run of the innermost dimension, of which a part lies inside the tensor.
//!
//! ```text
//!                 tensor
//!           +-----------------+      row of the box, in bytes:
//!           |          +------|---+    0          inside          bytes
//!           |          |//////|   |    |//////////|                 |
//!           |          |//////|   |    inside: copied; the rest: filled by a load,
//!           +----------|------+   |            skipped by a store
//!                      +----------+
//! ```
//!
//! In im2col mode a row is one pixel and its channels. Pixels follow each other along W, then H,
//! then D inside the box of filter positions, then on to the next image; a pixel is read at the
//! filter position plus the im2col offsets. The traversal stride is the step between positions and
//! does not change their number (section 5.5.4.2).
//!
//! Not in the manual's text, but seen on hardware:
//! - The first byte of a row must be at a multiple of 16 in global memory. Section 5.5.3.1 asks for
//!   that of the box; an H100 answers with an illegal instruction (Triton issue 7385, TileLang
//!   issue 2527).
//! - Stores write whole 16-byte chunks. Where the tensor's rows end inside a chunk, the rest of the
//!   chunk is overwritten (Triton issue 11583, on an H100). [`Row::spill`] counts these bytes.
//! - How rows lie that are shorter than the swizzle's span is open: the CUDA programming guide asks
//!   for memory "to accommodate the full swizzle width". Such a copy is refused.

use std::fmt;
use std::ops::Range;

use super::swizzle::Swizzle;
use super::tensor_map::{Access, MAX_RANK, TensorMap};

#[cfg(test)]
mod tests;

/// The alignment that a tile needs in shared memory (CUDA programming guide, alignment of
/// multi-dimensional bulk copies), whatever the swizzle. Only at a multiple of
/// [`Swizzle::period`] does the swizzle's pattern start with the tile.
pub const SHARED_ALIGNMENT: u32 = 128;

/// More than the shared memory of any block: no box of more bytes can be copied.
const SHARED_BYTES: u64 = 1 << 18;

/// Where a copy goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From global to shared memory.
    Load,
    /// From shared to global memory.
    Store,
}

/// One copy: a map and a place.
#[derive(Clone, Debug)]
pub struct Tile<'a> {
    map: &'a TensorMap,
    direction: Direction,
    start: [i64; MAX_RANK],
    /// What is added to a filter position in im2col mode, in {C, W, H, D, N}.
    offsets: [i64; MAX_RANK],
    row_bytes: u32,
    rows: u32,
}

/// A run of the innermost dimension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Bytes from the start of the box in shared memory, before the swizzle.
    pub shared: u32,
    /// Bytes of the row in shared memory.
    pub bytes: u32,
    /// The bytes of the row that are copied.
    pub inside: Range<u32>,
    /// The address of the first copied byte in global memory; 0 if there is none.
    pub global: u64,
    /// How many of the copied bytes a store writes beyond the end of the tensor's row.
    pub spill: u32,
}

impl<'a> Tile<'a> {
    /// `cp.async.bulk.tensor` in tiled mode; coordinates are innermost first.
    pub fn tiled(
        map: &'a TensorMap,
        direction: Direction,
        coordinates: &[i32],
    ) -> Result<Self, TileError> {
        let Access::Tiled { box_dims } = map.access() else {
            return Err(TileError::Mode { im2col: true });
        };
        // A box of b elements holds ceil(b / s) of every s-th (cuTensorMapEncodeTiled); beyond the
        // rank both are 1.
        let outer = box_dims[1..].iter().zip(&map.element_strides()[1..]);
        let rows = outer.map(|(size, stride)| u64::from(size.div_ceil(*stride))).product();
        Self::new(map, direction, coordinates, box_dims[0], rows)
    }

    /// `cp.async.bulk.tensor` in im2col mode: coordinates {C, W, H, D, N}, offsets {W, H, D}. A
    /// store has no offsets (`.im2col_no_offs`).
    pub fn im2col(
        map: &'a TensorMap,
        direction: Direction,
        coordinates: &[i32],
        offsets: &[u16],
    ) -> Result<Self, TileError> {
        let Access::Im2col { lower, upper, channels, pixels } = map.access() else {
            return Err(TileError::Mode { im2col: false });
        };
        let mut tile = Self::new(map, direction, coordinates, channels, pixels.into())?;
        let spatial = map.rank() - 2;
        let expected = if direction == Direction::Load { spatial } else { 0 };
        if offsets.len() != expected {
            return Err(TileError::Offsets { count: offsets.len(), expected });
        }
        let limit = [1 << 16, 1 << 8, 1 << 5][spatial - 1];
        for (i, &offset) in offsets.iter().enumerate() {
            if u32::from(offset) >= limit {
                return Err(TileError::OffsetTooLarge { dimension: i + 1, offset, limit });
            }
            tile.offsets[i + 1] = offset.into();
        }
        for i in 0..spatial {
            let dimension = i + 1;
            if direction == Direction::Store && (lower[i] < 0 || upper[i] > 0) {
                return Err(TileError::StoreBox { dimension });
            }
            let positions = tile.positions(dimension);
            let position = tile.start[dimension];
            if !positions.contains(&position) {
                let (first, end) = (positions.start, positions.end);
                return Err(TileError::OutsideBox { dimension, position, first, last: end - 1 });
            }
        }
        Ok(tile)
    }

    fn new(
        map: &'a TensorMap,
        direction: Direction,
        coordinates: &[i32],
        row_elements: u32,
        rows: u64,
    ) -> Result<Self, TileError> {
        let rank = map.rank();
        if coordinates.len() != rank {
            return Err(TileError::Coordinates { count: coordinates.len(), rank });
        }
        let mut start = [0; MAX_RANK];
        for (dimension, &coordinate) in coordinates.iter().enumerate() {
            if direction == Direction::Store && coordinate < 0 {
                return Err(TileError::NegativeStore { dimension, coordinate });
            }
            start[dimension] = coordinate.into();
        }
        let bytes = map.element().bytes();
        let first = start[0] * i64::from(bytes);
        if first % 16 != 0 {
            return Err(TileError::StartUnaligned { bytes: first });
        }
        let row_bytes = row_elements * bytes;
        let swizzle = map.swizzle();
        if swizzle != Swizzle::None && row_bytes < swizzle.span() {
            return Err(TileError::ShortRows { bytes: row_bytes, swizzle });
        }
        let box_bytes = u64::from(row_bytes) * rows;
        if box_bytes > SHARED_BYTES {
            return Err(TileError::BoxTooLarge { bytes: box_bytes });
        }
        let rows = rows as u32;
        Ok(Self { map, direction, start, offsets: [0; MAX_RANK], row_bytes, rows })
    }

    /// Bytes of the whole box, as it lies in shared memory. So many are reported to the mbarrier
    /// of a load, those that were filled included.
    pub fn box_bytes(&self) -> u32 {
        self.row_bytes * self.rows
    }

    /// Bytes of the box that lie inside the tensor.
    pub fn inside_bytes(&self) -> u64 {
        self.rows().map(|row| u64::from(row.inside.end - row.inside.start - row.spill)).sum()
    }

    /// All rows, in the order in which they lie in shared memory.
    pub fn rows(&self) -> Rows<'_> {
        Rows { tile: self, index: 0, at: self.start }
    }

    /// The filter positions of a dimension in im2col mode.
    fn positions(&self, dimension: usize) -> Range<i64> {
        match self.map.access() {
            Access::Im2col { lower, upper, .. } => {
                let i = dimension - 1;
                lower[i].into()..self.map.dims()[dimension] as i64 + i64::from(upper[i])
            }
            Access::Tiled { .. } => 0..0,
        }
    }

    /// The place after `at`, as far as the outer dimensions go.
    fn step(&self, at: &mut [i64; MAX_RANK]) {
        let rank = self.map.rank();
        let strides = self.map.element_strides();
        match self.map.access() {
            Access::Tiled { box_dims } => {
                for dimension in 1..rank {
                    at[dimension] += i64::from(strides[dimension]);
                    if at[dimension] < self.start[dimension] + i64::from(box_dims[dimension]) {
                        return;
                    }
                    at[dimension] = self.start[dimension];
                }
            }
            Access::Im2col { lower, .. } => {
                for dimension in 1..rank - 1 {
                    at[dimension] += i64::from(strides[dimension]);
                    if at[dimension] < self.positions(dimension).end {
                        return;
                    }
                    at[dimension] = lower[dimension - 1].into();
                }
                at[rank - 1] += 1;
            }
        }
    }

    /// The row at a place.
    fn row(&self, index: u32, at: &[i64; MAX_RANK]) -> Row {
        let bytes = self.row_bytes;
        let shared = index * bytes;
        let outside = Row { shared, bytes, inside: 0..0, global: 0, spill: 0 };
        let mut global = self.map.base();
        let sizes = self.map.dims().iter().zip(self.map.strides());
        let places = at.iter().zip(&self.offsets);
        // Beyond the rank the size is 1 and the place is 0.
        for ((&size, &stride), (place, offset)) in sizes.zip(places).skip(1) {
            let coordinate = place + offset;
            if !(0..size as i64).contains(&coordinate) {
                return outside;
            }
            // A map's addresses fit 64 bits, so no product or sum overflows.
            global += coordinate as u64 * stride;
        }
        let element = i64::from(self.map.element().bytes());
        let first = at[0] * element;
        let end = self.map.dims()[0] as i64 * element;
        let from = (-first).clamp(0, bytes.into()) as u32;
        let to = (end - first).clamp(0, bytes.into()) as u32;
        if from >= to {
            return outside;
        }
        let spill = match self.direction {
            Direction::Load => 0,
            Direction::Store => to.next_multiple_of(16) - to,
        };
        global = global.wrapping_add_signed(first + i64::from(from));
        Row { shared, bytes, inside: from..to + spill, global, spill }
    }
}

/// The rows of a tile.
pub struct Rows<'a> {
    tile: &'a Tile<'a>,
    index: u32,
    at: [i64; MAX_RANK],
}

impl Iterator for Rows<'_> {
    type Item = Row;

    fn next(&mut self) -> Option<Row> {
        if self.index == self.tile.rows {
            return None;
        }
        let row = self.tile.row(self.index, &self.at);
        self.index += 1;
        self.tile.step(&mut self.at);
        Some(row)
    }
}

/// Whether a tile may lie at this address of shared memory.
pub fn check_shared_address(address: u32) -> Result<(), TileError> {
    if address.is_multiple_of(SHARED_ALIGNMENT) {
        Ok(())
    } else {
        Err(TileError::SharedUnaligned { address })
    }
}

/// Why a copy cannot be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TileError {
    /// The instruction wants the other kind of map.
    Mode {
        im2col: bool,
    },
    Coordinates {
        count: usize,
        rank: usize,
    },
    Offsets {
        count: usize,
        expected: usize,
    },
    OffsetTooLarge {
        dimension: usize,
        offset: u16,
        limit: u32,
    },
    /// The box starts in the middle of 16 bytes of global memory.
    StartUnaligned {
        bytes: i64,
    },
    NegativeStore {
        dimension: usize,
        coordinate: i32,
    },
    /// The filter position to start at is none of the box.
    OutsideBox {
        dimension: usize,
        position: i64,
        first: i64,
        last: i64,
    },
    /// A store with a box of filter positions that reaches out of the tensor.
    StoreBox {
        dimension: usize,
    },
    ShortRows {
        bytes: u32,
        swizzle: Swizzle,
    },
    SharedUnaligned {
        address: u32,
    },
    BoxTooLarge {
        bytes: u64,
    },
}

impl std::error::Error for TileError {}

impl fmt::Display for TileError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "bulk tensor copy: ")?;
        match self {
            Self::Mode { im2col: true } => {
                write!(f, "a tiled copy with a tensor map for im2col")
            }
            Self::Mode { im2col: false } => {
                write!(f, "an im2col copy with a tensor map for tiles")
            }
            Self::Coordinates { count, rank } => {
                write!(f, "{count} coordinates for a tensor of rank {rank}")
            }
            Self::Offsets { count, expected } => {
                write!(f, "{count} im2col offsets where there must be {expected}")
            }
            Self::OffsetTooLarge { dimension, offset, limit } => {
                write!(
                    f,
                    "im2col offset {offset} in dimension {dimension}; it must be below {limit}"
                )
            }
            Self::StartUnaligned { bytes } => write!(
                f,
                "the box starts at byte {bytes} of the innermost dimension, which is no multiple \
                 of 16"
            ),
            Self::NegativeStore { dimension, coordinate } => write!(
                f,
                "a store at coordinate {coordinate} of dimension {dimension}; it must not be \
                 negative"
            ),
            Self::OutsideBox { dimension, position, first, last } => write!(
                f,
                "filter position {position} in dimension {dimension} lies outside the box from \
                 {first} to {last}"
            ),
            Self::StoreBox { dimension } => {
                write!(f, "a store whose box leaves the tensor in dimension {dimension}")
            }
            Self::ShortRows { bytes, swizzle } => write!(
                f,
                "rows of {bytes} bytes under a swizzle of {} bytes are not supported: the layout \
                 is not documented",
                swizzle.span()
            ),
            Self::SharedUnaligned { address } => {
                write!(f, "the shared address {address:#x} is no multiple of 128")
            }
            Self::BoxTooLarge { bytes } => {
                write!(f, "a box of {bytes} bytes, which no shared memory can hold")
            }
        }
    }
}
