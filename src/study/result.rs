//! What came out of a cell, as it is kept in its folder.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::seg::evaluate::Evaluation;
use crate::{Error, Result, atomic};

/// Name of the file in a cell's folder.
pub const RESULT_FILE: &str = "result.json";

/// A judged fine-tuning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CellResult {
    pub start: String,
    pub fraction: f64,
    pub seed: u64,
    /// Labelled cases that trained, and updates.
    pub training_cases: usize,
    pub updates: u64,
    /// On the held-out cases.
    pub held_out: Scores,
    /// On other sets, by the titles of their tasks.
    pub cross: Vec<(String, Scores)>,
}

/// Means over regions, then over cases (MONAI's reduction); `None` where nothing is defined.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scores {
    pub dice: Option<f64>,
    pub hd95_mm: Option<f64>,
    /// Surface Dice at 1 mm.
    pub nsd_1mm: Option<f64>,
    /// Mean Dice of every region over cases, by name.
    pub regions: Vec<(String, Option<f64>)>,
    pub cases: Vec<CaseScore>,
}

/// Mean Dice over the regions of a case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaseScore {
    pub id: String,
    pub dice: Option<f64>,
}

impl Scores {
    /// From an evaluation whose tolerances begin with 1 mm.
    pub(super) fn new(evaluation: &Evaluation) -> Self {
        let finite = |x: Option<f64>| x.filter(|x| x.is_finite());
        let mean = |values: Vec<f64>| {
            let kept: Vec<f64> = values.into_iter().filter(|v| !v.is_nan()).collect();
            (!kept.is_empty()).then(|| kept.iter().sum::<f64>() / kept.len() as f64)
        };
        let regions = evaluation.regions.iter().enumerate().map(|(i, region)| {
            let dice = evaluation.cases.iter().filter_map(|c| c.metrics.get(i)).map(|m| m.dice());
            (region.to_string(), mean(dice.collect()))
        });
        let cases = evaluation.cases.iter().map(|case| CaseScore {
            id: case.id.clone(),
            dice: mean(case.metrics.iter().map(|m| m.dice()).collect()),
        });
        Self {
            dice: finite(evaluation.case_mean("Dice")),
            hd95_mm: finite(evaluation.case_mean("HD95")),
            nsd_1mm: finite(evaluation.case_mean("NSD_1mm")),
            regions: regions.collect(),
            cases: cases.collect(),
        }
    }
}

impl CellResult {
    /// The result in a cell's folder, `None` without a file. Errors: [`Error::Data`] for a file that is
    /// none; [`Error::Io`].
    pub(super) fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(RESULT_FILE);
        if !path.exists() {
            return Ok(None);
        }
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path, "read"))?;
        serde_json::from_str(&text).map(Some).map_err(|e| {
            Error::data(&path, format!("is no result of a study ({e}); delete it to judge again"))
        })
    }

    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        atomic::write_json(folder.join(RESULT_FILE), self).map(|_| ())
    }
}
