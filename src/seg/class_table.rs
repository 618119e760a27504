//! Tables of the classes of images: predictions `id,predicted,p_NAME,...`, references `id,class`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::Task;
use super::classes::Judgement;
use super::dataset::list;
use super::task::Target;
use crate::data::text::read_text;
use crate::{Error, Result, atomic};

/// Farthest that the sum of an image's probabilities may be from 1.
pub const SUM_TOLERANCE: f64 = 1e-3;

/// What a classifier said of an image.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassPrediction {
    pub id: String,
    pub predicted: usize,
    /// One per class.
    pub probabilities: Vec<f64>,
}

fn head(names: &[String]) -> Vec<String> {
    let probabilities = names.iter().map(|name| format!("p_{name}"));
    ["id", "predicted"].map(str::to_owned).into_iter().chain(probabilities).collect()
}

/// Writes a table of predictions, probabilities with the fewest digits that read back as the same f64.
///
/// Errors: [`Error::Io`]; a predicted class that is none of `names`.
pub fn write(path: &Path, names: &[String], rows: &[ClassPrediction]) -> Result<()> {
    let failed = |e: csv::Error| Error::io(path, "write")(e.into());
    let mut out = csv::Writer::from_writer(Vec::new());
    out.write_record(head(names)).map_err(failed)?;
    for row in rows {
        let Some(name) = names.get(row.predicted) else {
            return Err(Error::Config(format!("{}: no class {}", row.id, row.predicted)));
        };
        let mut cells = vec![row.id.clone(), name.clone()];
        cells.extend(row.probabilities.iter().map(f64::to_string));
        out.write_record(cells).map_err(failed)?;
    }
    let bytes = out.into_inner().map_err(|e| Error::io(path, "write")(e.into_error()))?;
    atomic::write_bytes(path, &bytes).map(|_| ())
}

/// Reads a table of predictions for classes of these names.
///
/// Errors: [`Error::Data`] with the line: other columns, a class that is none, what is no probability, a
/// sum farther than [`SUM_TOLERANCE`] from 1, an id that is there twice, no line at all; [`Error::Io`].
pub fn read(path: &Path, names: &[String]) -> Result<Vec<ClassPrediction>> {
    let lines = records(path, &head(names))?;
    let mut rows: Vec<ClassPrediction> = Vec::with_capacity(lines.len());
    for (line, record) in &lines {
        let bad = |why: String| Error::data(path, format!("line {line}: {why}"));
        let cell = |i: usize| record.get(i).unwrap_or_default();
        let predicted = class_of(cell(1), names).map_err(bad)?;
        let mut probabilities = Vec::with_capacity(names.len());
        for (name, text) in names.iter().zip(record.iter().skip(2)) {
            let value = text.trim().parse::<f64>().ok().filter(|p| (0.0..=1.0).contains(p));
            probabilities.push(value.ok_or_else(|| {
                bad(format!("{text:?} is no probability (column p_{name}): a number from 0 to 1"))
            })?);
        }
        let sum: f64 = probabilities.iter().sum();
        if (sum - 1.0).abs() > SUM_TOLERANCE {
            return Err(bad(format!("the probabilities of {} sum to {sum}, not 1", cell(0))));
        }
        rows.push(ClassPrediction { id: cell(0).to_owned(), predicted, probabilities });
    }
    Ok(rows)
}

