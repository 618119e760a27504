//! Intensity maps: from HU or scanner units to what the model sees, and back.
//!
//! Every map is `y = (clip(x) - shift) / divisor` with numbers taken once per volume and channel, so
//! a reconstruction returns to input units by `x = y * divisor + shift`. Statistics are two-pass in
//! f64: at HU magnitudes a one-pass variance in f32 loses most of its digits.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How the intensities of a volume are mapped. In a configuration file:
/// `intensity = { kind = "window", lo = -1000.0, hi = 1000.0 }`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Intensity {
    /// Clips to `lo..hi` (HU for CT) and maps linearly to `[0, 1]`.
    Window { lo: f32, hi: f32 },
    /// Zero mean, unit standard deviation of each channel of each volume. With `nonzero`, zeros
    /// (background of skull-stripped MRI) stay 0 and do not count.
    ZScore {
        #[serde(default)]
        nonzero: bool,
    },
    /// Clips to two percentiles (0 to 100, interpolated linearly as numpy does) and maps them to
    /// `[0, 1]`.
    PercentileScale { lo: f32, hi: f32 },
    /// Clips to two percentiles, then zero mean and unit standard deviation.
    PercentileZScore { lo: f32, hi: f32 },
    /// Values as they are.
    Identity,
}

impl Default for Intensity {
    /// The window of the paper, HU `[-1000, 1000]` (arXiv 2306.08913 and its code).
    fn default() -> Self {
        Self::Window { lo: -1000.0, hi: 1000.0 }
    }
}

/// What was done to one channel; see the module for the formula.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct IntensityMap {
    /// Input values were clipped to this range before the map.
    pub clip: Option<[f64; 2]>,
    /// The input value that becomes 0.
    pub shift: f64,
    /// Input units per unit of the mapped value. Never 0.
    pub divisor: f64,
    /// Input zeros became 0 instead of `-shift / divisor`.
    pub keeps_zeros: bool,
}

impl IntensityMap {
    /// The mapped value of an input value, computed in f64.
    pub fn forward(&self, x: f32) -> f32 {
        if self.keeps_zeros && x == 0.0 {
            return 0.0;
        }
        let x = f64::from(x);
        let x = self.clip.map_or(x, |[lo, hi]| x.clamp(lo, hi));
        ((x - self.shift) / self.divisor) as f32
    }

    /// The input value of a mapped value. What was clipped stays clipped; with `keeps_zeros` an
    /// exact 0 returns to 0.
    pub fn inverse(&self, y: f32) -> f32 {
        if self.keeps_zeros && y == 0.0 {
            return 0.0;
        }
        (f64::from(y) * self.divisor + self.shift) as f32
    }
}

impl Intensity {
    /// Checks the numbers of a configuration.
    ///
    /// Errors: [`Error::Config`].
    pub fn check(&self) -> Result<()> {
        let good = match *self {
            Self::Window { lo, hi } => lo.is_finite() && hi.is_finite() && lo < hi,
            Self::PercentileScale { lo, hi } | Self::PercentileZScore { lo, hi } => {
                (0.0..=100.0).contains(&lo) && (0.0..=100.0).contains(&hi) && lo < hi
            }
            Self::ZScore { .. } | Self::Identity => true,
        };
        match good {
            true => Ok(()),
            false => Err(Error::Config(format!(
                "intensity {self:?}: lo must be below hi, percentiles lie in 0..=100"
            ))),
        }
    }

    /// The map of one channel. All values must be finite. A constant channel maps to 0.
    ///
    /// Errors: [`Error::Config`] as [`Intensity::check`]; [`Error::Shape`] for no values.
    pub fn fit(&self, values: &[f32]) -> Result<IntensityMap> {
        self.check()?;
        if values.is_empty() {
            return Err(Error::shape("intensity", "at least one voxel", "none"));
        }
        let linear = |[lo, hi]: [f64; 2]| IntensityMap {
            clip: Some([lo, hi]),
            shift: lo,
            divisor: if hi > lo { hi - lo } else { 1.0 },
            keeps_zeros: false,
        };
        let z_score = |clip: Option<[f64; 2]>, nonzero: bool| {
            let (shift, divisor) = mean_and_deviation(values, clip, nonzero);
            IntensityMap { clip, shift, divisor, keeps_zeros: nonzero }
        };
        Ok(match *self {
            Self::Window { lo, hi } => linear([lo.into(), hi.into()]),
            Self::ZScore { nonzero } => z_score(None, nonzero),
            Self::PercentileScale { lo, hi } => linear(percentiles(values, [lo, hi])),
            Self::PercentileZScore { lo, hi } => {
                z_score(Some(percentiles(values, [lo, hi])), false)
            }
            Self::Identity => {
                IntensityMap { clip: None, shift: 0.0, divisor: 1.0, keeps_zeros: false }
            }
        })
    }
}

