//! Means over classes and cases. A value that is not defined is NaN and is left out, never counted
//! as 0.

/// Mean of the values that are not NaN; NaN when there is none. Infinite values count.
pub fn nan_mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let (mut sum, mut count) = (0.0, 0u64);
    for value in values.into_iter().filter(|v| !v.is_nan()) {
        sum += value;
        count += 1;
    }
    if count == 0 { f64::NAN } else { sum / count as f64 }
}

/// MONAI's reduction `mean`: over the defined classes of each case, then over the cases that have
/// one. `cases` holds a row of classes per case.
pub fn mean_of_cases<R: AsRef<[f64]>>(cases: &[R]) -> f64 {
    nan_mean(cases.iter().map(|row| nan_mean(row.as_ref().iter().copied())))
}

/// Per class, the mean over the cases in which it is defined.
pub fn mean_per_class<R: AsRef<[f64]>>(cases: &[R]) -> Vec<f64> {
    let classes = cases.iter().map(|row| row.as_ref().len()).max().unwrap_or(0);
    let of = |c: usize| nan_mean(cases.iter().filter_map(|row| row.as_ref().get(c).copied()));
    (0..classes).map(of).collect()
}

/// The `q`-quantile (0 to 1), interpolated linearly at rank `q (n - 1)` as `torch.quantile` and
/// `numpy.percentile` do; NaN for no values. Sorts `values`.
pub fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let Some(top) = values.len().checked_sub(1) else { return f64::NAN };
    let rank = q * top as f64;
    let (below, share) = (rank.floor() as usize, rank.fract());
    let (low, high) = (values[below.min(top)], values[(below + 1).min(top)]);
    low + (high - low) * share
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAN: f64 = f64::NAN;

    #[test]
    fn undefined_values_are_left_out() {
        let cases = [[1.0, NAN, 4.0], [NAN, NAN, NAN], [2.0, NAN, NAN]];
        assert_eq!(mean_of_cases(&cases), (2.5 + 2.0) / 2.0);
        let classes = mean_per_class(&cases);
        assert_eq!((classes[0], classes[2]), (1.5, 4.0));
        assert!(classes[1].is_nan() && nan_mean([]).is_nan());
        assert_eq!(nan_mean([NAN, f64::INFINITY, 1.0]), f64::INFINITY);
        assert!(mean_of_cases::<[f64; 0]>(&[]).is_nan());
    }

    /// `numpy.percentile([3, 1, 2, 10], 95)` is 8.95.
    #[test]
    fn quantile_interpolates() {
        assert!((quantile(&mut [3.0, 1.0, 2.0, 10.0], 0.95) - 8.95).abs() < 1e-12);
        assert_eq!(quantile(&mut [5.0], 0.95), 5.0);
        assert_eq!(quantile(&mut [5.0, 1.0], 1.0), 5.0);
        assert!(quantile(&mut [], 0.5).is_nan());
    }
}
