//! What a study compares.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::grid::{SCRATCH, Start};
use crate::config::finetune::FinetuneConfig;
use crate::config::{Change, Config, Loaded, OBJECTIVES, Objective, Settings, load};
use crate::{Error, Result};

/// Shipped studies by name.
pub const PRESETS: &[(&str, &str)] = &[
    ("hippocampus", include_str!("../../configs/study/hippocampus.toml")),
    ("demo", include_str!("../../configs/study/demo.toml")),
];

/// Every section of a study.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StudyConfig {
    pub data: StudyData,
    pub grid: Grid,
    pub pretrain: Recipe,
    pub finetune: Recipe,
    pub cross: Cross,
}

/// The labelled set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StudyData {
    /// The folder of the labelled set.
    pub path: String,
    /// The task of the set: a shipped one or a TOML file. The validation cases of the task's split are the held-out
    /// ones: nothing trains on them, nothing is chosen by them.
    pub task: String,
    /// What is pre-trained on, in any form that `glmae pretrain` takes; empty: the images of the
    /// training cases.
    pub pretrain: String,
}

/// The axes. Every combination is a fine-tuning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Grid {
    /// `scratch`, or an objective of pre-training: the values of `loss.objective`.
    pub objectives: Vec<String>,
    /// Shares of the training cases whose labels are used.
    pub fractions: Vec<f64>,
    /// Of fine-tuning: which cases a share holds, initial weights, order, augmentation.
    pub seeds: Vec<u64>,
    /// Updates of a fine-tuning, rounded up to whole epochs; 0: the epochs of its settings.
    pub updates: u64,
    /// Mask ratios of pre-training; empty: that of its settings.
    pub mask_ratios: Vec<f64>,
    /// Shares of the training images that are pre-trained on; empty: all.
    pub pretrain_fractions: Vec<f64>,
}

impl Default for Grid {
    fn default() -> Self {
        Self {
            objectives: ["scratch", "mae3d", "gl-mae"].map(str::to_owned).into(),
            fractions: vec![0.1, 0.25, 1.0],
            seeds: vec![1, 2, 3],
            updates: 0,
            mask_ratios: Vec::new(),
            pretrain_fractions: Vec::new(),
        }
    }
}

/// Settings of one kind of run: a preset or a TOML file, and `section.key=value` over it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe {
    /// A preset's name or the path of a TOML file.
    pub config: String,
    /// Changes `section.key=value` over it.
    pub set: Vec<String>,
}

/// Other sets with structures of the same names, on which every network is judged as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Cross {
    /// Their tasks: shipped ones or TOML files.
    pub tasks: Vec<String>,
    /// Their folders, in the same order.
    pub paths: Vec<String>,
}

impl Settings for StudyConfig {
    fn validate(&self) -> Result<()> {
        let wrong = |message: String| Err(Error::Config(message));
        let g = &self.grid;
        if g.objectives.is_empty() || g.fractions.is_empty() || g.seeds.is_empty() {
            return wrong("grid.objectives, fractions and seeds need an entry each".into());
        }
        self.starts()?;
        let share = |f: &f64| *f > 0.0 && *f <= 1.0;
        if !g.fractions.iter().all(share) || !g.pretrain_fractions.iter().all(share) {
            return wrong(
                "grid.fractions and pretrain_fractions must be above 0, at most 1".into(),
            );
        }
        if !g.mask_ratios.iter().all(|r| *r > 0.0 && *r < 1.0) {
            return wrong("grid.mask_ratios must lie between 0 and 1".into());
        }
        if twice(&g.objectives)
            || twice(&g.seeds)
            || twice(&g.fractions)
            || twice(&g.mask_ratios)
            || twice(&g.pretrain_fractions)
        {
            return wrong("[grid] has an entry twice".into());
        }
        if self.cross.tasks.len() != self.cross.paths.len() {
            return wrong("cross.tasks and cross.paths need the same number of entries".into());
        }
        Ok(())
    }
}

fn twice<T: PartialEq>(items: &[T]) -> bool {
    items.iter().enumerate().any(|(i, item)| items[..i].contains(item))
}

