//! What deserves attention is said once: classes that nothing teaches, files that are left out.

use std::fs;
use std::path::{Path, PathBuf};

use super::run;
use crate::train::{classify, finetune, write_case};

/// A set of each kind and a configuration for both.
struct Sets {
    dir: tempfile::TempDir,
}

impl Sets {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        finetune::balls(dir.path());
        classify::balls(dir.path());
        fs::write(dir.path().join("small.toml"), finetune::CONFIG).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Two epochs of a task on a set; what was said on stderr.
    fn finetune(&self, task: &str, data: &str, out: &str, more: &[&str]) -> [String; 2] {
        let [task, data, config, out] = [task, data, "small.toml", out].map(|n| self.text(n));
        let args = ["finetune", "--scratch", "--task", &task, "--data", &data, "--config", &config];
        let args = [&args[..], &["--out", &out, "--epochs", "2"], more].concat();
        let (code, out, said) = run(&args);
        assert_eq!(code, 0, "{said}");
        [out, said]
    }
}

/// Lines of the log of a run that hold this.
fn logged(run: &Path, words: &str) -> usize {
    let log = fs::read_to_string(run.join("log.jsonl")).unwrap();
    log.lines().filter(|line| line.contains(words)).count()
}

#[test]
fn a_class_without_a_voxel_is_named_once() {
    let sets = Sets::new();
    let words = "none of the 5 training cases has a voxel of the class 2";
    let task = finetune::TASK.replace(r#""ball"]"#, r#""ball", "cyst"]"#);
    fs::write(sets.path("three.toml"), task).unwrap();
    let [_, said] = sets.finetune("three.toml", "balls", "a", &[]);
    assert_eq!(said.matches(words).count(), 1, "{said}");
    let line = said.lines().find(|line| line.contains(words)).unwrap();
    assert!(line.contains("cyst") && !line.contains("ball"), "{line}");
    assert_eq!(logged(&sets.path("a"), words), 1);
    // Where every class is there, nothing is said.
    let [_, said] = sets.finetune("balls.toml", "balls", "b", &[]);
    assert!(!said.contains("training cases has"), "{said}");
    assert_eq!(logged(&sets.path("b"), "training cases has"), 0);
}

/// The set itself says which classes images have: before the first step.
#[test]
fn a_class_without_an_image_is_named_once() {
    let sets = Sets::new();
    let words = "none of the 8 training cases has an image of the class 2";
    let task = classify::TASK.replace(r#""bright"]"#, r#""bright", "odd"]"#);
    fs::write(sets.path("three.toml"), task).unwrap();
    let [out, _] = sets.finetune("three.toml", "classes", "a", &["--dry-run"]);
    assert_eq!(out.matches(words).count(), 1, "{out}");
    let [_, said] = sets.finetune("three.toml", "classes", "a", &[]);
    assert_eq!(said.matches(words).count(), 1, "{said}");
    assert!(said.lines().any(|line| line.contains(words) && line.contains("odd")), "{said}");
    assert_eq!(logged(&sets.path("a"), words), 1);
    let [_, said] = sets.finetune("classes.toml", "classes", "b", &[]);
    assert!(!said.contains("training cases has"), "{said}");
}

/// `text` names the label map and the volume in another form, each once.
fn names_once(text: &str, words: &[&str]) {
    for words in words {
        assert_eq!(text.matches(words).count(), 1, "'{words}' once in: {text}");
    }
}

#[test]
fn files_that_are_left_out_are_named_once() {
    const LABEL: &str = "1 volume(s) look like label maps by their names and were left out";
    const FORMAT: &str = "1 file(s) are no NIfTI and were left out";
    let sets = Sets::new();
    let scans = sets.path("scans");
    fs::create_dir(&scans).unwrap();
    for name in ["a.nii.gz", "b.nii.gz", "b_seg.nii.gz"] {
        let value = |d: usize, h: usize, w: usize| ((d * 7 + h * 13 + w * 29) % 11) as f32;
        write_case(&scans.join(name), [33, 34, 35], value);
    }
    fs::write(scans.join("c.mha"), b"").unwrap();
    let (data, out) = (sets.text("scans"), sets.text("pre"));
    let pretrain = ["pretrain", "--config", "tiny", "--data", &data, "--out", &out, "--steps", "2"];
    let (code, shown, said) = run(&[&pretrain[..], &["--dry-run"]].concat());
    assert_eq!(code, 0, "{said}");
    names_once(&shown, &[LABEL, "b_seg.nii.gz", FORMAT, "c.mha"]);
    let (code, _, said) = run(&pretrain);
    assert_eq!(code, 0, "{said}");
    names_once(&said, &[LABEL, "b_seg.nii.gz", FORMAT, "c.mha"]);
    assert_eq!(logged(&sets.path("pre"), "c.mha"), 1);

    // The files of a task are found by its patterns: other forms beside them were meant, too.
    fs::write(sets.path("balls/images/c.mha"), b"").unwrap();
    let [_, said] = sets.finetune("balls.toml", "balls", "seg", &[]);
    names_once(&said, &[FORMAT, "c.mha"]);
    sets.finetune("classes.toml", "classes", "classifier", &[]);
    for checkpoint in ["seg", "classifier"] {
        let [checkpoint, out] = [checkpoint, "maps"].map(|name| sets.text(name));
        let predict = ["predict", "--checkpoint", &checkpoint, "--input", &data, "--out", &out];
        let (code, _, said) = run(&predict);
        assert_eq!(code, 0, "{said}");
        names_once(&said, &[LABEL, "b_seg.nii.gz", FORMAT, "c.mha"]);
    }
}
