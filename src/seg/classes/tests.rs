use super::*;

fn names(count: usize) -> Vec<String> {
    ["normal", "CP", "NCP"].iter().take(count).map(|n| (*n).to_owned()).collect()
}

fn of(truth: usize, probabilities: &[f64]) -> Judgement {
    Judgement::of(truth, probabilities.to_vec())
}

/// Ten images with equal scores within and between classes.
fn ten() -> Vec<Judgement> {
    vec![
        of(0, &[0.6, 0.3, 0.1]),
        of(0, &[0.5, 0.25, 0.25]),
        of(0, &[0.2, 0.5, 0.3]),
        of(1, &[0.1, 0.8, 0.1]),
        of(1, &[0.3, 0.4, 0.3]),
        of(1, &[0.5, 0.4, 0.1]),
        of(1, &[0.2, 0.2, 0.6]),
        of(2, &[0.1, 0.1, 0.8]),
        of(2, &[0.2, 0.3, 0.5]),
        of(2, &[0.4, 0.3, 0.3]),
    ]
}

/// Fractions counted pair by pair: of 21 pairs of class 0 against others 16 and a half, and so on.
#[test]
fn numbers_are_those_counted_by_hand() {
    let scores = ClassScores::new(&names(3), &ten()).unwrap();
    assert_eq!(scores.confusion, [[2, 1, 0], [1, 2, 1], [1, 0, 2]]);
    let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-15, "{a} {b}");
    near(scores.accuracy, 6.0 / 10.0);
    near(scores.balanced_accuracy, 11.0 / 18.0);
    for (ours, want) in scores.auc.iter().zip([11.0 / 14.0, 17.0 / 24.0, 6.0 / 7.0]) {
        near(ours.unwrap(), want);
    }
    near(scores.macro_auc().unwrap(), 395.0 / 504.0);
    near(scores.micro_auc, 311.0 / 400.0);
    // In any order.
    let mut other = ten();
    other.rotate_left(3);
    other.reverse();
    assert_eq!(ClassScores::new(&names(3), &other).unwrap(), scores);
}

/// A check against the definition on scores that fall together often.
#[test]
fn areas_are_shares_of_pairs() {
    let mut rng = crate::rng::Rng::new(3, crate::rng::Purpose::Test, 0, 0, 0);
    for n in [2, 3, 10, 57] {
        let scored: Vec<(f64, bool)> = (0..n)
            .map(|i| (rng.below(7) as f64 / 7.0, i == 0 || i > 1 && rng.below(2) == 0))
            .collect();
        let (mut sum, mut pairs) = (0.0, 0.0);
        for (a, _) in scored.iter().filter(|s| s.1) {
            for (b, _) in scored.iter().filter(|s| !s.1) {
                sum += if a > b {
                    1.0
                } else if a == b {
                    0.5
                } else {
                    0.0
                };
                pairs += 1.0;
            }
        }
        assert!((roc_auc(scored).unwrap() - sum / pairs).abs() < 1e-15);
    }
}

#[test]
fn extremes() {
    let perfect = [of(0, &[0.9, 0.1]), of(1, &[0.4, 0.6]), of(1, &[0.3, 0.7])];
    let scores = ClassScores::new(&names(2), &perfect).unwrap();
    assert_eq!((scores.accuracy, scores.balanced_accuracy), (1.0, 1.0));
    assert_eq!((scores.auc, scores.micro_auc), (vec![Some(1.0); 2], 1.0));
    let inverted = [of(1, &[0.9, 0.1]), of(0, &[0.4, 0.6])];
    let scores = ClassScores::new(&names(2), &inverted).unwrap();
    assert_eq!((scores.accuracy, &scores.auc), (0.0, &vec![Some(0.0); 2]));
    // Equal scores say nothing; of equal probabilities the first class is predicted. 0 and -0 are equal.
    let equal = [of(0, &[0.5, 0.5]), of(1, &[0.5, 0.5])];
    let scores = ClassScores::new(&names(2), &equal).unwrap();
    assert_eq!((scores.accuracy, &scores.auc), (0.5, &vec![Some(0.5); 2]));
    assert_eq!(scores.confusion, [[1, 0], [1, 0]]);
    assert_eq!(roc_auc(vec![(0.0, true), (-0.0, false)]), Some(0.5));
}

/// A class without references has no AUC and no share in means, but may be predicted.
#[test]
fn what_the_reference_lacks_is_undefined() {
    let two = [of(0, &[0.5, 0.3, 0.2]), of(0, &[0.1, 0.2, 0.7]), of(1, &[0.3, 0.6, 0.1])];
    let scores = ClassScores::new(&names(3), &two).unwrap();
    assert_eq!(scores.auc, [Some(0.5), Some(1.0), None]);
    assert_eq!((scores.macro_auc(), scores.balanced_accuracy), (Some(0.75), 0.75));
    assert_eq!(scores.confusion, [[1, 0, 1], [0, 1, 0], [0, 0, 0]]);
    let json = scores.to_json();
    assert!(json["classes"][2]["auc"].is_null() && json["classes"][2]["recall"].is_null());
    assert_eq!((&json["classes"][2]["predicted"], &json["auc_macro"]), (&1.into(), &0.75.into()));
    assert!(scores.to_text().contains("undefined"), "{}", scores.to_text());
    // All of one class: nothing to compare with.
    let one = ClassScores::new(&names(3), &two[..2]).unwrap();
    assert_eq!((&one.auc, one.macro_auc()), (&vec![None; 3], None));
    assert!(one.to_json()["auc_macro"].is_null() && one.micro_auc.is_finite());
}

#[test]
fn what_cannot_be_judged_is_refused() {
    assert!(ClassScores::new(&names(3), &[]).is_err());
    assert!(ClassScores::new(&names(1), &[of(0, &[1.0])]).is_err());
    for bad in [
        of(3, &[0.2, 0.3, 0.5]),
        of(0, &[0.5, 0.5]),
        of(0, &[0.5, f64::NAN, 0.5]),
        Judgement { truth: 0, predicted: 3, probabilities: vec![0.2, 0.3, 0.5] },
    ] {
        assert!(ClassScores::new(&names(3), &[ten()[0].clone(), bad.clone()]).is_err(), "{bad:?}");
    }
}
