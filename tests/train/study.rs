//! Studies: every cell is run once, held-out cases stay out, results of other settings are not mixed in.

use std::fs;
use std::path::{Path, PathBuf};

use glmae::config::Config;
use glmae::device::Device;
use glmae::study::{CellResult, StudyConfig, StudyOptions, StudySummary, study};
use glmae::train::run::Launches;

use super::MICRO;
use super::finetune::{CONFIG, TASK, balls};

/// Six balls, of which the last is held out; the same task under another name for the other set.
fn prepared(folder: &Path) {
    balls(folder);
    fs::write(folder.join("pretrain.toml"), MICRO).unwrap();
    fs::write(folder.join("finetune.toml"), CONFIG).unwrap();
    let other = TASK
        .replace("title = \"Balls\"", "title = \"Others\"")
        .replace(r#"["background", "ball"]"#, r#"["background", "cube", "Ball"]"#)
        .replace("names =", "map = { 1 = 2 }\nnames =");
    fs::write(folder.join("other.toml"), other).unwrap();
}

fn config(folder: &Path, set: &[&str]) -> StudyConfig {
    let path = |name: &str| format!("{:?}", folder.join(name));
    let mut all = vec![
        format!("data.path={}", path("balls")),
        format!("data.task={}", path("balls.toml")),
        format!("pretrain.config={}", path("pretrain.toml")),
        "pretrain.set=[\"train.steps=3\", \"model.depth=2\"]".to_owned(),
        format!("finetune.config={}", path("finetune.toml")),
        "grid.objectives=[\"scratch\", \"gl-mae\"]".to_owned(),
        "grid.fractions=[0.4, 1.0]".to_owned(),
        "grid.seeds=[1]".to_owned(),
        "grid.updates=3".to_owned(),
    ];
    all.extend(set.iter().map(|s| (*s).to_owned()));
    StudyConfig::load("demo", &all).unwrap()
}

fn run(config: &StudyConfig, out: &Path) -> glmae::Result<StudySummary> {
    study(
        config,
        &StudyOptions {
            out: out.to_owned(),
            device: Device::Cpu,
            launches: Launches::default(),
            threads: 1,
            report_only: false,
        },
    )
}

fn results(out: &Path) -> Vec<CellResult> {
    serde_json::from_str(&fs::read_to_string(out.join("results.json")).unwrap()).unwrap()
}

fn result_files(out: &Path) -> Vec<(PathBuf, std::time::SystemTime)> {
    let cells = fs::read_dir(out.join("finetune")).unwrap();
    let mut files: Vec<_> = cells
        .map(|c| c.unwrap().path().join("result.json"))
        .map(|path| (path.clone(), fs::metadata(path).unwrap().modified().unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn a_study_runs_what_it_lacks_and_compares_it() {
    let root = tempfile::tempdir().unwrap();
    prepared(root.path());
    let out = root.path().join("study");
    let first = run(&config(root.path(), &[]), &out).unwrap();
    assert_eq!((first.done, first.cells), (4, 4));
    for word in
        ["| gl-mae |", "100 %, 5 cases", "40 %, 2 cases", "difference to scratch", "peak MiB"]
    {
        assert!(first.table.contains(word), "{word} is not in\n{}", first.table);
    }
    assert!(first.files.iter().all(|f| f.is_file()) && first.files.len() == 4);

    // Both starts saw the same labels, neither the held-out case; nor did the pre-training.
    let found = results(&out);
    assert!(
        found.iter().all(|r| r.held_out.cases.len() == 1 && r.held_out.cases[0].id == "case_5")
    );
    let text = fs::read_to_string(out.join("pretrain/gl-mae/config.toml")).unwrap();
    let ran = Config::parse(&text, "run", &[]).unwrap();
    assert_eq!(ran.data.exclude, ["images/case_5"]);
    let log = fs::read_to_string(out.join("pretrain/gl-mae/log.jsonl")).unwrap();
    assert!(log.contains(r#""kind":"start","cases":5"#), "{log}");

    // Again: nothing is run, the same numbers. With another seed: only that is run.
    let before = result_files(&out);
    run(&config(root.path(), &[]), &out).unwrap();
    assert_eq!((result_files(&out), results(&out)), (before.clone(), found.clone()));
    let more = config(root.path(), &["grid.seeds=[1, 2]", "grid.fractions=[0.4]"]);
    let grown = run(&more, &out).unwrap();
    assert_eq!((grown.done, grown.cells), (4, 4));
    assert!(before.iter().all(|file| result_files(&out).contains(file)));

    // The folder of one of its runs is no place for a study.
    let error = run(&more, &out.join("pretrain/gl-mae")).unwrap_err().to_string();
    assert!(error.contains("is the folder of a pre-training with checkpoints"), "{error}");
    let cell = before[0].0.parent().unwrap();
    let error = run(&more, cell).unwrap_err().to_string();
    assert!(error.contains("is the folder of a fine-tuning"), "{error}");
    // And it says what it is.
    let identity = fs::read_to_string(out.join("run.json")).unwrap();
    assert!(identity.contains(r#""kind": "study""#), "{identity}");

    // Lists may change; what the results have in common may not.
    let error = run(&config(root.path(), &["grid.updates=4"]), &out).unwrap_err().to_string();
    assert!(error.contains("study.toml") && error.contains("Choose another --out"), "{error}");
    // Nor may what the description names by a path.
    let recipe = root.path().join("finetune.toml");
    fs::write(&recipe, CONFIG.replacen("[optim]", "[optim]\nweight_decay = 0.25", 1)).unwrap();
    let error = run(&more, &out).unwrap_err().to_string();
    assert!(error.contains("study/finetune.toml is of other settings"), "{error}");
    assert_eq!(fs::read_to_string(out.join("finetune.toml")).unwrap().matches("0.25").count(), 0);
}

#[test]
fn sweeps_of_pre_training_and_other_sets_are_judged() {
    let root = tempfile::tempdir().unwrap();
    prepared(root.path());
    let out = root.path().join("study");
    let other = format!("cross.tasks=[{:?}]", root.path().join("other.toml"));
    let path = format!("cross.paths=[{:?}]", root.path().join("balls"));
    let set = [
        "grid.objectives=[\"mae3d\"]",
        "grid.fractions=[1.0]",
        "grid.mask_ratios=[0.5, 0.75]",
        "grid.pretrain_fractions=[0.4, 1.0]",
        &other,
        &path,
    ];
    let done = run(&config(root.path(), &set), &out).unwrap();
    assert_eq!((done.done, done.cells), (4, 4));
    for name in ["mae3d_mask0.5_images0.4", "mae3d_mask0.75"] {
        assert!(done.table.contains(name), "{}", done.table);
    }
    assert!(done.table.contains("Dice on Others, not fine-tuned on"), "{}", done.table);
    assert!(
        out.join("dice_by_mask_ratio.png").is_file() && out.join("dice_by_images.png").is_file()
    );
    let found = results(&out);
    // The other set is the same volumes, whose label 1 is its class 2, "Ball": the network's class 1.
    for result in &found {
        let (title, scores) = &result.cross[0];
        assert_eq!((title.as_str(), scores.cases.len()), ("Others", 6));
        let own = &result.held_out.cases[0];
        let same = scores.cases.iter().find(|c| c.id == own.id).unwrap();
        assert_eq!(same.dice, own.dice);
    }
    let text =
        fs::read_to_string(out.join("pretrain/mae3d_mask0.5_images0.4/config.toml")).unwrap();
    let ran = Config::parse(&text, "run", &[]).unwrap();
    assert_eq!((ran.data.exclude.len(), ran.views.mask_ratio), (4, 0.5));
}
