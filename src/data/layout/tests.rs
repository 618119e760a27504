use super::*;

fn touch(root: &Path, names: &[&str]) {
    for name in names {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, b"").unwrap();
    }
}

fn ids(source: &Source) -> Vec<&str> {
    source.cases.iter().map(|c| c.id.as_str()).collect()
}

#[test]
fn folder_is_searched_in_order_without_labels() {
    let root = tempfile::tempdir().unwrap();
    touch(
        root.path(),
        &[
            "b.nii.gz",
            "a/z.NII",
            "a/pair.hdr",
            "a/pair.img",
            "._b.nii.gz",
            "notes.txt",
            "b_seg.nii.gz",
            "b_seg13.nii",
            "c-lungmask.nii.gz",
            "labelsTr/b.nii.gz",
            "lung_1_tumour.nii",
            "brain_masked.nii",
            "unlabelled/segovia.nii",
        ],
    );
    let source = discover(root.path(), &DiscoverOptions::default()).unwrap();
    assert_eq!(source.layout, Layout::Folder);
    assert_eq!(ids(&source), ["a/pair", "a/z", "b", "brain_masked", "unlabelled/segovia"]);
    assert_eq!(source.left_out.labels.len(), 5);
}

#[test]
fn nothing_found_names_the_remedy() {
    let root = tempfile::tempdir().unwrap();
    let reason = |path: &Path| {
        let error = discover(path, &DiscoverOptions::default()).unwrap_err();
        assert!(matches!(error, Error::Data { .. }));
        error.to_string()
    };
    assert!(reason(&root.path().join("absent")).contains("no such file"));
    assert!(reason(root.path()).contains("no NIfTI file"));
    touch(root.path(), &["a_label.nii"]);
    assert!(reason(root.path()).contains("look like label maps"));
    touch(root.path(), &["x.zip"]);
    assert!(reason(&root.path().join("x.zip")).contains("neither a volume"));
    fs::write(root.path().join("dataset.json"), "{\"training\": [\"gone.nii\"]}").unwrap();
    assert!(reason(root.path()).contains("none of the 1 images"));
    fs::write(root.path().join("dataset.json"), "{}").unwrap();
    assert!(reason(root.path()).contains("neither `training`"));
    fs::write(root.path().join("dataset.json"), "[").unwrap();
    assert!(reason(root.path()).contains("not a dataset.json"));
}

#[test]
fn msd_keeps_labels_and_refuses_escapes() {
    let root = tempfile::tempdir().unwrap();
    touch(root.path(), &["imagesTr/a.nii.gz", "imagesTs/t.nii.gz"]);
    let json = r#"{"training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}],
                   "test": ["./imagesTs/t.nii.gz"], "labels": {"0": "background"}}"#;
    fs::write(root.path().join("dataset.json"), json).unwrap();
    let mut options = DiscoverOptions::default();
    let source = discover(root.path(), &options).unwrap();
    assert_eq!((source.layout, ids(&source)), (Layout::Msd, vec!["a"]));
    assert_eq!(source.cases[0].images, [root.path().join("imagesTr/a.nii.gz")]);
    assert_eq!(source.cases[0].label, Some(root.path().join("labelsTr/a.nii.gz")));
    options.include_test = true;
    assert_eq!(ids(&discover(&root.path().join("dataset.json"), &options).unwrap()), ["a", "t"]);

    let json = json.replace("./imagesTr", "../imagesTr");
    fs::write(root.path().join("dataset.json"), json).unwrap();
    let error = discover(root.path(), &options).unwrap_err().to_string();
    assert!(error.contains("a folder above all files"), "{error}");
}

#[test]
fn nnunet_groups_channels() {
    let root = tempfile::tempdir().unwrap();
    touch(
        root.path(),
        &[
            "imagesTr/p_2_0000.nii.gz",
            "imagesTr/p_2_0001.nii.gz",
            "imagesTr/p_1_0000.nii.gz",
            "imagesTr/p_1_0001.nii.gz",
            "imagesTr/other.nii.gz",
            "labelsTr/p_1.nii.gz",
        ],
    );
    let json = r#"{"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0},
                   "numTraining": 2, "file_ending": ".nii.gz"}"#;
    fs::write(root.path().join("dataset.json"), json).unwrap();
    let source = discover(root.path(), &DiscoverOptions::default()).unwrap();
    assert_eq!((source.layout, ids(&source)), (Layout::NnUnet, vec!["p_1", "p_2"]));
    let case = &source.cases[0];
    assert_eq!(case.images[1], root.path().join("imagesTr/p_1_0001.nii.gz"));
    assert_eq!(case.label, Some(root.path().join("labelsTr/p_1.nii.gz")));
    assert_eq!(source.cases[1].label, None);
}

#[test]
fn list_is_relative_to_itself() {
    let root = tempfile::tempdir().unwrap();
    touch(root.path(), &["sub/a.nii", "b_seg.nii"]);
    let list = root.path().join("cases.txt");
    fs::write(&list, "# comment\n\n ./sub/a.nii  # first\nb_seg.nii\n").unwrap();
    let source = discover(&list, &DiscoverOptions::default()).unwrap();
    assert_eq!((source.layout, ids(&source)), (Layout::List, vec!["sub/a", "b_seg"]));
    fs::write(&list, "sub/a.nii\n/etc/hosts\n").unwrap();
    let error = discover(&list, &DiscoverOptions::default()).unwrap_err().to_string();
    assert!(error.contains("line 2"), "{error}");
}

#[test]
fn every_kth_case_is_held_out() {
    let cases: Vec<Case> =
        (0..7).map(|i| Case { id: i.to_string(), images: vec![], label: None }).collect();
    let (training, held) = hold_out(&cases, 3).unwrap();
    let names = |l: &[Case]| l.iter().map(|c| c.id.clone()).collect::<String>();
    assert_eq!((names(&training), names(&held)), ("01346".to_owned(), "25".to_owned()));
    assert_eq!(hold_out(&cases, 0).unwrap().0.len(), 7);
    assert!(hold_out(&cases, 1).is_err());
}

#[test]
fn excluded_cases_are_named_exactly() {
    let cases: Vec<Case> =
        ["a", "b", "c"].map(|id| Case { id: id.into(), images: vec![], label: None }).into();
    let left = exclude(cases.clone(), &["b".to_owned()]).unwrap();
    assert_eq!(left.iter().map(|c| c.id.as_str()).collect::<String>(), "ac");
    assert_eq!(exclude(cases.clone(), &[]).unwrap().len(), 3);
    let error = exclude(cases.clone(), &["b ".to_owned()]).unwrap_err().to_string();
    assert!(error.contains("\"b \"") && error.contains("data.exclude"), "{error}");
    assert!(exclude(cases, &["a", "b", "c"].map(str::to_owned)).is_err());
}
