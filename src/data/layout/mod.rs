//! Where the cases of a dataset are: a folder, one file, a text list, an MSD `dataset.json`, an
//! nnU-Net v2 raw folder. The kind is seen from the path.

mod left_out;
mod manifest;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

pub use self::left_out::LeftOut;
use self::left_out::is_other_format;
use self::manifest::{Manifest, resolve};
use super::nifti::{is_nifti_name, strip_nifti};
use super::text::{as_here, between, joined, read_paths, readable};
use crate::{Error, Result};

/// One subject's image: a file per channel, or one file with all channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Unique within its source; the file's name, with folders where needed.
    pub id: String,
    /// One file, or one file per channel in channel order.
    pub images: Vec<PathBuf>,
    /// The label map that belongs to the image, if the source names one.
    pub label: Option<PathBuf>,
}

/// How a source was laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    File,
    Folder,
    List,
    Msd,
    NnUnet,
}

/// The cases found at a path, in a fixed order.
#[derive(Clone, Debug)]
pub struct Source {
    pub layout: Layout,
    pub cases: Vec<Case>,
    /// What a folder holds beside them.
    pub left_out: LeftOut,
}

impl Source {
    fn of(layout: Layout, cases: Vec<Case>) -> Self {
        Self { layout, cases, left_out: LeftOut::default() }
    }
}

/// What to take from a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiscoverOptions {
    /// Let manifests and lists name files outside of their own folder.
    pub allow_outside: bool,
    /// Take the `test` entries or `imagesTs` too: pre-training needs no labels.
    pub include_test: bool,
}

/// Finds the cases at `path`.
///
/// A folder with a `dataset.json` is what that file says: nnU-Net v2 raw when it has `channel_names`
/// and `file_ending` and files are named so, MSD (or a MONAI data list) when it has `training`. Any other folder is
/// searched, sub-folders included, in the order of names; hidden files and whatever
/// [`looks_like_label`] are left out. A file is a volume, a `.json` manifest, or a list with one
/// path per line, relative to the list, `#` starting a comment.
///
/// Errors: [`Error::Io`] for a path that cannot be read; [`Error::Data`] when nothing usable is
/// there or a manifest is refused. Single images may be missing: the loader reports them.
pub fn discover(path: &Path, options: &DiscoverOptions) -> Result<Source> {
    let path = &as_here(Path::new(""), path);
    let meta = fs::metadata(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::data(
            path,
            "no such file or folder; give a folder of .nii.gz files, a dataset.json, a list, or \
             one volume (`glmae demo` makes a synthetic set)",
        ),
        _ => Error::io(path, "read")(e),
    })?;
    let source = if meta.is_dir() {
        let manifest = path.join("dataset.json");
        if manifest.is_file() { from_json(&manifest, options)? } else { from_folder(path)? }
    } else if is_nifti_name(path) || is_image_name(path) {
        let case = Case { id: stem(path), images: vec![path.to_owned()], label: None };
        Source::of(Layout::File, vec![case])
    } else if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json")) {
        from_json(path, options)?
    } else if path
        .extension()
        .is_some_and(|e| ["txt", "lst", "list"].iter().any(|known| e.eq_ignore_ascii_case(known)))
    {
        from_list(path, options)?
    } else {
        return Err(Error::data(
            path,
            "neither a volume (.nii, .nii.gz, .hdr), nor a dataset.json, nor a list (.txt)",
        ));
    };
    check(path, source)
}

/// The cases without those that have one of these ids.
///
/// Errors: [`Error::Config`] when an id is of no case, or when no case would be left.
pub fn exclude(cases: Vec<Case>, ids: &[String]) -> Result<Vec<Case>> {
    if let Some(unknown) = ids.iter().find(|id| !cases.iter().any(|case| case.id == **id)) {
        let example = cases.first().map_or("", |case| case.id.as_str());
        return Err(Error::Config(format!(
            "data.exclude names {unknown:?}, which is no case of the data (the first is {example:?})"
        )));
    }
    let left: Vec<Case> = cases.into_iter().filter(|case| !ids.contains(&case.id)).collect();
    match left.is_empty() {
        true => Err(Error::Config("data.exclude names every case of the data".to_owned())),
        false => Ok(left),
    }
}

/// Splits cases into training and held-out ones by a fixed rule: of every `every` cases in order
/// the last is held out. 0 holds none out.
///
/// Errors: [`Error::Config`] when no case would be left for training.
pub fn hold_out(cases: &[Case], every: usize) -> Result<(Vec<Case>, Vec<Case>)> {
    if every == 1 {
        return Err(Error::Config(
            "data.holdout_every = 1 holds every case out; use 0 for none, or 2 and more".to_owned(),
        ));
    }
    let held = |i: usize| every > 0 && i % every == every - 1;
    let (held_out, training) =
        cases.iter().cloned().enumerate().partition::<Vec<_>, _>(|(i, _)| held(*i));
    let strip = |list: Vec<(usize, Case)>| list.into_iter().map(|(_, case)| case).collect();
    Ok((strip(training), strip(held_out)))
}

