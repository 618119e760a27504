//! Pairs from folders without a manifest.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::{LabelledCase, list};
use crate::data::layout::looks_like_label;
use crate::data::nifti::strip_nifti;
use crate::data::text::composed;
use crate::seg::match_files::case_key;
use crate::{Error, Result};

/// Names under which images and labels stand beside each other.
const KNOWN: [(&str, &str); 4] =
    [("imagesTr", "labelsTr"), ("images", "labels"), ("img", "label"), ("image", "label")];

/// Pairs below `root`: two folders with known names (`imagesTr` and `labelsTr`, `images` and
/// `labels`, `img` and `label`), or images and labels side by side (`x_ct.nii`, `x_seg.nii`).
pub(super) fn find(root: &Path) -> Result<Vec<LabelledCase>> {
    if let Some((images, labels)) = KNOWN
        .iter()
        .map(|(images, labels)| (root.join(images), root.join(labels)))
        .find(|(images, labels)| images.is_dir() && labels.is_dir())
    {
        return pair_folders(&images, &labels);
    }
    if !root.is_dir() {
        return Err(Error::data(
            root,
            "not a labelled set: give a dataset.json, or a folder with imagesTr and labelsTr",
        ));
    }
    let (labels, images): (Vec<_>, Vec<_>) = files(root)?
        .into_iter()
        .partition(|(_, path)| path.file_name().is_some_and(|n| looks_like_label(Path::new(n))));
    if labels.is_empty() {
        return Err(Error::data(
            root,
            "no label map here: neither a dataset.json, nor imagesTr and labelsTr, nor files such \
             as x_seg.nii.gz beside x.nii.gz",
        ));
    }
    pair(root, images, labels)
}

/// Pairs the images of one folder with the label maps of another by their names: equal ones first
/// (`_0000`, `_0001`, ... are channels of a case), then equal
/// [`case_key`](crate::seg::match_files::case_key)s. Images without a label are left out only when
/// they are extra channels; sub-folders are not searched.
///
/// Errors: [`Error::Io`]; [`Error::Data`] naming what has no partner, or two.
pub fn pair_folders(images: &Path, labels: &Path) -> Result<Vec<LabelledCase>> {
    pair(images, files(images)?, files(labels)?)
}

/// NIfTI files of a folder, by name.
fn files(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io(folder, "read"))? {
        let path = entry.map_err(Error::io(folder, "read"))?.path();
        if let Some(stem) = strip_nifti(&path).filter(|s| !s.starts_with('.') && path.is_file()) {
            found.push((composed(&stem), path));
        }
    }
    found.sort();
    Ok(found)
}

/// `case_0003` is channel 3 of `case`.
fn channel(stem: &str) -> Option<(&str, usize)> {
    let (case, digits) = stem.rsplit_once('_')?;
    let is_channel = digits.len() == 4 && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|_| is_channel).map(|n| (case, n))
}

fn pair(
    folder: &Path,
    images: Vec<(String, PathBuf)>,
    labels: Vec<(String, PathBuf)>,
) -> Result<Vec<LabelledCase>> {
    let twice = |a: &Path, b: &Path| {
        Error::data(a, format!("may be the same case as {}: rename one", b.display()))
    };
    let (mut exact, mut by_key) = (BTreeMap::new(), BTreeMap::new());
    for (stem, path) in &labels {
        if let Some(other) = exact.insert(stem.as_str(), path) {
            return Err(twice(path, other));
        }
        if let Some(other) = by_key.insert(case_key(stem), (stem.as_str(), path)) {
            return Err(twice(path, other.1));
        }
    }
    // Per label: its images by channel; a lone file is channel 0.
    let mut found: BTreeMap<&str, BTreeMap<usize, &PathBuf>> = BTreeMap::new();
    let mut alone = Vec::new();
    for (stem, path) in &images {
        let of_channel = channel(stem).filter(|(case, _)| exact.contains_key(case));
        let (case, number) = match (exact.get_key_value(stem.as_str()), of_channel) {
            (Some((case, _)), _) => (*case, 0),
            (None, Some((case, number))) => match exact.get_key_value(case) {
                Some((case, _)) => (*case, number),
                None => continue,
            },
            (None, None) => match by_key.get(&case_key(stem)) {
                Some((case, _)) => (*case, 0),
                None => {
                    alone.push(stem.clone());
                    continue;
                }
            },
        };
        if let Some(other) = found.entry(case).or_default().insert(number, path) {
            return Err(twice(path, other));
        }
    }
    alone.extend(labels.iter().map(|l| l.0.clone()).filter(|l| !found.contains_key(l.as_str())));
    if !alone.is_empty() {
        let reason = format!("{} files have no partner: {}", alone.len(), list(&alone));
        return Err(Error::data(folder, reason));
    }
    let mut cases = Vec::new();
    for (id, images) in found {
        if !images.keys().copied().eq(0..images.len()) {
            let numbers: Vec<_> = images.keys().collect();
            let reason = format!("case {id} has channels {numbers:?}: they must count from 0");
            return Err(Error::data(folder, reason));
        }
        let label = exact.get(id).map(|p| (*p).clone()).unwrap_or_default();
        let images = images.into_values().cloned().collect();
        cases.push(LabelledCase { id: id.to_owned(), images, label });
    }
    Ok(cases)
}
