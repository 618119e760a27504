//! Which cases train and which validate, and what their labels mean.

use std::path::Path;

use crate::config::finetune::FinetuneData;
use crate::data::nifti::read_header;
use crate::data::{Case, PrepareConfig, Prepared, prepare};
use crate::rng::{Purpose, Rng};
use crate::seg::dataset::{LabelledCase, PreparedPair};
use crate::seg::task::{Target, TaskCase, TaskKind};
use crate::seg::{LabelRules, Region, Task};
use crate::{Error, Result};

/// The training and the validation cases of the set of `data`; `seed` draws its fraction.
///
/// Errors: as [`Task::find_cases`], [`Task::split`], [`Task::subset`]; [`Error::Data`] when the training
/// cases of a task of image classes are all of one class.
pub fn find(task: &Task, data: &FinetuneData, seed: u64) -> Result<[Vec<TaskCase>; 2]> {
    let path = Path::new(&data.path);
    let found = task.find_cases(path)?;
    let ids: Vec<String> = found.iter().map(|c| c.id.clone()).collect();
    let split = task.split(path, &ids)?;
    let training = match data.subset {
        0 => split.training.clone(),
        n => task.subset(&split, n)?,
    };
    let training = draw(training, data.fraction, seed).0;
    let pick = |ids: &[String]| -> Vec<TaskCase> {
        found.iter().filter(|case| ids.binary_search(&case.id).is_ok()).cloned().collect()
    };
    let [training, validation] = [pick(&sorted(training)), pick(&sorted(split.validation))];
    let mut classes = training.iter().filter_map(|case| match case.target {
        Target::Class(class) => Some(class),
        Target::Labels(_) => None,
    });
    if let Some(first) = classes.next()
        && classes.all(|class| class == first)
    {
        let name = task.class_names().get(usize::from(first)).cloned().unwrap_or_default();
        let reason = format!(
            "{}: all {} training cases are of the class {name}; there is nothing to tell apart",
            task.title,
            training.len()
        );
        return Err(Error::data(path, reason));
    }
    Ok([training, validation])
}

fn sorted(mut ids: Vec<String>) -> Vec<String> {
    ids.sort();
    ids
}

/// The cases of a run with label maps.
#[derive(Clone, Debug)]
pub struct Cases {
    pub training: Vec<LabelledCase>,
    pub validation: Vec<LabelledCase>,
}

impl Cases {
    /// As [`find`]. Errors: also for a task of image classes.
    pub fn find(task: &Task, data: &FinetuneData, seed: u64) -> Result<Self> {
        if task.kind == TaskKind::ImageClasses {
            return Err(Error::Config(format!(
                "{}: its labels are of images, not voxels",
                task.title
            )));
        }
        let [training, validation] = find(task, data, seed)?;
        let labelled = |cases: Vec<TaskCase>| cases.iter().filter_map(TaskCase::labelled).collect();
        Ok(Self { training: labelled(training), validation: labelled(validation) })
    }
}

/// Splits `ids` into a share and the rest: the first of a random order, as many as `fraction` asks for and
/// one at least. Both are in their old order; smaller shares of a seed are parts of its larger ones.
pub fn draw(ids: Vec<String>, fraction: f64, seed: u64) -> (Vec<String>, Vec<String>) {
    let count = ((ids.len() as f64 * fraction).round() as usize).clamp(1, ids.len().max(1));
    let order = Rng::new(seed, Purpose::Subset, 0, 0, 0).permutation(ids.len());
    let mut is_drawn = vec![false; ids.len()];
    order.into_iter().take(count).for_each(|i| is_drawn[i as usize] = true);
    let (drawn, rest): (Vec<_>, Vec<_>) =
        ids.into_iter().zip(is_drawn).partition(|(_, is_drawn)| *is_drawn);
    let ids = |pairs: Vec<(String, bool)>| pairs.into_iter().map(|(id, _)| id).collect();
    (ids(drawn), ids(rest))
}

/// A case of a task as the loader knows it.
pub fn loaded(case: &TaskCase) -> Case {
    let label = match &case.target {
        Target::Labels(label) => Some(label.clone()),
        Target::Class(_) => None,
    };
    Case { id: case.id.clone(), images: case.images.clone(), label }
}

/// What is to be predicted of a prepared image.
#[derive(Clone, Debug)]
pub enum Truth {
    /// Class indices `[d, h, w]` on the grid of the image, padding 0.
    Voxels(Vec<u8>),
    /// The class of the whole image.
    Image(u8),
}

/// What can be known of cases in little time: every header is read, the first case of each set is prepared.
///
/// Errors: as [`PreparedCase::read`].
pub fn look_at(sets: [&[TaskCase]; 2], config: &PrepareConfig, rules: &LabelRules) -> Result<()> {
    for set in sets {
        if let Some(first) = set.first() {
            PreparedCase::read(first, config, rules)?;
        }
        for file in set.iter().flat_map(TaskCase::files) {
            read_header(file, &config.limits)?;
        }
    }
    Ok(())
}

/// A prepared image with its truth.
#[derive(Clone, Debug)]
pub struct PreparedCase {
    pub image: Prepared,
    pub truth: Truth,
}

impl PreparedCase {
    /// Reads and prepares an image and, where there is one, its label map.
    ///
    /// Errors: as [`LabelledCase::prepare`].
    pub fn read(case: &TaskCase, config: &PrepareConfig, rules: &LabelRules) -> Result<Self> {
        match &case.target {
            Target::Labels(label) => {
                let (id, images) = (case.id.clone(), case.images.clone());
                let labelled = LabelledCase { id, images, label: label.clone() };
                let PreparedPair { image, classes } = labelled.prepare(config, rules)?;
                Ok(Self { image, truth: Truth::Voxels(classes) })
            }
            Target::Class(class) => {
                Ok(Self { image: prepare(&loaded(case), config)?, truth: Truth::Image(*class) })
            }
        }
    }

    /// Bytes in memory.
    pub fn size_bytes(&self) -> usize {
        let truth = match &self.truth {
            Truth::Voxels(classes) => classes.len(),
            Truth::Image(_) => 1,
        };
        self.image.size_bytes() + truth
    }
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
