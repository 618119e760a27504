use super::*;
use crate::hopper::random::Random;
use crate::hopper::tensor_map::{Element, Fill, Promotion, Tensor};

fn tensor<'a>(
    element: Element,
    dims: &'a [u64],
    strides: &'a [u64],
    element_strides: &'a [u32],
    swizzle: Swizzle,
) -> Tensor<'a> {
    Tensor {
        element,
        base: 1 << 20,
        dims,
        strides,
        element_strides,
        swizzle,
        promotion: Promotion::None,
        fill: Fill::Zeros,
    }
}

/// Per element of the box, in the order of shared memory: its address if it is copied.
fn elements(tile: &Tile) -> Vec<Option<u64>> {
    let bytes = tile.map.element().bytes();
    let mut found = Vec::new();
    for row in tile.rows() {
        assert_eq!(row.shared, found.len() as u32 * bytes);
        for at in (0..row.bytes).step_by(bytes as usize) {
            assert_eq!(row.inside.contains(&at), row.inside.contains(&(at + bytes - 1)));
            let address = || row.global + u64::from(at - row.inside.start);
            found.push(row.inside.contains(&at).then(address));
        }
    }
    assert_eq!(found.len() as u32 * bytes, tile.box_bytes());
    found
}

/// Every element of a box by nested loops, without a thought for rows.
fn naive_tiled(map: &TensorMap, box_dims: &[u32], start: &[i32]) -> Vec<Option<u64>> {
    let rank = map.rank();
    let steps: Vec<i64> =
        (0..5).map(|d| if d < rank { map.element_strides()[d].into() } else { 1 }).collect();
    let counts: Vec<i64> = (0..5)
        .map(|d| if d < rank { (i64::from(box_dims[d]) + steps[d] - 1) / steps[d] } else { 1 })
        .collect();
    let mut found = Vec::new();
    for e in 0..counts[4] {
        for d in 0..counts[3] {
            for c in 0..counts[2] {
                for b in 0..counts[1] {
                    for a in 0..counts[0] {
                        let mut address = Some(map.base());
                        for (dimension, index) in [a, b, c, d, e].into_iter().enumerate().take(rank)
                        {
                            let at = i64::from(start[dimension]) + index * steps[dimension];
                            let inside = at >= 0 && at < map.dims()[dimension] as i64;
                            address = address
                                .filter(|_| inside)
                                .map(|sum| sum + at as u64 * map.strides()[dimension]);
                        }
                        found.push(address);
                    }
                }
            }
        }
    }
    found
}

#[test]
fn random_boxes_as_by_nested_loops() {
    let mut random = Random::new(1);
    let (mut partly, mut strided) = (0, 0);
    for _ in 0..3000 {
        let rank = random.within(1, 5) as usize;
        let element = random.pick(&[Element::U8, Element::Bf16, Element::F32, Element::F64]);
        let per_chunk = i64::from(16 / element.bytes());
        let dims: Vec<u64> =
            (0..rank).map(|d| random.within(1, if d == 0 { 80 } else { 7 }) as u64).collect();
        let strides: Vec<u64> = (1..rank).map(|_| 16 * random.within(0, 4000) as u64).collect();
        let element_strides: Vec<u32> = (0..rank).map(|_| random.within(1, 3) as u32).collect();
        let box_dims: Vec<u32> = (0..rank)
            .map(|d| {
                let size =
                    if d == 0 { per_chunk * random.within(1, 4) } else { random.within(1, 6) };
                size as u32
            })
            .collect();
        let start: Vec<i32> = (0..rank)
            .map(|d| match d {
                0 => (per_chunk * random.within(-3, 6)) as i32,
                _ => random.within(-5, 8) as i32,
            })
            .collect();
        let made = tensor(element, &dims, &strides, &element_strides, Swizzle::None);
        let map = TensorMap::tiled(&made, &box_dims).unwrap();
        let tile = Tile::tiled(&map, Direction::Load, &start).unwrap();
        let expected = naive_tiled(&map, &box_dims, &start);
        assert_eq!(elements(&tile), expected);
        let inside = expected.iter().flatten().count();
        assert_eq!(tile.inside_bytes(), inside as u64 * u64::from(element.bytes()));
        partly += u32::from(inside > 0 && inside < expected.len());
        strided += u32::from(inside > 0 && element_strides[1..].iter().any(|s| *s > 1));

        // A store moves the same elements, and the rest of 16 bytes at the end of a row.
        let store = Tile::tiled(&map, Direction::Store, &start);
        if let Some(dimension) = start.iter().position(|c| *c < 0) {
            let coordinate = start[dimension];
            assert_eq!(store.unwrap_err(), TileError::NegativeStore { dimension, coordinate });
            continue;
        }
        let store = store.unwrap();
        assert_eq!(store.inside_bytes(), tile.inside_bytes());
        for (stored, loaded) in store.rows().zip(tile.rows()) {
            let end = loaded.inside.end;
            let clipped = end % 16;
            assert_eq!(stored.spill, if clipped == 0 { 0 } else { 16 - clipped });
            assert_eq!(stored.inside, loaded.inside.start..end + stored.spill);
            assert_eq!((stored.shared, stored.global), (loaded.shared, loaded.global));
            assert_eq!(loaded.spill, 0);
        }
    }
    assert!(partly > 100 && strided > 100, "{partly} {strided}");
}

