//! The configuration of a run: every value of the method and of its surroundings, with its default, read
//! from TOML, from `--set section.key=value` and from flags. Unknown keys are errors.
//!
//! One file per section; `objective` and `warnings` are about how values go together, `parse` reads them,
//! `schema` knows what keys there are. Defaults are the paper's sizes (preset `vit-b`);
//! docs/configuration.md is the table, made from the comments of the sections, and
//! docs/method.md says where each value comes from.

mod bounds;
pub mod cores;
mod data;
pub mod finetune;
mod loss;
mod model;
mod objective;
mod optim;
mod parse;
mod presets;
pub mod schema;
mod train;
mod views;
mod warnings;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use data::{DataConfig, IntensityKind, NonFinite};
pub use loss::{LossConfig, Pairs, TeacherTargets};
pub use model::{HeadConfig, ModelConfig, PositionTable};
pub use objective::{OBJECTIVES, Objective, ObjectiveRow, TERMS, TOTAL, Target, Term, TermRow};
pub use optim::OptimConfig;
pub use parse::{Change, Explicit, Loaded, WrittenAt};
pub(crate) use parse::{load, parse};
pub use presets::{PRESETS, preset};
pub use schema::Settings;
pub use train::{Precision, TrainConfig};
pub use views::{GlobalCrop, ViewConfig, ViewKind};

use crate::{Error, Result};

/// Every section of a pre-training configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub model: ModelConfig,
    pub head: HeadConfig,
    pub views: ViewConfig,
    pub loss: LossConfig,
    pub optim: OptimConfig,
    pub data: DataConfig,
    pub train: TrainConfig,
}

impl Config {
    /// A preset's name or the path of a TOML file, then overrides `section.key=value`.
    /// Errors: an unknown name, a file that is not TOML, an unknown key (with the nearest one), a value
    /// that its key cannot hold (with where it comes from), values that do not go together.
    pub fn load(source: &str, overrides: &[String]) -> Result<Self> {
        Ok(Self::load_with(source, &Change::sets(overrides)?)?.config)
    }

    /// As [`Config::load`], with values from flags too, and what was asked for explicitly.
    /// Errors also: a run whose consistency terms could teach nothing.
    pub fn load_with(source: &str, changes: &[Change]) -> Result<Loaded<Self>> {
        let loaded: Loaded<Self> = load(source, PRESETS, changes)?;
        loaded.config.check_targets()?;
        Ok(loaded)
    }

    /// From TOML text that was valid once, as a checkpoint holds it; `source` names it in errors.
    pub fn parse(text: &str, source: &str, overrides: &[String]) -> Result<Self> {
        parse(text, source, overrides)
    }

    /// The whole configuration as TOML, for the run folder.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string_pretty(self).map_err(|e| Error::Config(e.to_string()))
    }

    /// Checks that the values go together. Errors name the key and what it may be.
    pub fn validate(&self) -> Result<()> {
        let (views, loss) = (&self.views, &self.loss);
        bounds::check(self)?;
        self.model.validate()?;
        self.head.validate()?;
        views.validate(&self.model)?;
        require(
            views.n_global > 0 || !loss.objective.has_global_views(),
            "views.n_global must be at least 1 unless loss.objective is \"mae3d\"",
        )?;
        require(
            loss.gg_pairs != Pairs::Cross
                || views.n_global > 1
                || loss.objective.place(Term::G2g).is_none(),
            "loss.gg_pairs = \"cross\" needs views.n_global of at least 2",
        )?;
        loss.validate()?;
        self.optim.validate()?;
        self.train.validate()?;
        self.data.validate()
    }
}

impl Settings for Config {
    fn validate(&self) -> Result<()> {
        Self::validate(self)
    }
}

fn require(ok: bool, message: &str) -> Result<()> {
    if ok { Ok(()) } else { Err(Error::Config(message.to_owned())) }
}
