//! Which prediction belongs to which reference: by the names of the files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::data::nifti::{is_nifti_name, strip_nifti};
use crate::data::text::{composed, readable};
use crate::{Error, Result};

/// A prediction and its reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePair {
    /// The reference's name without its ending.
    pub id: String,
    pub prediction: PathBuf,
    pub reference: PathBuf,
}

/// What two folders have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matching {
    /// In the order of ids.
    pub pairs: Vec<FilePair>,
    /// Predictions without a reference.
    pub only_predicted: Vec<PathBuf>,
    /// References without a prediction.
    pub only_reference: Vec<PathBuf>,
    /// Why files that look alike are no pair.
    pub hints: Vec<String>,
}

/// Words that say what a file is, not whose it is.
const ROLES: [&str; 14] = [
    "img",
    "image",
    "images",
    "vol",
    "volume",
    "label",
    "labels",
    "lab",
    "seg",
    "segmentation",
    "mask",
    "gt",
    "pred",
    "prediction",
];
/// The same, as last word only: `ct_train_1001` keeps its `ct`.
const LAST_ROLES: [&str; 3] = ["ct", "mr", "0000"];

/// What remains of a file's name when everything is dropped that only says what the file is: the
/// channel suffix `_0000` of nnU-Net, `_image`, `_label`, `_seg`, `_ct` at the end, `img` or `label`
/// before a number (`img0035` and `label0035` both become `0035`).
pub fn case_key(stem: &str) -> String {
    let words: Vec<&str> = stem.split(['_', '-', '.', ' ']).collect();
    let mut kept: Vec<String> = Vec::new();
    for (i, word) in words.iter().enumerate() {
        let lower = word.to_ascii_lowercase();
        let role = lower.trim_end_matches(|c: char| c.is_ascii_digit());
        // Digits are ASCII, so this is a character boundary.
        let number = word.get(role.len()..).unwrap_or_default();
        let is_last = i > 0 && i + 1 == words.len();
        if ROLES.contains(&role) {
            kept.extend((!number.is_empty()).then(|| number.to_owned()));
        } else if !(is_last && LAST_ROLES.contains(&lower.as_str())) {
            kept.push((*word).to_owned());
        }
    }
    if kept.is_empty() { stem.to_owned() } else { kept.join("_") }
}

/// Pairs predictions with references. Two files are a pair as they stand; two folders are paired by
/// equal names without `.nii`, `.nii.gz`, then by equal [`case_key`]s. Names are compared in their
/// composed form (NFC), which is what people see. Sub-folders are not searched.
///
/// Errors: [`Error::Io`]; [`Error::Data`] when a folder holds no NIfTI file, when a file is given
/// with a folder, or when two files of a folder could be the same case.
pub fn match_files(prediction: &Path, reference: &Path) -> Result<Matching> {
    let is_folder = |path: &Path| -> Result<bool> {
        Ok(fs::metadata(path).map_err(Error::io(path, "read"))?.is_dir())
    };
    match (is_folder(prediction)?, is_folder(reference)?) {
        (false, false) => {
            let id = strip_nifti(reference).unwrap_or_else(|| reference.display().to_string());
            let (prediction, reference) = (prediction.to_owned(), reference.to_owned());
            let pairs = vec![FilePair { id, prediction, reference }];
            Ok(Matching { pairs, ..Matching::default() })
        }
        (true, true) => pair_up(without_probabilities(files(prediction)?), files(reference)?),
        (true, false) => Err(Error::data(reference, "is a file, but the predictions are a folder")),
        (false, true) => Err(Error::data(reference, "is a folder, but the prediction is a file")),
    }
}

/// NIfTI files of a folder by their stems.
fn files(folder: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(Error::io(folder, "read"))? {
        let path = entry.map_err(Error::io(folder, "read"))?.path();
        let stem = strip_nifti(&path).filter(|s| !s.starts_with('.') && is_nifti_name(&path));
        let Some(stem) = stem.filter(|_| path.is_file()).map(|s| composed(&s)) else { continue };
        if let Some(other) = found.insert(stem, path.clone()) {
            return Err(ambiguous(&path, &other));
        }
    }
    if found.is_empty() {
        let reason = "no NIfTI file (.nii, .nii.gz, .hdr) here; give the folder that holds the \
                      label maps themselves, such as labelsTr";
        return Err(Error::data(folder, reason));
    }
    Ok(found)
}

