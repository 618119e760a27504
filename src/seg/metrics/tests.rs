use super::*;
use crate::rng::{Purpose, Rng};
use proptest::prelude::*;

fn one(pred: &[u8], reference: &[u8], dims: [usize; 3], mm: [f64; 3]) -> RegionMetrics {
    let pair = LabelPair { pred, reference, dims, spacing_mm: mm };
    measure(&pair, &Region::foreground(2), &[1.0, 2.0]).unwrap().remove(0)
}

#[test]
fn two_single_voxels() {
    let (mut pred, mut reference) = ([0; 27], [0; 27]);
    pred[0] = 1; // (0, 0, 0)
    reference[2 * 9 + 1] = 1; // (2, 0, 1)
    let m = one(&pred, &reference, [3, 3, 3], [1.5, 1.0, 4.0]);
    assert_eq!((m.dice(), m.iou(), m.hd95_mm, m.hd_mm), (0.0, 0.0, 5.0, 5.0));
    assert_eq!((m.surface_voxels, m.nsd), ([1, 1], vec![0.0, 0.0]));
    let m = one(&pred, &pred, [3, 3, 3], [1.5, 1.0, 4.0]);
    assert_eq!((m.dice(), m.iou(), m.hd95_mm, m.hd_mm), (1.0, 1.0, 0.0, 0.0));
    assert_eq!(m.nsd, [1.0, 1.0]);
}

/// A volume that is all of one class: its outer faces are its surface.
#[test]
fn border_counts_as_outside() {
    let full = [1; 4 * 5 * 6];
    let m = one(&full, &full, [4, 5, 6], [1.0; 3]);
    assert_eq!(m.surface_voxels, [4 * 5 * 6 - 2 * 3 * 4; 2]);
    assert_eq!((m.dice(), m.hd95_mm), (1.0, 0.0));
}

#[test]
fn empty_classes_follow_the_table() {
    let (empty, mut full) = ([0; 8], [0; 8]);
    full[3] = 1;
    let all = |m: &RegionMetrics| {
        [m.dice(), m.dice_counting_empty(), m.hd95_mm, m.hd_mm, m.nsd[0], m.nsd[1]]
    };
    let (nan, inf) = (f64::NAN, f64::INFINITY);
    for (pred, reference, want) in [
        (&empty, &full, [0.0, 0.0, nan, inf, 0.0, 0.0]),
        (&full, &empty, [nan, 0.0, nan, inf, 0.0, 0.0]),
        (&empty, &empty, [nan, 1.0, nan, nan, nan, nan]),
    ] {
        let got = all(&one(pred, reference, [2; 3], [1.0; 3]));
        assert!(got.iter().zip(want).all(|(g, w)| *g == w || g.is_nan() && w.is_nan()), "{got:?}");
    }
}

/// Ten voxels of 0.1 mm are 1 mm, though 0.1 has no exact binary form.
#[test]
fn tolerance_is_not_strict() {
    let (mut pred, mut reference) = ([0; 11], [0; 11]);
    pred[0] = 1;
    reference[10] = 1;
    for mm in [0.1, 1.0 / 10.0 + 1e-12] {
        assert_eq!(one(&pred, &reference, [1, 1, 11], [1.0, 1.0, mm]).nsd, [1.0, 1.0]);
    }
    assert_eq!(one(&pred, &reference, [1, 1, 11], [1.0, 1.0, 0.101]).nsd, [0.0, 1.0]);
}

#[test]
fn regions_join_labels() {
    let (pred, reference) = ([1, 2, 3, 0], [3, 2, 0, 0]);
    let pair =
        LabelPair { pred: &pred, reference: &reference, dims: [1, 1, 4], spacing_mm: [1.; 3] };
    let regions = [Region::union(&[1, 2, 3], "whole"), Region::class(3, "core")];
    let m = measure(&pair, &regions, &[]).unwrap();
    assert_eq!((m[0].both_voxels, m[0].pred_voxels, m[0].ref_voxels), (2, 3, 2));
    assert_eq!((m[0].hd_mm, m[1].hd_mm), (1.0, 2.0));
    assert_eq!(m[1].dice(), 0.0);
}

