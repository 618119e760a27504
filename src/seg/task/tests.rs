use std::fs;

use super::*;

/// Files with nothing in them.
fn folder(names: impl IntoIterator<Item = String>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in names {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, b"").unwrap();
    }
    dir
}

fn ids_of(cases: &[TaskCase]) -> Vec<String> {
    cases.iter().map(|c| c.id.clone()).collect()
}

/// Finds, splits; returns the sizes of both sides beside the split.
fn run(name: &str, files: Vec<String>) -> (Task, Split, [usize; 2]) {
    let dir = folder(files);
    let task = Task::load(name).unwrap();
    let cases = task.find_cases(dir.path()).unwrap();
    let split = task.split(dir.path(), &ids_of(&cases)).unwrap();
    let sizes = [split.training.len(), split.validation.len()];
    (task, split, sizes)
}

fn pairs(ids: impl IntoIterator<Item = String>, image: &str, label: &str) -> Vec<String> {
    ids.into_iter().flat_map(|id| [image.replace('*', &id), label.replace('*', &id)]).collect()
}

/// The table of the paper, row by row.
#[test]
fn shipped_tasks_are_the_table_of_the_paper() {
    type Row = (&'static str, [usize; 2], Option<[f64; 3]>, [usize; 3], usize, TaskKind);
    let rows: &[Row] = &[
        ("btcv", [24, 6], Some([1.5; 3]), [96; 3], 14, TaskKind::Classes),
        ("mm-whs", [16, 4], Some([1.5; 3]), [96; 3], 8, TaskKind::Classes),
        ("spleen", [32, 9], Some([1.5; 3]), [96; 3], 2, TaskKind::Classes),
        ("amos22", [240, 60], Some([1.5; 3]), [96; 3], 16, TaskKind::Classes),
        ("word", [80, 20], Some([1.5; 3]), [96; 3], 17, TaskKind::Classes),
        ("covid-19-20", [160, 39], Some([1.25, 1.25, 5.0]), [192, 192, 32], 2, TaskKind::Classes),
        ("brats", [387, 97], Some([1.0; 3]), [224, 224, 144], 4, TaskKind::Regions),
        ("cc-ccii", [2514, 1664], None, [384, 384, 32], 3, TaskKind::ImageClasses),
        ("hippocampus", [208, 52], Some([1.0; 3]), [48, 64, 48], 3, TaskKind::Classes),
        ("synthetic", [5, 1], Some([6.0; 3]), [48, 48, 48], 10, TaskKind::Classes),
    ];
    assert_eq!(rows.len(), TASKS.len());
    for (name, cases, spacing_mm, roi, classes, kind) in rows {
        let task = Task::load(name).unwrap();
        assert_eq!((task.cases, task.image.spacing_mm), (*cases, *spacing_mm), "{name}");
        assert_eq!((task.image.roi, task.classes(), task.kind), (*roi, *classes, *kind), "{name}");
        let config = task.prepare_config();
        assert_eq!((config.min_size, config.channels), (*roi, task.channels.len()));
    }
    let windows = [("btcv", -175., 250.), ("mm-whs", 0., 1700.), ("covid-19-20", -1000., 500.)];
    for (name, lo, hi) in windows {
        assert_eq!(Task::load(name).unwrap().image.intensity, Intensity::Window { lo, hi });
    }
}

#[test]
fn btcv_is_split_as_published() {
    let ids = (1..=10).chain(21..=40).map(|n| format!("{n:04}"));
    let files = pairs(ids, "img/img*.nii.gz", "label/label*.nii.gz");
    let (task, split, sizes) = run("btcv", files);
    assert_eq!(sizes, task.cases);
    assert_eq!(split.validation[0], "img0035");
    assert_eq!(task.subset(&split, 3).unwrap(), ["img0002", "img0003", "img0005"]);
    assert_eq!(task.subset(&split, 6).unwrap().len(), 6);
    assert_eq!(task.subset(&split, 12).unwrap()[10..], ["img0021", "img0022"]);
    assert!(task.subset(&split, 5).unwrap_err().to_string().contains("3, 6, 12"));
    assert_eq!(task.regions(false)[12].to_string(), "13 left adrenal gland");
}

#[test]
fn mm_whs_has_a_label_map() {
    let ids = (1001..=1020).map(|n| n.to_string());
    let files = pairs(ids, "ct_train/ct_train_*_image.nii.gz", "ct_train/ct_train_*_label.nii.gz");
    let (task, split, sizes) = run("mm-whs", files);
    assert_eq!(sizes, task.cases);
    assert_eq!(task.subset(&split, 8).unwrap()[7], "ct_train_1012");
    let map = task.label_rules().map.unwrap();
    assert_eq!((map[&205], map[&421], map[&850], map.len()), (1, 2, 7, 8));
}

#[test]
fn spleen_ids_have_gaps() {
    // The 41 training cases of MSD Task09.
    let ids = [2, 3, 6, 8, 9, 10, 12, 13, 14].into_iter();
    let ids = ids.chain([16, 17, 18, 19, 20, 21, 22, 24, 25, 26, 27, 28, 29, 31, 32, 33, 38, 40]);
    let ids = ids.chain([41, 44, 45, 46, 47, 49, 52, 53, 56, 59, 60, 61, 62, 63]);
    let files = pairs(
        ids.map(|n: u32| n.to_string()),
        "imagesTr/spleen_*.nii.gz",
        "labelsTr/spleen_*.nii.gz",
    );
    let (task, split, sizes) = run("spleen", files);
    assert_eq!(sizes, task.cases);
    assert_eq!(task.subset(&split, 8).unwrap().len(), 8);
    assert_eq!(task.subset(&split, 16).unwrap().len(), 16);
    assert!(!split.training.contains(&"spleen_12".to_owned()));
}

#[test]
fn amos_takes_ct_of_both_folders() {
    let number = |n: usize| format!("{n:04}");
    let mut files =
        pairs((1..=200).map(number), "imagesTr/amos_*.nii.gz", "labelsTr/amos_*.nii.gz");
    files.extend(pairs(
        (201..=300).map(number),
        "imagesVa/amos_*.nii.gz",
        "labelsVa/amos_*.nii.gz",
    ));
    // MRI.
    files.extend(pairs(
        (507..=520).map(number),
        "imagesTr/amos_*.nii.gz",
        "labelsTr/amos_*.nii.gz",
    ));
    files.push("imagesTr/._amos_0001.nii.gz".to_owned());
    let (task, split, sizes) = run("amos22", files);
    assert_eq!(sizes, task.cases);
    assert_eq!(split.validation[59], "amos_0060");
    assert_eq!(task.subset(&split, 61).unwrap().len(), 61);
}

#[test]
fn other_sets_have_their_counts() {
    let (task, split, sizes) = run(
        "word",
        pairs(
            (1..=100).map(|n| format!("{n:04}")),
            "imagesTr/word_*.nii.gz",
            "labelsTr/word_*.nii.gz",
        ),
    );
    assert_eq!((sizes, split.validation[0].as_str()), (task.cases, "word_0081"));
    // 160 numbers below 0573, 39 from there on; the set's own numbers have gaps.
    let covid = (3..163).chain((573..=698).filter(|n| n % 3 == 0).take(37)).chain([697, 698]);
    let files = pairs(
        covid.map(|n| format!("{n:04}")),
        "Train/volume-covid19-A-*_ct.nii.gz",
        "Train/volume-covid19-A-*_seg.nii.gz",
    );
    let (task, _, sizes) = run("covid-19-20", files);
    assert_eq!(sizes, task.cases);
    let files = pairs(
        (1..=484).map(|n| format!("{n:03}")),
        "imagesTr/BRATS_*.nii.gz",
        "labelsTr/BRATS_*.nii.gz",
    );
    let (task, _, sizes) = run("brats", files);
    assert_eq!((sizes, task.outputs()), (task.cases, 3));
    let names = |published| -> Vec<String> {
        task.regions(published).iter().map(Region::to_string).collect()
    };
    assert_eq!(names(false), ["(2, 3) TC", "(1, 2, 3) WT", "3 ET"]);
    assert_eq!(names(true), ["(2, 3) TC", "(1, 2, 3) WT", "2 ET"]);
    let files = pairs(
        (1..=260).map(|n| format!("{n:03}")),
        "imagesTr/hippocampus_*.nii.gz",
        "labelsTr/hippocampus_*.nii.gz",
    );
    let (task, split, sizes) = run("hippocampus", files);
    assert_eq!((sizes, split.validation[1].as_str()), (task.cases, "hippocampus_010"));
    assert_eq!(task.subset(&split, 32).unwrap().len(), 32);
}

/// 199 cases in five folds are 40, 40, 40, 40, 39, as the paper's COVID-19-20.
#[test]
fn folds_of_unequal_size() {
    let root = Path::new("set");
    let ids: Vec<String> = (1..=199).map(|n| format!("word_{n:04}")).collect();
    let mut held = Vec::new();
    for (fold, size) in [40, 40, 40, 40, 39].into_iter().enumerate() {
        let text = TASKS[4].1.replace("fold = 4", &format!("fold = {fold}"));
        let split = Task::parse(&text, "word").unwrap().split(root, &ids).unwrap();
        assert_eq!([split.training.len(), split.validation.len()], [199 - size, size]);
        held.extend(split.validation);
    }
    assert_eq!(held, ids);
}

#[test]
fn a_set_learnt_by_heart_is_on_both_sides() {
    let (head, tail) = TASKS[2].1.split_once("[split]").unwrap();
    let layout = &tail[tail.find("[[layout]]").unwrap()..];
    let task = Task::parse(&format!("{head}[split]\nrule = \"same\"\n{layout}"), "same").unwrap();
    let ids = ["spleen_2".to_owned(), "spleen_3".to_owned()];
    let split = task.split(Path::new("set"), &ids).unwrap();
    assert_eq!((split.training.as_slice(), split.validation.as_slice()), (&ids[..], &ids[..]));
}

#[test]
fn scans_with_one_class_come_from_folders_and_lists() {
    let names = ["normal/a", "normal/b", "CP/c", "NCP/d", "NCP/e"];
    let dir = folder(names.map(|n| format!("{n}.nii.gz")));
    let task = Task::load("cc-ccii").unwrap();
    let cases = task.find_cases(dir.path()).unwrap();
    let classes: Vec<&Target> = cases.iter().map(|c| &c.target).collect();
    assert_eq!(ids_of(&cases), ["CP/c", "NCP/d", "NCP/e", "normal/a", "normal/b"]);
    assert_eq!(
        (classes[0], classes[1], classes[3]),
        (&Target::Class(1), &Target::Class(2), &Target::Class(0))
    );
    let split = || task.split(dir.path(), &ids_of(&cases));
    assert!(matches!(split(), Err(Error::Io { .. })), "lists are missing");
    let write = |train: &str, validation: &str| {
        fs::write(dir.path().join("train.txt"), train).unwrap();
        fs::write(dir.path().join("validation.txt"), validation).unwrap();
        split().map_err(|e| e.to_string())
    };
    let good = write("normal/a # first\n\nCP/c\nNCP/d\n", "NCP/e\nnormal/b\n").unwrap();
    assert_eq!(good.training, ["CP/c", "NCP/d", "normal/a"]);
    for (train, validation, words) in [
        ("normal/a\n", "normal/a\nNCP/d\n", "both sides"),
        ("normal/x\n", "NCP/e\n", "normal/x"),
        ("", "NCP/e\n", "0 for training"),
        ("a9..b2\n", "NCP/e\n", "ascending"),
    ] {
        let error = write(train, validation).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn incomplete_sets_are_refused_by_name() {
    let task = Task::load("btcv").unwrap();
    let mut files = pairs(["0001".to_owned()], "img/img*.nii.gz", "label/label*.nii.gz");
    let dir = folder(files.clone());
    let error = task.split(dir.path(), &["img0001".to_owned()]).unwrap_err().to_string();
    assert!(error.contains("split.validation") && error.contains("img0035..img0040"), "{error}");
    files.push("img/img0002.nii.gz".to_owned());
    let error = task.find_cases(folder(files.clone()).path()).unwrap_err().to_string();
    assert!(error.contains("img0002") && error.contains("label0002.nii.gz"), "{error}");
    files.pop();
    files.extend(["imagesTr/img0001.nii.gz".to_owned(), "labelsTr/label0001.nii.gz".to_owned()]);
    let error = task.find_cases(folder(files).path()).unwrap_err().to_string();
    assert!(error.contains("img0001 is there twice"), "{error}");
    let error = task.find_cases(folder([]).path()).unwrap_err().to_string();
    assert!(error.contains("img/img*.nii.gz") && error.contains("no label map here"), "{error}");
    let twice = ["a".to_owned(), "a".to_owned()];
    assert!(task.split(dir.path(), &twice).unwrap_err().to_string().contains("occurs twice"));
}

/// A set in the form of nnU-Net goes under its own ids.
#[test]
fn converted_sets_are_found() {
    let dir = folder(
        ["imagesTr/BRATS_001_0000.nii.gz", "imagesTr/x_0000.nii", "labelsTr/x.nii"]
            .map(str::to_owned),
    );
    let error = Task::load("brats").unwrap().find_cases(dir.path()).unwrap_err().to_string();
    assert!(error.contains("BRATS_001_0000"), "{error}");
    fs::remove_file(dir.path().join("imagesTr/BRATS_001_0000.nii.gz")).unwrap();
    let cases = Task::load("brats").unwrap().find_cases(dir.path()).unwrap();
    assert_eq!(ids_of(&cases), ["x"]);
}

#[test]
fn hostile_files_get_clear_errors() {
    let good = TASKS[0].1;
    assert!(Task::parse(good, "mine.toml").is_ok());
    for (from, to, words) in [
        ("title =", "titel =", "titel"),
        ("kind = \"classes\"", "kind = \"boxes\"", "boxes"),
        ("kind = \"classes\"", "kind = \"regions\"", "labels.regions"),
        ("channels = [\"CT\"]", "channels = []", "channels"),
        ("roi = [96, 96, 96]", "roi = [96, 96, 90]", "image.roi"),
        ("roi = [96, 96, 96]", "roi = [96, 96]", "roi"),
        ("roi = [96, 96, 96]", "roi = [96, 96, -16]", "roi"),
        ("spacing_mm = [1.5, 1.5, 1.5]", "spacing_mm = [1.5, 0.0, 1.5]", "image.spacing_mm"),
        ("spacing_mm = [1.5, 1.5, 1.5]", "spacing_mm = [1.5, nan, 1.5]", "image.spacing_mm"),
        ("lo = -175.0", "lo = 300.0", "image.intensity"),
        ("lo = -175.0", "low = -175.0", "low"),
        ("foreground = 0.0", "foreground = inf", "image.foreground"),
        ("\"spleen\", ", "\"liver\", ", "labels.names"),
        ("\"spleen\", ", "\"\", ", "labels.names"),
        ("[labels]\n", "[labels]\nmap = { 205 = 14 }\n", "labels.map.205"),
        ("[labels]\n", "[labels]\nmap = { 0 = 1 }\n", "labels.map.0"),
        ("[labels]\n", "[labels]\nmap = { x = 1 }\n", "labels.map.x"),
        ("[labels]\n", "[labels]\nmap = { 70000 = 1 }\n", "labels.map.70000"),
        ("[labels]\n", "[labels]\nmap = { 1 = 1, 01 = 2 }\n", "labels.map.1"),
        ("loss = \"dice_ce\"", "loss = \"dice\"", "loss"),
        ("[labels]\n", "[labels]\nregions = [{ name = \"a\", labels = [1] }]\n", "labels.regions"),
        ("img0035..img0040", "img0040..img0035", "split"),
        ("rule = \"listed\"", "rule = \"lucky\"", "lucky"),
        ("cases = 3\n", "cases = 0\n", "subsets[0]"),
        ("id = \"img*\"", "id = \"img\"", "layout[0]"),
        ("\"img/img*.nii.gz\"", "\"../img*.nii.gz\"", "layout[0]"),
        ("\"img/img*.nii.gz\"", "\"/img*.nii.gz\"", "layout[0]"),
        ("\"img/img*.nii.gz\"", "\"*/img*.nii.gz\"", "layout[0]"),
        ("\"img/img*.nii.gz\"", "\"*/img.nii.gz\"", "layout[0]"),
        ("label = \"label/label*.nii.gz\"\n", "", "layout[0]"),
        ("label = \"label/label*.nii.gz\"\n", "class = 1\n", "layout[0]"),
        ("[split]", "[split", "TOML"),
    ] {
        assert!(good.contains(from), "{from}");
        let error = Task::parse(&good.replacen(from, to, 1), "mine.toml").unwrap_err();
        assert!(matches!(error, Error::Config(_)));
        let text = error.to_string();
        assert!(text.contains(words) && text.contains("mine.toml"), "{to}: {text}");
    }
    for (rule, words) in [
        ("rule = \"folds\"\ncount = 5\nfold = 5", "fold = 5"),
        ("rule = \"folds\"\ncount = 1\nfold = 0", "count = 1"),
        ("rule = \"every\"\nevery = 1", "every = 1"),
        ("rule = \"files\"\ntraining = \"../t.txt\"\nvalidation = \"v.txt\"", "../t.txt"),
        ("rule = \"every\"\nevery = 5\nfold = 1", "fold"),
    ] {
        let (head, tail) = good.split_once("[split]").unwrap();
        let tail = tail.split_once("[[subsets]]").unwrap().1;
        let text = format!("{head}[split]\n{rule}\n[[subsets]]{tail}");
        let error = Task::parse(&text, "mine.toml").unwrap_err().to_string();
        assert!(error.contains(words), "{rule}: {error}");
    }
    assert!(Task::load("lits").unwrap_err().to_string().contains("btcv, mm-whs, spleen"));
}

/// Task files and manifests with random bytes changed, removed or repeated: an error or a task, never
/// a panic.
#[test]
fn mutated_files_never_panic() {
    use crate::rng::{Purpose, Rng};
    use crate::seg::dataset::DatasetInfo;
    let manifest = r#"{"name": "x", "channel_names": {"0": "CT", "1": "PET"}, "numTraining": 12,
        "labels": {"background": 0, "whole": [1, 2], "1": "core", "liver": "2", "ignore": 3}}"#;
    let (mut good, mut bad) = (0, 0);
    for seed in 0..3000 {
        let mut rng = Rng::new(seed, Purpose::Test, 9, 0, 0);
        let mut text = match seed % 2 {
            0 => TASKS[(seed / 2) as usize % TASKS.len()].1.as_bytes().to_vec(),
            _ => manifest.as_bytes().to_vec(),
        };
        for _ in 0..=rng.below(3) {
            let at = rng.below(text.len() as u64) as usize;
            match rng.below(4) {
                0 => text[at] = rng.below(256) as u8,
                1 => drop(text.drain(at..(at + 1 + rng.below(9) as usize).min(text.len()))),
                2 => text.insert(at, b"-09.e\"[]{}=*/\n"[rng.below(14) as usize]),
                _ => text.extend_from_within(at..(at + 30).min(text.len())),
            }
        }
        let text = String::from_utf8_lossy(&text);
        let is_good = match seed % 2 {
            0 => {
                Task::parse(&text, "x").map_err(|e| assert!(matches!(e, Error::Config(_)))).is_ok()
            }
            _ => DatasetInfo::parse(&text).is_ok(),
        };
        *(if is_good { &mut good } else { &mut bad }) += 1;
    }
    assert!(good > 100 && bad > 1000, "{good} good, {bad} refused");
}
