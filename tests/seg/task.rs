//! Tasks on the real sets they describe: found, split, prepared with their labels.

use glmae::config::finetune::FinetuneConfig;
use glmae::data::Case;
use glmae::seg::Task;

use crate::support::shared;

#[test]
fn hippocampus_is_found_split_and_prepared() {
    let Some(root) = shared("data/hippocampus") else { return };
    let task = Task::load("hippocampus").unwrap();
    let cases = task.find_cases(&root).unwrap();
    let ids: Vec<String> = cases.iter().map(|c| c.id.clone()).collect();
    let split = task.split(&root, &ids).unwrap();
    // 200 of the set's 260 cases are at hand.
    assert_eq!([split.training.len(), split.validation.len()], [160, 40]);
    // The cases that the pre-training preset holds out.
    let as_cases: Vec<Case> =
        ids.iter().map(|id| Case { id: id.clone(), images: vec![], label: None }).collect();
    let (_, held_out) = glmae::data::hold_out(&as_cases, 5).unwrap();
    assert_eq!(split.validation, held_out.into_iter().map(|c| c.id).collect::<Vec<_>>());
    assert_eq!(task.subset(&split, 8).unwrap().len(), 8);
    let (config, rules) = (task.prepare_config(), task.label_rules());
    let mut seen = [false; 3];
    for case in cases.iter().step_by(10) {
        let case = case.labelled().unwrap();
        let pair = case.prepare(&config, &rules).unwrap();
        let (prepared, classes) = (&pair.image, &pair.classes);
        assert!((0..3).all(|a| prepared.dims()[a] >= task.image.roi[a]), "{:?}", prepared.dims());
        assert_eq!(classes.len(), prepared.voxels().len());
        classes.iter().for_each(|&c| seen[usize::from(c)] = true);
        // The way back is exact: the spacing is the set's own.
        let stored = rules.read(&case.label, &config.limits).unwrap();
        assert_eq!(prepared.record().restore_labels(classes).unwrap(), stored.classes);
    }
    assert_eq!(seen, [true; 3]);
}

/// `configs/examples`: one CT that is trained on and judged by, with twelve of the thirteen organs.
#[test]
fn the_abdomen_of_the_examples_is_found_and_prepared() {
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/configs/examples");
    let settings = FinetuneConfig::load(&format!("{examples}/abdomen.toml"), &[]).unwrap();
    let task = Task::load(&format!("{examples}/abdomen-task.toml")).unwrap();
    let Some(root) = shared("data/ct") else { return };
    let cases = task.find_cases(&root).unwrap();
    assert_eq!(cases.iter().map(|c| c.id.as_str()).collect::<Vec<_>>(), ["abdomen"]);
    let split = task.split(&root, &["abdomen".to_owned()]).unwrap();
    assert_eq!(
        (split.training, split.validation),
        (vec!["abdomen".into()], vec!["abdomen".into()])
    );
    let pair =
        cases[0].labelled().unwrap().prepare(&task.prepare_config(), &task.label_rules()).unwrap();
    assert!((0..3).all(|a| pair.image.dims()[a] >= settings.data.roi.unwrap()[a]));
    let has = |class: u8| pair.classes.contains(&class);
    assert!((0..14).all(|class| has(class) == (class != 5)), "all but the esophagus");
}
