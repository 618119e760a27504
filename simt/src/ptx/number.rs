//! Constants (section 4.5): what a number that stands in the text is worth.

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Number {
    /// Signed or unsigned, as 64 bits.
    Integer(u64),
    /// `0f...`: the bits of an f32.
    Float32(u32),
    /// `0d...` or a number with a point or an exponent: the bits of an f64.
    Float64(u64),
}

/// Reads a number without a sign. `None` if it is none.
pub(super) fn parse(text: &str) -> Option<Number> {
    let prefixed = text.strip_prefix('0').filter(|rest| !rest.is_empty());
    if let Some(rest) = prefixed {
        let digits = rest.get(1..);
        match rest.as_bytes()[0] {
            b'x' | b'X' => return integer(digits?, 16),
            b'b' | b'B' => return integer(digits?, 2),
            b'f' | b'F' => {
                return exact(digits?, 8)
                    .and_then(|bits| u32::try_from(bits).ok())
                    .map(Number::Float32);
            }
            b'd' | b'D' => return exact(digits?, 16).map(Number::Float64),
            _ => {}
        }
    }
    if text.contains(['.', 'e', 'E']) {
        return decimal(text);
    }
    match prefixed {
        Some("U") => Some(Number::Integer(0)),
        Some(rest) => integer(rest, 8),
        None => integer(text, 10),
    }
}

fn integer(digits: &str, radix: u32) -> Option<Number> {
    let digits = digits.strip_suffix('U').unwrap_or(digits);
    // `from_str_radix` would take a sign as well.
    if !digits.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    u64::from_str_radix(digits, radix).ok().map(Number::Integer)
}

/// Section 4.5.2: the bits, in exactly so many digits.
fn exact(digits: &str, count: usize) -> Option<u64> {
    let is_exact = digits.len() == count && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_exact { u64::from_str_radix(digits, 16).ok() } else { None }
}

fn decimal(text: &str) -> Option<Number> {
    let is_decimal = text.bytes().any(|byte| byte.is_ascii_digit())
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    let value = if is_decimal { text.parse::<f64>().ok()? } else { return None };
    value.is_finite().then(|| Number::Float64(value.to_bits()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers() {
        for (text, value) in [
            ("0", 0),
            ("0U", 0),
            ("7", 7),
            ("42U", 42),
            ("00", 0),
            ("017", 15),
            ("017U", 15),
            ("0x1F", 31),
            ("0Xffffffffffffffff", u64::MAX),
            ("0x10U", 16),
            ("0b101", 5),
            ("0B11U", 3),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse(text), Some(Number::Integer(value)), "{text}");
        }
    }

    #[test]
    fn floats() {
        assert_eq!(parse("0f3F800000"), Some(Number::Float32(0x3f80_0000)));
        assert_eq!(parse("0FfF800001"), Some(Number::Float32(0xff80_0001)));
        assert_eq!(parse("0d3FF0000000000000"), Some(Number::Float64(1f64.to_bits())));
        for (text, value) in [
            ("1.5", 1.5f64),
            ("5.", 5.0),
            (".25", 0.25),
            ("1e3", 1000.0),
            ("0.5e-1", 0.05),
            ("0e1", 0.0),
        ] {
            assert_eq!(parse(text), Some(Number::Float64(value.to_bits())), "{text}");
        }
    }

    #[test]
    fn what_is_no_number() {
        for text in [
            "",
            ".",
            "12ab",
            "08",
            "019",
            "0x",
            "0xU",
            "0xg",
            "0b",
            "0b2",
            "0o7",
            "0f3F80000",
            "0f3F8000000",
            "0f+F800000",
            "0d3FF0",
            "1.5.2",
            "1e",
            "e5",
            "1e999",
            "1.5U",
            "1_000",
            "18446744073709551616",
            "0x10000000000000000",
            "U",
            "0x+1",
            "0UU",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
