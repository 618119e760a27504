//! Where the files of a task's set are: patterns with one `*`, which stands for what differs from
//! case to case.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Component, Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Task, TaskKind, ids};
use crate::data::text::{as_here, between, composed, joined, readable};
use crate::seg::dataset::{LabelledCase, labelled_cases, list};
use crate::{Error, Result};

/// One row of `layout`: `id = "img*"`, `image = "img/img*.nii.gz"`, `label = "label/label*.nii.gz"`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LayoutRow {
    id: String,
    image: String,
    label: Option<String>,
    /// Class of all images of this row, in sets with one class per image.
    class: Option<u8>,
    /// Only these ids belong to the task.
    only: Option<Vec<String>>,
}

/// What a case is to be predicted as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A label map.
    Labels(PathBuf),
    /// The class of the whole image.
    Class(u8),
}

/// A case of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskCase {
    pub id: String,
    /// One file, or one file per channel in channel order.
    pub images: Vec<PathBuf>,
    pub target: Target,
}

impl TaskCase {
    /// The files it is made of: images, then the label map if it has one.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let label = match &self.target {
            Target::Labels(label) => Some(label),
            Target::Class(_) => None,
        };
        self.images.iter().chain(label)
    }

    /// Image and label map, if the case has one.
    pub fn labelled(&self) -> Option<LabelledCase> {
        match &self.target {
            Target::Class(_) => None,
            Target::Labels(label) => Some(LabelledCase {
                id: self.id.clone(),
                images: self.images.clone(),
                label: label.clone(),
            }),
        }
    }
}

/// Before and after the `*`.
fn halves(pattern: &str) -> Option<(&str, &str)> {
    pattern.split_once('*').filter(|(_, after)| !after.contains('*'))
}

fn fill(pattern: &str, part: &OsStr) -> OsString {
    match halves(pattern) {
        Some((before, after)) => joined(before, part, after),
        None => pattern.into(),
    }
}

impl LayoutRow {
    /// Backslashes of Windows as separators.
    pub(super) fn turn_separators(&mut self) {
        for pattern in [Some(&mut self.image), self.label.as_mut()].into_iter().flatten() {
            *pattern = pattern.replace('\\', "/");
        }
    }

    pub(super) fn check(&self, kind: TaskKind, classes: usize) -> std::result::Result<(), String> {
        if halves(&self.id).is_none() {
            return Err(format!("id = {:?}: needs one *", self.id));
        }
        for (key, pattern) in [("image", Some(&self.image)), ("label", self.label.as_ref())] {
            let Some(pattern) = pattern else { continue };
            let path = Path::new(pattern);
            let is_inside = path.components().all(|c| matches!(c, Component::Normal(_)));
            let in_name = path
                .file_name()
                .and_then(|n| n.to_str())
                .is_some_and(|n| halves(n).is_some() && halves(pattern).is_some());
            if !is_inside || !in_name || pattern.len() > 1024 {
                return Err(format!(
                    "{key} = {pattern:?}: a path in the folder of the set with one * in the name \
                     of the file"
                ));
            }
        }
        match (kind, &self.label, self.class) {
            (TaskKind::ImageClasses, None, Some(c)) if usize::from(c) < classes => {}
            (TaskKind::ImageClasses, ..) => {
                return Err(format!("needs a class below {classes}, and no label"));
            }
            (_, Some(_), None) => {}
            _ => return Err("needs a label, and no class".to_owned()),
        }
        ids::check(self.only.as_deref().unwrap_or_default())
    }

    /// Files of the image pattern's folder that match it, and what the `*` stands for.
    fn images(&self, root: &Path) -> Result<Vec<(OsString, PathBuf)>> {
        let pattern = Path::new(&self.image);
        let folder = root.join(pattern.parent().unwrap_or(Path::new("")));
        let name = pattern.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let Some((before, after)) = halves(name).filter(|_| folder.is_dir()) else {
            return Ok(vec![]);
        };
        let mut found = Vec::new();
        for entry in fs::read_dir(&folder).map_err(Error::io(&folder, "read"))? {
            let path = entry.map_err(Error::io(&folder, "read"))?.path();
            let is_hidden = |part: &OsString| part.as_encoded_bytes().starts_with(b".");
            let part = path
                .file_name()
                .and_then(|name| between(name, before, after))
                .filter(|part| !(before.is_empty() && is_hidden(part)));
            if let Some(part) = part {
                found.push((part, path.clone()));
            }
        }
        found.sort();
        Ok(found)
    }
}

impl Task {
    /// Finds the cases of the set below `root` by the task's patterns, or, when none of them matches
    /// anything, as [`labelled_cases`] (the set in the form of MSD or nnU-Net, under its own ids).
    /// Cases are in the order of ids.
    ///
    /// Errors: [`Error::Io`]; [`Error::Data`] when nothing is found, label maps are missing (the
    /// cases are named), or two files are the same case.
    pub fn find_cases(&self, root: &Path) -> Result<Vec<TaskCase>> {
        let root = &as_here(Path::new(""), root);
        let mut found = BTreeMap::<String, TaskCase>::new();
        let mut lacking = Vec::new();
        for row in &self.layout {
            for (part, image) in row.images(root)? {
                let id = composed(&readable(&fill(&row.id, &part)));
                if row.only.as_deref().is_some_and(|only| !ids::holds(only, &id)) {
                    continue;
                }
                let target = match (&row.label, row.class) {
                    (Some(pattern), _) => {
                        let label = as_here(root, Path::new(&fill(pattern, &part)));
                        Target::Labels(root.join(label))
                    }
                    (None, class) => Target::Class(class.unwrap_or_default()),
                };
                if let Target::Labels(path) = &target
                    && !path.is_file()
                {
                    lacking.push(format!("{id} (no file {})", path.display()));
                    continue;
                }
                let case = TaskCase { id: id.clone(), images: vec![image], target };
                if let Some(other) = found.insert(id, case) {
                    let first = other.images.first().map(|p| p.display().to_string());
                    let reason = format!("the case {} is there twice, also as {first:?}", other.id);
                    return Err(Error::data(root, reason));
                }
            }
        }
        if !lacking.is_empty() {
            let reason = format!(
                "{}: {} cases have no label map: {}",
                self.title,
                lacking.len(),
                list(&lacking)
            );
            return Err(Error::data(root, reason));
        }
        if !found.is_empty() {
            return Ok(found.into_values().collect());
        }
        self.find_converted(root)
    }

    fn find_converted(&self, root: &Path) -> Result<Vec<TaskCase>> {
        let patterns: Vec<&str> = self.layout.iter().map(|row| row.image.as_str()).collect();
        let nothing = |more: &str| {
            let looked = patterns.join(", ");
            Error::data(root, format!("{}: no file matches {looked}{more}", self.title))
        };
        if self.kind == TaskKind::ImageClasses {
            return Err(nothing(""));
        }
        let set = labelled_cases(root, false).map_err(|e| nothing(&format!("; and {e}")))?;
        let mut cases: Vec<TaskCase> = set
            .cases
            .into_iter()
            .map(|c| TaskCase { id: c.id, images: c.images, target: Target::Labels(c.label) })
            .collect();
        cases.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(cases)
    }
}
