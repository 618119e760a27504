//! Dice, HD95, HD, NSD and their means against MONAI 1.6.1.

use glmae::seg::Region;
use glmae::seg::metrics::{LabelPair, RegionMetrics, mean_of_cases, mean_per_class, measure};

use super::{Reference, distance};

type Getter = fn(&RegionMetrics) -> f64;
const METRICS: [(&str, Getter, f64); 6] = [
    ("dice", |m| m.dice(), 1e-6),
    ("dice_counting_empty", |m| m.dice_counting_empty(), 1e-6),
    // torch.quantile computes the rank in f32.
    ("hd95", |m| m.hd95_mm, 1e-4),
    ("hd100", |m| m.hd_mm, 1e-6),
    ("nsd1", |m| m.nsd[0], 1e-6),
    ("nsd2", |m| m.nsd[1], 1e-6),
];

#[test]
fn values_and_means_equal_monai() {
    let Some(file) = Reference::open("metrics") else { return };
    assert_eq!(file.json("classes"), serde_json::json!([1, 2, 3]));
    assert_eq!(file.json("tolerances_mm"), serde_json::json!([1.0, 2.0]));
    let regions = Region::foreground(4);
    let mut cases = Vec::new();
    for (name, about) in file.cases() {
        let (pred, reference) =
            (file.bytes(&format!("{name}.pred")), file.bytes(&format!("{name}.ref")));
        let spacing_mm: [f64; 3] = serde_json::from_value(about["spacing"].clone()).unwrap();
        let dims = file.dims(&format!("{name}.ref"));
        let pair = LabelPair { pred: &pred, reference: &reference, dims, spacing_mm };
        let got = measure(&pair, &regions, &[1.0, 2.0]).unwrap();
        let edges: Vec<f64> = got.iter().flat_map(|m| m.surface_voxels.map(|n| n as f64)).collect();
        assert_eq!(edges, file.values(&format!("{name}.edges")), "{name}");
        for (metric, get, bound) in METRICS {
            let ours: Vec<f64> = got.iter().map(get).collect();
            let gap = distance(&ours, &file.values(&format!("{name}.{metric}")));
            println!("{name:8} {metric:20} {gap:9.2e} of {bound:.0e}");
            assert!(gap <= bound, "{name} {metric}: {gap:e}: {ours:?}");
        }
        cases.push(got);
    }
    assert_eq!(cases.len(), 7);
    for (metric, get, bound) in METRICS {
        if ["dice_counting_empty", "hd100"].contains(&metric) {
            continue; // The reference has no means of these.
        }
        let table: Vec<Vec<f64>> = cases.iter().map(|c| c.iter().map(get).collect()).collect();
        for (ours, key) in [
            (vec![mean_of_cases(&table)], format!("mean.{metric}")),
            (mean_per_class(&table), format!("mean_per_class.{metric}")),
        ] {
            let gap = distance(&ours, &file.values(&key));
            assert!(gap <= bound, "{key}: {gap:e}: {ours:?}");
        }
    }
}
