//! The swizzles of shared memory (section 5.5.7, "Swizzling modes").
//!
//! A swizzle keeps every 16-byte chunk whole and moves it inside its row of 128 bytes. The chunk's
//! number is xored with bits of the number of the row:
//!
//! ```text
//! mode   pattern repeats after   bits of the address
//! 32B    256 bytes               4      ^= 7
//! 64B    512 bytes               5..4   ^= 8..7
//! 128B   1024 bytes              6..4   ^= 9..7
//! ```
//!
//! Both bulk tensor copies and wgmma take these bits from the absolute shared address, not from
//! the offset in the tile: section 5.5.7 computes a "swizzle base offset" of `(dstMem / 128) % 8`
//! for a tile that starts elsewhere than on a repetition of the pattern, which is the same thing.
//!
//! The 96-byte mode and the 128-byte modes of other atomicity are not Hopper's; they are refused
//! where a tensor map is made.

/// A swizzle mode with an atomicity of 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Swizzle {
    None,
    B32,
    B64,
    B128,
}

impl Swizzle {
    #[cfg(test)]
    pub const ALL: [Self; 4] = [Self::None, Self::B32, Self::B64, Self::B128];

    /// The bytes inside which chunks change places; 16 without a swizzle, where none does.
    pub fn span(self) -> u32 {
        match self {
            Self::None => 16,
            Self::B32 => 32,
            Self::B64 => 64,
            Self::B128 => 128,
        }
    }

    /// The bytes after which the pattern repeats: a tile whose rows begin with an unswizzled row
    /// starts at a multiple of this. 16 without a swizzle.
    pub fn period(self) -> u32 {
        match self {
            Self::None => 16,
            _ => 8 * self.span(),
        }
    }

    /// What the number of a chunk is xored with, at this address.
    pub fn phase(self, address: u32) -> u32 {
        address >> 7 & (self.span() / 16 - 1)
    }

    /// Where the byte lies that would lie at `address` without the swizzle. It is its own inverse.
    pub fn apply(self, address: u32) -> u32 {
        address ^ self.phase(address) << 4
    }

    /// The pieces of a run of bytes that stay together, in the order of the run.
    pub fn pieces(self, start: u32, bytes: u32) -> impl Iterator<Item = Piece> {
        let mut offset = 0;
        std::iter::from_fn(move || {
            if offset >= bytes {
                return None;
            }
            let address = start.wrapping_add(offset);
            let end_of_chunk = 16 - address % 16;
            let piece = Piece {
                offset,
                address: self.apply(address),
                bytes: end_of_chunk.min(bytes - offset),
            };
            offset += piece.bytes;
            Some(piece)
        })
    }
}

/// Bytes of a run that lie side by side in shared memory, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Bytes from the start of the run.
    pub offset: u32,
    /// The address in shared memory, swizzled.
    pub address: u32,
    pub bytes: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tables of section 5.5.7: a cell is 16 bytes, a line is 128 bytes of shared memory, the
    /// number in a cell is the column of the source.
    const TABLES: [(Swizzle, &[[u32; 8]]); 4] = [
        (Swizzle::None, &[[0, 1, 2, 3, 4, 5, 6, 7]]),
        (Swizzle::B32, &[[0, 1, 2, 3, 4, 5, 6, 7], [1, 0, 3, 2, 5, 4, 7, 6]]),
        (
            Swizzle::B64,
            &[
                [0, 1, 2, 3, 4, 5, 6, 7],
                [1, 0, 3, 2, 5, 4, 7, 6],
                [2, 3, 0, 1, 6, 7, 4, 5],
                [3, 2, 1, 0, 7, 6, 5, 4],
            ],
        ),
        (
            Swizzle::B128,
            &[
                [0, 1, 2, 3, 4, 5, 6, 7],
                [1, 0, 3, 2, 5, 4, 7, 6],
                [2, 3, 0, 1, 6, 7, 4, 5],
                [3, 2, 1, 0, 7, 6, 5, 4],
                [4, 5, 6, 7, 0, 1, 2, 3],
                [5, 4, 7, 6, 1, 0, 3, 2],
                [6, 7, 4, 5, 2, 3, 0, 1],
                [7, 6, 5, 4, 3, 2, 1, 0],
            ],
        ),
    ];

    #[test]
    fn the_tables_of_the_manual() {
        for (swizzle, table) in TABLES {
            for line in 0..24u32 {
                let cells = table[line as usize % table.len()];
                for (place, source) in cells.into_iter().enumerate() {
                    let source = line * 128 + source * 16 + 5;
                    let place = line * 128 + place as u32 * 16 + 5;
                    assert_eq!(swizzle.apply(source), place, "{swizzle:?}, line {line}");
                }
            }
        }
    }

    #[test]
    fn its_own_inverse_and_a_permutation_of_every_span() {
        for swizzle in Swizzle::ALL {
            let span = swizzle.span();
            for start in (0..4096).step_by(span as usize) {
                let mut seen = vec![false; span as usize];
                for address in start..start + span {
                    let placed = swizzle.apply(address);
                    assert_eq!(swizzle.apply(placed), address);
                    assert_eq!(placed % 16, address % 16);
                    assert!(!std::mem::replace(&mut seen[(placed - start) as usize], true));
                }
            }
        }
    }

    #[test]
    fn the_pattern_repeats_where_the_manual_says() {
        // Section 9.7.15.5.1.2.2: 1024, 512 and 256 bytes.
        for (swizzle, period) in [(Swizzle::B128, 1024), (Swizzle::B64, 512), (Swizzle::B32, 256)] {
            assert_eq!(swizzle.period(), period);
            for address in 0..4096 {
                assert_eq!(swizzle.apply(address + period), swizzle.apply(address) + period);
            }
            let half = period / 2;
            assert!((0..4096).any(|a| swizzle.apply(a + half) != swizzle.apply(a) + half));
        }
    }

    #[test]
    fn pieces_cover_a_run_byte_by_byte() {
        for swizzle in Swizzle::ALL {
            for (start, bytes) in [(1024, 128), (1152, 100), (1031, 300), (16, 1), (0, 0)] {
                let mut next = 0;
                for piece in swizzle.pieces(start, bytes) {
                    assert_eq!(piece.offset, next);
                    assert!(piece.bytes > 0);
                    for i in 0..piece.bytes {
                        assert_eq!(piece.address + i, swizzle.apply(start + next + i));
                    }
                    next += piece.bytes;
                }
                assert_eq!(next, bytes);
            }
        }
    }
}
