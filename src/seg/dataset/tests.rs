use std::fs;

use super::*;
use crate::seg::Region;

fn folder(names: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in names {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, b"").unwrap();
    }
    dir
}

fn ids(set: &LabelledSet) -> Vec<&str> {
    set.cases.iter().map(|c| c.id.as_str()).collect()
}

#[test]
fn msd_manifests_are_read() {
    let dir = folder(&[
        "imagesTr/la_1.nii.gz",
        "imagesTr/la_2.nii.gz",
        "labelsTr/la_1.nii.gz",
        "labelsTr/la_2.nii.gz",
        "imagesTs/la_3.nii.gz",
    ]);
    let manifest = dir.path().join("dataset.json");
    let entry = |n: u32| {
        format!(r#"{{"image": "./imagesTr/la_{n}.nii.gz", "label": "./labelsTr/la_{n}.nii.gz"}}"#)
    };
    let write = |training: &str, count: usize| {
        let text = format!(
            r#"{{"name": "Heart", "modality": {{"0": "MRI"}}, "numTraining": {count},
                "labels": {{"0": "background", "1": "left atrium"}},
                "training": [{training}], "test": ["./imagesTs/la_3.nii.gz"]}}"#
        );
        fs::write(&manifest, text).unwrap();
        labelled_cases(dir.path(), false)
    };
    let both = format!("{}, {}", entry(1), entry(2));
    let set = write(&both, 2).unwrap();
    assert_eq!(ids(&set), ["la_1", "la_2"]);
    assert_eq!(set.cases[1].label, dir.path().join("labelsTr/la_2.nii.gz"));
    let info = set.info.unwrap();
    assert_eq!((info.classes(), info.name.as_deref()), (Some(2), Some("Heart")));
    assert_eq!(
        (info.channels, info.regions),
        (vec!["MRI".to_owned()], vec![Region::class(1, "left atrium")])
    );
    assert!(set.warnings.is_empty());
    let set = write(&both, 20).unwrap();
    assert!(set.warnings[0].contains("numTraining is 20"), "{:?}", set.warnings);
    // What lacks a partner is named.
    for (training, words) in [
        (format!("{}, {}", entry(1), entry(7)), "la_7 (no file"),
        (format!("{}, \"imagesTr/la_2.nii.gz\"", entry(1)), "la_2 (no label)"),
        (
            r#"{"image": ["imagesTr/la_1.nii.gz", "imagesTr/x.nii"], "label": "labelsTr/la_1.nii.gz"}, "imagesTr/la_2.nii.gz""#.to_owned(),
            "2 of 2",
        ),
    ] {
        let error = write(&training, 2).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("dataset.json"), "{error}");
    }
    let outside = r#"{"image": "../x.nii", "label": "../y.nii"}"#;
    assert!(write(outside, 1).unwrap_err().to_string().contains("leads out"));
}

#[test]
fn nnunet_folders_are_read() {
    let dir = folder(&[
        "imagesTr/b_1_0000.nii.gz",
        "imagesTr/b_1_0001.nii.gz",
        "imagesTr/a_0000.nii.gz",
        "imagesTr/a_0001.nii.gz",
        "labelsTr/a.nii.gz",
        "labelsTr/b_1.nii.gz",
    ]);
    let text = r#"{"channel_names": {"0": "T1", "1": "FLAIR"}, "numTraining": 2, "file_ending": ".nii.gz",
        "labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}}"#;
    fs::write(dir.path().join("dataset.json"), text).unwrap();
    let set = labelled_cases(&dir.path().join("dataset.json"), false).unwrap();
    assert_eq!(ids(&set), ["a", "b_1"]);
    assert_eq!(set.cases[0].images.len(), 2);
    let info = set.info.unwrap();
    assert_eq!(info.channels, ["T1", "FLAIR"]);
    let regions: Vec<String> = info.regions.iter().map(Region::to_string).collect();
    assert_eq!(regions, ["(1, 2, 3) whole", "(2, 3) core", "3 enhancing"]);
    assert_eq!(info.classes(), Some(4));
    fs::remove_file(dir.path().join("labelsTr/a.nii.gz")).unwrap();
    let error = labelled_cases(dir.path(), false).unwrap_err().to_string();
    assert!(error.contains("1 of 2") && error.contains("a (no label)"), "{error}");
    fs::remove_file(dir.path().join("imagesTr/b_1_0001.nii.gz")).unwrap();
    assert!(labelled_cases(dir.path(), false).unwrap_err().to_string().contains("b_1_0001"));
}