/// Leaves out what `glmae predict --probabilities` writes beside a label map.
fn without_probabilities(mut predictions: BTreeMap<String, PathBuf>) -> BTreeMap<String, PathBuf> {
    let beside = |stem: &String| {
        stem.strip_suffix("_prob").is_some_and(|label| predictions.contains_key(label))
    };
    let stems: Vec<String> = predictions.keys().filter(|stem| beside(stem)).cloned().collect();
    stems.iter().for_each(|stem| drop(predictions.remove(stem)));
    predictions
}

fn ambiguous(path: &Path, other: &Path) -> Error {
    let stem = |p: &Path| strip_nifti(p).unwrap_or_default();
    let (a, b) = (stem(path), stem(other));
    if a != b && composed(&a) == composed(&b) {
        let reason = "has the same name as another file of its folder, which is composed otherwise \
                      (Unicode NFC and NFD): rename one";
        return Error::data(path, reason);
    }
    Error::data(path, format!("may be the same case as {}: rename one", other.display()))
}

fn pair_up(
    mut predictions: BTreeMap<String, PathBuf>,
    mut references: BTreeMap<String, PathBuf>,
) -> Result<Matching> {
    let mut pairs = Vec::new();
    let both: Vec<String> =
        references.keys().filter(|k| predictions.contains_key(*k)).cloned().collect();
    for id in both {
        if let (Some(prediction), Some(reference)) =
            (predictions.remove(&id), references.remove(&id))
        {
            pairs.push(FilePair { id, prediction, reference });
        }
    }
    let mut by_key = keyed(predictions)?;
    let mut only_reference = Vec::new();
    for (key, (id, reference)) in keyed(references)? {
        match by_key.remove(&key) {
            Some((_, prediction)) => pairs.push(FilePair { id, prediction, reference }),
            None => only_reference.push(reference),
        }
    }
    pairs.sort_by(|a, b| a.id.cmp(&b.id));
    let only_predicted: Vec<PathBuf> = by_key.into_values().map(|(_, path)| path).collect();
    let hints = hints(&only_predicted, &only_reference);
    Ok(Matching { pairs, only_predicted, only_reference, hints })
}

/// Names that differ only by case.
fn hints(predictions: &[PathBuf], references: &[PathBuf]) -> Vec<String> {
    let folded = |path: &PathBuf| {
        strip_nifti(path).map(|stem| composed(&case_key(&composed(&stem)).to_lowercase()))
    };
    let mut found = Vec::new();
    for prediction in predictions {
        let alike = references.iter().filter(|r| folded(r) == folded(prediction));
        for reference in alike {
            let [a, b] =
                [prediction, reference].map(|p| readable(p.file_name().unwrap_or_default()));
            found.push(format!("{a} and {b} differ only by upper and lower case: rename one"));
        }
    }
    found
}

