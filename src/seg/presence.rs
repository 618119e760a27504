//! Which classes the training cases have: one that none has cannot be learnt, and nothing else says so.

use std::collections::BTreeSet;

use super::Task;
use super::task::TaskKind;

/// Counts classes as the cases of a run come up: once all of them did, [`Presence::warning`] has the
/// verdict.
#[derive(Debug)]
pub struct Presence {
    /// Training cases of the run.
    cases: usize,
    seen: BTreeSet<String>,
    /// Cases that have a voxel of each class.
    with: [usize; 256],
    is_told: bool,
}

impl Presence {
    /// Of a run with this many training cases.
    pub fn new(cases: usize) -> Self {
        Self { cases, seen: BTreeSet::new(), with: [0; 256], is_told: false }
    }

    /// Counts a case by the classes that occur in it, on the grid that is trained on; a second time
    /// counts nothing.
    pub fn observe(&mut self, id: &str, occurring: impl Iterator<Item = u8>) {
        if self.seen.insert(id.to_owned()) {
            let classes: BTreeSet<u8> = occurring.collect();
            classes.into_iter().for_each(|class| self.with[usize::from(class)] += 1);
        }
    }

    /// What no training case has, by name: once, when every case was seen; `None` before, after, and when
    /// every class is there.
    pub fn warning(&mut self, task: &Task) -> Option<String> {
        if self.is_told || self.seen.is_empty() || self.seen.len() < self.cases {
            return None;
        }
        self.is_told = true;
        absent(task, &self.with, self.seen.len())
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
        let mut presence = Presence::new(3);
        let task = task();
        assert_eq!(presence.warning(&task), None);
        presence.observe("a", [0, 1, 1].into_iter());
        presence.observe("a", [0, 2].into_iter());
        presence.observe("b", [0, 0].into_iter());
        assert_eq!(presence.warning(&task), None);
        presence.observe("c", [1].into_iter());
        let text = presence.warning(&task).unwrap();
        assert!(
            text.contains("none of the 3 training cases has a voxel of the class 2 "),
            "{text}"
        );
        assert!(text.to_lowercase().contains("posterior"), "{text}");
        assert!(!text.to_lowercase().contains("anterior"), "{text}");
        assert_eq!(presence.warning(&task), None);
    }

    #[test]
    fn empty_label_maps_are_told_and_full_ones_are_not() {
        let mut presence = Presence::new(2);
        presence.observe("a", [0].into_iter());
        presence.observe("b", [].into_iter());
        let text = presence.warning(&task()).unwrap();
        assert!(text.contains("of any class") && text.contains("none of the 2"), "{text}");
        let mut presence = Presence::new(1);
        presence.observe("a", [2, 1].into_iter());
        assert_eq!(presence.warning(&task()), None);
        assert_eq!(Presence::new(0).warning(&task()), None);
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
