//! Geometry, and blending with and without a budget.

use super::*;
use proptest::prelude::*;

#[test]
fn starts_follow_the_rules_of_monai() {
    let grid = WindowGrid::new([21, 10, 4], [10, 10, 6], 0.5).unwrap();
    assert_eq!(grid.starts, [vec![0, 5, 10, 11], vec![0], vec![0]]);
    assert_eq!((grid.pad_before, grid.padded), ([0, 0, 1], [21, 10, 6]));
    assert_eq!((grid.len(), grid.is_empty()), (4, false));
    // An overlap that leaves no step moves by one voxel.
    let dense = WindowGrid::new([4, 1, 1], [2, 1, 1], 0.9).unwrap();
    assert_eq!(dense.starts[0], [0, 1, 2]);
    for (dims, roi, overlap) in [
        ([0, 1, 1], [1; 3], 0.5),
        ([1; 3], [0, 1, 1], 0.5),
        ([1; 3], [1; 3], 1.0),
        ([1; 3], [1; 3], -0.1),
        ([1; 3], [1; 3], f64::NAN),
    ] {
        assert!(matches!(WindowGrid::new(dims, roi, overlap), Err(Error::Config(_))));
    }
}

#[test]
fn gaussian_has_its_floor_and_its_middle() {
    let map = Blending::Gaussian { sigma_scale: 0.125 }.importance([9, 9, 9]);
    assert_eq!((map[0], map[364]), (1e-3, 1.0));
    assert_eq!(Blending::Constant.importance([2, 3, 1]), [1.0; 6]);
}

#[test]
fn wrong_sizes_are_refused() {
    let grid = WindowGrid::new([4; 3], [2; 3], 0.5).unwrap();
    let whole = grid.whole();
    assert!(Blender::<f32>::new(&grid, whole, 1, &[1.0; 7]).is_err());
    assert!(Blender::<f32>::new(&grid, whole, 0, &[1.0; 8]).is_err());
    assert!(Blender::<f32>::new(&grid, whole, 1, &[0.0; 8]).is_err());
    for (first, size) in [([0, 1], [4, 4]), ([0, 0], [0, 4]), ([usize::MAX, 0], [2, 4])] {
        let column = Column { first, size };
        assert!(Blender::<f32>::new(&grid, column, 1, &[1.0; 8]).is_err(), "{column:?}");
    }
    let mut blender = Blender::new(&grid, whole, 1, &[1.0; 8]).unwrap();
    assert!(blender.add(&[0.0f32; 9], &mut |_, _| Ok(())).is_err());
    for _ in 0..grid.len() {
        blender.add(&[0.0; 8], &mut |_, _| Ok(())).unwrap();
    }
    assert!(blender.add(&[0.0; 8], &mut |_, _| Ok(())).is_err());
    assert!(grid.cut(&[0u8; 64], [0; 3], &mut [0; 7]).is_err());
    assert!(grid.cut(&[0u8; 64], [3, 0, 0], &mut [0; 8]).is_err());
    assert!(WindowGrid::new([usize::MAX / 2, 9, 9], [9; 3], 0.0).is_err());
}

#[test]
fn argmax_takes_the_first_largest_number() {
    let nan = f32::NAN;
    assert_eq!(argmax(&[1.0, 2.0, nan, nan, 1.0, 3.0, -5.0, nan], 4), [0, 1, 1, 0]);
    assert_eq!(argmax::<f32>(&[], 0), [0; 0]);
}

/// 512 x 512 x 600 voxels, 14 classes, windows of 96: 1.5 GB of sums as a whole.
#[test]
fn columns_of_a_large_volume_fit_their_budget() {
    let grid = WindowGrid::new([512, 512, 600], [96; 3], 0.5).unwrap();
    assert_eq!(grid.column_bytes(grid.whole(), 14), 96 * 512 * 600 * 15 * 4);
    assert_eq!(grid.columns(14, u64::MAX), [grid.whole()]);
    let mut before = grid.len();
    for mib in [1024u64, 512, 256, 64] {
        let columns = grid.columns(14, mib << 20);
        assert!(columns.iter().all(|c| grid.column_bytes(*c, 14) <= mib << 20), "{mib} MiB");
        let windows: usize = columns.iter().map(|c| grid.windows_of(*c).count()).sum();
        println!("{mib} MiB: {} columns, {windows} of {} windows", columns.len(), grid.len());
        assert!(windows >= before, "less memory cannot need fewer windows");
        before = windows;
    }
    // Half as much again at a third of the memory.
    let windows: usize =
        grid.columns(14, 512 << 20).iter().map(|c| grid.windows_of(*c).count()).sum();
    assert!(windows * 2 <= grid.len() * 3, "{windows} of {}", grid.len());
    // Indices of more than 32 bits.
    let grid = WindowGrid::new([1 << 16; 3], [1 << 14; 3], 0.0).unwrap();
    assert_eq!(grid.column_bytes(grid.whole(), 14), (1 << 46) * 60);
    assert_eq!(grid.columns(14, 1).len(), 16);
    assert_eq!(WindowGrid::new([5; 3], [9; 3], 0.5).unwrap().columns(200, 0).len(), 1);
}