#[test]
fn a_box_over_the_corner() {
    // 5 x 3 f32 in rows of 32 bytes; a box of 4 x 2 from (4, 2) and from (-4, -1).
    let made = tensor(Element::F32, &[5, 3], &[32], &[1, 1], Swizzle::None);
    let map = TensorMap::tiled(&made, &[4, 2]).unwrap();
    let base = 1 << 20;
    let outside = |shared| Row { shared, bytes: 16, inside: 0..0, global: 0, spill: 0 };
    let load = Tile::tiled(&map, Direction::Load, &[4, 2]).unwrap();
    let corner = Row { shared: 0, bytes: 16, inside: 0..4, global: base + 80, spill: 0 };
    assert_eq!(load.rows().collect::<Vec<_>>(), [corner.clone(), outside(16)]);
    assert_eq!((load.box_bytes(), load.inside_bytes()), (32, 4));
    let store = Tile::tiled(&map, Direction::Store, &[4, 2]).unwrap();
    let spilled = Row { inside: 0..16, spill: 12, ..corner };
    assert_eq!(store.rows().collect::<Vec<_>>(), [spilled, outside(16)]);
    assert_eq!(store.inside_bytes(), 4);

    let before = Tile::tiled(&map, Direction::Load, &[-4, -1]).unwrap();
    assert_eq!(before.inside_bytes(), 0);
    let map = TensorMap::tiled(&made, &[8, 2]).unwrap();
    let before = Tile::tiled(&map, Direction::Load, &[-4, -1]).unwrap();
    let second = Row { shared: 32, bytes: 32, inside: 16..32, global: base, spill: 0 };
    assert_eq!(before.rows().nth(1), Some(second));
}

#[test]
fn every_second_element_of_a_box() {
    // cuTensorMapEncodeTiled: to load N elements, the box must have N * stride.
    let made = tensor(Element::F32, &[8, 20], &[32], &[1, 3], Swizzle::None);
    let map = TensorMap::tiled(&made, &[8, 7]).unwrap();
    let tile = Tile::tiled(&map, Direction::Load, &[0, 2]).unwrap();
    let rows: Vec<u64> = tile.rows().map(|row| (row.global - (1 << 20)) / 32).collect();
    assert_eq!(rows, [2, 5, 8]);
    assert_eq!(tile.box_bytes(), 3 * 32);
}

/// An NHWC image of bf16 without gaps, `channels` per pixel copied.
struct Image {
    n: i64,
    h: i64,
    w: i64,
    c: i64,
}

impl Image {
    fn map(
        &self,
        corners: [[i32; 2]; 2],
        steps: [u32; 2],
        channels: u32,
        pixels: u32,
    ) -> TensorMap {
        let dims = [self.c, self.w, self.h, self.n].map(|d| d as u64);
        let pixel = self.c as u64 * 2;
        let row = pixel * self.w as u64;
        let strides = [pixel, row, row * self.h as u64];
        let element_strides = [1, steps[0], steps[1], 1];
        let made = tensor(Element::Bf16, &dims, &strides, &element_strides, Swizzle::None);
        TensorMap::im2col(&made, &corners[0], &corners[1], channels, pixels).unwrap()
    }

