//! How good the classes of images are: accuracy, areas under ROC curves, the confusion matrix.

use serde_json::{Value, json};

use super::report::aligned;
use crate::{Error, Result};

/// A judged image.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// Index of the class in the reference, and of the predicted one.
    pub truth: usize,
    pub predicted: usize,
    /// One per class.
    pub probabilities: Vec<f64>,
}

impl Judgement {
    /// With the most probable class.
    pub fn of(truth: usize, probabilities: Vec<f64>) -> Self {
        Self { truth, predicted: argmax(&probabilities), probabilities }
    }
}

/// The index of the largest value; of equal ones the first.
pub fn argmax(values: &[f64]) -> usize {
    let mut best = 0;
    for (i, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = i;
        }
    }
    best
}

/// The numbers of a set of judged images.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassScores {
    pub names: Vec<String>,
    /// Images by class of the reference (rows) and predicted class (columns).
    pub confusion: Vec<Vec<u64>>,
    /// Share of images with the right class.
    pub accuracy: f64,
    /// Mean over the classes of the reference of the share of their images that is found.
    pub balanced_accuracy: f64,
    /// One class against the others, by its probability; `None` for a class that no image, or every
    /// image, of the reference has.
    pub auc: Vec<Option<f64>>,
    /// All pairs of image and class in one curve: does an image have the class?
    pub micro_auc: f64,
}

impl ClassScores {
    /// Judges at least one image.
    ///
    /// Errors: [`Error::Config`] for no image, a class that is none, probabilities that are not as many as
    /// classes, or not finite.
    /// Source: scikit-learn's `accuracy_score`, `balanced_accuracy_score`, `roc_auc_score` (one-vs-rest),
    /// but for what is undefined there (an error, or a warning and NaN).
    pub fn new(names: &[String], judged: &[Judgement]) -> Result<Self> {
        let classes = names.len();
        let fits = |j: &Judgement| {
            let finite = j.probabilities.iter().all(|p| p.is_finite());
            j.truth < classes && j.predicted < classes && j.probabilities.len() == classes && finite
        };
        if judged.is_empty() || classes < 2 {
            return Err(Error::Config("no image to judge, or fewer than two classes".into()));
        }
        if let Some(at) = judged.iter().position(|j| !fits(j)) {
            let reason = format!("image {at} does not have {classes} finite probabilities");
            return Err(Error::NotFinite(reason));
        }
        let mut confusion = vec![vec![0u64; classes]; classes];
        for j in judged {
            confusion[j.truth][j.predicted] += 1;
        }
        let right: u64 = (0..classes).map(|c| confusion[c][c]).sum();
        let recalls: Vec<f64> = (0..classes).filter_map(|c| recall(&confusion, c)).collect();
        let auc = (0..classes)
            .map(|c| roc_auc(judged.iter().map(|j| (j.probabilities[c], j.truth == c)).collect()))
            .collect();
        let pairs = judged
            .iter()
            .flat_map(|j| j.probabilities.iter().enumerate().map(|(c, p)| (*p, j.truth == c)));
        Ok(Self {
            names: names.to_vec(),
            accuracy: right as f64 / judged.len() as f64,
            balanced_accuracy: recalls.iter().sum::<f64>() / recalls.len() as f64,
            auc,
            // With two classes or more there are always pairs of both kinds.
            micro_auc: roc_auc(pairs.collect()).unwrap_or(f64::NAN),
            confusion,
        })
    }

    /// Judged images.
    pub fn cases(&self) -> u64 {
        self.confusion.iter().flatten().sum()
    }

    /// The mean over the classes whose AUC is defined; `None` when that is none.
    pub fn macro_auc(&self) -> Option<f64> {
        let defined: Vec<f64> = self.auc.iter().copied().flatten().collect();
        (!defined.is_empty()).then(|| defined.iter().sum::<f64>() / defined.len() as f64)
    }

    /// Every number; `null` is undefined.
    pub fn to_json(&self) -> Value {
        let class = |(c, name): (usize, &String)| {
            json!({
                "name": name,
                "cases": self.confusion[c].iter().sum::<u64>(),
                "predicted": self.confusion.iter().map(|row| row[c]).sum::<u64>(),
                "recall": recall(&self.confusion, c),
                "auc": self.auc[c],
            })
        };
        json!({
            "cases": self.cases(),
            "accuracy": self.accuracy,
            "balanced_accuracy": self.balanced_accuracy,
            "auc_macro": self.macro_auc(),
            "auc_micro": self.micro_auc,
            "classes": self.names.iter().enumerate().map(class).collect::<Vec<_>>(),
            "confusion": self.confusion,
        })
    }

    /// The numbers, a row per class, and the confusion matrix.
    pub fn to_text(&self) -> String {
        let cell = |v: Option<f64>| v.map_or("-".to_owned(), |v| format!("{v:.4}"));
        let count = match self.cases() {
            1 => "1 case".to_owned(),
            n => format!("{n} cases"),
        };
        let summary = [
            ("accuracy", Some(self.accuracy)),
            ("balanced accuracy", Some(self.balanced_accuracy)),
            ("AUC, mean of classes", self.macro_auc()),
            ("AUC, all pairs", Some(self.micro_auc)),
        ];
        let rows: Vec<Vec<String>> =
            summary.iter().map(|(name, v)| vec![(*name).to_owned(), cell(*v)]).collect();
        let mut text = format!("{count}\n\n{}\n", aligned(&rows));
        let head = ["class", "cases", "recall", "AUC"].map(str::to_owned).to_vec();
        let row = |(c, name): (usize, &String)| {
            let cases = self.confusion[c].iter().sum::<u64>().to_string();
            vec![name.clone(), cases, cell(recall(&self.confusion, c)), cell(self.auc[c])]
        };
        let classes = self.names.iter().enumerate().map(row);
        text += &aligned(&std::iter::once(head).chain(classes).collect::<Vec<_>>());
        let mut head = vec!["reference \\ predicted".to_owned()];
        head.extend(self.names.iter().cloned());
        let counts = self.names.iter().zip(&self.confusion).map(|(name, counts)| {
            let numbers = counts.iter().map(u64::to_string);
            std::iter::once(name.clone()).chain(numbers).collect()
        });
        text += &format!("\n{}", aligned(&std::iter::once(head).chain(counts).collect::<Vec<_>>()));
        if self.auc.iter().any(Option::is_none) {
            text += "\n-: undefined, for the reference has no image of the class, or no other; not in \
                     the means.\n";
        }
        text
    }
}

/// The share of a class's images that is found; `None` without images.
fn recall(confusion: &[Vec<u64>], class: usize) -> Option<f64> {
    let all: u64 = confusion[class].iter().sum();
    (all > 0).then(|| confusion[class][class] as f64 / all as f64)
}

/// The probability that an image of the class has a larger score than another one, equal scores counting
/// one half; `None` without images of both kinds. Counted in whole numbers.
fn roc_auc(mut scored: Vec<(f64, bool)>) -> Option<f64> {
    scored.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut doubled, mut below, mut positives) = (0u128, 0u128, 0u128);
    // 0.0 and -0.0 are one score: they are neighbours in the total order.
    for tied in scored.chunk_by(|a, b| a.0 == b.0) {
        let inside = tied.iter().filter(|(_, is)| *is).count() as u128;
        let outside = tied.len() as u128 - inside;
        doubled += inside * (2 * below + outside);
        below += outside;
        positives += inside;
    }
    let pairs = positives * below;
    (pairs > 0).then(|| doubled as f64 / (2 * pairs) as f64)
}

#[cfg(test)]
mod tests;
