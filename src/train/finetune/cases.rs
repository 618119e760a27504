//! Which cases train and which validate, and what their labels mean.

use std::path::Path;

use crate::config::finetune::SegData;
use crate::data::{Case, PrepareConfig};
use crate::rng::{Purpose, Rng};
use crate::seg::dataset::{LabelledCase, PreparedPair};
use crate::seg::task::{Target, TaskKind};
use crate::seg::{LabelRules, Region, Task};
use crate::{Error, Result};

/// The cases of a run.
#[derive(Clone, Debug)]
pub struct Cases {
    pub training: Vec<LabelledCase>,
    pub validation: Vec<LabelledCase>,
}

impl Cases {
    /// Finds and splits the set of `data`; `seed` draws its fraction.
    ///
    /// Errors: as [`Task::find_cases`], [`Task::split`], [`Task::subset`]; a task of image classes.
    pub fn find(task: &Task, data: &SegData, seed: u64) -> Result<Self> {
        let path = Path::new(&data.path);
        if task.kind == TaskKind::ImageClasses {
            return Err(Error::Config(format!(
                "{}: its labels are of images, not voxels",
                task.title
            )));
        }
        let found = task.find_cases(path)?;
        let ids: Vec<String> = found.iter().map(|c| c.id.clone()).collect();
        let split = task.split(path, &ids)?;
        let training = match data.subset {
            0 => split.training.clone(),
            n => task.subset(&split, n)?,
        };
        let training = draw(training, data.fraction, seed);
        let pick = |ids: &[String]| -> Vec<LabelledCase> {
            let chosen = found.iter().filter(|case| ids.contains(&case.id));
            chosen
                .filter_map(|case| match &case.target {
                    Target::Labels(label) => Some(LabelledCase {
                        id: case.id.clone(),
                        images: case.images.clone(),
                        label: label.clone(),
                    }),
                    Target::Class(_) => None,
                })
                .collect()
        };
        Ok(Self { training: pick(&training), validation: pick(&split.validation) })
    }
}

/// The first of a random order, as many as `fraction` asks for and one at least; in their old order.
fn draw(ids: Vec<String>, fraction: f64, seed: u64) -> Vec<String> {
    let count = ((ids.len() as f64 * fraction).round() as usize).clamp(1, ids.len().max(1));
    let order = Rng::new(seed, Purpose::Subset, 0, 0, 0).permutation(ids.len());
    let mut kept: Vec<u32> = order.into_iter().take(count).collect();
    kept.sort_unstable();
    kept.into_iter().filter_map(|i| ids.get(i as usize).cloned()).collect()
}

/// A labelled case as the loader knows it.
pub fn as_case(case: &LabelledCase) -> Case {
    let LabelledCase { id, images, label } = case.clone();
    Case { id, images, label: Some(label) }
}

/// Reads and prepares image and label of a case of the loader.
pub fn prepare_pair(
    case: &Case,
    config: &PrepareConfig,
    rules: &LabelRules,
) -> Result<PreparedPair> {
    let Some(label) = case.label.clone() else {
        return Err(Error::Config(format!("case {} has no label", case.id)));
    };
    LabelledCase { id: case.id.clone(), images: case.images.clone(), label }.prepare(config, rules)
}

/// For every stored class, the regions it belongs to as bits; classes themselves for a softmax.
pub fn label_table(task: &Task, regions: &[Region]) -> [u8; 256] {
    std::array::from_fn(|class| match task.kind {
        TaskKind::Regions => {
            let bits = regions.iter().take(8).enumerate();
            bits.map(|(i, r)| u8::from(r.members()[class]) << i).fold(0, |a, b| a | b)
        }
        _ => class as u8,
    })
}

/// Dice of every region; NaN when the reference has none of it. `predicted` and `reference` hold what
/// [`label_table`] makes of classes.
pub fn dice(task: &Task, regions: &[Region], predicted: &[u8], reference: &[u8]) -> Vec<f64> {
    let one = |i: usize, region: &Region| {
        let members = region.members();
        let holds = |v: u8| match task.kind {
            TaskKind::Regions => v >> i & 1 == 1,
            _ => members[usize::from(v)],
        };
        let (mut both, mut sum, mut truth) = (0u64, 0u64, 0u64);
        for (&p, &r) in predicted.iter().zip(reference) {
            let (p, r) = (holds(p), holds(r));
            both += u64::from(p && r);
            sum += u64::from(p) + u64::from(r);
            truth += u64::from(r);
        }
        if truth == 0 { f64::NAN } else { 2.0 * both as f64 / sum as f64 }
    };
    regions.iter().enumerate().map(|(i, region)| one(i, region)).collect()
}
