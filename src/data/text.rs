//! Text and file names that people's editors and other systems made: byte-order marks, UTF-16, the
//! separators of Windows, names that are not UTF-8, names composed in another normal form.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use unicode_normalization::UnicodeNormalization;

use crate::{Error, Result};

/// Largest text we read; a list of a million cases takes about 100 MB.
const MAX_BYTES: u64 = 256 << 20;

/// Reads a text file of bounded size. A byte-order mark is taken off; UTF-16 that has one is read.
///
/// Errors: [`Error::Io`]; [`Error::Data`] for a file that is too large, or with the first line that is
/// not UTF-8.
pub fn read_text(path: &Path) -> Result<String> {
    let bytes = read_bounded(path)?;
    let bytes = match utf16(&bytes) {
        Some(text) => return text.ok_or_else(|| Error::data(path, "not sound UTF-16 text")),
        None => without_mark(&bytes),
    };
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|e| {
        let before = bytes.get(..e.valid_up_to()).unwrap_or_default();
        let line = before.iter().filter(|b| **b == b'\n').count() + 1;
        Error::data(path, format!("line {line} is not UTF-8 text; save the file as UTF-8"))
    })
}

/// The lines of a list of paths with their numbers from 1: as [`read_text`], but a line need not be
/// UTF-8 where names of files need not be. Without what follows a `#`, without blanks around, without
/// empty lines.
///
/// Errors: as [`read_text`].
pub(crate) fn read_paths(path: &Path) -> Result<Vec<(usize, OsString)>> {
    let bytes = read_bounded(path)?;
    let bytes = match utf16(&bytes) {
        Some(_) => read_text(path)?.into_bytes(),
        None => without_mark(&bytes).to_vec(),
    };
    let mut found = Vec::new();
    for (number, line) in bytes.split(|b| *b == b'\n').enumerate() {
        let line = line.split(|b| *b == b'#').next().unwrap_or_default().trim_ascii();
        if !line.is_empty() {
            let line = os_string(line).ok_or_else(|| {
                Error::data(path, format!("line {} is not UTF-8 text", number + 1))
            })?;
            found.push((number + 1, line));
        }
    }
    Ok(found)
}

fn read_bounded(path: &Path) -> Result<Vec<u8>> {
    let bytes = fs::metadata(path).map_err(Error::io(path, "read"))?.len();
    if bytes > MAX_BYTES {
        return Err(Error::data(path, format!("{bytes} bytes are too many for a list of cases")));
    }
    fs::read(path).map_err(Error::io(path, "read"))
}

fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

/// The text of UTF-16 with a byte-order mark, as PowerShell and Notepad write it; `None` for what has
/// no such mark, `Some(None)` for what is damaged.
fn utf16(bytes: &[u8]) -> Option<Option<String>> {
    let unit: fn([u8; 2]) -> u16 = match bytes {
        [0xff, 0xfe, ..] => u16::from_le_bytes,
        [0xfe, 0xff, ..] => u16::from_be_bytes,
        _ => return None,
    };
    let (pairs, rest) = bytes.get(2..).unwrap_or_default().as_chunks::<2>();
    let units: Vec<u16> = pairs.iter().map(|pair| unit(*pair)).collect();
    Some(String::from_utf16(&units).ok().filter(|_| rest.is_empty()))
}

/// A name of these bytes; `None` where names must be UTF-8 and it is not.
#[cfg(unix)]
fn os_string(bytes: &[u8]) -> Option<OsString> {
    use std::os::unix::ffi::OsStringExt;
    Some(OsString::from_vec(bytes.to_vec()))
}

#[cfg(not(unix))]
fn os_string(bytes: &[u8]) -> Option<OsString> {
    std::str::from_utf8(bytes).ok().map(OsString::from)
}

/// What stands in a file name between these two, if it has both and something between them.
pub(crate) fn between(name: &OsStr, before: &str, after: &str) -> Option<OsString> {
    let bytes = name.as_encoded_bytes();
    let inner = bytes.strip_prefix(before.as_bytes())?.strip_suffix(after.as_bytes())?;
    os_string(inner).filter(|part| !part.is_empty())
}

/// `before`, `part` and `after` as one name.
pub(crate) fn joined(before: &str, part: &OsStr, after: &str) -> OsString {
    let mut name = OsString::from(before);
    name.push(part);
    name.push(after);
    name
}

