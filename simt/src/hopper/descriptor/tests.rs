use super::*;

fn descriptor(swizzle: Swizzle, start: u32, leading: u32, stride: u32) -> Descriptor {
    Descriptor { start, leading, stride, base_offset: 0, swizzle }
}

/// A layout as CuTe writes it: per level a size and a stride in elements.
type Levels = &'static [(u32, u32)];

/// The offset of a coordinate, and the xor of `Swizzle<bits, 4, 3>` on bytes.
fn cute(mn: (u32, Levels), k: (u32, Levels), element_bytes: u32, bits: u32) -> u32 {
    let mut offset = 0;
    for (mut index, levels) in [mn, k] {
        for (size, stride) in levels {
            offset += index % size * stride;
            index /= size;
        }
        assert_eq!(index, 0, "a coordinate inside the layout");
    }
    let byte = offset * element_bytes;
    let mask = ((1 << bits) - 1) << 4;
    byte ^ (byte >> 3 & mask)
}

/// An example of section 9.7.15.5.1.2.1.3: the "exact layout", LBO and SBO as the manual encodes
/// them.
struct Example {
    major: Major,
    swizzle: Swizzle,
    bits: u32,
    element_bytes: u32,
    mn: (u32, Levels),
    k: (u32, Levels),
    leading_encoded: u64,
    stride_encoded: u64,
}

const EXAMPLES: [Example; 5] = [
    // Swizzle<0,4,3> o ((8,2),(4,4)):((4,32),(1,64))
    Example {
        major: Major::K,
        swizzle: Swizzle::None,
        bits: 0,
        element_bytes: 4,
        mn: (16, &[(8, 4), (2, 32)]),
        k: (8, &[(4, 1), (4, 64)]),
        leading_encoded: 16,
        stride_encoded: 8,
    },
    // Swizzle<1,4,3> o ((8,2),(4,4)):((8,64),(1,4)): only the 8 columns that one wgmma takes; the
    // other 8 would fall on the next rows in this layout.
    Example {
        major: Major::K,
        swizzle: Swizzle::B32,
        bits: 1,
        element_bytes: 4,
        mn: (16, &[(8, 8), (2, 64)]),
        k: (8, &[(4, 1), (4, 4)]),
        leading_encoded: 1,
        stride_encoded: 16,
    },
    // Swizzle<0,4,3> o ((8,1,2),(8,2)):((1,8,64),(8,128))
    Example {
        major: Major::Mn,
        swizzle: Swizzle::None,
        bits: 0,
        element_bytes: 2,
        mn: (16, &[(8, 1), (1, 8), (2, 64)]),
        k: (16, &[(8, 8), (2, 128)]),
        leading_encoded: 16,
        stride_encoded: 8,
    },
    // Swizzle<1,4,3> o ((8,2,2),(8,2)):((1,8,128),(16,256))
    Example {
        major: Major::Mn,
        swizzle: Swizzle::B32,
        bits: 1,
        element_bytes: 2,
        mn: (32, &[(8, 1), (2, 8), (2, 128)]),
        k: (16, &[(8, 16), (2, 256)]),
        leading_encoded: 16,
        stride_encoded: 32,
    },
    // Swizzle<2,4,3> o ((8,4,2),(8,2)):((1,8,256),(32,512))
    Example {
        major: Major::Mn,
        swizzle: Swizzle::B64,
        bits: 2,
        element_bytes: 2,
        mn: (64, &[(8, 1), (4, 8), (2, 256)]),
        k: (16, &[(8, 32), (2, 512)]),
        leading_encoded: 32,
        stride_encoded: 64,
    },
];

#[test]
fn the_worked_examples_of_the_manual() {
    for example in &EXAMPLES {
        let start = 8192u64;
        let mode = match example.swizzle {
            Swizzle::None => 0,
            Swizzle::B128 => 1,
            Swizzle::B64 => 2,
            Swizzle::B32 => 3u64,
        };
        let bits =
            start >> 4 | example.leading_encoded << 16 | example.stride_encoded << 32 | mode << 62;
        let decoded = Descriptor::decode(bits).unwrap();
        assert_eq!(decoded.swizzle, example.swizzle);
        decoded.check(example.major, example.mn.0, example.element_bytes).unwrap();
        for mn in 0..example.mn.0 {
            for k in 0..example.k.0 {
                let expected =
                    cute((mn, example.mn.1), (k, example.k.1), example.element_bytes, example.bits);
                assert_eq!(
                    decoded.element_address(example.major, mn, k, example.element_bytes),
                    start as u32 + expected,
                    "{:?} {:?} ({mn}, {k})",
                    example.major,
                    example.swizzle
                );
            }
        }
    }
}