/// Blends what `predict` says of every window: bits of the scores `[c, dims]`.
fn blend(
    grid: &WindowGrid,
    columns: &[Column],
    importance: &[f32],
    mut predict: impl FnMut([usize; 3]) -> Vec<f32>,
) -> Vec<u32> {
    let [nd, nh, nw] = grid.dims;
    // Of no score.
    let mut out = vec![u32::MAX; 2 * nd * nh * nw];
    for &column in columns {
        let mut blender = Blender::<f32>::new(grid, column, 2, importance).unwrap();
        for start in grid.windows_of(column) {
            let mut keep = |d: usize, scores: &[f32]| {
                for (i, score) in scores.iter().enumerate() {
                    let (c, at) = (i / column.slab(), i % column.slab());
                    let h = column.first[0] + at / column.size[1];
                    let w = column.first[1] + at % column.size[1];
                    let to = &mut out[((c * nd + d) * nh + h) * nw + w];
                    assert_eq!(*to, u32::MAX, "a voxel comes once");
                    *to = score.to_bits();
                }
                Ok(())
            };
            blender.add(&predict(start), &mut keep).unwrap();
        }
    }
    out
}

proptest! {
    /// Windows that repeat what they see blend to the volume itself; every slab comes once, in
    /// order; the cut windows are the padded volume's.
    #[test]
    fn identity_blends_to_the_volume(
        dims in prop::array::uniform3(1usize..12),
        roi in prop::array::uniform3(1usize..7),
        overlap in 0.0f64..0.95,
        gaussian in any::<bool>(),
    ) {
        let grid = WindowGrid::new(dims, roi, overlap).unwrap();
        let count: usize = dims.iter().product();
        let volume: Vec<f64> = (0..2 * count).map(|i| 1.0 + i as f64).collect();
        let blending = match gaussian {
            true => Blending::Gaussian { sigma_scale: 0.125 },
            false => Blending::Constant,
        };
        let importance = blending.importance(roi);
        let mut blender = Blender::new(&grid, grid.whole(), 2, &importance).unwrap();
        let mut window = vec![0.0; 2 * roi.iter().product::<usize>()];
        let slab = dims[1] * dims[2];
        let (mut expected, mut good) = (0, true);
        for start in grid.windows() {
            grid.cut(&volume, start, &mut window).unwrap();
            blender.add(&window, &mut |d, scores| {
                good &= d == expected && scores.len() == 2 * slab;
                expected += 1;
                for (i, &score) in scores.iter().enumerate() {
                    let want = volume[(i / slab) * count + d * slab + i % slab];
                    good &= (score - want).abs() <= 1e-12 * want;
                }
                Ok(())
            }).unwrap();
        }
        prop_assert!(good && expected == dims[0]);
    }

    /// Whatever the budget: every voxel comes once, with the same bits.
    #[test]
    fn bits_do_not_depend_on_the_budget(
        dims in prop::array::uniform3(1usize..14),
        roi in prop::array::uniform3(1usize..7),
        overlap in 0.0f64..0.95,
        gaussian in any::<bool>(),
        share in 0.0f64..1.0,
    ) {
        let grid = WindowGrid::new(dims, roi, overlap).unwrap();
        let blending = match gaussian {
            true => Blending::Gaussian { sigma_scale: 0.125 },
            false => Blending::Constant,
        };
        let importance = blending.importance(roi);
        let window = 2 * roi.iter().product::<usize>();
        // Numbers that depend on the window and the place in it, of mixed magnitudes.
        let predict = |start: [usize; 3]| -> Vec<f32> {
            let seed = (start[0] * 31 + start[1]) * 37 + start[2];
            let value = |i: usize| ((seed * 131 + i * 17) % 1009) as f32 / 7.0 - 50.0;
            (0..window).map(|i| value(i) * 10f32.powi((i % 5) as i32 - 2)).collect()
        };
        let all = blend(&grid, &[grid.whole()], &importance, predict);
        prop_assert!(!all.contains(&u32::MAX));
        let whole = grid.column_bytes(grid.whole(), 2);
        for bytes in [0, (whole as f64 * share) as u64] {
            let columns = grid.columns(2, bytes);
            let fits = columns.iter().all(|c| grid.column_bytes(*c, 2) <= bytes);
            prop_assert!(fits || columns == grid.columns(2, 0));
            prop_assert_eq!(&blend(&grid, &columns, &importance, predict), &all);
        }
    }
}