/// A file name as text: what is UTF-8 as it is, other bytes as `%FF`. So two files keep two ids, and a
/// result can be named after a case whatever its name is.
pub(crate) fn readable(name: &OsStr) -> String {
    let mut text = String::new();
    for chunk in name.as_encoded_bytes().utf8_chunks() {
        text += chunk.valid();
        chunk.invalid().iter().for_each(|byte| text += &format!("%{byte:02X}"));
    }
    text
}

/// The composed form (NFC) of a name: macOS writes `é` as two characters, most others as one.
pub(crate) fn composed(name: &str) -> String {
    name.nfc().collect()
}

/// The path below `root` as this system means it: where there is no such file, backslashes are taken
/// for the separators of Windows, and the other normal form of its characters is tried.
pub(crate) fn as_here(root: &Path, path: &Path) -> PathBuf {
    let there = |path: &PathBuf| root.join(path).symlink_metadata().is_ok();
    let path = path.to_owned();
    let Some(text) = path.to_str().filter(|_| !there(&path)) else { return path };
    let turned = match std::path::MAIN_SEPARATOR {
        '/' => text.replace('\\', "/"),
        _ => text.to_owned(),
    };
    let forms = [turned.clone(), turned.nfc().collect(), turned.nfd().collect()];
    forms.into_iter().map(PathBuf::from).find(there).unwrap_or_else(|| turned.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), bytes).unwrap();
        file
    }

    #[test]
    fn marks_of_editors_are_taken_off() {
        let le: Vec<u8> = "a,é\r\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let be: Vec<u8> = "a,é\r\n".encode_utf16().flat_map(u16::to_be_bytes).collect();
        for bytes in [
            "a,é\r\n".as_bytes(),
            "\u{feff}a,é\r\n".as_bytes(),
            &[&b"\xff\xfe"[..], &le].concat(),
            &[&b"\xfe\xff"[..], &be].concat(),
        ] {
            assert_eq!(read_text(file(bytes).path()).unwrap(), "a,é\r\n");
        }
        let reason = read_text(file(b"a\nb\nc\xff\n").path()).unwrap_err().to_string();
        assert!(reason.contains("line 3 is not UTF-8"), "{reason}");
        assert!(read_text(file(b"\xff\xfea").path()).is_err());
    }

    #[test]
    fn lists_have_lines_of_any_bytes() {
        let list = file(b"\xef\xbb\xbf# scans\r\n a.nii \r\n\r\nb.nii # good\r\n");
        let lines = read_paths(list.path()).unwrap();
        assert_eq!(lines, [(2, "a.nii".into()), (4, "b.nii".into())]);
        #[cfg(unix)]
        {
            let lines = read_paths(file(b"f\xff.nii\n").path()).unwrap();
            assert_eq!(readable(&lines[0].1), "f%FF.nii");
        }
    }

    #[cfg(unix)]
    #[test]
    fn names_that_are_no_text_keep_apart() {
        let name = |bytes: &[u8]| os_string(bytes).unwrap();
        assert_eq!(readable(&name(b"f\xff\xfe_1")), "f%FF%FE_1");
        assert_eq!(readable(OsStr::new("é")), "é");
        let part = between(&name(b"img\xff1.nii"), "img", ".nii").unwrap();
        assert_eq!(joined("label", &part, ".nii.gz"), name(b"label\xff1.nii.gz"));
        assert_eq!(between(OsStr::new("img.nii"), "img", ".nii"), None);
        assert_eq!(between(OsStr::new("img1.nii"), "vol", ".nii"), None);
    }

    #[test]
    fn paths_of_other_systems_are_found() {
        let root = tempfile::tempdir().unwrap();
        let here = |path: &str| as_here(root.path(), Path::new(path)).into_os_string();
        fs::create_dir(root.path().join("imagesTr")).unwrap();
        let decomposed = "imagesTr/cafe\u{301}.nii";
        fs::write(root.path().join(decomposed), b"").unwrap();
        assert_eq!(here("imagesTr/caf\u{e9}.nii"), decomposed);
        assert_eq!(here("imagesTr\\caf\u{e9}.nii"), decomposed);
        assert_eq!(here("a\\b.nii"), "a/b.nii");
        assert_eq!(composed("cafe\u{301}"), "caf\u{e9}");
        // What is there is meant as it is written.
        fs::write(root.path().join("a\\b.nii"), b"").unwrap();
        assert_eq!(here("a\\b.nii"), "a\\b.nii");
    }
}