/// Whether a path below a searched folder is a label map by its name.
///
/// It is when a folder on the way is named `labels`, `labelsTr`, `labelsTs`, `labelsVal`, `masks`
/// or `segmentations`, or when a word of the file's name (words end at `_ - .` and spaces; trailing
/// digits do not count; case does not matter) ends in `mask` or `masks` or is one of `seg segs dseg
/// aseg segm segmentation segmentations label labels labelmap tumour tumor gt groundtruth aal
/// parcellation`.
pub fn looks_like_label(relative: &Path) -> bool {
    const FOLDERS: [&str; 6] =
        ["labels", "labelstr", "labelsts", "labelsval", "masks", "segmentations"];
    const WORDS: [&str; 16] = [
        "seg",
        "segs",
        "dseg",
        "aseg",
        "segm",
        "segmentation",
        "segmentations",
        "label",
        "labels",
        "labelmap",
        "tumour",
        "tumor",
        "gt",
        "groundtruth",
        "aal",
        "parcellation",
    ];
    let in_label_folder = relative.parent().is_some_and(|folder| {
        folder.iter().any(|part| {
            let part = readable(part).to_ascii_lowercase();
            FOLDERS.contains(&part.as_str())
        })
    });
    in_label_folder
        || stem(relative).to_ascii_lowercase().split(['_', '-', '.', ' ']).any(|word| {
            let word = word.trim_end_matches(|c: char| c.is_ascii_digit());
            WORDS.contains(&word) || word.ends_with("mask") || word.ends_with("masks")
        })
}

fn stem(path: &Path) -> String {
    strip_nifti(path).or_else(|| path.file_stem().map(readable)).unwrap_or_default()
}

fn is_image_name(path: &Path) -> bool {
    let name = path.to_string_lossy();
    name.ends_with(".img") || name.ends_with(".img.gz")
}

/// Nothing found is an error with the way out; ids must be unique.
fn check(path: &Path, source: Source) -> Result<Source> {
    if source.cases.is_empty() {
        let left_out = source.left_out.labels.len();
        let reason = match source.layout {
            Layout::Folder if left_out > 0 => format!(
                "all {left_out} volumes here look like label maps by their names; name the images \
                 in a list (.txt) to use them"
            ),
            Layout::Folder => {
                "no NIfTI file (.nii, .nii.gz, .hdr) here or below; convert DICOM with dcm2niix"
                    .to_owned()
            }
            Layout::NnUnet => {
                "imagesTr holds no file named CASE_0000 with the file_ending of dataset.json"
                    .to_owned()
            }
            _ => "names no image".to_owned(),
        };
        return Err(Error::data(path, reason));
    }
    if !source.cases.iter().any(|case| case.images.iter().all(|p| p.exists())) {
        let first = source.cases.first().and_then(|c| c.images.first());
        return Err(Error::data(
            path,
            format!(
                "none of the {} images named here exists; the first is {}",
                source.cases.len(),
                first.map(|p| p.display().to_string()).unwrap_or_default()
            ),
        ));
    }
    let mut ids = BTreeSet::new();
    if let Some(twice) = source.cases.iter().find(|case| !ids.insert(&case.id)) {
        return Err(Error::data(path, format!("the case {} occurs twice", twice.id)));
    }
    Ok(source)
}