/// Records with their lines, of a table with exactly these columns and with ids that occur once.
fn records(path: &Path, columns: &[String]) -> Result<Vec<(u64, csv::StringRecord)>> {
    let bad = |e: csv::Error| match e.into_kind() {
        csv::ErrorKind::Io(e) => Error::io(path, "read")(e),
        csv::ErrorKind::UnequalLengths { pos, expected_len, len } => {
            let line = pos.map_or(0, |p| p.line());
            Error::data(path, format!("line {line}: {len} cells, {expected_len} are needed"))
        }
        other => Error::data(path, format!("no table: {other:?}")),
    };
    let text = read_text(path)?;
    let mut reader = csv::ReaderBuilder::new().from_reader(text.as_bytes());
    let found: Vec<String> =
        reader.headers().map_err(bad)?.iter().map(|c| c.trim().to_owned()).collect();
    if found != columns {
        let (found, needed) = (found.join(","), columns.join(","));
        return Err(Error::data(path, format!("its columns are {found:?}, not {needed:?}")));
    }
    let (mut rows, mut ids) = (Vec::new(), BTreeSet::new());
    for record in reader.records() {
        let record = record.map_err(bad)?;
        let line = record.position().map_or(0, |p| p.line());
        let id = record.get(0).unwrap_or_default();
        if id.is_empty() || !ids.insert(id.to_owned()) {
            let what = if id.is_empty() { "no id".into() } else { format!("{id} is there twice") };
            return Err(Error::data(path, format!("line {line}: {what}")));
        }
        rows.push((line, record));
    }
    match rows.is_empty() {
        true => Err(Error::data(path, "has no case")),
        false => Ok(rows),
    }
}

fn class_of(name: &str, names: &[String]) -> std::result::Result<usize, String> {
    let found = names.iter().position(|n| n == name);
    found.ok_or_else(|| format!("{name:?} is no class; they are {}", names.join(", ")))
}

/// The classes of the images of a task by id: of the set in a folder, or a table `id,class`.
/// `validation_only` keeps those that validate, by the split of the task.
///
/// Errors: as [`Task::find_cases`] and [`Task::split`]; [`Error::Data`] for a table as [`read`];
/// [`Error::Config`] for a table that should be split.
pub fn references(
    task: &Task,
    path: &Path,
    validation_only: bool,
) -> Result<BTreeMap<String, usize>> {
    if path.is_dir() {
        let cases = task.find_cases(path)?;
        let mut classes: BTreeMap<String, usize> = cases
            .into_iter()
            .filter_map(|case| match case.target {
                Target::Class(class) => Some((case.id, usize::from(class))),
                Target::Labels(_) => None,
            })
            .collect();
        if validation_only {
            let ids: Vec<String> = classes.keys().cloned().collect();
            let kept = task.split(path, &ids)?.validation;
            classes.retain(|id, _| kept.binary_search(id).is_ok());
        }
        return Ok(classes);
    }
    if validation_only {
        let reason = "the split of a task is for the folder of its set; leave --validation out";
        return Err(Error::Config(format!("{}: {reason}", path.display())));
    }
    let columns = ["id", "class"].map(str::to_owned);
    let mut classes = BTreeMap::new();
    for (line, record) in records(path, &columns)? {
        let cell = |i: usize| record.get(i).unwrap_or_default();
        let class = class_of(cell(1), task.class_names())
            .map_err(|why| Error::data(path, format!("line {line}: {why}")))?;
        classes.insert(cell(0).to_owned(), class);
    }
    Ok(classes)
}

/// Predictions with their references.
#[derive(Clone, Debug)]
pub struct Paired {
    /// In the order of the predictions.
    pub judged: Vec<(String, Judgement)>,
    pub only_predicted: Vec<String>,
    pub only_reference: Vec<String>,
}

impl Paired {
    /// Joins by id.
    pub fn new(predictions: Vec<ClassPrediction>, mut classes: BTreeMap<String, usize>) -> Self {
        let (mut judged, mut only_predicted) = (Vec::new(), Vec::new());
        for ClassPrediction { id, predicted, probabilities } in predictions {
            match classes.remove(&id) {
                Some(truth) => judged.push((id, Judgement { truth, predicted, probabilities })),
                None => only_predicted.push(id),
            }
        }
        Self { judged, only_predicted, only_reference: classes.into_keys().collect() }
    }

    /// The ids without a partner, in words; `None` when there are none.
    pub fn unpaired(&self) -> Option<String> {
        let mut said = Vec::new();
        for (ids, what) in [
            (&self.only_predicted, "predictions without a reference"),
            (&self.only_reference, "references without a prediction"),
        ] {
            if !ids.is_empty() {
                said.push(format!("{} {what}: {}", ids.len(), list(ids)));
            }
        }
        (!said.is_empty()).then(|| said.join("; "))
    }
}
