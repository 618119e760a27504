//! Names and texts of other systems, in every kind of set; volumes that say nothing.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use glmae::data::layout::{DiscoverOptions, Source};
use glmae::data::nifti::{Stored, read_header, write_volume};
use glmae::data::{Case, PrepareConfig, ReadLimits, Volume, discover, prepare, read_volume};
use glmae::seg::Task;
use glmae::seg::dataset::labelled_cases;

use super::limits::small;

fn put(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, small(false, false).bytes).unwrap();
}

fn found(path: &Path) -> Source {
    discover(path, &DiscoverOptions::default()).unwrap()
}

fn ids(source: &Source) -> Vec<&str> {
    source.cases.iter().map(|c| c.id.as_str()).collect()
}

#[cfg(unix)]
fn name(bytes: &[u8]) -> &OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(bytes)
}

/// Every kind of set takes files whose names are no UTF-8; two of them stay two cases.
#[cfg(unix)]
#[test]
fn names_that_are_no_text_are_cases() {
    let usable = |source: &Source| {
        for case in &source.cases {
            case.images.iter().for_each(|p| drop(read_header(p, &ReadLimits::default()).unwrap()));
        }
    };
    let root = tempfile::tempdir().unwrap();
    for bytes in [&b"f\xff.nii"[..], b"f\xfe.nii", b"c.nii", b"sub\xff/x.nii"] {
        put(&root.path().join(name(bytes)));
    }
    let source = found(root.path());
    assert_eq!(ids(&source), ["c", "f%FE", "f%FF", "sub%FF/x"]);
    usable(&source);

    let list = root.path().join("list.txt");
    fs::write(&list, b"f\xff.nii\nsub\xff/x.nii\r\n").unwrap();
    let source = found(&list);
    assert_eq!(ids(&source), ["f%FF", "sub%FF/x"]);
    usable(&source);

    let raw = tempfile::tempdir().unwrap();
    put(&raw.path().join("imagesTr").join(name(b"p\xff_0000.nii")));
    put(&raw.path().join("labelsTr").join(name(b"p\xff.nii")));
    let json = r#"{"channel_names": {"0": "CT"}, "file_ending": ".nii", "labels": {"a": 1}}"#;
    fs::write(raw.path().join("dataset.json"), json).unwrap();
    let source = found(raw.path());
    assert_eq!(ids(&source), ["p%FF"]);
    usable(&source);
    let set = labelled_cases(raw.path(), false).unwrap();
    assert_eq!(set.cases.len(), 1);
    fs::remove_file(raw.path().join("dataset.json")).unwrap();
    assert_eq!(labelled_cases(raw.path(), false).unwrap().cases[0].id, "p%FF");

    let btcv = tempfile::tempdir().unwrap();
    put(&btcv.path().join("img").join(name(b"img\xff1.nii.gz")));
    put(&btcv.path().join("label").join(name(b"label\xff1.nii.gz")));
    let cases = Task::load("btcv").unwrap().find_cases(btcv.path()).unwrap();
    assert_eq!(cases[0].id, "img%FF1");
    assert!(cases[0].files().all(|p| p.is_file()));
    // A pair of files finds its other half.
    let pair = root.path().join(name(b"z\xff.img"));
    fs::write(&pair, b"").unwrap();
    assert!(read_volume(&pair, &Default::default()).unwrap_err().to_string().contains(".hdr"));
}

/// Nothing in a folder is passed over in silence.
#[test]
fn what_a_folder_scan_leaves_out_is_named() {
    let root = tempfile::tempdir().unwrap();
    for name in ["a.nii", "a_seg.nii", "b.mha", "c.dcm", "d.img", "notes.txt"] {
        put(&root.path().join(name));
    }
    let text = found(root.path()).left_out.lines().join("\n");
    for word in ["a_seg.nii", "b.mha", "c.dcm", "d.img", "look like label maps", "no NIfTI"] {
        assert!(text.contains(word), "'{word}' is not in: {text}");
    }
    assert!(!text.contains("notes.txt"), "{text}");
    let clean = tempfile::tempdir().unwrap();
    put(&clean.path().join("a.nii"));
    assert!(found(clean.path()).left_out.lines().is_empty());
}

