//! Part `metrics`: Dice, Hausdorff distances and surface Dice of pairs of label maps, and their means.

use crate::Result;
use crate::lab::judge::Judge;
use crate::lab::tensors::CaseTensors;
use crate::seg::Region;
use crate::seg::metrics::{LabelPair, RegionMetrics, mean_of_cases, mean_per_class, measure};

/// Relative: counts and distances; percentiles, whose rank torch.quantile computes in f32.
const EXACT: f64 = 1e-6;
const PERCENTILE: f64 = 1e-4;

#[derive(serde::Deserialize)]
struct About {
    spacing: [f64; 3],
}

/// A metric: its name in the file, its bound, how it is read.
struct Metric {
    name: String,
    bound: f64,
    /// Whether the file must hold its means.
    has_means: bool,
    value: Box<dyn Fn(&RegionMetrics) -> f64>,
}

fn metrics(tolerances_mm: &[f64]) -> Vec<Metric> {
    let metric = |name: &str, bound, has_means, value: fn(&RegionMetrics) -> f64| Metric {
        name: name.to_owned(),
        bound,
        has_means,
        value: Box::new(value),
    };
    let mut all = vec![
        metric("dice", EXACT, true, RegionMetrics::dice),
        metric("dice_counting_empty", EXACT, false, RegionMetrics::dice_counting_empty),
        metric("hd95", PERCENTILE, true, |m| m.hd95_mm),
        metric("hd100", EXACT, false, |m| m.hd_mm),
    ];
    all.extend(tolerances_mm.iter().enumerate().map(|(i, mm)| Metric {
        name: format!("nsd{mm}"),
        bound: EXACT,
        has_means: true,
        value: Box::new(move |m| m.nsd.get(i).copied().unwrap_or(f64::NAN)),
    }));
    all
}

/// Judges every case of the file, and the means over them.
pub fn run(case: &CaseTensors, judge: &mut Judge) -> Result<()> {
    let classes: Vec<u8> = case.json("classes")?;
    let tolerances: Vec<f64> = case.json("tolerances_mm")?;
    if classes.is_empty() {
        return Err(case.bad("metadata 'classes' name no class: nothing to check"));
    }
    let regions: Vec<Region> = classes.iter().map(|&c| Region::class(c, c.to_string())).collect();
    let metrics = metrics(&tolerances);
    // A row of classes per case, for each metric. The means are of single precision numbers.
    let mut tables = vec![Vec::new(); metrics.len()];
    // MONAI's order is that of the file; means do not depend on it beyond rounding.
    for (name, about) in case.cases::<About>()? {
        let named = |part: &str| format!("{name}.{part}");
        let (dims, _) = case.axes::<3>(&named("ref"))?;
        let (pred, reference) =
            (case.labels(&named("pred"), &dims)?, case.labels(&named("ref"), &dims)?);
        let spacing_mm = about.spacing;
        let pair = LabelPair { pred: &pred, reference: &reference, dims, spacing_mm };
        let got = measure(&pair, &regions, &tolerances)
            .map_err(|e| case.bad(format!("case '{name}': {e}")))?;
        let edges: Vec<f64> = got.iter().flat_map(|m| m.surface_voxels.map(|n| n as f64)).collect();
        let stored = case.shaped(&named("edges"), &[classes.len(), 2])?;
        judge.equal("surface voxels", &named("edges"), &edges, stored);
        for (metric, table) in metrics.iter().zip(&mut tables) {
            let ours: Vec<f64> = got.iter().map(&metric.value).collect();
            let tensor = named(&metric.name);
            let reference = case.shaped(&tensor, &[classes.len()])?;
            judge.near(&metric.name, &tensor, &ours, reference, metric.bound);
            table.push(ours);
        }
    }
    for (metric, table) in metrics.iter().zip(&tables) {
        for (kind, shape, ours) in [
            ("mean", 1, vec![mean_of_cases(table)]),
            ("mean_per_class", classes.len(), mean_per_class(table)),
        ] {
            let tensor = format!("{kind}.{}", metric.name);
            if metric.has_means || case.find(&tensor).is_some() {
                let reference = case.shaped(&tensor, &[shape])?;
                judge.near(&tensor, &tensor, &ours, reference, metric.bound);
            }
        }
    }
    Ok(())
}