impl StudyConfig {
    /// A preset's name or the path of a TOML file, then overrides `section.key=value`.
    /// Errors: as [`Config::load`].
    pub fn load(source: &str, overrides: &[String]) -> Result<Self> {
        Ok(Self::load_with(source, &Change::sets(overrides)?)?.config)
    }

    /// As [`StudyConfig::load`], with values from flags too.
    pub fn load_with(source: &str, changes: &[Change]) -> Result<Loaded<Self>> {
        load(source, PRESETS, changes)
    }

    /// The whole configuration as TOML.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string_pretty(self).map_err(|e| Error::Config(e.to_string()))
    }

    /// The first column of the table, in the order of the grid: every objective with every mask ratio
    /// and share of the images. Errors: an objective that is none.
    pub fn starts(&self) -> Result<Vec<Start>> {
        let g = &self.grid;
        let ratios = match g.mask_ratios.as_slice() {
            [] => vec![None],
            given => given.iter().copied().map(Some).collect(),
        };
        let shares = match g.pretrain_fractions.as_slice() {
            [] => vec![1.0],
            given => given.to_vec(),
        };
        let mut starts = Vec::new();
        for name in &g.objectives {
            if name == SCRATCH {
                starts.push(Start::scratch());
                continue;
            }
            let objective = Objective::named(name).ok_or_else(|| {
                let names = OBJECTIVES.each_ref().map(|row| row.name).join(", ");
                Error::Config(format!("grid.objectives: {name:?} is none of {SCRATCH}, {names}"))
            })?;
            for &mask_ratio in &ratios {
                let with = |&share: &f64| Start::pretrained(objective, mask_ratio, share);
                starts.extend(shares.iter().map(with));
            }
        }
        Ok(starts)
    }

    /// Settings of pre-trainings, before what the grid changes. Errors: as [`Config::load`].
    pub fn pretrain_config(&self) -> Result<Config> {
        Config::load(&self.pretrain.config, &self.pretrain.set)
    }

    /// Settings of fine-tunings, before what the grid changes. Errors: as [`FinetuneConfig::load`].
    pub fn finetune_config(&self) -> Result<FinetuneConfig> {
        FinetuneConfig::load(&self.finetune.config, &self.finetune.set)
    }

    /// Whether the results of `before` are results of this study too: only lists may have changed.
    pub fn continues(&self, before: &Self) -> bool {
        self.recipes() == before.recipes()
    }

    /// The study without its lists: what every one of its results has in common.
    pub(super) fn recipes(&self) -> Self {
        let grid = Grid {
            objectives: Vec::new(),
            fractions: Vec::new(),
            seeds: Vec::new(),
            mask_ratios: Vec::new(),
            pretrain_fractions: Vec::new(),
            ..self.grid.clone()
        };
        Self { grid, cross: Cross::default(), ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::schema::assert_explained;

    #[test]
    fn every_key_is_there_and_explained() {
        assert_explained::<StudyConfig>();
    }

    #[test]
    fn shipped_studies_are_valid_and_so_are_their_recipes() {
        for (name, _) in PRESETS {
            let study = StudyConfig::load(name, &[]).unwrap_or_else(|e| panic!("{name}: {e}"));
            study.pretrain_config().unwrap_or_else(|e| panic!("{name}: {e}"));
            study.finetune_config().unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }

    #[test]
    fn the_grid_is_checked() {
        let load = |set: &str| StudyConfig::load("hippocampus", &[set.to_owned()]);
        for bad in [
            r#"grid.objectives=["scratch", "mae"]"#,
            r#"grid.objectives=["mae3d", "mae3d"]"#,
            "grid.objectives=[]",
            "grid.fractions=[0.0]",
            "grid.mask_ratios=[1.0]",
            r#"cross.tasks=["btcv"]"#,
        ] {
            assert!(load(bad).is_err(), "{bad}");
        }
        let swept = load("grid.mask_ratios=[0.5, 0.75]").unwrap();
        let names: Vec<String> =
            swept.starts().unwrap().iter().map(|s| s.name().to_owned()).collect();
        assert_eq!(names[0], "scratch");
        assert!(names.contains(&"gl-mae_mask0.5".to_owned()), "{names:?}");
        let plain = load("grid.seeds=[9]").unwrap();
        assert!(plain.continues(&swept) && !load("grid.updates=7").unwrap().continues(&plain));
    }
}