#[test]
fn hostile_manifests_are_refused() {
    for (text, words) in [
        ("[]", "not a dataset.json"),
        (r#"{"labels": {"liver": 256}}"#, "labels.liver"),
        (r#"{"labels": {"liver": -1}}"#, "labels.liver"),
        (r#"{"labels": {"liver": 1.5}}"#, "labels.liver"),
        (r#"{"labels": {"liver": {}}}"#, "labels.liver"),
        (r#"{"labels": {"liver": []}}"#, "labels.liver"),
        (r#"{"labels": {"all": [0, 1]}}"#, "labels.all"),
        (r#"{"labels": {"300": "x"}}"#, "labels.300"),
        (r#"{"labels": {"a": 1, "b": 1}}"#, "label 1 is declared twice"),
        (r#"{"labels": {"a": [1, 2], "b": [2, 1]}}"#, "(1, 2) is declared twice"),
        (r#"{"labels": {"ignore": 0}}"#, "ignore"),
        (r#"{"labels": {"ignore": "x"}}"#, "ignore"),
        (r#"{"labels": {"a": 4, "ignore": 4}}"#, "ignore"),
        (r#"{"labels": [1]}"#, "not a dataset.json"),
        (r#"{"modality": {"1": "CT"}}"#, "channels"),
        (r#"{"channel_names": {"x": "CT"}}"#, "channel"),
        (r#"{"numTraining": -3}"#, "not a dataset.json"),
    ] {
        let error = DatasetInfo::parse(text).unwrap_err();
        assert!(error.contains(words), "{text}: {error}");
    }
    assert_eq!(DatasetInfo::parse("{}").unwrap().classes(), None);
}

/// What `evaluate` leaves out training cannot.
#[test]
fn an_ignore_label_is_no_class_and_not_trained_on() {
    let text = r#"{"labels": {"background": 0, "liver": 1, "ignore": 255}, "training": []}"#;
    let info = DatasetInfo::parse(text).unwrap();
    assert_eq!((info.ignore, info.classes(), info.regions.len()), (Some(255), Some(2), 1));
    let dir = folder(&["imagesTr/a.nii"]);
    fs::write(dir.path().join("dataset.json"), text).unwrap();
    let error = labelled_cases(dir.path(), false).unwrap_err().to_string();
    assert!(error.contains("labels.ignore = 255"), "{error}");
}

#[test]
fn folders_without_manifest_are_paired() {
    let btcv = folder(&[
        "img/img0001.nii.gz",
        "img/img0002.nii.gz",
        "label/label0001.nii.gz",
        "label/label0002.nii.gz",
    ]);
    let set = labelled_cases(btcv.path(), false).unwrap();
    assert_eq!(ids(&set), ["label0001", "label0002"]);
    assert_eq!(set.cases[1].images, [btcv.path().join("img/img0002.nii.gz")]);

    let channels = folder(&[
        "imagesTr/p_0000.nii",
        "imagesTr/p_0001.nii",
        "labelsTr/p.nii",
        "imagesTr/q.nii",
        "labelsTr/q.nii",
    ]);
    let set = labelled_cases(channels.path(), false).unwrap();
    assert_eq!(set.cases.iter().map(|c| c.images.len()).collect::<Vec<_>>(), [2, 1]);
    fs::remove_file(channels.path().join("imagesTr/p_0000.nii")).unwrap();
    assert!(
        labelled_cases(channels.path(), false).unwrap_err().to_string().contains("channels [1]")
    );

    let beside = folder(&["volume-covid19-A-0003_ct.nii.gz", "volume-covid19-A-0003_seg.nii.gz"]);
    assert_eq!(labelled_cases(beside.path(), false).unwrap().cases.len(), 1);

    for (names, words) in [
        (&["images/a.nii", "images/b.nii", "labels/a.nii"][..], "no partner: b"),
        (&["images/a.nii", "labels/a.nii", "labels/c.nii"], "no partner: c"),
        (&["images/a.nii", "images/a.nii.gz", "labels/a.nii"], "may be the same case"),
        (&["images/a.nii", "labels/a_seg.nii", "labels/a_label.nii"], "may be the same case"),
        (&["a.nii"], "no label map here"),
    ] {
        let dir = folder(names);
        let error = labelled_cases(dir.path(), false).unwrap_err().to_string();
        assert!(error.contains(words), "{names:?}: {error}");
    }
    let nowhere = tempfile::tempdir().unwrap().path().join("x");
    assert!(labelled_cases(&nowhere, false).is_err());
}
