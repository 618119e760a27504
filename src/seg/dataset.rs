//! Image and label pairs of a labelled set: an MSD `dataset.json`, an nnU-Net v2 raw folder, or two
//! folders. Every case that is returned has all of its files; what lacks one is an error by name.

mod folders;
mod info;

use std::path::{Path, PathBuf};

pub use self::folders::pair_folders;
pub use self::info::DatasetInfo;
use super::labels::LabelRules;
use crate::data::layout::{DiscoverOptions, Layout, discover};
use crate::data::{Case, PrepareConfig, Prepared, prepare};
use crate::{Error, Result};

/// A case with its label map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelledCase {
    /// Unique within its set.
    pub id: String,
    /// One file, or one file per channel in channel order.
    pub images: Vec<PathBuf>,
    pub label: PathBuf,
}

/// A prepared image and the classes of its voxels.
#[derive(Clone, Debug)]
pub struct PreparedPair {
    pub image: Prepared,
    /// Class indices `[d, h, w]` on the grid of the image, padding 0.
    pub classes: Vec<u8>,
}

impl LabelledCase {
    /// As the loader knows it.
    pub fn as_case(&self) -> Case {
        let Self { id, images, label } = self.clone();
        Case { id, images, label: Some(label) }
    }

    /// Reads and prepares image and label; the label goes every way that the image goes.
    ///
    /// Errors: as [`prepare()`] and [`LabelRules::prepare`].
    pub fn prepare(&self, config: &PrepareConfig, rules: &LabelRules) -> Result<PreparedPair> {
        let image = prepare(&self.as_case(), config)?;
        let classes = rules.prepare(&self.label, image.record(), &config.limits)?;
        Ok(PreparedPair { image, classes })
    }
}

/// A labelled set.
#[derive(Clone, Debug)]
pub struct LabelledSet {
    /// In a fixed order: that of the manifest, or of names.
    pub cases: Vec<LabelledCase>,
    /// What `dataset.json` says, if the set has one.
    pub info: Option<DatasetInfo>,
    /// What deserves attention but stops nothing.
    pub warnings: Vec<String>,
}

/// Cases of a message.
const SHOWN: usize = 5;

/// `a, b, c and 7 more`.
pub(super) fn list(names: &[String]) -> String {
    let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Finds the labelled cases at `path`: a folder with a `dataset.json` (or the file itself) in the
/// form of MSD (`training` with `image` and `label`) or nnU-Net v2 (`imagesTr`, `labelsTr`, one file
/// per channel), or a folder without one, for which see [`pair_folders`]. Test images have no labels
/// and are not looked at.
///
/// Errors: [`Error::Io`]; [`Error::Data`] when nothing is there, the manifest is refused, or cases
/// lack their label or an image (they are named).
pub fn labelled_cases(path: &Path, allow_outside: bool) -> Result<LabelledSet> {
    let manifest = if path.is_dir() { path.join("dataset.json") } else { path.to_owned() };
    let is_json = manifest.extension().is_some_and(|e| e.eq_ignore_ascii_case("json"));
    if !(is_json && manifest.is_file()) {
        let cases = folders::find(path)?;
        return Ok(LabelledSet { cases, info: None, warnings: vec![] });
    }
    let info = DatasetInfo::read(&manifest)?;
    if let Some(label) = info.ignore {
        let reason = format!(
            "labels.ignore = {label}: training does not ignore voxels; paint them with a class, or \
             leave the cases out (`glmae evaluate` ignores them)"
        );
        return Err(Error::data(&manifest, reason));
    }
    let options = DiscoverOptions { allow_outside, include_test: false };
    let source = discover(&manifest, &options)?;
    let (mut cases, mut lacking) = (Vec::new(), Vec::new());
    let mut total = 0;
    for case in source.cases {
        total += 1;
        let images_there = case.images.iter().find(|p| !p.is_file());
        match case.label {
            None => lacking.push(format!("{} (no label)", case.id)),
            Some(label) if !label.is_file() => {
                lacking.push(format!("{} (no file {})", case.id, label.display()));
            }
            Some(_) if images_there.is_some() => {
                let missing = images_there.map(|p| p.display().to_string()).unwrap_or_default();
                lacking.push(format!("{} (no file {missing})", case.id));
            }
            Some(label) => cases.push(LabelledCase { id: case.id, images: case.images, label }),
        }
    }
    if !lacking.is_empty() {
        return Err(Error::data(
            &manifest,
            format!(
                "{} of {total} training cases lack an image or a label: {}",
                lacking.len(),
                list(&lacking)
            ),
        ));
    }
    let mut warnings = Vec::new();
    if let Some(n) = info.num_training.filter(|&n| n != total) {
        let what = match source.layout {
            Layout::NnUnet => "imagesTr holds",
            _ => "`training` lists",
        };
        warnings
            .push(format!("{}: numTraining is {n}, but {what} {total} cases", manifest.display()));
    }
    Ok(LabelledSet { cases, info: Some(info), warnings })
}

#[cfg(test)]
mod tests;