/// Mean and population standard deviation, two-pass; a deviation of 0 is returned as 1.
fn mean_and_deviation(values: &[f32], clip: Option<[f64; 2]>, nonzero: bool) -> (f64, f64) {
    let counted = || {
        values.iter().filter(|&&v| !(nonzero && v == 0.0)).map(|&v| {
            let v = f64::from(v);
            clip.map_or(v, |[lo, hi]| v.clamp(lo, hi))
        })
    };
    let count = counted().count().max(1) as f64;
    let mean = counted().sum::<f64>() / count;
    let deviation = (counted().map(|v| (v - mean) * (v - mean)).sum::<f64>() / count).sqrt();
    (mean, if deviation > 0.0 { deviation } else { 1.0 })
}

/// Two percentiles by selection, interpolated linearly between order statistics.
fn percentiles(values: &[f32], percents: [f32; 2]) -> [f64; 2] {
    let mut sorted = values.to_vec();
    percents.map(|percent| {
        let rank = f64::from(percent) / 100.0 * (sorted.len() - 1) as f64;
        let below = rank.floor() as usize;
        let (_, &mut lower, above) = sorted.select_nth_unstable_by(below, f32::total_cmp);
        let upper = above.iter().copied().min_by(f32::total_cmp).unwrap_or(lower);
        f64::from(lower) + (f64::from(upper) - f64::from(lower)) * rank.fract()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_hits_its_ends_exactly_and_clips() {
        let map = Intensity::default().fit(&[0.0]).unwrap();
        let xs = [-3000.0, -1000.0, -500.0, 0.0, 1000.0, 3000.0];
        assert_eq!(xs.map(|x| map.forward(x)), [0.0, 0.0, 0.25, 0.5, 1.0, 1.0]);
        for hu in -1000..=1000 {
            assert_eq!(map.inverse(map.forward(hu as f32)).round(), hu as f32);
        }
    }

    /// Mean 30000, deviation 0.5: a one-pass variance in f32 is pure noise here.
    #[test]
    fn z_score_survives_a_large_mean() {
        let values: Vec<f32> = (0..100_000).map(|i| 30000.0 + (i % 2) as f32).collect();
        let map = Intensity::ZScore { nonzero: false }.fit(&values).unwrap();
        assert!((map.shift - 30000.5).abs() < 1e-9 && (map.divisor - 0.5).abs() < 1e-9);
        assert_eq!((map.forward(30000.0), map.forward(30001.0)), (-1.0, 1.0));
    }

    #[test]
    fn nonzero_z_score_leaves_the_background_alone() {
        let map = Intensity::ZScore { nonzero: true }.fit(&[0.0, 0.0, 4.0, 8.0]).unwrap();
        assert_eq!([0.0, 4.0, 8.0].map(|x| map.forward(x)), [0.0, -1.0, 1.0]);
        assert_eq!([0.0, -1.0, 1.0].map(|y| map.inverse(y)), [0.0, 4.0, 8.0]);
    }

    /// `numpy.percentile(range(10) * 10, [12.5, 90])` is 11.25 and 81.
    #[test]
    fn percentiles_interpolate_as_numpy_does() {
        let values = [70.0, 0.0, 90.0, 20.0, 50.0, 10.0, 80.0, 30.0, 60.0, 40.0];
        assert_eq!(percentiles(&values, [12.5, 90.0]), [11.25, 81.0]);
        assert_eq!(percentiles(&values, [0.0, 100.0]), [0.0, 90.0]);
        assert_eq!(percentiles(&[3.0], [5.0, 95.0]), [3.0, 3.0]);
        let map = Intensity::PercentileScale { lo: 0.0, hi: 100.0 }.fit(&values).unwrap();
        assert_eq!([map.forward(45.0), map.forward(1e9)], [0.5, 1.0]);
    }

    #[test]
    fn constant_volumes_map_to_zero_and_come_back() {
        for intensity in [
            Intensity::ZScore { nonzero: false },
            Intensity::ZScore { nonzero: true },
            Intensity::PercentileScale { lo: 1.0, hi: 99.0 },
            Intensity::PercentileZScore { lo: 1.0, hi: 99.0 },
        ] {
            let map = intensity.fit(&[7.0; 9]).unwrap();
            assert_eq!(
                (map.forward(7.0), map.inverse(0.0)),
                (0.0, if map.keeps_zeros { 0.0 } else { 7.0 })
            );
        }
    }

    #[test]
    fn wrong_numbers_are_configuration_errors() {
        for bad in [
            Intensity::Window { lo: 5.0, hi: 5.0 },
            Intensity::Window { lo: f32::NAN, hi: 5.0 },
            Intensity::PercentileScale { lo: -1.0, hi: 99.0 },
            Intensity::PercentileZScore { lo: 1.0, hi: 101.0 },
        ] {
            assert!(matches!(bad.fit(&[1.0]), Err(Error::Config(_))), "{bad:?}");
        }
    }
}