    /// The number of the pixel that a row was read from; `None` if it lies outside.
    fn pixels(&self, tile: &Tile) -> Vec<Option<i64>> {
        let number = |row: Row| {
            (!row.inside.is_empty()).then(|| (row.global as i64 - (1 << 20)) / (2 * self.c))
        };
        tile.rows().map(number).collect()
    }

    fn number(&self, n: i64, h: i64, w: i64) -> Option<i64> {
        let inside =
            (0..self.n).contains(&n) && (0..self.h).contains(&h) && (0..self.w).contains(&w);
        inside.then_some((n * self.h + h) * self.w + w)
    }
}

#[test]
fn im2col_example_1_of_the_manual() {
    let image = Image { n: 64, h: 14, w: 9, c: 64 };
    let map = image.map([[-1, -1], [-1, -1]], [1, 1], 8, 64);
    let tile = Tile::im2col(&map, Direction::Load, &[0, 4, 7, 7], &[0, 0]).unwrap();
    let pixels = image.pixels(&tile);
    assert_eq!(pixels.len(), 64);
    // Positions are -1..=7 in W and -1..=12 in H. Image 7 has 4 left in row 7 and five rows of 9.
    for (pixel, n, h, w) in [
        (0, 7, 7, 4),
        (3, 7, 7, 7),
        (4, 7, 8, -1),
        (12, 7, 8, 7),
        (48, 7, 12, 7),
        (49, 8, -1, -1),
        (57, 8, -1, 7),
        (58, 8, 0, -1),
        (59, 8, 0, 0),
        (63, 8, 0, 4),
    ] {
        assert_eq!(pixels[pixel], image.number(n, h, w), "pixel {pixel}");
    }
    assert_eq!(tile.box_bytes(), 64 * 16);
    // Outside: W = -1 in five rows of image 7 and one of image 8, and the 9 of H = -1.
    assert_eq!(pixels.iter().filter(|p| p.is_none()).count(), 5 + 9 + 1);
}

#[test]
fn im2col_example_2_of_the_manual() {
    let image = Image { n: 64, h: 14, w: 9, c: 64 };
    let map = image.map([[0, 0], [-2, -2]], [1, 1], 8, 64);
    let tile = Tile::im2col(&map, Direction::Load, &[0, 4, 7, 7], &[2, 2]).unwrap();
    let pixels = image.pixels(&tile);
    // Positions are 0..=6 in W and 0..=11 in H, read two further in both.
    for (pixel, n, h, w) in
        [(0, 7, 9, 6), (2, 7, 9, 8), (3, 7, 10, 2), (30, 7, 13, 8), (31, 8, 2, 2), (63, 8, 6, 6)]
    {
        assert_eq!(pixels[pixel], image.number(n, h, w), "pixel {pixel}");
    }
    assert!(pixels.iter().all(Option::is_some));
}

#[test]
fn im2col_example_3_of_the_manual() {
    let image = Image { n: 64, h: 14, w: 8, c: 64 };
    let map = image.map([[-1, -1], [-1, -1]], [2, 2], 16, 32);
    let tile = Tile::im2col(&map, Direction::Load, &[0, 5, 7, 7], &[1, 1]).unwrap();
    let pixels = image.pixels(&tile);
    assert_eq!(pixels.len(), 32);
    // Positions are -1, 1, 3, 5 in W and -1, 1, .. 11 in H, read one further in both.
    for (pixel, n, h, w) in [
        (0, 7, 8, 6),
        (1, 7, 10, 0),
        (4, 7, 10, 6),
        (5, 7, 12, 0),
        (8, 7, 12, 6),
        (9, 8, 0, 0),
        (29, 8, 10, 0),
        (31, 8, 10, 4),
    ] {
        assert_eq!(pixels[pixel], image.number(n, h, w), "pixel {pixel}");
    }
}

