//! Means, spreads and paired differences.

use super::result::CellResult;
use crate::rng::{Purpose, Rng};

/// Resamples of a confidence interval.
const RESAMPLES: usize = 4000;

/// Mean, and standard deviation over `n - 1`; NaN where undefined.
pub fn mean_sd(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let square = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
    (mean, if values.len() > 1 { (square / (n - 1.0)).sqrt() } else { f64::NAN })
}

/// How much better one start is than another on the same cases, labels and seeds.
#[derive(Clone, Debug, PartialEq)]
pub struct Paired {
    /// Of Dice: mean over cases of the mean over seeds.
    pub mean: f64,
    /// Of the mean: 95 % of bootstrap samples over cases lie between.
    pub interval: [f64; 2],
    /// Cases that are better, of how many.
    pub better: usize,
    pub cases: usize,
    /// Seeds that both starts have.
    pub seeds: usize,
}

/// `None` when the two have no seed and no case in common.
pub fn paired(ours: &[&CellResult], theirs: &[&CellResult]) -> Option<Paired> {
    let pairs: Vec<(&CellResult, &CellResult)> = ours
        .iter()
        .filter_map(|a| theirs.iter().find(|b| b.seed == a.seed).map(|b| (*a, *b)))
        .collect();
    let first = &pairs.first()?.0.held_out.cases;
    let differences: Vec<f64> = first
        .iter()
        .filter_map(|case| {
            let of = |result: &CellResult| {
                result.held_out.cases.iter().find(|c| c.id == case.id).and_then(|c| c.dice)
            };
            let by_seed: Option<Vec<f64>> =
                pairs.iter().map(|(a, b)| Some(of(a)? - of(b)?)).collect();
            by_seed.map(|d| mean_sd(&d).0)
        })
        .collect();
    if differences.is_empty() {
        return None;
    }
    Some(Paired {
        mean: mean_sd(&differences).0,
        interval: bootstrap(&differences),
        better: differences.iter().filter(|d| **d > 0.0).count(),
        cases: differences.len(),
        seeds: pairs.len(),
    })
}

/// 2.5 and 97.5 % of the means of resamples; the same values give the same interval.
fn bootstrap(values: &[f64]) -> [f64; 2] {
    let mut rng = Rng::new(0, Purpose::Bootstrap, 0, 0, 0);
    let n = values.len();
    let mut means: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let sum: f64 = (0..n).map(|_| values[rng.below(n as u64) as usize]).sum();
            sum / n as f64
        })
        .collect();
    means.sort_by(f64::total_cmp);
    [means[RESAMPLES / 40], means[RESAMPLES - 1 - RESAMPLES / 40]]
}

#[cfg(test)]
mod tests {
    use super::super::result::{CaseScore, Scores};
    use super::*;

    fn result(seed: u64, dice: &[f64]) -> CellResult {
        let case = |(i, d): (usize, &f64)| CaseScore { id: format!("c{i}"), dice: Some(*d) };
        let cases = dice.iter().enumerate().map(case).collect();
        let scores =
            Scores { dice: None, hd95_mm: None, nsd_1mm: None, regions: Vec::new(), cases };
        CellResult {
            start: String::new(),
            fraction: 1.0,
            seed,
            training_cases: 1,
            updates: 1,
            held_out: scores,
            cross: Vec::new(),
        }
    }

    #[test]
    fn mean_and_standard_deviation() {
        assert_eq!(mean_sd(&[1.0, 2.0, 3.0]), (2.0, 1.0));
        assert!(mean_sd(&[5.0]).1.is_nan());
    }

    #[test]
    fn differences_are_of_the_same_case_and_seed() {
        let (a, b) = (result(1, &[0.9, 0.8, 0.7]), result(2, &[0.9, 0.6, 0.7]));
        let (x, y) = (result(2, &[0.8, 0.6, 0.8]), result(3, &[0.0, 0.0, 0.0]));
        let p = paired(&[&a, &b], &[&x, &y]).unwrap();
        // Seed 2 only: +0.1, 0, -0.1.
        assert_eq!((p.better, p.cases, p.seeds), (1, 3, 1));
        assert!(p.mean.abs() < 1e-12 && p.interval[0] < 0.0 && p.interval[1] > 0.0);
        assert_eq!(paired(&[&a], &[&y]), None);
    }

    #[test]
    fn an_interval_holds_the_mean_and_shrinks_with_the_cases() {
        let spread = |n: usize| {
            let values: Vec<f64> = (0..n).map(|i| (i % 10) as f64).collect();
            let [low, high] = bootstrap(&values);
            assert!(low < 4.5 && high > 4.5);
            high - low
        };
        // sd 2.87: 2 * 1.96 * 2.87 / sqrt(n).
        assert!((spread(100) - 1.125).abs() < 0.1 && (spread(400) - 0.563).abs() < 0.06);
        assert_eq!(bootstrap(&[1.0, 2.0]), bootstrap(&[1.0, 2.0]));
    }
}