fn keyed(files: BTreeMap<String, PathBuf>) -> Result<BTreeMap<String, (String, PathBuf)>> {
    let mut out = BTreeMap::<String, (String, PathBuf)>::new();
    for (stem, path) in files {
        if let Some((_, other)) = out.get(&case_key(&stem)) {
            return Err(ambiguous(&path, other));
        }
        out.insert(case_key(&stem), (stem, path));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_known_sets_agree() {
        for (image, label) in [
            ("img0035", "label0035"),
            ("ct_train_1001_image", "ct_train_1001_label"),
            ("volume-covid19-A-0003_ct", "volume-covid19-A-0003_seg"),
            ("spleen_2_0000", "spleen_2"),
            ("volume-12", "segmentation-12"),
            ("amos_0001_0000", "amos_0001"),
            ("hippocampus_001", "hippocampus_001_pred"),
        ] {
            assert_eq!(case_key(image), case_key(label));
        }
        for (a, b) in [("amos_0001", "amos_0002"), ("ct_train_1", "mr_train_1"), ("a_1", "b_1")] {
            assert_ne!(case_key(a), case_key(b));
        }
        assert_eq!((case_key("label"), case_key("0000")), ("label".into(), "0000".into()));
    }

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            fs::write(dir.path().join(name), b"").unwrap();
        }
        dir
    }

    #[test]
    fn folders_are_paired_and_leftovers_listed() {
        let pred = folder(&["a_0000.nii.gz", "b.nii", "c.nii.gz", "summary.json", ".b.nii"]);
        let reference = folder(&["a.nii.gz", "b.nii.gz", "d.nii"]);
        let found = match_files(pred.path(), reference.path()).unwrap();
        let ids: Vec<&str> = found.pairs.iter().map(|p| p.id.as_str()).collect();
        assert_eq!(ids, ["a", "b"]);
        assert_eq!(found.pairs[0].prediction, pred.path().join("a_0000.nii.gz"));
        assert_eq!(found.only_predicted, [pred.path().join("c.nii.gz")]);
        assert_eq!(found.only_reference, [reference.path().join("d.nii")]);
        assert!(found.hints.is_empty(), "{:?}", found.hints);
    }

    /// macOS writes `é` as two characters: both look the same, and they are the same case.
    #[test]
    fn normal_forms_are_paired_and_case_is_told() {
        let pred = folder(&["cafe\u{301}_0000.nii.gz", "Bob.nii", "zoe\u{308}.nii"]);
        let reference = folder(&["caf\u{e9}.nii.gz", "bob.nii", "zo\u{eb}.nii"]);
        let found = match_files(pred.path(), reference.path()).unwrap();
        let ids: Vec<&str> = found.pairs.iter().map(|p| p.id.as_str()).collect();
        assert_eq!(ids, ["caf\u{e9}", "zo\u{eb}"]);
        assert_eq!(
            found.hints,
            ["Bob.nii and bob.nii differ only by upper and lower case: rename one"]
        );
        let twice = folder(&["caf\u{e9}.nii", "cafe\u{301}.nii"]);
        let error = match_files(twice.path(), reference.path()).unwrap_err().to_string();
        assert!(error.contains("NFC and NFD"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn names_that_are_no_text_are_paired() {
        use std::os::unix::ffi::OsStrExt;
        let reference = folder(&[]);
        let name = std::ffi::OsStr::from_bytes(b"f\xff.nii.gz");
        fs::write(reference.path().join(name), b"").unwrap();
        // What `predict` makes of that name.
        let found = match_files(folder(&["f%FF.nii.gz"]).path(), reference.path()).unwrap();
        assert_eq!(found.pairs[0].id, "f%FF");
    }

    /// amos_0000 and amos_0000_0000 keep apart by their exact names.
    #[test]
    fn exact_names_go_first() {
        let pred = folder(&["x_1.nii", "x_1_label.nii"]);
        let reference = folder(&["x_1.nii", "x_1_seg.nii"]);
        let found = match_files(pred.path(), reference.path()).unwrap();
        let names: Vec<_> = found.pairs.iter().map(|p| p.prediction.file_name().unwrap()).collect();
        assert_eq!(names, ["x_1.nii", "x_1_label.nii"]);
    }

    #[test]
    fn what_could_be_two_things_is_refused() {
        let reference = folder(&["a.nii"]);
        for names in [&["a_seg.nii", "a_label.nii"][..], &["a.nii", "a.nii.gz"], &["x.txt"]] {
            let pred = folder(names);
            let error = match_files(pred.path(), reference.path()).unwrap_err();
            assert!(matches!(error, Error::Data { .. }), "{error}");
        }
        let file = reference.path().join("a.nii");
        assert!(match_files(&file, reference.path()).is_err());
        assert!(match_files(reference.path(), &file).is_err());
        assert!(match_files(&file, Path::new("nowhere")).is_err());
        assert_eq!(match_files(&file, &file).unwrap().pairs.len(), 1);
    }
}