#[test]
fn wrong_input_is_refused() {
    let pair = |len: usize, mm: f64| {
        let map: &[u8] = &[0; 8][..len];
        let pair = LabelPair { pred: map, reference: &[0; 8], dims: [2; 3], spacing_mm: [mm; 3] };
        measure(&pair, &Region::foreground(2), &[1.0])
    };
    assert!(matches!(pair(7, 1.0), Err(Error::Shape { .. })));
    for mm in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(matches!(pair(8, mm), Err(Error::Config(_))));
    }
    let good = LabelPair { pred: &[0; 8], reference: &[0; 8], dims: [2; 3], spacing_mm: [1.0; 3] };
    assert!(measure(&good, &Region::foreground(2), &[f64::NAN]).is_err());
    assert!(measure(&good, &[Region::class(0, "background")], &[]).is_err());
    let huge = LabelPair { dims: [usize::MAX; 3], ..good };
    assert!(measure(&huge, &Region::foreground(2), &[]).is_err());
}

/// Whatever the number of threads: the same bits.
#[test]
fn threads_change_nothing() {
    let dims = [40, 19, 23];
    let mut rng = Rng::new(3, Purpose::Test, 0, 0, 0);
    let mut map = || -> Vec<u8> { (0..40 * 19 * 23).map(|_| rng.below(4) as u8).collect() };
    let (pred, reference) = (map(), map());
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let pair =
            LabelPair { pred: &pred, reference: &reference, dims, spacing_mm: [0.7, 1.1, 3.0] };
        pool.install(|| measure(&pair, &Region::foreground(4), &[1.0]).unwrap())
    };
    assert_eq!(run(1), run(3));
}

/// Surface voxels as points in mm, straight from the definition.
fn points(map: &[u8], dims: [usize; 3], mm: [f64; 3]) -> Vec<[f64; 3]> {
    let inside = |at: [isize; 3]| {
        (0..3).all(|a| (0..dims[a] as isize).contains(&at[a]))
            && map[(at[0] as usize * dims[1] + at[1] as usize) * dims[2] + at[2] as usize] == 1
    };
    let mut found = Vec::new();
    for i in 0..map.len() {
        let at = [i / (dims[1] * dims[2]), i / dims[2] % dims[1], i % dims[2]].map(|v| v as isize);
        let is_open = (0..3).any(|a| {
            [-1, 1].iter().any(|step| {
                let mut next = at;
                next[a] += step;
                !inside(next)
            })
        });
        if inside(at) && is_open {
            found.push([0, 1, 2].map(|a| at[a] as f64 * mm[a]));
        }
    }
    found
}

proptest! {
    /// All numbers against the definition by pairs of points; exchange of sides changes nothing.
    #[test]
    fn equals_the_definition(
        dims in prop::array::uniform3(1usize..8),
        mm in prop::array::uniform3(0.3f64..3.0),
        seed in any::<u64>(),
        share in 0.02f64..0.95,
    ) {
        let count: usize = dims.iter().product();
        let mut rng = Rng::new(seed, Purpose::Test, 0, 0, 0);
        let mut map = || -> Vec<u8> { (0..count).map(|_| (rng.uniform() < share).into()).collect() };
        let (pred, reference) = (map(), map());
        let got = one(&pred, &reference, dims, mm);
        let swapped = one(&reference, &pred, dims, mm);
        let same = |a: f64, b: f64| a == b || (a - b).abs() < 1e-12 * b || a.is_nan() && b.is_nan();
        prop_assert!(same(got.hd_mm, swapped.hd_mm) && same(got.hd95_mm, swapped.hd95_mm));
        prop_assert_eq!(got.dice_counting_empty(), swapped.dice_counting_empty());
        let sides = [points(&pred, dims, mm), points(&reference, dims, mm)];
        prop_assert_eq!(got.surface_voxels, [sides[0].len() as u64, sides[1].len() as u64]);
        let mut there = [0, 1].map(|s: usize| -> Vec<f64> {
            let nearest = |p: &[f64; 3]| {
                let gap = |q: &[f64; 3]| (0..3).map(|a| (p[a] - q[a]).powi(2)).sum::<f64>().sqrt();
                sides[1 - s].iter().map(gap).fold(f64::INFINITY, f64::min)
            };
            sides[s].iter().map(nearest).collect()
        });
        let pooled: Vec<f64> = there.iter().flatten().copied().collect();
        if pooled.is_empty() {
            prop_assert!(got.hd_mm.is_nan() && got.nsd[0].is_nan());
        } else {
            prop_assert!(same(got.hd_mm, pooled.iter().copied().fold(0.0, f64::max)));
            for (nsd, mm) in got.nsd.iter().zip([1.0f32, 2.0]) {
                let near = pooled.iter().filter(|&&d| d as f32 <= mm).count();
                prop_assert_eq!(*nsd, near as f64 / pooled.len() as f64);
            }
        }
        if !there[0].is_empty() && !there[1].is_empty() {
            let [a, b] = &mut there;
            prop_assert!(same(got.hd95_mm, quantile(a, 0.95).max(quantile(b, 0.95))));
        }
    }
}
