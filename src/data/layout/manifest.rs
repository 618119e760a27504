//! `dataset.json` files (Medical Segmentation Decathlon, MONAI, nnU-Net v2), text lists, and the
//! check every path in them passes: manifests come from strangers.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::data::text::{as_here, read_text, readable};
use crate::{Error, Result};

/// The keys of `dataset.json` that name images. Everything else is left to its owner.
#[derive(Debug, Deserialize)]
pub(super) struct Manifest {
    pub training: Option<Vec<Entry>>,
    pub test: Option<Vec<Entry>>,
    /// nnU-Net v2: channel index to name.
    pub channel_names: Option<BTreeMap<String, serde_json::Value>>,
    /// nnU-Net v2: such as `.nii.gz`.
    pub file_ending: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Entry {
    Image(String),
    Case { image: Images, label: Option<String> },
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Images {
    One(String),
    Many(Vec<String>),
}

impl Entry {
    /// Image paths, one per channel, and the label, as written.
    pub fn parts(&self) -> (Vec<&str>, Option<&str>) {
        match self {
            Self::Image(image) => (vec![image], None),
            Self::Case { image: Images::One(image), label } => (vec![image], label.as_deref()),
            Self::Case { image: Images::Many(images), label } => {
                (images.iter().map(String::as_str).collect(), label.as_deref())
            }
        }
    }
}

impl Manifest {
    pub fn read(path: &Path) -> Result<Self> {
        serde_json::from_str(&read_text(path)?)
            .map_err(|e| Error::data(path, format!("not a dataset.json we understand: {e}")))
    }
}

/// The file a manifest's entry means, relative to the manifest's folder `root`.
///
/// Separators of Windows and the other normal form of its characters are understood where there is no
/// such file: see [`as_here`]. Unless `allow_outside`, the entry must stay inside `root`: not absolute, no `..`, and no symbolic
/// link that leads out. NUL bytes and names no file system takes are always refused.
///
/// Errors: the reason.
pub(super) fn resolve(
    root: &Path,
    entry: &OsStr,
    allow_outside: bool,
) -> std::result::Result<PathBuf, String> {
    let shown: String = readable(entry).chars().take(80).collect();
    let refuse = |why: &str| Err(format!("the path {shown:?} {why}"));
    if entry.is_empty() {
        return refuse("is empty");
    }
    let bytes = entry.as_encoded_bytes();
    if bytes.contains(&0) {
        return refuse("holds a NUL byte");
    }
    if bytes.len() > 4096 || bytes.split(|b| matches!(b, b'/' | b'\\')).any(|p| p.len() > 255) {
        return refuse("is longer than a file system allows");
    }
    let outside = "leads out of the folder of its manifest; put the manifest, or a text file \
                   with one path a line, into a folder above all files and name them relative to it";
    let path = as_here(root, Path::new(entry));
    let stays = path.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    if !allow_outside && !stays {
        return refuse(outside);
    }
    // `./imagesTr/x` and `imagesTr/x` become the same path.
    let full =
        root.join(path.components().filter(|c| *c != Component::CurDir).collect::<PathBuf>());
    if !allow_outside
        && let (Ok(real), Ok(real_root)) = (full.canonicalize(), root.canonicalize())
        && !real.starts_with(&real_root)
    {
        return refuse(outside);
    }
    Ok(full)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn paths_stay_inside_unless_told() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let long = "a".repeat(300);
        for bad in ["../x.nii", "a/../../x.nii", "/etc/passwd", "", "a\0.nii", &long] {
            assert!(resolve(root.path(), OsStr::new(bad), false).is_err(), "{bad:?}");
        }
        assert_eq!(
            resolve(root.path(), OsStr::new("./a/b.nii"), false),
            Ok(root.path().join("a/b.nii"))
        );
        assert_eq!(resolve(root.path(), OsStr::new("/x.nii"), true), Ok(PathBuf::from("/x.nii")));
        assert!(resolve(root.path(), OsStr::new("a\0"), true).is_err());
        #[cfg(unix)]
        {
            let file = outside.path().join("f.nii");
            fs::write(&file, b"x").unwrap();
            std::os::unix::fs::symlink(&file, root.path().join("link.nii")).unwrap();
            assert!(resolve(root.path(), OsStr::new("link.nii"), false).is_err());
            assert!(resolve(root.path(), OsStr::new("link.nii"), true).is_ok());
        }
    }
}
