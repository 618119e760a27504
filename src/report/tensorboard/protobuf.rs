//! The protobuf wire format, as far as events need it.

/// A message under construction.
#[derive(Clone, Debug, Default)]
pub struct Message(Vec<u8>);

impl Message {
    /// The encoded message.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// An integer, bool or enum field. Zero is the default of proto3 and left out.
    pub fn varint(&mut self, field: u64, value: u64) {
        if value != 0 {
            self.raw_varint(field << 3);
            self.raw_varint(value);
        }
    }

    /// A `double` field.
    pub fn double(&mut self, field: u64, value: f64) {
        self.raw_varint(field << 3 | 1);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// A `float` field; written even when zero, for it is a member of a `oneof`.
    pub fn float(&mut self, field: u64, value: f32) {
        self.raw_varint(field << 3 | 5);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// A `bytes` or `string` field.
    pub fn bytes(&mut self, field: u64, value: &[u8]) {
        self.raw_varint(field << 3 | 2);
        self.raw_varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    /// A message within the message.
    pub fn message(&mut self, field: u64, value: &Message) {
        self.bytes(field, &value.0);
    }

    fn raw_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// What the truncation of an event file must know of an event.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EventHead {
    pub step: u64,
    pub is_version: bool,
    pub has_summary: bool,
    pub is_session: bool,
}

/// Reads the top fields of an encoded `Event`; stops at the first thing that is not protobuf.
pub fn event_head(mut data: &[u8]) -> EventHead {
    let mut head = EventHead::default();
    while read_field(&mut data, &mut head).is_some() {}
    head
}

fn read_field(data: &mut &[u8], head: &mut EventHead) -> Option<()> {
    let key = read_varint(data)?;
    let mut skip = |n: usize| data.split_off(..n).map(|_| ());
    match (key >> 3, key & 7) {
        (field, 0) => {
            let value = read_varint(data)?;
            if field == 2 {
                head.step = value;
            }
        }
        (_, 1) => skip(8)?,
        (_, 5) => skip(4)?,
        (field, 2) => {
            let n = usize::try_from(read_varint(data)?).ok()?;
            data.split_off(..n)?;
            head.is_version |= field == 3;
            head.has_summary |= field == 5;
            head.is_session |= field == 7;
        }
        _ => return None,
    }
    Some(())
}

fn read_varint(data: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *data.split_off_first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
