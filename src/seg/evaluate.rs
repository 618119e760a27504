//! Predictions against references, file by file.

use std::path::PathBuf;

use rayon::prelude::*;

use super::dataset::list;
use super::labels::{ClassImage, LabelRules};
use super::match_files::FilePair;
use super::metrics::{LabelPair, RegionMetrics, measure};
use super::region::Region;
use crate::data::geometry::{Orientation, corners_apart_mm, spacing_mm};
use crate::data::label::{Rounding, read_labels_within};
use crate::data::{LabelImage, ReadLimits};
use crate::{Error, Result};

/// Farthest that a corner of a prediction's grid may be from that of its reference, in mm.
pub const GRID_TOLERANCE_MM: f64 = 1e-3;

/// Cases in memory at a time; the work within a case is parallel too.
const CASES_AT_A_TIME: usize = 4;

/// What is judged, and how.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The structures to judge. Empty: every class that occurs.
    pub regions: Vec<Region>,
    /// How stored values of predictions become classes.
    pub rules: LabelRules,
    /// The same for references, which may have stored values of their own (MM-WHS).
    pub reference_rules: LabelRules,
    /// Tolerances of the surface Dice in mm.
    pub tolerances_mm: Vec<f64>,
    /// Stored value of references whose voxels are not judged (nnU-Net's ignore label).
    pub ignore: Option<u16>,
    /// How far from whole numbers stored labels may be.
    pub rounding: Rounding,
    pub missed: MissedDistance,
    pub limits: ReadLimits,
}

/// What the Hausdorff distances of a structure are that the prediction misses altogether.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MissedDistance {
    /// HD95 undefined and HD infinite, as in MONAI: the case is in no mean of HD95.
    #[default]
    LeftOut,
    /// The diagonal of the volume, as challenges count it: a miss costs what it can cost at most.
    Diagonal,
}

impl MissedDistance {
    /// As in `summary.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::LeftOut => "left-out",
            Self::Diagonal => "diagonal",
        }
    }
}

/// nnU-Net's tutorials and many sets mark voxels so that are not to be judged.
const USUAL_IGNORE: u8 = 255;

/// Results of one case, one per region.
#[derive(Clone, Debug)]
pub struct CaseResult {
    pub id: String,
    pub prediction: PathBuf,
    pub reference: PathBuf,
    pub metrics: Vec<RegionMetrics>,
    /// How the axes of the prediction were turned to those of the reference: `LPS to RAS`.
    pub turned: Option<String>,
    /// Voxels that were not judged.
    pub ignored_voxels: u64,
}

/// Results of a set.
#[derive(Clone, Debug)]
pub struct Evaluation {
    pub regions: Vec<Region>,
    pub tolerances_mm: Vec<f64>,
    pub cases: Vec<CaseResult>,
    pub ignore: Option<u16>,
    pub missed: MissedDistance,
    /// What deserves attention.
    pub notes: Vec<String>,
}

/// A case, and which structures its metrics are of.
struct Judged {
    case: CaseResult,
    labels: Vec<u8>,
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
        let results: Vec<Result<Judged>> =
            chunk.par_iter().map(|pair| evaluate_pair(pair, settings)).collect();
        for result in results {
            let judged = result?;
            progress(&judged.case.id);
            cases.push(judged);
        }
    }
    let mut regions = settings.regions.clone();
    if regions.is_empty() {
        let mut occurring: Vec<u8> = cases.iter().flat_map(|c| c.labels.clone()).collect();
        occurring.sort_unstable();
        occurring.dedup();
        cases.iter_mut().for_each(|c| spread(c, &occurring, settings.tolerances_mm.len()));
        regions = occurring.iter().map(|&l| Region::class(l, l.to_string())).collect();
    }
    let notes = notes(&cases, &regions, settings);
    Ok(Evaluation {
        regions,
        tolerances_mm: settings.tolerances_mm.clone(),
        cases: cases.into_iter().map(|c| c.case).collect(),
        ignore: settings.ignore,
        missed: settings.missed,
        notes,
    })
}

/// Brings the metrics of a case to the labels of all cases: those it lacks are absent in it.
fn spread(judged: &mut Judged, labels: &[u8], tolerances: usize) {
    let metrics = std::mem::take(&mut judged.case.metrics);
    let voxels = metrics.first().map_or(0, |m| m.voxels);
    let mut own: Vec<_> = judged.labels.iter().zip(metrics).collect();
    let of = |label: &u8| match own.iter().position(|(l, _)| *l == label) {
        Some(at) => own.swap_remove(at).1,
        None => RegionMetrics::absent(voxels, tolerances),
    };
    judged.case.metrics = labels.iter().map(of).collect();
}

fn notes(cases: &[Judged], regions: &[Region], settings: &Settings) -> Vec<String> {
    let mut notes = Vec::new();
    let turned = cases.iter().filter_map(|c| c.case.turned.as_ref().map(|t| (&c.case.id, t)));
    let turned: Vec<String> = turned.map(|(id, how)| format!("{id} ({how})")).collect();
    if !turned.is_empty() {
        notes.push(format!(
            "{} prediction(s) have the voxels of their references on other axes; they were turned, \
             nothing was interpolated: {}",
            turned.len(),
            list(&turned)
        ));
    }
    if settings.regions.is_empty() && regions.iter().any(|r| r.labels() == [USUAL_IGNORE]) {
        notes.push(format!(
            "the label {USUAL_IGNORE} is judged as a class; where it is nnU-Net's ignore label, \
             --ignore-label {USUAL_IGNORE} (or labels.ignore in the dataset.json of --labels) leaves \
             its voxels out"
        ));
    }
    let ignored: u64 = cases.iter().map(|c| c.case.ignored_voxels).sum();
    if let Some(label) = settings.ignore {
        notes.push(format!("{ignored} voxels of the ignore label {label} are not judged"));
    }
    notes
}

