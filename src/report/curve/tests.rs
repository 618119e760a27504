use proptest::prelude::*;

use super::*;

fn count(canvas: &Canvas, colour: Rgb) -> usize {
    let [w, h] = canvas.size();
    (0..h)
        .flat_map(|y| (0..w).map(move |x| (x, y)))
        .filter(|(x, y)| canvas.get(*x, *y) == Some(colour))
        .count()
}

#[test]
fn ticks_are_round_numbers() {
    let labels = |axis: Axis| axis.ticks().iter().map(|t| axis.label(*t)).collect::<Vec<_>>();
    let over = |a: f64, b: f64| labels(Axis::linear([a, b].into_iter(), 0.0));
    assert_eq!(over(0.0, 1.0), ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
    assert_eq!(over(-3.0, 4.0), ["-3", "-2", "-1", "0", "1", "2", "3", "4"]);
    assert_eq!(over(0.0, 100_000.0), ["0", "20k", "40k", "60k", "80k", "100k"]);
    assert_eq!(
        over(0.0, 1e-4),
        ["0", "2e-5", "4e-5", "6e-5", "8e-5", "1e-4"].map(|s| {
            // One exponent for the whole axis is easier to compare.
            let value: f64 = s.parse().unwrap();
            if value == 0.0 { "0".to_owned() } else { format!("{:.1}e-4", value / 1e-4) }
        })
    );
    let log = labels(Axis::logarithmic([0.002, 30.0].into_iter()));
    assert_eq!(log, ["0.01", "0.1", "1", "10"]);
}

/// Found by the property test below: powers of ten that f64 rounds to zero are no ticks.
#[test]
fn ticks_end_where_f64_ends() {
    let axis = Axis::logarithmic([1e-300, 1e293].into_iter());
    assert!(axis.ticks().len() > 4 && axis.ticks().iter().all(|t| axis.place(*t).is_finite()));
}

#[test]
fn a_line_is_drawn_where_its_values_are() {
    let mut curve = Curve::new("t", "y");
    curve.push("up", (0..=100).map(|i| (f64::from(i), f64::from(i))).collect());
    let canvas = curve.render().unwrap();
    let (x, y) = curve.axes();
    // Rendered with the same layout: find the plot by its own rule, then probe the diagonal.
    let widest = y.ticks().iter().map(|t| Canvas::text_width(&y.label(*t), 2)).max().unwrap();
    let plot = Plot { left: 30 + widest, top: 98, right: 970, bottom: 538 };
    for v in [10.0, 50.0, 90.0] {
        let at = [plot.x(x.place(v)), plot.y(y.place(v))].map(|p| p.round() as usize);
        // The edges of a line are softened.
        let blue = |y| canvas.get(at[0], y).is_some_and(|c: Rgb| c[0] < 60 && c[2] > 170);
        assert!(blue(at[1]) && !blue(at[1] - 6) && !blue(at[1] + 6), "value {v}");
    }
}

#[test]
fn what_is_not_finite_is_a_gap() {
    let points = |mid: f64| vec![(0.0, 1.0), (1.0, 1.0), (2.0, mid), (3.0, 1.0), (4.0, 2.0)];
    let (x, y) =
        (Axis::linear([0.0, 4.0].into_iter(), 0.0), Axis::linear([1.0, 2.0].into_iter(), 0.0));
    let plot = Plot { left: 0, top: 0, right: 100, bottom: 100 };
    for (mid, runs) in [(1.0, 1), (f64::NAN, 2), (f64::INFINITY, 2)] {
        assert_eq!(visible_runs(&points(mid), &x, &y, &plot).len(), runs);
    }
    let log = Axis::logarithmic([1.0, 2.0].into_iter());
    assert_eq!(visible_runs(&points(0.0), &x, &log, &plot).len(), 2);
    assert_eq!(visible_runs(&points(-1.0), &x, &log, &plot).len(), 2);
}

#[test]
fn empty_and_lonely_series() {
    let mut curve = Curve::new("t", "y");
    curve.push("none", vec![(0.0, f64::NAN)]);
    let canvas = curve.render().unwrap();
    curve.push("dot", vec![(5.0, 3.0)]);
    let dot = curve.render().unwrap();
    assert!(count(&dot, SERIES_COLOURS[1]) > count(&canvas, SERIES_COLOURS[1]) + 22 * 4 + 10);
    curve.size = [10, 600];
    assert!(matches!(curve.render(), Err(Error::Config(_))));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Any pair of numbers gives an axis with few ticks inside of it, all with different labels.
    #[test]
    fn axes_of_any_range(a in any::<f64>(), b in any::<f64>()) {
        prop_assume!(a.is_finite() && b.is_finite());
        for axis in [
            Axis::linear([a, b].into_iter(), 0.05),
            Axis::logarithmic([a.abs().max(1e-300), b.abs().max(1e-300)].into_iter()),
        ] {
            let ticks = axis.ticks();
            prop_assert!(ticks.len() <= 10, "{ticks:?}");
            for tick in &ticks {
                let place = axis.place(*tick);
                prop_assert!((-1e-6..=1.0 + 1e-6).contains(&place), "{tick} at {place}");
            }
        }
    }
}

/// Charts to look at, where `GLMAE_REPORT_OUT` points to.
#[test]
fn charts_to_look_at() {
    use crate::rng::{Purpose, Rng};
    let mut rng = Rng::new(1, Purpose::Test, 0, 0, 0);
    for (name, log_y) in [("curve.png", false), ("curve_log.png", true)] {
        let mut curve = Curve::new("GL-MAE pre-training, hippocampus", "loss");
        curve.log_y = log_y;
        for (i, term) in ["total", "global recon.", "local recon.", "global-global", "global-local"]
            .into_iter()
            .enumerate()
        {
            let level = 2.0 / (1.0 + i as f64).powf(1.5);
            let mut noisy =
                |s: f64| level * ((-s / 4e3).exp() + 0.06) * (1.0 + 0.05 * rng.normal());
            let points = (0..400).map(|k| f64::from(k * 50)).map(|s| (s, noisy(s))).collect();
            curve.push(term, points);
        }
        let canvas = curve.render().unwrap();
        assert!(count(&canvas, SERIES_COLOURS[4]) > 500);
        if let Some(dir) = std::env::var_os("GLMAE_REPORT_OUT") {
            canvas.save(std::path::Path::new(&dir).join(name)).unwrap();
        }
    }
}
