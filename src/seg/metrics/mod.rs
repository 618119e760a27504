//! Dice, Hausdorff distances and surface Dice of one case, class by class, with the conventions of
//! MONAI's `compute_dice`, `compute_hausdorff_distance` and `compute_surface_dice`
//! (`use_subvoxels=False`).
//!
//! - Surface: voxels of the class with at least one of the six face neighbours outside of it;
//!   outside the volume counts as outside.
//! - Distances: Euclidean, in mm, between centres of surface voxels, in both directions. `hd95` is
//!   the larger of the two directions' 95th percentiles (linear interpolation), `hd` the maximum.
//! - NSD: the share of the surface voxels of both sides, pooled and by number (not by area), that
//!   lie within the tolerance of the other side.
//! - Empty classes:
//!
//! | class is in | dice | dice_counting_empty | hd95 | hd | nsd |
//! | --- | --- | --- | --- | --- | --- |
//! | reference only | 0 | 0 | NaN | infinite | 0 |
//! | prediction only | NaN | 0 | NaN | infinite | 0 |
//! | neither | NaN | 1 | NaN | NaN | NaN |
//!
//! A mean leaves NaN out, so a missed organ does not count in a mean of `hd95`, and a hallucinated
//! one counts in none but NSD and `dice_counting_empty`.

mod counts;
mod distance;
mod mean;
mod surface;

pub use mean::{mean_of_cases, mean_per_class, nan_mean, quantile};

use self::counts::Counts;
use self::distance::surface_distances;
use self::surface::surface;
use super::region::Region;
use crate::{Error, Result};

/// A prediction and its reference on one grid.
#[derive(Clone, Copy)]
pub struct LabelPair<'a> {
    /// Labels `[d, h, w]`, `w` fastest.
    pub pred: &'a [u8],
    /// As `pred`.
    pub reference: &'a [u8],
    /// Lengths of the axes in voxels.
    pub dims: [usize; 3],
    /// Distances between voxel centres along the axes, in mm.
    pub spacing_mm: [f64; 3],
}

/// What is known about one structure in one case.
#[derive(Clone, Debug, PartialEq)]
pub struct RegionMetrics {
    /// Voxels of the whole grid.
    pub voxels: u64,
    pub pred_voxels: u64,
    pub ref_voxels: u64,
    /// Voxels that are of the structure in both.
    pub both_voxels: u64,
    /// Surface voxels of the prediction and of the reference.
    pub surface_voxels: [u64; 2],
    /// 95th percentile Hausdorff distance.
    pub hd95_mm: f64,
    /// Hausdorff distance.
    pub hd_mm: f64,
    /// Surface Dice (normalised surface distance), one per tolerance.
    pub nsd: Vec<f64>,
}

impl RegionMetrics {
    /// Of a structure that is in neither map of a grid of `voxels`.
    pub fn absent(voxels: u64, tolerances: usize) -> Self {
        Self {
            voxels,
            pred_voxels: 0,
            ref_voxels: 0,
            both_voxels: 0,
            surface_voxels: [0; 2],
            hd95_mm: f64::NAN,
            hd_mm: f64::NAN,
            nsd: vec![f64::NAN; tolerances],
        }
    }

    /// Dice; NaN when the structure is not in the reference.
    pub fn dice(&self) -> f64 {
        if self.ref_voxels == 0 { f64::NAN } else { self.dice_counting_empty() }
    }

    /// Dice; 1 when the structure is in neither map (MONAI's `ignore_empty=False`).
    pub fn dice_counting_empty(&self) -> f64 {
        match self.pred_voxels + self.ref_voxels {
            0 => 1.0,
            n => 2.0 * self.both_voxels as f64 / n as f64,
        }
    }

    /// Intersection over union; NaN when the structure is not in the reference.
    pub fn iou(&self) -> f64 {
        match self.ref_voxels {
            0 => f64::NAN,
            n => self.both_voxels as f64 / (self.pred_voxels + n - self.both_voxels) as f64,
        }
    }
}

/// Judges the structures of a pair, one result per region. `tolerances_mm` are those of the NSD;
/// distance and tolerance are compared in f32, as MONAI does, so that ten voxels of 0.1 mm are
/// within 1 mm.
///
/// Work and memory follow the box around a structure, not the volume: 11 bytes per voxel of the
/// largest box.
///
/// Errors: [`Error::Shape`] when a map does not have the size of the grid; [`Error::Config`] for a
/// spacing or a tolerance that is no length, and for a region with the background in it.
pub fn measure(
    pair: &LabelPair,
    regions: &[Region],
    tolerances_mm: &[f64],
) -> Result<Vec<RegionMetrics>> {
    check(pair, regions, tolerances_mm)?;
    let counts = Counts::new(pair.pred, pair.reference, pair.dims);
    Ok(regions.iter().map(|r| measure_region(pair, &counts, r, tolerances_mm)).collect())
}

fn check(pair: &LabelPair, regions: &[Region], tolerances_mm: &[f64]) -> Result<()> {
    let count = pair.dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    for (map, len) in [("prediction", pair.pred.len()), ("reference", pair.reference.len())] {
        if len == 0 || count != Some(len) {
            return Err(Error::shape(
                "metrics",
                format!("a {map} of {:?} voxels", pair.dims),
                format!("{len} voxels"),
            ));
        }
    }
    let length = |v: &f64| v.is_finite() && *v > 0.0;
    if !pair.spacing_mm.iter().all(length) {
        let reason = format!("metrics: spacing {:?} mm: must be above 0", pair.spacing_mm);
        return Err(Error::Config(reason));
    }
    if let Some(bad) = tolerances_mm.iter().find(|t| !(t.is_finite() && **t >= 0.0)) {
        return Err(Error::Config(format!("tolerance {bad} mm: a length of 0 or more")));
    }
    match regions.iter().find(|r| r.labels().is_empty() || r.labels().contains(&0)) {
        Some(bad) => Err(Error::Config(format!(
            "metrics: the region {:?} needs labels, and the background is not one of them",
            bad.name
        ))),
        None => Ok(()),
    }
}

fn measure_region(
    pair: &LabelPair,
    counts: &Counts,
    region: &Region,
    tolerances_mm: &[f64],
) -> RegionMetrics {
    let members = region.members();
    let [pred_voxels, ref_voxels, both_voxels] = counts.voxels(&members);
    let mut out = RegionMetrics {
        pred_voxels,
        ref_voxels,
        both_voxels,
        ..RegionMetrics::absent(pair.pred.len() as u64, tolerances_mm.len())
    };
    let Some(extent) = counts.extent(&members) else { return out };
    let surfaces = [pair.pred, pair.reference].map(|m| surface(m, pair.dims, &extent, &members));
    out.surface_voxels = [0, 1].map(|i| surfaces[i].iter().filter(|&&s| s).count() as u64);
    let mut there = [(0, 1), (1, 0)].map(|(from, to): (usize, usize)| -> Vec<f64> {
        surface_distances(&surfaces[from], &surfaces[to], extent.size(), pair.spacing_mm)
    });
    let both = || there.iter().flatten();
    let total = both().count() as f64;
    for (nsd, &tolerance) in out.nsd.iter_mut().zip(tolerances_mm) {
        *nsd = both().filter(|&&d| d as f32 <= tolerance as f32).count() as f64 / total;
    }
    out.hd_mm = both().copied().fold(0.0, f64::max);
    if pred_voxels > 0 && ref_voxels > 0 {
        let [a, b] = &mut there;
        out.hd95_mm = quantile(a, 0.95).max(quantile(b, 0.95));
    }
    out
}

#[cfg(test)]
mod tests;