fn evaluate_pair(pair: &FilePair, settings: &Settings) -> Result<Judged> {
    let stored = |path| read_labels_within(path, &settings.limits, settings.rounding);
    let (pred, reference) = rayon::join(|| stored(&pair.prediction), || stored(&pair.reference));
    let (mut pred, mut reference) = (pred?, reference?);
    let ignored = settings.ignore.map(|label| {
        let is_ignored = reference.values.iter().map(|&v| v == label).collect::<Vec<bool>>();
        // A prediction never has it; one that does says nothing there.
        for image in [&mut pred, &mut reference] {
            clear(image, label);
        }
        is_ignored
    });
    let mut pred = settings.rules.of_stored(&pair.prediction, pred)?;
    let mut reference = settings.reference_rules.of_stored(&pair.reference, reference)?;
    let turned = match_grid(pair, &mut pred, &reference)?;
    let mut ignored_voxels = 0;
    for (at, _) in ignored.iter().flatten().enumerate().filter(|(_, is_ignored)| **is_ignored) {
        ignored_voxels += 1;
        pred.classes[at] = 0;
        reference.classes[at] = 0;
    }
    let labels = LabelPair {
        pred: &pred.classes,
        reference: &reference.classes,
        dims: reference.dims,
        spacing_mm: spacing_mm(&reference.affine),
    };
    let occurring = occurring(&labels);
    let found: Vec<Region> = occurring.iter().map(|&l| Region::class(l, l.to_string())).collect();
    let regions = if settings.regions.is_empty() { &found } else { &settings.regions };
    let mut metrics = measure(&labels, regions, &settings.tolerances_mm)?;
    for m in &mut metrics {
        m.voxels -= ignored_voxels;
        if settings.missed == MissedDistance::Diagonal && m.ref_voxels > 0 && m.pred_voxels == 0 {
            m.hd95_mm = diagonal_mm(&labels);
            m.hd_mm = m.hd95_mm;
        }
    }
    let case = CaseResult {
        id: pair.id.clone(),
        prediction: pair.prediction.clone(),
        reference: pair.reference.clone(),
        metrics,
        turned,
        ignored_voxels,
    };
    Ok(Judged { case, labels: occurring })
}

fn clear(image: &mut LabelImage, label: u16) {
    image.values.iter_mut().filter(|v| **v == label).for_each(|v| *v = 0);
}

/// The labels of either map, ascending, without the background; 1 when there is none, so that a set of
/// empty maps is a table and not nothing.
fn occurring(pair: &LabelPair) -> Vec<u8> {
    let mut occurs = [false; 256];
    for &label in pair.pred.iter().chain(pair.reference) {
        occurs[usize::from(label)] = true;
    }
    let found: Vec<u8> = (1..=255).filter(|&l| occurs[usize::from(l)]).collect();
    if found.is_empty() { vec![1] } else { found }
}

/// From one corner of the volume to the opposite one.
fn diagonal_mm(pair: &LabelPair) -> f64 {
    let edge = |axis: usize| pair.dims[axis] as f64 * pair.spacing_mm[axis];
    (0..3).map(|axis| edge(axis).powi(2)).sum::<f64>().sqrt()
}

/// Turns a prediction to the axes of its reference where the same voxels are on other axes; says how.
fn match_grid(
    pair: &FilePair,
    pred: &mut ClassImage,
    reference: &ClassImage,
) -> Result<Option<String>> {
    let apart = match pred.dims == reference.dims {
        true => corners_apart_mm(pred.dims, &pred.affine, &reference.affine),
        false => f64::INFINITY,
    };
    if apart <= GRID_TOLERANCE_MM {
        return Ok(None);
    }
    let turn = Orientation::between(
        pred.dims,
        &pred.affine,
        reference.dims,
        &reference.affine,
        GRID_TOLERANCE_MM,
    );
    let Some(turn) = turn else { return Err(other_grid(pair, pred, reference, apart)) };
    let codes = |image: &ClassImage| Orientation::from_affine(&image.affine).map(|o| o.codes());
    let how = format!("{} to {}", codes(pred)?, codes(reference)?);
    pred.classes = turn.voxels_to_ras(&pred.classes, pred.dims)?;
    (pred.dims, pred.affine) = (reference.dims, reference.affine);
    Ok(Some(how))
}

fn other_grid(pair: &FilePair, pred: &ClassImage, reference: &ClassImage, apart: f64) -> Error {
    let grid = |image: &ClassImage| format!("{:?} voxels, affine {:?}", image.dims, image.affine);
    let how = match apart.is_finite() {
        true => format!("corners are up to {apart:.4} mm apart"),
        false => "the sizes differ".to_owned(),
    };
    Error::data(
        &pair.prediction,
        format!(
            "case {}: the prediction lies on another grid than its reference {} ({how}): {} \
             against {}; write predictions on the grid of the image, nothing is resampled here",
            pair.id,
            pair.reference.display(),
            grid(pred),
            grid(reference)
        ),
    )
}
