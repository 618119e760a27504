//! The TFRecord framing.

const HEADER: usize = 12;
const FOOTER: usize = 4;

/// A data record as found in a file.
pub struct Record<'a> {
    /// The whole record with its framing.
    pub framed: &'a [u8],
    /// What it carries.
    pub data: &'a [u8],
}

/// The data with its length and checksums.
pub fn frame(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut out = Vec::with_capacity(HEADER + data.len() + FOOTER);
    out.extend_from_slice(&length);
    out.extend_from_slice(&masked_crc(&length).to_le_bytes());
    out.extend_from_slice(data);
    out.extend_from_slice(&masked_crc(data).to_le_bytes());
    out
}

/// The sound records of a file, in order. A record whose data is damaged is passed over; after a
/// damaged length, or at a torn end, nothing more can be found.
pub fn records(mut bytes: &[u8]) -> impl Iterator<Item = Record<'_>> {
    std::iter::from_fn(move || {
        loop {
            let length = *bytes.first_chunk::<8>()?;
            let length_crc = bytes.get(8..HEADER)?;
            if length_crc != masked_crc(&length).to_le_bytes() {
                return None;
            }
            let length = usize::try_from(u64::from_le_bytes(length)).ok()?;
            let end = length.checked_add(HEADER + FOOTER)?;
            let (framed, rest) = bytes.split_at_checked(end)?;
            let data = framed.get(HEADER..HEADER + length)?;
            bytes = rest;
            if framed.get(HEADER + length..)? == masked_crc(data).to_le_bytes() {
                return Some(Record { framed, data });
            }
        }
    })
}

/// TFRecord rotates and offsets its checksums, so that a checksum of data that itself holds
/// checksums stays useful.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}
