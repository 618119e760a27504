//! Who trains and who validates.

use std::path::{Component, Path};

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Task, ids};
use crate::data::text::{composed, read_text};
use crate::seg::dataset::list;
use crate::{Error, Result};

/// How a set is split. Everything goes by case ids in their byte order.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(tag = "rule", rename_all = "snake_case", deny_unknown_fields)]
pub enum SplitRule {
    /// Listed ids; without `training`, whoever does not validate trains.
    Listed { validation: Vec<String>, training: Option<Vec<String>> },
    /// `count` parts of consecutive ids, the first ones one longer; part `fold` (from 0) validates.
    Folds { count: usize, fold: usize },
    /// Of every so many cases the last validates.
    Every { every: usize },
    /// Every case trains, and every case validates: what is shown is how well the training set is
    /// learnt. For a look at a single case, not for a result.
    Same,
    /// Two text files in the folder of the set, one id per line, `#` starting a comment.
    Files { training: String, validation: String },
}

/// A part of the training set.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Subset {
    /// Its size, by which it is asked for.
    pub cases: usize,
    /// Its ids; the first of the training set when absent.
    ids: Option<Vec<String>>,
}

/// Case ids of a split, ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    pub training: Vec<String>,
    pub validation: Vec<String>,
}

impl SplitRule {
    pub(super) fn check(&self) -> std::result::Result<(), String> {
        match self {
            Self::Listed { validation, training } => {
                ids::check(validation)?;
                ids::check(training.as_deref().unwrap_or_default())
            }
            Self::Folds { count, fold } if *count < 2 || fold >= count => {
                Err(format!("fold = {fold} of count = {count}: at least 2 folds, counted from 0"))
            }
            Self::Every { every } if *every < 2 => Err(format!("every = {every}: at least 2")),
            Self::Files { training, validation } => {
                let inside = |file: &str| {
                    let mut parts = Path::new(file).components();
                    !file.is_empty() && parts.all(|c| matches!(c, Component::Normal(_)))
                };
                match [training, validation].into_iter().find(|f| !inside(f)) {
                    Some(bad) => Err(format!("{bad:?}: a file in the folder of the set")),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}

impl Subset {
    pub(super) fn check(&self) -> std::result::Result<(), String> {
        if self.cases == 0 {
            return Err("cases = 0: at least 1".to_owned());
        }
        ids::check(self.ids.as_deref().unwrap_or_default())
    }
}

impl Task {
    /// Splits the cases with these ids; `root` is the folder of the set, for lists in files.
    ///
    /// Errors: [`Error::Data`] (of `root`) when a listed case is not there, an id is there twice or
    /// on both sides, or a side is empty; [`Error::Io`] for a list that cannot be read.
    pub fn split(&self, root: &Path, case_ids: &[String]) -> Result<Split> {
        let mut all = case_ids.to_vec();
        all.sort();
        if let Some(twice) = all.windows(2).find(|w| w[0] == w[1]) {
            return Err(Error::data(root, format!("the case {} occurs twice", twice[0])));
        }
        let by = |picks: &dyn Fn(usize, &String) -> bool| -> Vec<String> {
            all.iter()
                .enumerate()
                .filter(|(i, id)| picks(*i, id))
                .map(|(_, id)| id.clone())
                .collect()
        };
        let listed = |key: &str, patterns: &[String]| -> Result<Vec<String>> {
            let missing = ids::without_case(patterns, &all);
            if !missing.is_empty() {
                let reason = format!(
                    "{}: {key} names cases that are not among the {} found: {}",
                    self.title,
                    all.len(),
                    list(&missing)
                );
                return Err(Error::data(root, reason));
            }
            Ok(by(&|_, id| ids::holds(patterns, id)))
        };
        let split = match &self.split {
            SplitRule::Listed { validation, training } => {
                let validation = listed("split.validation", validation)?;
                let training = match training {
                    Some(patterns) => listed("split.training", patterns)?,
                    None => by(&|_, id| !validation.contains(id)),
                };
                Split { training, validation }
            }
            SplitRule::Folds { count, fold } => {
                // Part k starts after the longer ones before it.
                let (size, longer) = (all.len() / count, all.len() % count);
                let start = |k: usize| k * size + k.min(longer);
                let held = start(*fold)..start(fold + 1);
                Split {
                    training: by(&|i, _| !held.contains(&i)),
                    validation: by(&|i, _| held.contains(&i)),
                }
            }
            SplitRule::Every { every } => Split {
                training: by(&|i, _| i % every != every - 1),
                validation: by(&|i, _| i % every == every - 1),
            },
            SplitRule::Same => Split { training: all.clone(), validation: all.clone() },
            SplitRule::Files { training, validation } => {
                let read = |key: &str, file: &str| -> Result<Vec<String>> {
                    let text = composed(&read_text(&root.join(file))?);
                    let lines =
                        text.lines().map(|l| l.split('#').next().unwrap_or_default().trim());
                    let lines: Vec<String> =
                        lines.filter(|l| !l.is_empty()).map(str::to_owned).collect();
                    ids::check(&lines).map_err(|why| Error::data(root.join(file), why))?;
                    listed(key, &lines)
                };
                Split {
                    training: read("split.training", training)?,
                    validation: read("split.validation", validation)?,
                }
            }
        };
        let both: Vec<String> =
            split.training.iter().filter(|id| split.validation.contains(id)).cloned().collect();
        if !both.is_empty() && self.split != SplitRule::Same {
            let reason =
                format!("{}: cases on both sides of the split: {}", self.title, list(&both));
            return Err(Error::data(root, reason));
        }
        if split.training.is_empty() || split.validation.is_empty() {
            return Err(Error::data(
                root,
                format!(
                    "{}: {} cases make {} for training and {} for validation; both are needed",
                    self.title,
                    all.len(),
                    split.training.len(),
                    split.validation.len()
                ),
            ));
        }
        Ok(split)
    }

    /// The part of the training set with so many cases.
    ///
    /// Errors: [`Error::Config`] for a size the task does not list, for listed cases that do not
    /// train, and when there are not as many.
    pub fn subset(&self, split: &Split, cases: usize) -> Result<Vec<String>> {
        let refuse = |why: String| Err(Error::Config(format!("{}: {why}", self.title)));
        let Some(subset) = self.subsets.iter().find(|s| s.cases == cases) else {
            let sizes: Vec<String> = self.subsets.iter().map(|s| s.cases.to_string()).collect();
            return refuse(format!("no subset of {cases} cases; there are: {}", sizes.join(", ")));
        };
        let found: Vec<String> = match &subset.ids {
            None => split.training.iter().take(cases).cloned().collect(),
            Some(patterns) => {
                let missing = ids::without_case(patterns, &split.training);
                if !missing.is_empty() {
                    return refuse(format!(
                        "the subset of {cases} names cases that do not train: {}",
                        list(&missing)
                    ));
                }
                split.training.iter().filter(|id| ids::holds(patterns, id)).cloned().collect()
            }
        };
        match found.len() == cases {
            true => Ok(found),
            false => refuse(format!("the subset of {cases} has {} cases here", found.len())),
        }
    }
}
