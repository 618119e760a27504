//! What a bulk tensor copy writes, a matrix descriptor finds: the two are written after different
//! sections of the manual and must fit.

use super::descriptor::{Descriptor, Major};
use super::swizzle::Swizzle;
use super::tensor_map::{Element, Fill, Promotion, Tensor, TensorMap};
use super::tile::{Direction, Tile, check_shared_address};

/// Copies boxes of a row-major matrix of 16-bit elements, whose value is their number, into shared
/// memory as an executor would.
struct Copier {
    columns: u64,
    rows: u64,
    swizzle: Swizzle,
    shared: Vec<u8>,
}

impl Copier {
    fn new(columns: u64, rows: u64, swizzle: Swizzle) -> Self {
        Self { columns, rows, swizzle, shared: vec![0xee; 128 * 1024] }
    }

    fn load(&mut self, at: [i32; 2], box_dims: [u32; 2], shared: u32) {
        let tensor = Tensor {
            element: Element::Bf16,
            base: 0,
            dims: &[self.columns, self.rows],
            strides: &[self.columns * 2],
            element_strides: &[1, 1],
            swizzle: self.swizzle,
            promotion: Promotion::None,
            fill: Fill::Zeros,
        };
        let map = TensorMap::tiled(&tensor, &box_dims).unwrap();
        let tile = Tile::tiled(&map, Direction::Load, &at).unwrap();
        check_shared_address(shared).unwrap();
        for row in tile.rows() {
            for piece in self.swizzle.pieces(shared + row.shared, row.bytes) {
                for i in 0..piece.bytes {
                    let offset = piece.offset + i;
                    let byte = if row.inside.contains(&offset) {
                        let address = row.global + u64::from(offset - row.inside.start);
                        let number = (address / 2) as u16;
                        number.to_le_bytes()[address as usize % 2]
                    } else {
                        0
                    };
                    self.shared[(piece.address + i) as usize] = byte;
                }
            }
        }
    }

    fn element(&self, address: u32) -> u16 {
        let at = address as usize;
        u16::from_le_bytes([self.shared[at], self.shared[at + 1]])
    }
}

fn descriptor(swizzle: Swizzle, start: u32, leading: u32, stride: u32) -> Descriptor {
    Descriptor { start, leading, stride, base_offset: 0, swizzle }
}

/// A K-major operand of `mn` rows and the k of a whole row of the swizzle, in one box.
#[test]
fn k_major_rows_under_every_swizzle() {
    for (swizzle, k_tile) in [(Swizzle::B128, 64), (Swizzle::B64, 32), (Swizzle::B32, 16)] {
        for mn in [8, 64, 192] {
            let (k0, row0) = (64, 16);
            let mut copier = Copier::new(160, 256, swizzle);
            copier.load([k0, row0], [k_tile, mn], 2048);
            let eight_rows = 8 * swizzle.span();
            for step in 0..k_tile / 16 {
                let d = descriptor(swizzle, 2048 + 32 * step, 0, eight_rows);
                d.check(Major::K, mn, 2).unwrap();
                for row in 0..mn {
                    for k in 0..16 {
                        let number = (row0 as u32 + row) * 160 + k0 as u32 + 16 * step + k;
                        let address = d.element_address(Major::K, row, k, 2);
                        assert_eq!(u32::from(copier.element(address)), number);
                    }
                }
            }
        }
    }
}

/// An MN-major operand of `mn` columns in boxes of a row of the swizzle by 64 of k, side by side.
#[test]
fn mn_major_boxes_side_by_side_under_every_swizzle() {
    for swizzle in [Swizzle::B128, Swizzle::B64, Swizzle::B32] {
        let width = swizzle.span() / 2;
        let box_bytes = 64 * swizzle.span();
        for boxes in [1, 2, 3, 4] {
            let (mn0, k0) = (8, 32);
            let mut copier = Copier::new(320, 128, swizzle);
            for i in 0..boxes {
                let at = [mn0 + (i * width) as i32, k0];
                copier.load(at, [width, 64], 4096 + i * box_bytes);
            }
            let eight_k = 8 * swizzle.span();
            for step in 0..4 {
                let d = descriptor(swizzle, 4096 + 2 * eight_k * step, box_bytes, eight_k);
                d.check(Major::Mn, boxes * width, 2).unwrap();
                for mn in 0..boxes * width {
                    for k in 0..16 {
                        let number = (k0 as u32 + 16 * step + k) * 320 + mn0 as u32 + mn;
                        let address = d.element_address(Major::Mn, mn, k, 2);
                        assert_eq!(u32::from(copier.element(address)), number);
                    }
                }
            }
        }
    }
}

/// Without a swizzle, boxes are 16 bytes wide: a column of core matrices each.
#[test]
fn core_matrices_without_a_swizzle() {
    let mut copier = Copier::new(128, 128, Swizzle::None);
    // K-major: 64 rows, k 0..16 in two boxes of 8.
    for i in 0..2 {
        copier.load([8 * i, 0], [8, 64], 1024 * i as u32);
    }
    let d = descriptor(Swizzle::None, 0, 1024, 128);
    for (row, k) in (0..64).flat_map(|row| (0..16).map(move |k| (row, k))) {
        let address = d.element_address(Major::K, row, k, 2);
        assert_eq!(u32::from(copier.element(address)), row * 128 + k);
    }
    // MN-major: 64 columns in 8 boxes of 8, k 0..16. Here LBO is the step of k.
    for i in 0..8 {
        copier.load([8 * i, 0], [8, 16], 8192 + 256 * i as u32);
    }
    let d = descriptor(Swizzle::None, 8192, 128, 256);
    for (mn, k) in (0..64).flat_map(|mn| (0..16).map(move |k| (mn, k))) {
        let address = d.element_address(Major::Mn, mn, k, 2);
        assert_eq!(u32::from(copier.element(address)), k * 128 + mn);
    }
}

/// The wrong swizzle, step or offset must not go unnoticed by chance.
#[test]
fn what_does_not_fit_reads_other_elements() {
    let mut copier = Copier::new(128, 128, Swizzle::B128);
    copier.load([0, 0], [64, 64], 8192);
    let wrong = |d: Descriptor, step: u32| {
        let all = (0..64).flat_map(|row| (0..16).map(move |k| (row, k)));
        all.filter(|&(row, k)| {
            let address = d.element_address(Major::K, row, k, 2);
            u32::from(copier.element(address)) != row * 128 + 16 * step + k
        })
        .count()
    };
    assert_eq!(wrong(descriptor(Swizzle::B128, 8192 + 32, 16, 1024), 1), 0);
    // No swizzle, but the same rows: only every eighth row, whose phase is 0, is right.
    assert_eq!(wrong(descriptor(Swizzle::None, 8192, 16, 1024), 0), 64 * 16 - 16 * 8);
    // LBO and SBO exchanged, and the step of MN-major.
    assert!(wrong(descriptor(Swizzle::B128, 8192, 1024, 16), 0) > 0);
    assert!(wrong(descriptor(Swizzle::B128, 8192 + 2048, 16, 1024), 1) > 0);
}