/// Places core matrices one by one: chunk by chunk of 16 bytes, swizzled by the pictures of section
/// 5.5.7, into a map from address to the element whose first byte lies there.
fn placed(
    swizzle: Swizzle,
    major: Major,
    mn_count: u32,
    element_bytes: u32,
    start: u32,
    (next_block, next_group): (u32, u32),
) -> std::collections::HashMap<(u32, u32), u32> {
    let per_chunk = 16 / element_bytes;
    let k_count = 32 / element_bytes;
    let chunks_in_row = match swizzle {
        Swizzle::None => 1,
        Swizzle::B32 => 2,
        Swizzle::B64 => 4,
        Swizzle::B128 => 8,
    };
    // Lines of 128 bytes after which the pattern moves on by one.
    let (along, across) = match major {
        Major::K => (k_count, mn_count),
        Major::Mn => (mn_count, k_count),
    };
    let mut places = std::collections::HashMap::new();
    for group in 0..across.div_ceil(8) {
        for chunk in 0..along.div_ceil(per_chunk) {
            for row in 0..8 {
                let block = chunk / chunks_in_row;
                let mut place = start + group * next_group + block * next_block;
                place += row * chunks_in_row * 16 + chunk % chunks_in_row * 16;
                let line = place / 128;
                let column = place / 16 % 8;
                let column = match swizzle {
                    Swizzle::None => column,
                    Swizzle::B32 => column ^ (line % 2),
                    Swizzle::B64 => column ^ (line % 4),
                    Swizzle::B128 => column ^ (line % 8),
                };
                for i in 0..per_chunk {
                    let (a, b) = (chunk * per_chunk + i, group * 8 + row);
                    let element = if major == Major::K { (b, a) } else { (a, b) };
                    places.insert(element, line * 128 + column * 16 + i * element_bytes);
                }
            }
        }
    }
    places
}