#[test]
fn files_of_windows_are_read() {
    let root = tempfile::tempdir().unwrap();
    put(&root.path().join("imagesTr/a.nii"));
    put(&root.path().join("labelsTr/a.nii"));
    let json = "\u{feff}{\"labels\": {\"0\": \"background\", \"1\": \"a\"}, \"training\": \
                [{\"image\": \".\\\\imagesTr\\\\a.nii\", \"label\": \".\\\\labelsTr\\\\a.nii\"}]}\r\n";
    let manifest = root.path().join("dataset.json");
    fs::write(&manifest, json).unwrap();
    let set = labelled_cases(root.path(), false).unwrap();
    assert_eq!(set.cases[0].images, [root.path().join("imagesTr/a.nii")]);
    // Separators are no way out of the folder.
    fs::write(&manifest, json.replace(".\\\\images", "..\\\\images")).unwrap();
    let error = labelled_cases(root.path(), false).unwrap_err().to_string();
    assert!(error.contains("leads out of the folder"), "{error}");

    let list = root.path().join("list.txt");
    let line = "imagesTr\\a.nii\r\n";
    let utf16: Vec<u8> = line.encode_utf16().flat_map(u16::to_le_bytes).collect();
    for bytes in [format!("\u{feff}{line}").into_bytes(), [&b"\xff\xfe"[..], &utf16].concat()] {
        fs::write(&list, bytes).unwrap();
        assert_eq!(ids(&found(&list)), ["imagesTr/a"]);
    }
    let task =
        include_str!("../../configs/tasks/hippocampus.toml").replace("imagesTr/", "imagesTr\\\\");
    let file = root.path().join("task.toml");
    fs::write(&file, format!("\u{feff}{task}")).unwrap();
    assert!(Task::load(file.to_str().unwrap()).is_ok());
    let config = root.path().join("mine.toml");
    fs::write(&config, "\u{feff}[train]\r\nsteps = 3\r\n").unwrap();
    let config = glmae::config::Config::load(config.to_str().unwrap(), &[]).unwrap();
    assert_eq!(config.train.steps, 3);
    if let Some(cases) = crate::support::shared("cases/data-side") {
        let file = cases.join("dataset_with_bom_and_backslashes.json");
        let image = root.path().join("imagesTr/L_000.nii.gz");
        put(&image);
        put(&root.path().join("labelsTr/L_000.nii.gz"));
        fs::copy(file, &manifest).unwrap();
        assert_eq!(labelled_cases(root.path(), false).unwrap().cases[0].images, [image]);
    }
}

/// A manifest in one normal form, files in the other.
#[test]
fn normal_forms_of_a_manifest_are_those_of_the_disk() {
    let root = tempfile::tempdir().unwrap();
    put(&root.path().join("imagesTr/cafe\u{301}.nii"));
    let json = "{\"training\": [\"imagesTr/caf\u{e9}.nii\"]}";
    fs::write(root.path().join("dataset.json"), json).unwrap();
    assert!(found(root.path()).cases[0].images[0].is_file());
}

#[test]
fn a_volume_without_contrast_is_no_case() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("flat.nii");
    let mut affine = [[0.0; 4]; 4];
    (0..4).for_each(|a| affine[a][a] = 1.0);
    let save = |data: Vec<f32>| {
        let volume = Volume::new(data, 1, [2, 3, 4], affine, 1).unwrap();
        write_volume(&path, &volume, Stored::F32).unwrap();
        let case = Case { id: "flat".into(), images: vec![path.clone()], label: None };
        prepare(&case, &PrepareConfig::default())
    };
    let error = save(vec![40.0; 24]).unwrap_err();
    assert_eq!(error.exit_code(), 3);
    assert!(error.to_string().contains("no contrast: every voxel is 0.52"), "{error}");
    assert!(error.to_string().contains("flat.nii"), "{error}");
    let mut data = vec![40.0; 24];
    data[7] = 41.0;
    assert!(save(data).is_ok());
    if let Some(cases) = crate::support::shared("cases/data-side") {
        let images = vec![cases.join("constant_volume.nii.gz")];
        let case = Case { id: "c".into(), images, label: None };
        let error = prepare(&case, &PrepareConfig::default()).unwrap_err().to_string();
        assert!(error.contains("no contrast") || error.contains("no foreground"), "{error}");
    }
}

/// The distance is that of the corner that moved the most.
#[test]
fn forms_that_disagree_are_told_in_mm() {
    let mut raw = small(false, false);
    raw.form_codes(1, 1);
    let mut sform = |shift: f32| {
        for r in 0..3 {
            for c in 0..4 {
                let value = if r == c {
                    1.0
                } else if c == 3 && r == 1 {
                    shift
                } else {
                    0.0f32
                };
                raw.put(280 + 16 * r + 4 * c, &value.to_le_bytes());
            }
        }
        let file = tempfile::NamedTempFile::with_suffix(".nii").unwrap();
        fs::write(file.path(), &raw.bytes).unwrap();
        read_header(file.path(), &ReadLimits::default()).unwrap().forms_disagree()
    };
    assert_eq!(sform(0.0), None);
    assert_eq!(sform(0.09), None);
    let text = sform(7.5).unwrap();
    assert!(text.contains("up to 7.5 mm elsewhere") && text.contains("sform is used"), "{text}");
    raw.form_codes(0, 1);
    let file = tempfile::NamedTempFile::with_suffix(".nii").unwrap();
    fs::write(file.path(), &raw.bytes).unwrap();
    assert_eq!(read_header(file.path(), &ReadLimits::default()).unwrap().forms_disagree(), None);
}
