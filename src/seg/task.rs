//! Downstream tasks as data: grid, classes, split and folder layout of the sets that GL-MAE is
//! fine-tuned on (`configs/tasks/*.toml`), and of sets that users describe in the same form.

mod ids;
mod layout;
mod split;

use std::collections::BTreeMap;
use std::path::Path;

use schemars::JsonSchema;
use serde::Deserialize;

pub use self::layout::{LayoutRow, Target, TaskCase};
pub use self::split::{Split, SplitRule, Subset};
use super::labels::LabelRules;
use super::region::Region;
use crate::data::text::read_text;
use crate::data::{Intensity, PrepareConfig};
use crate::{Error, Result};

/// The shipped tasks by name, built into the program.
pub const TASKS: &[(&str, &str)] = &[
    ("btcv", include_str!("../../configs/tasks/btcv.toml")),
    ("mm-whs", include_str!("../../configs/tasks/mm-whs.toml")),
    ("spleen", include_str!("../../configs/tasks/spleen.toml")),
    ("amos22", include_str!("../../configs/tasks/amos22.toml")),
    ("word", include_str!("../../configs/tasks/word.toml")),
    ("covid-19-20", include_str!("../../configs/tasks/covid-19-20.toml")),
    ("brats", include_str!("../../configs/tasks/brats.toml")),
    ("cc-ccii", include_str!("../../configs/tasks/cc-ccii.toml")),
    ("hippocampus", include_str!("../../configs/tasks/hippocampus.toml")),
    ("synthetic", include_str!("../../configs/tasks/synthetic.toml")),
];

/// What the network predicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskKind {
    /// One class per voxel (softmax).
    Classes,
    /// Overlapping regions, yes or no for each voxel (sigmoid).
    Regions,
    /// One class per image.
    ImageClasses,
}

/// The training loss of the paper's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    DiceCe,
    Dice,
    CrossEntropy,
}

/// How images are prepared. Axes are those of RAS volumes: `d h w` is left-right,
/// posterior-anterior, inferior-superior.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageRules {
    /// Target spacing; the file's own when absent.
    pub spacing_mm: Option<[f64; 3]>,
    /// Window of training and inference, in voxels; multiples of 16.
    pub roi: [usize; 3],
    pub intensity: Intensity,
    /// Keep the box of the voxels above this mapped value; the whole volume when absent.
    pub foreground: Option<f32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RegionRow {
    name: String,
    labels: Vec<u8>,
    as_published: Option<Vec<u8>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Labels {
    names: Vec<String>,
    map: Option<BTreeMap<String, u8>>,
    #[serde(default)]
    regions: Vec<RegionRow>,
}

/// A task. See `configs/tasks` for examples of the file.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Task {
    pub title: String,
    pub kind: TaskKind,
    /// Names of the image channels, in order.
    pub channels: Vec<String>,
    /// Training and validation cases of the published split, to compare with what is found.
    pub cases: [usize; 2],
    pub loss: Loss,
    /// Passes over the training set, where a number is known.
    pub epochs: Option<u32>,
    pub image: ImageRules,
    labels: Labels,
    split: SplitRule,
    /// Parts of the training set of the label-efficiency experiments.
    #[serde(default)]
    pub subsets: Vec<Subset>,
    layout: Vec<LayoutRow>,
    /// Stored value to class, from `labels.map`.
    #[serde(skip)]
    map: Option<BTreeMap<u16, u8>>,
}

impl Task {
    /// Whether a network of `other` is one of this task: the same channels, prepared alike, and the same
    /// outputs. Cases, split and layout may differ.
    pub fn has_networks_of(&self, other: &Self) -> bool {
        let of = |t: &Self| (t.kind, t.loss, t.channels.clone(), t.image.clone(), t.labels.clone());
        of(self) == of(other)
    }

    /// A shipped task by name, or the file at a path.
    ///
    /// Errors: [`Error::Config`] for a name that is neither, and as [`Task::parse`];
    /// [`Error::Io`].
    pub fn load(source: &str) -> Result<Self> {
        Self::parse(&Self::text(source)?, source)
    }

    /// The text of a shipped task by name, or of the file at a path.
    ///
    /// Errors: [`Error::Config`] for a name that is neither; [`Error::Io`].
    pub fn text(source: &str) -> Result<String> {
        if let Some((_, text)) = TASKS.iter().find(|(name, _)| *name == source) {
            return Ok((*text).to_owned());
        }
        let path = Path::new(source);
        if !path.is_file() {
            let names: Vec<&str> = TASKS.iter().map(|(name, _)| *name).collect();
            return Err(Error::Config(format!(
                "'{source}' is neither a task nor a file; tasks: {}",
                names.join(", ")
            )));
        }
        read_text(path)
    }

    /// A task from TOML text; `source` names it in errors.
    ///
    /// Errors: [`Error::Config`] with the source and the key: text that is no TOML, an unknown or
    /// missing key, values that do not go together.
    pub fn parse(text: &str, source: &str) -> Result<Self> {
        let mut task: Self =
            toml::from_str(text).map_err(|e| Error::Config(format!("{source}: {e}")))?;
        task.layout.iter_mut().for_each(LayoutRow::turn_separators);
        task.check().map_err(|(key, why)| Error::Config(format!("{source}: {key}: {why}")))?;
        Ok(task)
    }

