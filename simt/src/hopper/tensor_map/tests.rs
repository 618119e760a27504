use super::*;

const STRIDES: [u64; 2] = [1024, 65536];

fn tensor() -> Tensor<'static> {
    Tensor {
        element: Element::Bf16,
        base: 0x7f00_0000_0100,
        dims: &[512, 64, 3],
        strides: &STRIDES,
        element_strides: &[1, 1, 1],
        swizzle: Swizzle::B128,
        promotion: Promotion::B128,
        fill: Fill::Zeros,
    }
}

const BOX: [u32; 3] = [64, 128, 1];

fn refused(tensor: &Tensor, box_dims: &[u32]) -> MapError {
    TensorMap::tiled(tensor, box_dims).expect_err("a rule is broken")
}

#[test]
fn a_map_says_what_it_was_given() {
    let map = TensorMap::tiled(&tensor(), &BOX).unwrap();
    assert_eq!((map.element(), map.rank(), map.base()), (Element::Bf16, 3, 0x7f00_0000_0100));
    assert_eq!(map.dims(), &[512, 64, 3, 1, 1]);
    assert_eq!(map.strides(), &[2, 1024, 65536, 0, 0]);
    assert_eq!(map.access(), Access::Tiled { box_dims: [64, 128, 1, 1, 1] });
    assert_eq!((map.swizzle(), map.promotion), (Swizzle::B128, Promotion::B128));
    assert_eq!(map.fill(), Fill::Zeros);
}

#[test]
fn every_rule_of_a_tiled_map_has_its_error() {
    let ok = tensor();
    let dims = |dims| Tensor { dims, ..ok };
    assert_eq!(
        refused(&Tensor { dims: &[], strides: &[], element_strides: &[], ..ok }, &[]),
        MapError::Rank { rank: 0, least: 1 }
    );
    let six = Tensor { dims: &[8; 6], strides: &[16; 5], element_strides: &[1; 6], ..ok };
    assert_eq!(refused(&six, &[8; 6]), MapError::Rank { rank: 6, least: 1 });
    let count = |what, count, expected| MapError::Count { what, count, expected };
    assert_eq!(refused(&Tensor { strides: &[16], ..ok }, &BOX), count("strides", 1, 2));
    assert_eq!(
        refused(&Tensor { element_strides: &[1], ..ok }, &BOX),
        count("element strides", 1, 3)
    );
    assert_eq!(refused(&ok, &BOX[..2]), count("box sizes", 2, 3));
    assert_eq!(refused(&Tensor { base: 264, ..ok }, &BOX), MapError::BaseUnaligned(264));
    assert_eq!(refused(&dims(&[512, 0, 3]), &BOX), MapError::TensorSize { dimension: 1, size: 0 });
    assert_eq!(
        refused(&dims(&[512, 64, (1 << 32) + 1]), &BOX),
        MapError::TensorSize { dimension: 2, size: (1 << 32) + 1 }
    );
    assert_eq!(
        refused(&Tensor { strides: &[1022, 65536], ..ok }, &BOX),
        MapError::StrideUnaligned { dimension: 1, stride: 1022 }
    );
    assert_eq!(
        refused(&Tensor { strides: &[1024, 1 << 40], ..ok }, &BOX),
        MapError::StrideTooLong { dimension: 2, stride: 1 << 40 }
    );
    for stride in [0, 9] {
        assert_eq!(
            refused(&Tensor { element_strides: &[1, stride, 1], ..ok }, &BOX),
            MapError::ElementStride { dimension: 1, stride }
        );
    }
    for size in [0, 257] {
        assert_eq!(refused(&ok, &[64, size, 1]), MapError::BoxSize { dimension: 1, size });
    }
    assert_eq!(refused(&ok, &[60, 1, 1]), MapError::InnerBytes { bytes: 120 });
    assert_eq!(
        refused(&ok, &[72, 1, 1]),
        MapError::InnerTooLong { bytes: 144, swizzle: Swizzle::B128 }
    );
    assert_eq!(
        refused(&Tensor { swizzle: Swizzle::B32, ..ok }, &[24, 1, 1]),
        MapError::InnerTooLong { bytes: 48, swizzle: Swizzle::B32 }
    );
    assert_eq!(
        refused(&Tensor { element: Element::U16, fill: Fill::Nan, ..ok }, &BOX),
        MapError::NanFill(Element::U16)
    );
    assert_eq!(refused(&Tensor { base: u64::MAX - 15, ..ok }, &BOX), MapError::AddressRange);
}