/// What an H100 loaded, by the assertions of Triton's tutorial on im2col: images of 4 x 4 pixels
/// that hold 1, 2, 3 and so on; 0 is a filled pixel.
#[test]
fn im2col_as_seen_on_hardware() {
    let whole = [[0, 0], [0, 0]];
    let padded = [[-1, -1], [-1, -1]];
    type Case<'a> = (i64, [[i32; 2]; 2], [i32; 4], [u16; 2], [i64; 16]);
    let in_order = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
    let cases: [Case; 5] = [
        (1, whole, [0, 0, 0, 0], [0, 0], in_order),
        (1, padded, [0, -1, -1, 0], [0, 0], [0, 0, 0, 0, 0, 1, 2, 3, 0, 5, 6, 7, 0, 9, 10, 11]),
        (1, padded, [0, -1, -1, 0], [1, 1], in_order),
        (2, whole, [0, 3, 1, 0], [0, 0], in_order.map(|v| v + 7)),
        (2, padded, [0, 2, 1, 0], [0, 0], [7, 0, 9, 10, 11, 0, 0, 0, 0, 0, 17, 18, 19, 0, 21, 22]),
    ];
    for (n, corners, start, offsets, expected) in cases {
        let image = Image { n, h: 4, w: 4, c: 32 };
        let map = image.map(corners, [1, 1], 32, 16);
        let tile = Tile::im2col(&map, Direction::Load, &start, &offsets).unwrap();
        let values = image.pixels(&tile).into_iter().map(|p| p.map_or(0, |p| p + 1));
        assert_eq!(values.collect::<Vec<_>>(), expected);
    }
}

#[test]
fn random_im2col_as_by_a_list_of_positions() {
    let mut random = Random::new(2);
    for _ in 0..1500 {
        let rank = random.within(3, 5) as usize;
        let mut dims = vec![8 * random.within(1, 3) as u64];
        dims.extend((1..rank).map(|_| random.within(1, 6) as u64));
        let strides: Vec<u64> = (1..rank).map(|_| 16 * random.within(1, 4000) as u64).collect();
        let steps: Vec<u32> = (0..rank).map(|_| random.within(1, 3) as u32).collect();
        let spatial = rank - 2;
        let lower: Vec<i32> = (0..spatial).map(|_| random.within(-3, 0) as i32).collect();
        let upper: Vec<i32> = (0..spatial)
            .map(|i| random.within(i64::from(lower[i]) + 1 - dims[i + 1] as i64, 2) as i32)
            .collect();
        let (channels, pixels) = (8 * random.within(1, 2) as u32, random.within(1, 90) as u32);
        let made = tensor(Element::Bf16, &dims, &strides, &steps, Swizzle::None);
        let map = TensorMap::im2col(&made, &lower, &upper, channels, pixels).unwrap();

        // All positions of all images, in order, as {W, H, D, N}.
        let mut positions = vec![vec![]];
        for i in 0..spatial {
            let last = dims[i + 1] as i32 - 1 + upper[i];
            let line: Vec<i32> = (lower[i]..=last).step_by(steps[i + 1] as usize).collect();
            let inner = positions;
            positions = vec![];
            for at in line {
                positions.extend(inner.iter().map(|p: &Vec<i32>| [&p[..], &[at]].concat()));
            }
        }
        let per_image = positions;
        let first_image = random.within(-1, dims[rank - 1] as i64) as i32;
        let mut all = Vec::new();
        for n in first_image..first_image + 95 {
            all.extend(per_image.iter().map(|p| [&p[..], &[n]].concat()));
        }
        let begin = random.within(0, per_image.len() as i64 - 1) as usize;
        let channel = 8 * random.within(-1, 2) as i32;
        let offsets: Vec<u16> = (0..spatial).map(|_| random.within(0, 3) as u16).collect();
        let start = [&[channel], &all[begin][..]].concat();
        let tile = Tile::im2col(&map, Direction::Load, &start, &offsets).unwrap();

        let mut expected = Vec::new();
        for position in &all[begin..begin + pixels as usize] {
            for c in channel..channel + channels as i32 {
                let mut address = Some(map.base());
                let place = [&[c], &position[..]].concat();
                for dimension in 0..rank {
                    let mut at = i64::from(place[dimension]);
                    if (1..=spatial).contains(&dimension) {
                        at += i64::from(offsets[dimension - 1]);
                    }
                    let inside = at >= 0 && at < dims[dimension] as i64;
                    address = address
                        .filter(|_| inside)
                        .map(|sum| sum + at as u64 * map.strides()[dimension]);
                }
                expected.push(address);
            }
        }
        assert_eq!(elements(&tile), expected);
    }
}