    /// The first thing that is wrong: its key, and why.
    fn check(&mut self) -> std::result::Result<(), (String, String)> {
        fn wrong<T>(
            key: impl Into<String>,
            why: impl Into<String>,
        ) -> std::result::Result<T, (String, String)> {
            Err((key.into(), why.into()))
        }
        if self.channels.is_empty() || self.channels.len() > 64 {
            return wrong("channels", "1 to 64 names");
        }
        let image = &self.image;
        if image.roi.iter().any(|n| *n == 0 || n % 16 != 0 || *n > 4096) {
            return wrong("image.roi", format!("{:?}: multiples of 16 up to 4096", image.roi));
        }
        if let Some(mm) = image.spacing_mm.filter(|mm| !mm.iter().all(|s| *s > 0.0 && *s < 1e3)) {
            return wrong("image.spacing_mm", format!("{mm:?}: three lengths above 0"));
        }
        if let Err(e) = image.intensity.check() {
            return wrong("image.intensity", e.to_string());
        }
        if image.foreground.is_some_and(|f| !f.is_finite()) {
            return wrong("image.foreground", "must be finite");
        }
        let names = &self.labels.names;
        if names.len() < 2 || names.len() > 256 {
            return wrong("labels.names", format!("{} names: 2 to 256 classes", names.len()));
        }
        for (i, name) in names.iter().enumerate() {
            if name.is_empty() || names[..i].contains(name) {
                return wrong("labels.names", format!("{name:?} is empty or there twice"));
            }
        }
        let is_class = |&c: &u8| usize::from(c) < names.len();
        if let Some(map) = &self.labels.map {
            let mut values = BTreeMap::new();
            for (key, class) in map {
                let at = format!("labels.map.{key}");
                match key.parse::<u16>() {
                    Ok(value) if value > 0 && is_class(class) => {
                        if values.insert(value, *class).is_some() {
                            return wrong(at, format!("the value {value} is there twice"));
                        }
                    }
                    Ok(_) => {
                        return wrong(
                            at,
                            format!("{class}: 0 stays 0, classes end at {}", names.len() - 1),
                        );
                    }
                    Err(_) => return wrong(at, "keys are stored values, 1 to 65535"),
                }
            }
            self.map = Some(values);
        }
        if self.labels.regions.is_empty() == (self.kind == TaskKind::Regions) {
            return wrong("labels.regions", "belong to kind = \"regions\", and only to it");
        }
        if self.labels.regions.len() > 8 {
            return wrong("labels.regions", "at most 8, a bit of a voxel's byte each");
        }
        for (i, region) in self.labels.regions.iter().enumerate() {
            if self.labels.regions[..i].iter().any(|other| other.name == region.name) {
                return wrong(
                    format!("labels.regions[{i}]"),
                    format!("{:?} is there twice", region.name),
                );
            }
            let sets = [Some(&region.labels), region.as_published.as_ref()];
            for labels in sets.into_iter().flatten() {
                if labels.is_empty() || !labels.iter().all(|c| *c > 0 && is_class(c)) {
                    return wrong(
                        format!("labels.regions[{i}]"),
                        format!("{labels:?}: classes from 1 to {}", names.len() - 1),
                    );
                }
            }
        }
        let trains_with = match self.kind {
            TaskKind::Classes => Loss::DiceCe,
            TaskKind::Regions => Loss::Dice,
            TaskKind::ImageClasses => Loss::CrossEntropy,
        };
        if self.loss != trains_with {
            return wrong(
                "loss",
                format!("{:?}: kind = {:?} trains with {trains_with:?}", self.loss, self.kind),
            );
        }
        self.split.check().map_err(|why| ("split".to_owned(), why))?;
        for (i, subset) in self.subsets.iter().enumerate() {
            subset.check().map_err(|why| (format!("subsets[{i}]"), why))?;
        }
        if self.layout.is_empty() {
            return wrong("layout", "at least one");
        }
        for (i, row) in self.layout.iter().enumerate() {
            row.check(self.kind, names.len()).map_err(|why| (format!("layout[{i}]"), why))?;
        }
        Ok(())
    }

    /// Class names, the background first.
    pub fn class_names(&self) -> &[String] {
        &self.labels.names
    }

    /// Classes with the background.
    pub fn classes(&self) -> usize {
        self.labels.names.len()
    }

    /// Channels of the network's output: classes, or regions.
    pub fn outputs(&self) -> usize {
        match self.kind {
            TaskKind::Regions => self.labels.regions.len(),
            _ => self.classes(),
        }
    }

    /// What is judged: every class but the background, or every region. `as_published` takes the
    /// paper's reading of regions where it differs from the set's own label file.
    pub fn regions(&self, as_published: bool) -> Vec<Region> {
        if self.kind != TaskKind::Regions {
            let named = self.labels.names.iter().enumerate().skip(1);
            return named.map(|(i, name)| Region::class(i as u8, name)).collect();
        }
        let of = |row: &RegionRow| {
            let published = row.as_published.as_ref().filter(|_| as_published);
            Region::union(published.unwrap_or(&row.labels), &row.name)
        };
        self.labels.regions.iter().map(of).collect()
    }

    /// How stored label values become classes.
    pub fn label_rules(&self) -> LabelRules {
        LabelRules { classes: Some(self.classes()), map: self.map.clone() }
    }

    /// How images are prepared: RAS, spacing, intensities, foreground, padded to the window.
    pub fn prepare_config(&self) -> PrepareConfig {
        PrepareConfig {
            spacing_mm: self.image.spacing_mm,
            intensity: self.image.intensity,
            foreground_threshold: self.image.foreground,
            channels: self.channels.len(),
            min_size: self.image.roi,
            ..PrepareConfig::default()
        }
    }
}

#[cfg(test)]
mod tests;
