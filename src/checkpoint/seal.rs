//! `state.json`: JSON text that ends with a checksum of itself.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{FORMAT, STATE};
use crate::{Error, Result};

/// The last line of `state.json` begins with this.
const SEAL: &str = ",\n  \"crc32c\": \"";
/// A `state.json` larger than this is none.
const MAX_STATE_BYTES: u64 = 64 << 20;

/// JSON text with a checksum of itself as its last entry.
pub(super) fn seal(state: &impl Serialize) -> Result<String> {
    let json = serde_json::to_string_pretty(state)
        .map_err(|e| Error::Config(format!("checkpoint: {e}")))?;
    let body = json.strip_suffix("\n}").unwrap_or(&json);
    Ok(format!("{body}{SEAL}{:08x}\"\n}}\n", crc32c::crc32c(body.as_bytes())))
}

/// Checks what [`seal`] made, and reads it. Errors: damage, another format, other fields.
pub(super) fn unseal<T: serde::de::DeserializeOwned>(text: &str, path: &Path) -> Result<T> {
    let damaged = |why: &str| Error::data(path, format!("damaged: {why}"));
    let (body, seal) = text.rsplit_once(SEAL).ok_or_else(|| damaged("no checksum"))?;
    let crc = seal.strip_suffix("\"\n}\n").ok_or_else(|| damaged("its end is missing"))?;
    if crc != format!("{:08x}", crc32c::crc32c(body.as_bytes())) {
        return Err(damaged("its checksum does not fit its contents"));
    }
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let Format { format } =
        serde_json::from_str(text).map_err(|e| Error::data(path, e.to_string()))?;
    if format == 0 || format > FORMAT {
        return Err(Error::data(
            path,
            format!("checkpoint format {format}; this version reads 1 to {FORMAT}"),
        ));
    }
    serde_json::from_str(text).map_err(|e| Error::data(path, e.to_string()))
}

/// The text of a `state.json`. Errors: one that is too large or no text; [`Error::Io`].
pub(super) fn read_state(file: &Path) -> Result<String> {
    let bytes = fs::metadata(file).map_err(Error::io(file, "read"))?.len();
    if bytes > MAX_STATE_BYTES {
        return Err(Error::data(file, format!("{bytes} bytes are too many for a {STATE}")));
    }
    let bytes = fs::read(file).map_err(Error::io(file, "read"))?;
    String::from_utf8(bytes).map_err(|_| Error::data(file, "damaged: not UTF-8 text"))
}