#[test]
fn what_cannot_be_copied_is_named() {
    use Direction::{Load, Store};
    let flat = tensor(Element::Bf16, &[64, 9], &[128], &[1, 1], Swizzle::B128);
    let map = TensorMap::tiled(&flat, &[64, 8]).unwrap();
    let refused = |direction, at: &[i32]| Tile::tiled(&map, direction, at).unwrap_err();
    assert_eq!(refused(Load, &[0]), TileError::Coordinates { count: 1, rank: 2 });
    assert_eq!(refused(Load, &[4, 0]), TileError::StartUnaligned { bytes: 8 });
    assert_eq!(refused(Load, &[-4, 0]), TileError::StartUnaligned { bytes: -8 });
    assert_eq!(refused(Store, &[0, -1]), TileError::NegativeStore { dimension: 1, coordinate: -1 });
    assert!(Tile::tiled(&map, Load, &[i32::MIN, i32::MAX]).is_ok());
    assert_eq!(
        Tile::im2col(&map, Load, &[0, 0], &[]).unwrap_err(),
        TileError::Mode { im2col: false }
    );
    let short = TensorMap::tiled(&flat, &[32, 8]).unwrap();
    assert_eq!(
        Tile::tiled(&short, Load, &[0, 0]).unwrap_err(),
        TileError::ShortRows { bytes: 64, swizzle: Swizzle::B128 }
    );

    let huge = tensor(Element::F64, &[256; 5], &[16; 4], &[1; 5], Swizzle::None);
    for (box_dims, bytes) in [([256; 5], 1 << 43), ([256, 129, 1, 1, 1], 264_192)] {
        let map = TensorMap::tiled(&huge, &box_dims).unwrap();
        let error = Tile::tiled(&map, Load, &[0; 5]).unwrap_err();
        assert_eq!(error, TileError::BoxTooLarge { bytes });
    }
    let map = TensorMap::tiled(&huge, &[256, 128, 1, 1, 1]).unwrap();
    assert_eq!(Tile::tiled(&map, Load, &[0; 5]).unwrap().box_bytes(), 1 << 18);

    let image = Image { n: 2, h: 14, w: 9, c: 64 };
    let map = image.map([[-1, -1], [-1, -1]], [1, 1], 8, 64);
    let refused = |direction, at: &[i32], offsets: &[u16]| {
        Tile::im2col(&map, direction, at, offsets).unwrap_err()
    };
    assert_eq!(Tile::tiled(&map, Load, &[0; 4]).unwrap_err(), TileError::Mode { im2col: true });
    assert_eq!(refused(Load, &[0; 4], &[0]), TileError::Offsets { count: 1, expected: 2 });
    assert_eq!(refused(Store, &[0; 4], &[0, 0]), TileError::Offsets { count: 2, expected: 0 });
    assert_eq!(
        refused(Load, &[0; 4], &[0, 256]),
        TileError::OffsetTooLarge { dimension: 2, offset: 256, limit: 256 }
    );
    for position in [-2, 8] {
        assert_eq!(
            refused(Load, &[0, position, 0, 0], &[0, 0]),
            TileError::OutsideBox { dimension: 1, position: position.into(), first: -1, last: 7 }
        );
    }
    assert_eq!(refused(Store, &[0; 4], &[]), TileError::StoreBox { dimension: 1 });
    let outer = image.map([[0, 0], [0, 1]], [1, 1], 8, 64);
    assert_eq!(
        Tile::im2col(&outer, Store, &[0; 4], &[]).unwrap_err(),
        TileError::StoreBox { dimension: 2 }
    );
    let inner = image.map([[0, 0], [0, 0]], [1, 1], 8, 64);
    let store = Tile::im2col(&inner, Store, &[0, 8, 13, 1], &[]).unwrap();
    // One pixel is left of the last image.
    assert_eq!(store.inside_bytes(), 16);

    assert_eq!(check_shared_address(1152), Ok(()));
    for address in [1040, 64] {
        assert_eq!(check_shared_address(address), Err(TileError::SharedUnaligned { address }));
    }
    let message = check_shared_address(64).unwrap_err().to_string();
    assert_eq!(message, "bulk tensor copy: the shared address 0x40 is no multiple of 128");
}
