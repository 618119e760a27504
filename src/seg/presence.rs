//! Which classes the training cases have: one that none has cannot be learnt, and nothing else says so.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use super::Task;
use super::task::TaskKind;

/// Counts classes as cases are prepared, which reads their label maps anyway: once all of them were
/// seen, [`Presence::warning`] has the verdict. Shared by the threads that prepare.
#[derive(Debug)]
pub struct Presence {
    /// Training cases of the run.
    cases: usize,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    ids: BTreeSet<String>,
    /// Cases that have a voxel of each class.
    with: Vec<usize>,
    is_told: bool,
}

impl Presence {
    /// Of a run with this many training cases.
    pub fn new(cases: usize) -> Self {
        let seen = Seen { with: vec![0; 256], ..Seen::default() };
        Self { cases, seen: Mutex::new(seen) }
    }

    /// Counts a case by its class indices, on the grid that is trained on; a second time counts nothing.
    pub fn observe(&self, id: &str, classes: &[u8]) {
        let mut occurs = [false; 256];
        classes.iter().for_each(|&class| occurs[usize::from(class)] = true);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.ids.insert(id.to_owned()) {
            seen.with.iter_mut().zip(occurs).for_each(|(n, occurs)| *n += usize::from(occurs));
        }
    }

    /// What no training case has, by name: once, when every case was seen; `None` before, after, and when
    /// every class is there. `unusable` cases are not waited for.
    pub fn warning(&self, task: &Task, unusable: usize) -> Option<String> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.is_told || seen.ids.is_empty() || seen.ids.len() + unusable < self.cases {
            return None;
        }
        seen.is_told = true;
        absent(task, &seen.with, seen.ids.len())
    }
}

/// The classes or regions of `task` that none of `cases` training cases has; `with` counts the cases that
/// have each class.
pub fn absent(task: &Task, with: &[usize], cases: usize) -> Option<String> {
    let has = |label: u8| with.get(usize::from(label)).is_some_and(|&n| n > 0);
    let judged = task.regions(false);
    let missing: Vec<String> = judged
        .iter()
        .filter(|region| !region.labels().iter().any(|&l| has(l)))
        .map(|region| region.to_string())
        .collect();
    let (what, voxels) = match task.kind {
        TaskKind::Regions => ("region", "a voxel"),
        TaskKind::Classes => ("class", "a voxel"),
        TaskKind::ImageClasses => ("class", "an image"),
    };
    if missing.is_empty() {
        return None;
    }
    if missing.len() == judged.len() {
        return Some(format!(
            "none of the {cases} training cases has {voxels} of any {what} ({}): there is nothing to \
             learn but background; look at the label maps and at labels.map of the task",
            missing.join(", ")
        ));
    }
    Some(format!(
        "none of the {cases} training cases has {voxels} of the {what} {}: it cannot be learnt; look \
         at the split, the fraction and labels.map of the task",
        missing.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Background, anterior, posterior.
    fn task() -> Task {
        Task::load("hippocampus").unwrap()
    }

    #[test]
    fn a_class_that_no_case_has_is_named_once_when_all_were_seen() {
        let presence = Presence::new(3);
        let task = task();
        assert_eq!(presence.warning(&task, 0), None);
        presence.observe("a", &[0, 1, 1]);
        presence.observe("a", &[0, 2]);
        presence.observe("b", &[0, 0]);
        assert_eq!(presence.warning(&task, 0), None);
        presence.observe("c", &[1]);
        let text = presence.warning(&task, 0).unwrap();
        assert!(
            text.contains("none of the 3 training cases has a voxel of the class 2 "),
            "{text}"
        );
        assert!(text.to_lowercase().contains("posterior"), "{text}");
        assert!(!text.to_lowercase().contains("anterior"), "{text}");
        assert_eq!(presence.warning(&task, 0), None);
    }

    #[test]
    fn empty_label_maps_are_told_and_unusable_cases_not_waited_for() {
        let presence = Presence::new(3);
        presence.observe("a", &[0]);
        presence.observe("b", &[0]);
        let text = presence.warning(&task(), 1).unwrap();
        assert!(text.contains("of any class") && text.contains("none of the 2"), "{text}");
        let presence = Presence::new(1);
        presence.observe("a", &[2, 1]);
        assert_eq!(presence.warning(&task(), 0), None);
        assert_eq!(Presence::new(0).warning(&task(), 0), None);
    }

    #[test]
    fn regions_are_there_when_one_of_their_labels_is() {
        let task = Task::load("brats").unwrap();
        let mut with = vec![0; 256];
        with[0] = 2;
        with[1] = 2;
        let text = absent(&task, &with, 2).unwrap();
        assert!(text.contains("region") && !text.contains("(1, 2, 3)"), "{text}");
        with[2] = 1;
        with[3] = 1;
        assert_eq!(absent(&task, &with, 2), None);
    }
}