/// All files below a folder, sorted by path. Linked folders are followed, each real folder once.
fn walk(folder: &Path, seen: &mut BTreeSet<PathBuf>, files: &mut Vec<PathBuf>) -> Result<()> {
    let real = folder.canonicalize().map_err(Error::io(folder, "read"))?;
    if !seen.insert(real) {
        return Ok(());
    }
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io(folder, "read"))? {
        entries.push(entry.map_err(Error::io(folder, "read"))?);
    }
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        let path = entry.path();
        if hidden {
            continue;
        } else if path.is_dir() {
            walk(&path, seen, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

fn from_folder(folder: &Path) -> Result<Source> {
    let mut files = Vec::new();
    walk(folder, &mut BTreeSet::new(), &mut files)?;
    files.sort();
    let (mut cases, mut labels) = (Vec::new(), Vec::new());
    let (files, others): (Vec<_>, Vec<_>) = files.into_iter().partition(|p| is_nifti_name(p));
    for path in files {
        let relative = path.strip_prefix(folder).unwrap_or(&path);
        if looks_like_label(relative) {
            labels.push(path);
            continue;
        }
        let id = relative.with_file_name(stem(relative));
        let id = readable(id.as_os_str()).replace('\\', "/");
        cases.push(Case { id, images: vec![path], label: None });
    }
    // a.nii beside a.nii.gz: keep both, under their full names.
    for i in 1..cases.len() {
        if cases[i].id == cases[i - 1].id {
            let name = cases[i].images[0].strip_prefix(folder).unwrap_or(&cases[i].images[0]);
            cases[i].id = readable(name.as_os_str());
        }
    }
    let formats = others.into_iter().filter(|p| is_other_format(p)).collect();
    let left_out = LeftOut { labels, formats };
    Ok(Source { layout: Layout::Folder, cases, left_out })
}

fn from_list(list: &Path, options: &DiscoverOptions) -> Result<Source> {
    let root = list.parent().unwrap_or(Path::new(""));
    let mut cases = Vec::new();
    for (number, entry) in read_paths(list)? {
        let path = resolve(root, &entry, options.allow_outside)
            .map_err(|why| Error::data(list, format!("line {number}: {why}")))?;
        let id = as_here(root, Path::new(&entry));
        let id = id.components().filter(|c| c.as_os_str() != ".").collect::<PathBuf>();
        let id = readable(id.with_file_name(stem(&path)).as_os_str());
        cases.push(Case { id, images: vec![path], label: None });
    }
    Ok(Source::of(Layout::List, cases))
}

fn from_json(path: &Path, options: &DiscoverOptions) -> Result<Source> {
    let manifest = Manifest::read(path)?;
    let root = path.parent().unwrap_or(Path::new(""));
    if let (Some(channels), Some(ending)) = (&manifest.channel_names, &manifest.file_ending) {
        let found = from_nnunet(path, root, channels.len(), ending, options);
        // Converters keep the list of MSD beside nnU-Net's keys; it counts where files are named by it.
        let is_empty = found.as_ref().map_or(true, |source| source.cases.is_empty());
        if manifest.training.is_none() || !is_empty || matches!(found, Err(Error::Unsupported(_))) {
            return found;
        }
    }
    let Some(training) = &manifest.training else {
        return Err(Error::data(
            path,
            "has neither `training` (MSD) nor `channel_names` and `file_ending` (nnU-Net v2)",
        ));
    };
    let test = manifest.test.as_deref().filter(|_| options.include_test).unwrap_or_default();
    let mut cases = Vec::new();
    for (index, entry) in training.iter().chain(test).enumerate() {
        let resolve = |entry: &str| {
            resolve(root, OsStr::new(entry), options.allow_outside)
                .map_err(|why| Error::data(path, format!("entry {index}: {why}")))
        };
        let (images, label) = entry.parts();
        let images = images.into_iter().map(resolve).collect::<Result<Vec<_>>>()?;
        let Some(first) = images.first() else {
            return Err(Error::data(path, format!("entry {index} names no image")));
        };
        cases.push(Case { id: stem(first), images, label: label.map(resolve).transpose()? });
    }
    // The same file name in two folders: the folder becomes part of the id.
    let mut count = std::collections::BTreeMap::<String, usize>::new();
    for case in &cases {
        *count.entry(case.id.clone()).or_default() += 1;
    }
    for case in &mut cases {
        if count.get(&case.id).is_some_and(|&n| n > 1) {
            let image = case.images[0].strip_prefix(root).unwrap_or(&case.images[0]);
            case.id = readable(image.with_file_name(&case.id).as_os_str());
        }
    }
    Ok(Source::of(Layout::Msd, cases))
}

fn from_nnunet(
    manifest: &Path,
    root: &Path,
    channels: usize,
    ending: &str,
    options: &DiscoverOptions,
) -> Result<Source> {
    if !is_nifti_name(Path::new(&format!("x{ending}"))) || ending.contains(['/', '\\', '\0']) {
        return Err(Error::Unsupported(format!(
            "{}: file_ending {ending:?}; convert the images to .nii.gz",
            manifest.display()
        )));
    }
    let mut cases = Vec::new();
    for (images, labels) in [("imagesTr", "labelsTr"), ("imagesTs", "labelsTs")] {
        let folder = root.join(images);
        if images == "imagesTs" && !(options.include_test && folder.is_dir()) {
            continue;
        }
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(&folder).map_err(Error::io(&folder, "read"))? {
            let entry = entry.map_err(Error::io(&folder, "read"))?;
            let first = format!("_0000{ending}");
            if let Some(id) = between(&entry.file_name(), "", &first)
                && !id.as_encoded_bytes().starts_with(b".")
            {
                names.insert(id);
            }
        }
        for name in names {
            let file = |n: usize| folder.join(joined("", &name, &format!("_{n:04}{ending}")));
            let label = as_here(root, &Path::new(labels).join(joined("", &name, ending)));
            let (label, id) = (root.join(label), readable(&name));
            cases.push(Case {
                images: (0..channels).map(file).collect(),
                label: label.is_file().then_some(label),
                id,
            });
        }
    }
    Ok(Source::of(Layout::NnUnet, cases))
}

#[cfg(test)]
mod tests;