#[test]
fn elements_lie_where_core_matrices_were_placed() {
    for swizzle in Swizzle::ALL {
        for major in [Major::K, Major::Mn] {
            for element_bytes in [1, 2, 4] {
                for mn_count in [8, 24, 64, 192, 256] {
                    for (leading, stride) in [(4096, 1024), (1024, 8192), (2048, 512)] {
                        let d = descriptor(swizzle, 3072, leading, stride);
                        // LBO leads to the next block, save without a swizzle when MN-major.
                        let steps = if swizzle == Swizzle::None && major == Major::Mn {
                            (stride, leading)
                        } else {
                            (leading, stride)
                        };
                        let places = placed(swizzle, major, mn_count, element_bytes, 3072, steps);
                        for mn in 0..mn_count {
                            for k in 0..32 / element_bytes {
                                assert_eq!(
                                    d.element_address(major, mn, k, element_bytes),
                                    places[&(mn, k)],
                                    "{swizzle:?} {major:?} {element_bytes} ({mn}, {k})"
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn the_next_k_inside_the_atom_is_32_bytes_further() {
    // A tile of 64 rows x 64 bf16, K-major with the 128-byte swizzle: element (row, column) was put
    // at row * 128 + column * 2 and swizzled there.
    for step in 0..4 {
        let d = descriptor(Swizzle::B128, 4096 + 32 * step, 16, 1024);
        d.check(Major::K, 64, 2).unwrap();
        for row in 0..64 {
            for k in 0..16 {
                let column = 16 * step + k;
                let chunk = (column / 8) ^ (row % 8);
                let expected = 4096 + row * 128 + chunk * 16 + column % 8 * 2;
                assert_eq!(d.element_address(Major::K, row, k, 2), expected);
            }
        }
    }
}

#[test]
fn fields_come_back() {
    for swizzle in Swizzle::ALL {
        let d = Descriptor { base_offset: 5, ..descriptor(swizzle, 0x3fff0, 16, 0x20000) };
        let bits = d.encode().unwrap();
        assert_eq!(Descriptor::decode(bits), Ok(d));
    }
    // Typed by hand: 128B, start 0x400, LBO 16, SBO 1024.
    let bits = 0x4000_0040_0001_0040;
    let d = descriptor(Swizzle::B128, 0x400, 16, 1024);
    assert_eq!(Descriptor::decode(bits), Ok(d));
    assert_eq!(d.encode(), Ok(bits));
}

#[test]
fn bits_of_no_field_are_refused() {
    let fields = (0..14).chain(16..30).chain(32..46).chain(49..52).chain(62..64);
    let covered: Vec<u32> = fields.collect();
    for bit in 0..64 {
        let decoded = Descriptor::decode(1 << bit);
        if covered.contains(&bit) {
            assert!(decoded.is_ok(), "bit {bit}");
        } else {
            assert_eq!(decoded, Err(DescriptorError::ReservedBits(1 << bit)));
        }
    }
    for bad in [8, 1 << 18] {
        let d = descriptor(Swizzle::None, bad, 0, 0);
        assert_eq!(d.encode(), Err(DescriptorError::NotEncodable(bad)));
    }
    let d = Descriptor { base_offset: 8, ..descriptor(Swizzle::None, 0, 0, 0) };
    assert_eq!(d.encode(), Err(DescriptorError::NotEncodable(8)));
}

#[test]
fn rules_of_an_operand() {
    use Major::{K, Mn};
    let good = descriptor(Swizzle::B128, 4096, 8192, 1024);
    assert_eq!(good.check(K, 64, 2), Ok(()));
    assert_eq!(good.check(Mn, 128, 2), Ok(()));
    let offset = Descriptor { base_offset: 1, ..good };
    assert_eq!(offset.check(K, 64, 2), Err(DescriptorError::BaseOffset(1)));

    // A stage aligned to 128 bytes only.
    for (swizzle, start) in [(Swizzle::B128, 512), (Swizzle::B64, 384), (Swizzle::B32, 128)] {
        let d = descriptor(swizzle, start, 16, 1024);
        assert_eq!(d.check(K, 64, 2), Err(DescriptorError::PatternStart { start, swizzle }));
    }
    // Without a swizzle any multiple of 16 will do.
    assert_eq!(descriptor(Swizzle::None, 16, 128, 256).check(K, 64, 2), Ok(()));

    // The fifth step of k in a row of four.
    let beyond = descriptor(Swizzle::B128, 4096 + 112, 16, 1024);
    let error = DescriptorError::LeavesRow { start: 4208, swizzle: Swizzle::B128, bytes: 32 };
    assert_eq!(beyond.check(K, 64, 2), Err(error));
    // 8 columns in the middle of a row are fine, 64 are not.
    let inside = descriptor(Swizzle::B128, 4096 + 64, 8192, 1024);
    assert_eq!(inside.check(Mn, 8, 2), Ok(()));
    assert!(matches!(inside.check(Mn, 64, 2), Err(DescriptorError::LeavesRow { .. })));

    let zero = |leading, stride| descriptor(Swizzle::B128, 4096, leading, stride);
    assert_eq!(zero(0, 1024).check(K, 64, 2), Ok(()));
    assert_eq!(zero(0, 1024).check(Mn, 64, 2), Ok(()));
    assert_eq!(zero(0, 1024).check(Mn, 128, 2), Err(DescriptorError::ZeroOffset));
    assert_eq!(zero(16, 0).check(K, 64, 2), Err(DescriptorError::ZeroOffset));
    assert_eq!(zero(16, 0).check(K, 8, 2), Ok(()));
    // Without a swizzle, MN-major: LBO is the step along k, SBO the one along mn.
    let flat = |leading, stride| descriptor(Swizzle::None, 4096, leading, stride);
    assert_eq!(flat(128, 0).check(Mn, 8, 2), Ok(()));
    assert_eq!(flat(128, 0).check(Mn, 16, 2), Err(DescriptorError::ZeroOffset));
    assert_eq!(flat(0, 128).check(Mn, 16, 2), Err(DescriptorError::ZeroOffset));
    assert_eq!(flat(0, 128).check(K, 16, 2), Err(DescriptorError::ZeroOffset));
}
