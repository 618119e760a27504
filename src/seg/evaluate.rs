//! Predictions against references, file by file.

use std::path::PathBuf;

use rayon::prelude::*;

use super::labels::{ClassImage, LabelRules};
use super::match_files::FilePair;
use super::metrics::{LabelPair, RegionMetrics, measure};
use super::region::Region;
use crate::data::Limits;
use crate::data::geometry::{Affine, spacing_mm};
use crate::{Error, Result};

/// Farthest that a corner of a prediction's grid may be from that of its reference, in mm.
pub const GRID_TOLERANCE_MM: f64 = 1e-3;

/// Cases in memory at a time; the work within a case is parallel too.
const CASES_AT_A_TIME: usize = 4;

/// What is judged, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The structures to judge. Empty: every class that occurs, and those below it.
    pub regions: Vec<Region>,
    /// How stored values of predictions become classes.
    pub rules: LabelRules,
    /// The same for references, which may have stored values of their own (MM-WHS).
    pub reference_rules: LabelRules,
    /// Tolerances of the surface Dice in mm.
    pub tolerances_mm: Vec<f64>,
    pub limits: Limits,
}

/// Results of one case, one per region.
#[derive(Clone, Debug)]
pub struct CaseResult {
    pub id: String,
    pub prediction: PathBuf,
    pub reference: PathBuf,
    pub metrics: Vec<RegionMetrics>,
}

/// Results of a set.
#[derive(Clone, Debug)]
pub struct Evaluation {
    pub regions: Vec<Region>,
    pub tolerances_mm: Vec<f64>,
    pub cases: Vec<CaseResult>,
}

/// Judges every pair; `progress` hears the id of each case that is done, in order.
///
/// Errors: the first case's, in the order of `pairs`: [`Error::Data`] when a file cannot be used,
/// holds a value that is no class, or lies on another grid than its reference (both are named);
/// [`Error::Config`] for wrong settings.
pub fn evaluate(
    pairs: &[FilePair],
    settings: &Settings,
    progress: &mut dyn FnMut(&str),
) -> Result<Evaluation> {
    let mut cases = Vec::with_capacity(pairs.len());
    let at_a_time = rayon::current_num_threads().clamp(1, CASES_AT_A_TIME);
    for chunk in pairs.chunks(at_a_time) {
        let results: Vec<Result<CaseResult>> =
            chunk.par_iter().map(|pair| evaluate_pair(pair, settings)).collect();
        for result in results {
            let case = result?;
            progress(&case.id);
            cases.push(case);
        }
    }
    let mut regions = settings.regions.clone();
    if regions.is_empty() {
        let found = cases.iter().map(|c| c.metrics.len()).max().unwrap_or(0);
        regions = Region::foreground(found + 1);
        for case in &mut cases {
            let voxels = case.metrics.first().map_or(0, |m| m.voxels);
            let absent = RegionMetrics::absent(voxels, settings.tolerances_mm.len());
            case.metrics.resize(found, absent);
        }
    }
    Ok(Evaluation { regions, tolerances_mm: settings.tolerances_mm.clone(), cases })
}

fn evaluate_pair(pair: &FilePair, settings: &Settings) -> Result<CaseResult> {
    let (pred, reference) = rayon::join(
        || settings.rules.read(&pair.prediction, &settings.limits),
        || settings.reference_rules.read(&pair.reference, &settings.limits),
    );
    let (pred, reference) = (pred?, reference?);
    check_grid(pair, &pred, &reference)?;
    let labels = LabelPair {
        pred: &pred.classes,
        reference: &reference.classes,
        dims: reference.dims,
        spacing_mm: spacing_mm(&reference.affine),
    };
    let found;
    let regions = match settings.regions.as_slice() {
        [] => {
            let largest = pred.classes.iter().chain(&reference.classes).max();
            // One class at least, so that a set of empty maps is a table and not nothing.
            found = Region::foreground(usize::from(*largest.unwrap_or(&0)).max(1) + 1);
            &found
        }
        given => given,
    };
    Ok(CaseResult {
        id: pair.id.clone(),
        prediction: pair.prediction.clone(),
        reference: pair.reference.clone(),
        metrics: measure(&labels, regions, &settings.tolerances_mm)?,
    })
}

fn check_grid(pair: &FilePair, pred: &ClassImage, reference: &ClassImage) -> Result<()> {
    let grid = |image: &ClassImage| format!("{:?} voxels, affine {:?}", image.dims, image.affine);
    let apart = match pred.dims == reference.dims {
        true => corners_apart_mm(pred.dims, &pred.affine, &reference.affine),
        false => f64::INFINITY,
    };
    if apart <= GRID_TOLERANCE_MM {
        return Ok(());
    }
    let how = match apart.is_finite() {
        true => format!("corners are up to {apart:.4} mm apart"),
        false => "the sizes differ".to_owned(),
    };
    Err(Error::data(
        &pair.prediction,
        format!(
            "case {}: the prediction lies on another grid than its reference {} ({how}): {} \
             against {}; write predictions on the grid of the image, nothing is resampled here",
            pair.id,
            pair.reference.display(),
            grid(pred),
            grid(reference)
        ),
    ))
}

/// The largest distance between the corners of a grid under two affines.
fn corners_apart_mm(dims: [usize; 3], a: &Affine, b: &Affine) -> f64 {
    let at = |corner: usize, axis: usize| match corner >> axis & 1 {
        1 => dims[axis] as f64 - 1.0,
        _ => 0.0,
    };
    let gap = |corner: usize, r: usize| {
        (0..3).map(|c| (a[r][c] - b[r][c]) * at(corner, c)).sum::<f64>() + a[r][3] - b[r][3]
    };
    (0..8)
        .map(|corner| (0..3).map(|r| gap(corner, r).powi(2)).sum::<f64>().sqrt())
        .fold(0.0, f64::max)
}
