//! A fine-tuned network on cases that it has not seen.

use std::collections::BTreeMap;
use std::path::Path;

use super::result::Scores;
use crate::device::Device;
use crate::infer::predict::{PredictOptions, Progress};
use crate::seg::dataset::LabelledCase;
use crate::seg::evaluate::Settings;
use crate::seg::{LabelRules, Region, Task};
use crate::{Error, Result, atomic, infer};

/// Tolerances of the surface Dice.
const TOLERANCES_MM: [f64; 2] = [1.0, 2.0];

/// What is judged on a set: which structures, and how its stored labels become the network's classes.
pub struct Reading {
    regions: Vec<Region>,
    rules: LabelRules,
}

impl Reading {
    /// The network's own task.
    pub fn own(task: &Task) -> Self {
        Self { regions: task.regions(false), rules: task.label_rules() }
    }

    /// Another set: the structures that both tasks name, in any case of letters. Its other labels are
    /// background here, and so are the network's other classes, which are not judged.
    ///
    /// Errors: [`Error::Config`] when they have none in common.
    pub fn foreign(own: &Task, other: &Task) -> Result<Self> {
        let same = |name: &String| {
            let own_names = own.class_names().iter().enumerate().skip(1);
            own_names.clone().find(|(_, n)| n.eq_ignore_ascii_case(name)).map(|(i, _)| i as u8)
        };
        let of_class: Vec<u8> =
            other.class_names().iter().map(|name| same(name).unwrap_or(0)).collect();
        let shared: Vec<Region> = own
            .regions(false)
            .into_iter()
            .filter(|r| r.labels().iter().all(|label| of_class.contains(label)))
            .collect();
        if shared.is_empty() {
            return Err(Error::Config(format!(
                "cross: {} and {} name no structure in common",
                own.title, other.title
            )));
        }
        let stored = match other.label_rules().map {
            Some(map) => map,
            None => (1..other.classes()).map(|c| (c as u16, c as u8)).collect(),
        };
        let class = |c: u8| of_class.get(usize::from(c)).copied().unwrap_or(0);
        let map: BTreeMap<u16, u8> = stored.into_iter().map(|(v, c)| (v, class(c))).collect();
        Ok(Self { regions: shared, rules: LabelRules { classes: None, map: Some(map) } })
    }
}

/// Predicts `cases` with a checkpoint into the folder `into` of a run, and judges them.
///
/// Errors: those of prediction and evaluation.
pub fn judge(
    checkpoint: &Path,
    [folder, into]: [&Path; 2],
    cases: &[LabelledCase],
    reading: &Reading,
    task: &Task,
    device: &Device,
    progress: &mut dyn FnMut(&str),
) -> Result<Scores> {
    let options = PredictOptions::new(checkpoint, folder, folder.join(into), device.clone());
    let settings = Settings {
        regions: reading.regions.clone(),
        rules: LabelRules::classes(task.classes()),
        reference_rules: reading.rules.clone(),
        tolerances_mm: TOLERANCES_MM.to_vec(),
        ..Settings::default()
    };
    let evaluation = infer::judge::judge(&options, cases, &settings, &mut |step| {
        if let Progress::Case { id, .. } = step {
            progress(id);
        }
    })?;
    atomic::write_json(folder.join(into).with_extension("json"), &evaluation.to_json())?;
    Ok(Scores::new(&evaluation))
}
