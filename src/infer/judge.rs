//! Prediction and evaluation of labelled cases in one.

use super::predict::{PredictOptions, Progress, predict_cases};
use crate::Result;
use crate::seg::dataset::LabelledCase;
use crate::seg::evaluate::{Evaluation, Settings, evaluate};
use crate::seg::match_files::FilePair;

/// Predicts `cases` into `options.out` (whatever `options.input` says) and judges the files, each against
/// the label map of its case.
///
/// Errors: those of [`predict_cases`] and [`evaluate`].
pub fn judge(
    options: &PredictOptions,
    cases: &[LabelledCase],
    settings: &Settings,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Evaluation> {
    let images: Vec<_> = cases.iter().map(LabelledCase::as_case).collect();
    let predicted = predict_cases(options, &images, progress)?;
    let pairs: Vec<FilePair> = predicted
        .into_iter()
        .zip(cases)
        .map(|(p, case)| FilePair {
            id: case.id.clone(),
            prediction: p.file,
            reference: case.label.clone(),
        })
        .collect();
    evaluate(&pairs, settings, &mut |_| {})
}