#[test]
fn the_limits_themselves_are_allowed() {
    let wide = Tensor {
        element: Element::U8,
        base: 0,
        dims: &[1 << 32, 1 << 32, 2],
        strides: &[16, (1 << 40) - 16],
        element_strides: &[8, 8, 8],
        swizzle: Swizzle::None,
        ..tensor()
    };
    let map = TensorMap::tiled(&wide, &[256, 256, 256]).unwrap();
    // Dimension 0 has no element stride.
    assert_eq!(map.element_strides(), &[1, 8, 8, 1, 1]);
    // One element that ends where the address space ends.
    let last = Tensor { dims: &[8], strides: &[], element_strides: &[1], ..tensor() };
    assert!(TensorMap::tiled(&Tensor { base: u64::MAX - 15, ..last }, &[8]).is_ok());
    let f32 = Tensor { element: Element::F32, fill: Fill::Nan, ..tensor() };
    assert!(TensorMap::tiled(&f32, &[32, 1, 1]).is_ok());
}

fn image() -> Tensor<'static> {
    Tensor {
        dims: &[64, 9, 14, 64],
        strides: &[128, 1152, 16128],
        element_strides: &[1; 4],
        ..tensor()
    }
}

#[test]
fn every_rule_of_an_im2col_map_has_its_error() {
    let made = |lower: &[i32], upper: &[i32], channels, pixels| {
        TensorMap::im2col(&image(), lower, upper, channels, pixels)
    };
    assert!(made(&[-1, -1], &[-1, -1], 64, 64).is_ok());
    assert!(made(&[-128, -128], &[127, 127], 8, 1024).is_ok());
    assert!(made(&[8, 13], &[0, 0], 8, 1).is_ok());
    assert_eq!(
        made(&[-1], &[-1, -1], 8, 8),
        Err(MapError::Count { what: "lower corners", count: 1, expected: 2 })
    );
    assert_eq!(
        made(&[-1, -1], &[-1, -1, 0], 8, 8),
        Err(MapError::Count { what: "upper corners", count: 3, expected: 2 })
    );
    assert_eq!(
        made(&[-1, -129], &[-1, -1], 8, 8),
        Err(MapError::Corner { dimension: 2, corner: -129, limit: 128 })
    );
    assert_eq!(
        made(&[-1, -1], &[128, -1], 8, 8),
        Err(MapError::Corner { dimension: 1, corner: 128, limit: 128 })
    );
    // W: 9 - 1 - 5 = 3 is left of 4.
    assert_eq!(made(&[4, 0], &[-5, 0], 8, 8), Err(MapError::EmptyBox { dimension: 1 }));
    assert_eq!(made(&[0, 0], &[0, 0], 0, 8), Err(MapError::Channels(0)));
    assert_eq!(made(&[0, 0], &[0, 0], 257, 8), Err(MapError::Channels(257)));
    assert_eq!(made(&[0, 0], &[0, 0], 8, 0), Err(MapError::Pixels(0)));
    assert_eq!(made(&[0, 0], &[0, 0], 8, 1025), Err(MapError::Pixels(1025)));
    assert_eq!(made(&[0, 0], &[0, 0], 12, 8), Err(MapError::InnerBytes { bytes: 24 }));
    assert_eq!(
        made(&[0, 0], &[0, 0], 128, 8),
        Err(MapError::InnerTooLong { bytes: 256, swizzle: Swizzle::B128 })
    );
    let flat = Tensor { dims: &[64, 9], strides: &[128], element_strides: &[1; 2], ..tensor() };
    assert_eq!(TensorMap::im2col(&flat, &[], &[], 8, 8), Err(MapError::Rank { rank: 2, least: 3 }));
    let line = Tensor { dims: &[64, 9, 2], ..tensor() };
    assert!(TensorMap::im2col(&line, &[-32768], &[32767], 8, 8).is_ok());
    let volume = Tensor {
        dims: &[64, 9, 9, 9, 2],
        strides: &[128, 1152, 16128, 1 << 20],
        element_strides: &[1; 5],
        ..tensor()
    };
    assert!(TensorMap::im2col(&volume, &[-16; 3], &[15; 3], 8, 8).is_ok());
    assert_eq!(
        TensorMap::im2col(&volume, &[-1, -1, -17], &[0; 3], 8, 8),
        Err(MapError::Corner { dimension: 3, corner: -17, limit: 16 })
    );
}

