//! Values of tables: `17`, `-3`, `0xff`, numbers of a float format by their suffix (`1.5f` of f32, `d` of f64, `h`
//! of f16, `b` of bf16; `inf`, `nan`, `max`, `min`, `den` as well), and `high:low` for two halves of a register.
//! As a result `nanf` stands for every NaN of the format, and `~2.5f/3` for what is at most 3 places off.

use half::{bf16, f16};

use crate::expr::number;

/// The bits of a value.
pub fn bits(text: &str) -> u64 {
    if let Some((high, low)) = text.split_once(':') {
        return bits(high) << 16 | bits(low) & 0xffff;
    }
    let (sign, magnitude) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text),
    };
    if let Some(value) = number(magnitude) {
        return (sign * value) as u64;
    }
    let (digits, suffix) = text.split_at(text.len() - 1);
    let value = match digits.trim_start_matches('-') {
        "max" => {
            return extreme(sign, suffix, [0x7f7f_ffff, 0x7fef_ffff_ffff_ffff, 0x7bff, 0x7f7f]);
        }
        "min" => {
            return extreme(sign, suffix, [0x0080_0000, 0x0010_0000_0000_0000, 0x0400, 0x0080]);
        }
        "den" => return extreme(sign, suffix, [1, 1, 1, 1]),
        "nan" => {
            return extreme(sign, suffix, [0x7fc0_0000, 0x7ff8_0000_0000_0000, 0x7e00, 0x7fc0]);
        }
        _ => digits.parse::<f64>().unwrap_or_else(|_| panic!("'{text}' is no value")),
    };
    match suffix {
        "f" => (value as f32).to_bits().into(),
        "d" => value.to_bits(),
        "h" => f16::from_f64(value).to_bits().into(),
        "b" => bf16::from_f64(value).to_bits().into(),
        _ => panic!("'{text}' has no suffix f, d, h or b"),
    }
}

fn extreme(sign: i128, suffix: &str, of: [u64; 4]) -> u64 {
    let (i, top) = match suffix {
        "f" => (0, 31),
        "d" => (1, 63),
        "h" => (2, 15),
        "b" => (3, 15),
        _ => panic!("'{suffix}' is no suffix of a number"),
    };
    of[i] | if sign < 0 { 1 << top } else { 0 }
}

/// Whether bits of this width are what the text says.
pub fn matches(text: &str, got: u64, width: u32) -> bool {
    let got = if width == 64 { got } else { got & ((1 << width) - 1) };
    if let Some((high, low)) = text.split_once(':') {
        return matches(high, got >> 16, 16) && matches(low, got, 16);
    }
    match text {
        "nanf" => return f32::from_bits(got as u32).is_nan(),
        "nand" => return f64::from_bits(got).is_nan(),
        "nanh" => return f16::from_bits(got as u16).is_nan(),
        "nanb" => return bf16::from_bits(got as u16).is_nan(),
        _ => {}
    }
    if let Some(near) = text.strip_prefix('~') {
        let (value, places) = near.split_once('/').expect("~value/places");
        // Neighbours of one sign have neighbouring bits.
        let distance = i128::from(bits(value)) - i128::from(got);
        return distance.abs() <= places.parse().expect("a count of places");
    }
    let wanted = bits(text);
    got == if width == 64 { wanted } else { wanted & ((1 << width) - 1) }
}

#[test]
fn values_are_read() {
    assert_eq!(bits("-1"), u64::MAX);
    assert_eq!(bits("0x1f"), 31);
    assert_eq!(bits("1.5f"), 0x3fc0_0000);
    assert_eq!(bits("-0f"), 0x8000_0000);
    assert_eq!(bits("-infd"), 0xfff0 << 48);
    assert_eq!(bits("1b:-2h"), 0x3f80_c000);
    assert_eq!(bits("-denh"), 0x8001);
    assert!(matches("nanf", 0x7fff_ffff, 32) && !matches("nanf", 0x7f80_0000, 32));
    assert!(matches("~1f/1", 0x3f80_0001, 32) && !matches("~1f/1", 0x3f80_0002, 32));
    assert!(matches("nanb:1b", 0x7fff_3f80, 32) && !matches("nanb:1b", 0x3f80_3f80, 32));
    assert!(matches("-1", 0xffff, 16) && !matches("-1", 0xfffe, 16));
}
