//! What a folder holds beside the cases that are used: nothing is passed over in silence.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::is_image_name;
use crate::data::nifti::header_path;
use crate::data::text::readable;
use crate::{Error, Result};

/// Files of a message.
const SHOWN: usize = 5;

/// Files that hold volumes and were not taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// By their names label maps: see [`super::looks_like_label`].
    pub labels: Vec<PathBuf>,
    /// In a form that is not read: DICOM, NRRD, MetaImage, MGH, MINC, an `.img` without its `.hdr`.
    pub formats: Vec<PathBuf>,
}

impl LeftOut {
    /// What stands in another form beside `images`, in their folders.
    ///
    /// Errors: [`Error::Io`] for a folder that cannot be read.
    pub fn beside<'a>(images: impl Iterator<Item = &'a PathBuf>) -> Result<Self> {
        let folders: BTreeSet<&Path> = images.filter_map(|image| image.parent()).collect();
        let mut formats = Vec::new();
        for folder in folders {
            for entry in fs::read_dir(folder).map_err(Error::io(folder, "read"))? {
                formats.push(entry.map_err(Error::io(folder, "read"))?.path());
            }
        }
        formats.retain(|path| is_other_format(path));
        formats.sort();
        Ok(Self { labels: vec![], formats })
    }

    /// How many files, the first by name, and why: a line for each reason. To be said once.
    pub fn lines(&self) -> Vec<String> {
        let labels = told(
            &self.labels,
            "volume(s) look like label maps by their names",
            "name them in a list (.txt) to use them",
        );
        let formats =
            told(&self.formats, "file(s) are no NIfTI", "convert them to .nii.gz to use them");
        labels.into_iter().chain(formats).collect()
    }
}

fn told(files: &[PathBuf], why: &str, way_out: &str) -> Option<String> {
    let names = files.iter().take(SHOWN).map(|p| readable(p.as_os_str()));
    let names = names.collect::<Vec<_>>().join(", ");
    let more = match files.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let text = format!("{} {why} and were left out: {names}{more}; {way_out}", files.len());
    (!files.is_empty()).then_some(text)
}

/// Whether a file that is no NIfTI holds a volume by its name.
pub(super) fn is_other_format(path: &Path) -> bool {
    const ENDINGS: [&str; 10] =
        [".dcm", ".dicom", ".ima", ".nrrd", ".nhdr", ".mha", ".mhd", ".mgh", ".mgz", ".mnc"];
    let name = path.file_name().map(readable).unwrap_or_default().to_ascii_lowercase();
    let lone = is_image_name(path) && header_path(path).is_err();
    !name.starts_with('.') && (lone || ENDINGS.iter().any(|ending| name.ends_with(ending)))
}