#[test]
fn numbers_of_the_driver() {
    let bytes: Vec<u32> = (0..10).map(|n| Element::from_driver(n).unwrap().bytes()).collect();
    // The sizes in the list of CUtensorMapDataType.
    assert_eq!(bytes, [1, 2, 4, 4, 8, 8, 2, 4, 8, 2]);
    for n in 10..=15 {
        assert!(matches!(Element::from_driver(n), Err(MapError::Unsupported(_))));
    }
    assert!(matches!(Element::from_driver(16), Err(MapError::UnknownNumber { .. })));
    assert_eq!(swizzle_from_driver(3), Ok(Swizzle::B128));
    assert!(matches!(swizzle_from_driver(4), Err(MapError::Unsupported(_))));
    assert!(matches!(swizzle_from_driver(7), Err(MapError::UnknownNumber { .. })));
    assert_eq!(Promotion::from_driver(3), Ok(Promotion::B256));
    assert_eq!(Fill::from_driver(1), Ok(Fill::Nan));
    assert!(Promotion::from_driver(4).is_err());
    assert!(Fill::from_driver(2).is_err());
}

fn some_maps() -> Vec<TensorMap> {
    let volume = Tensor {
        element: Element::F32,
        dims: &[1 << 32, 9, 9, 9, 2],
        strides: &[(1 << 40) - 16, 0, 16, 32],
        element_strides: &[1, 2, 3, 4, 5],
        fill: Fill::Nan,
        swizzle: Swizzle::B32,
        ..tensor()
    };
    vec![
        TensorMap::tiled(&tensor(), &BOX).unwrap(),
        TensorMap::tiled(&volume, &[8, 256, 1, 2, 3]).unwrap(),
        TensorMap::im2col(&image(), &[-1, -2], &[-3, 4], 64, 1024).unwrap(),
        TensorMap::im2col(&volume, &[-16, 0, 2], &[15, 1, -3], 8, 7).unwrap(),
    ]
}

#[test]
fn bytes_give_the_map_back() {
    for map in some_maps() {
        assert_eq!(TensorMap::from_bytes(&map.to_bytes()), Ok(map));
    }
}

#[test]
fn a_changed_bit_is_noticed() {
    for map in some_maps() {
        let good = map.to_bytes();
        for bit in 0..1024 {
            let mut bytes = good;
            bytes[bit / 8] ^= 1 << (bit % 8);
            let expected = if bit < 64 { MapError::NotAMap } else { MapError::Damaged };
            assert_eq!(TensorMap::from_bytes(&bytes), Err(expected), "bit {bit}");
        }
    }
    assert_eq!(TensorMap::from_bytes(&[0; 128]), Err(MapError::NotAMap));
    assert_eq!(TensorMap::from_bytes(&[0xff; 128]), Err(MapError::NotAMap));
}

/// FNV-1a 64, from its definition, to forge a map that only its rules betray.
fn forge(bytes: &mut [u8; 128]) {
    let mut hash: u64 = 14_695_981_039_346_656_037;
    for byte in &bytes[..120] {
        hash ^= u64::from(*byte);
        hash = hash.wrapping_mul(1_099_511_628_211);
    }
    bytes[120..].copy_from_slice(&hash.to_le_bytes());
}

#[test]
fn a_forged_map_meets_the_rules_and_never_a_panic() {
    let mut random = crate::hopper::random::Random::new(3);
    for map in some_maps() {
        for _ in 0..4000 {
            let mut bytes = map.to_bytes();
            for _ in 0..random.within(1, 3) {
                bytes[random.within(8, 119) as usize] = random.bits() as u8;
            }
            forge(&mut bytes);
            if let Ok(map) = TensorMap::from_bytes(&bytes) {
                assert_eq!(map.to_bytes(), bytes);
            }
        }
    }
    let mut bytes = some_maps()[0].to_bytes();
    bytes[16] = 1;
    forge(&mut bytes);
    assert_eq!(TensorMap::from_bytes(&bytes), Err(MapError::BaseUnaligned(0x7f00_0000_0101)));
    let mut bytes = some_maps()[0].to_bytes();
    bytes[119] = 1;
    forge(&mut bytes);
    assert_eq!(TensorMap::from_bytes(&bytes), Err(MapError::Damaged));
}

#[test]
fn errors_name_the_rule() {
    let message = refused(&Tensor { strides: &[1022, 65536], ..tensor() }, &BOX).to_string();
    assert_eq!(message, "tensor map: the stride of dimension 1, 1022 bytes, is no multiple of 16");
}
