//! Geometry, and blending with and without a budget.

use super::*;
use crate::device::emulated::{Mode, Schedule};
use crate::device::{DType, Device, Tensor};
use crate::ops::argmax::argmax;
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
    let map = |weights: &[f32]| Importance::new(&Device::Cpu, DType::F32, [2; 3], weights);
    for weights in [&[1.0; 7][..], &[0.0; 8], &[f32::NAN; 8]] {
        assert!(map(weights).is_err());
    }
    let map = map(&[1.0; 8]).unwrap();
    let larger = WindowGrid::new([4; 3], [3; 3], 0.5).unwrap();
    assert!(Blender::new(&grid, &[whole], 0, &map).is_err());
    assert!(Blender::new(&grid, &[], 1, &map).is_err());
    assert!(Blender::new(&larger, &[larger.whole()], 1, &map).is_err());
    let half = Column { first: [0, 0], size: [2, 4] };
    for (first, size) in [([0, 1], [4, 4]), ([0, 0], [0, 4]), ([usize::MAX, 0], [2, 4])] {
        let column = Column { first, size };
        assert!(Blender::new(&grid, &[half, column], 1, &map).is_err(), "{column:?}");
        assert!(Blender::new(&grid, &[whole], 1, &map).unwrap().begin(column).is_err());
    }
    assert!(Blender::new(&grid, &[half], 1, &map).unwrap().begin(whole).is_err());
    let mut blender = Blender::new(&grid, &[whole], 1, &map).unwrap();
    let scores = |n| Tensor::zeros(&Device::Cpu, DType::F32, &[n, 1]).unwrap();
    assert!(blender.add(&scores(8), &mut |_, _| Ok(())).is_err(), "no column was begun");
    blender.begin(whole).unwrap();
    assert!(blender.add(&scores(9), &mut |_, _| Ok(())).is_err());
    for _ in 0..grid.len() {
        blender.add(&scores(8), &mut |_, _| Ok(())).unwrap();
    }
    assert!(blender.add(&scores(8), &mut |_, _| Ok(())).is_err());
    assert!(grid.cut(&[0u8; 64], [0; 3], &mut [0; 7]).is_err());
    assert!(grid.cut(&[0u8; 64], [3, 0, 0], &mut [0; 8]).is_err());
    assert!(WindowGrid::new([usize::MAX / 2, 9, 9], [9; 3], 0.0).is_err());
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

/// Scores of a window: numbers of mixed magnitudes that depend on the window and the place in it.
fn scores_of(start: [usize; 3], n: usize) -> Vec<f32> {
    let seed = (start[0] * 31 + start[1]) * 37 + start[2];
    let value = |i: usize| ((seed * 131 + i * 17) % 1009) as f32 / 7.0 - 50.0;
    (0..n).map(|i| value(i) * 10f32.powi((i % 5) as i32 - 2)).collect()
}

/// Bits of the means `[dims, channels]`, voxel by voxel from the definition: a product and a sum for each window
/// in raster order, then a division.
fn defined(grid: &WindowGrid, importance: &[f32], channels: usize) -> Vec<u32> {
    let count: usize = grid.dims.iter().product();
    let (mut sums, mut weights) = (vec![0.0f32; count * channels], vec![0.0f32; count]);
    for start in grid.windows() {
        let scores = scores_of(start, grid.window() * channels);
        for (u, weight) in importance.iter().enumerate() {
            let [_, rh, rw] = grid.roi;
            let at = [u / (rh * rw), u / rw % rh, u % rw];
            let at = [0, 1, 2].map(|a| (start[a] + at[a]).checked_sub(grid.pad_before[a]));
            let [Some(d), Some(h), Some(w)] = at else { continue };
            if d >= grid.dims[0] || h >= grid.dims[1] || w >= grid.dims[2] {
                continue;
            }
            let v = (d * grid.dims[1] + h) * grid.dims[2] + w;
            weights[v] += weight;
            for c in 0..channels {
                let product = weight * scores[u * channels + c];
                sums[v * channels + c] += product;
            }
        }
    }
    sums.iter().enumerate().map(|(i, sum)| (sum / weights[i / channels]).to_bits()).collect()
}

/// What a device makes of the same windows: bits of the means, and labels.
fn blend(
    grid: &WindowGrid,
    columns: &[Column],
    importance: &Importance,
    channels: usize,
    device: &Device,
) -> (Vec<u32>, Vec<u8>) {
    let [nd, nh, nw] = grid.dims;
    // Of no score.
    let mut out = vec![u32::MAX; channels * nd * nh * nw];
    let mut labels = vec![0; nd * nh * nw];
    let mut blender = Blender::new(grid, columns, channels, importance).unwrap();
    for &column in columns {
        let mut next = 0;
        let mut keep = |d: usize, means: &Tensor| {
            assert_eq!(d, next, "slabs come in order");
            next += 1;
            let (rows, found) = (means.to_vec::<f32>()?, argmax(means)?.to_vec::<u8>()?);
            for (at, (row, label)) in rows.chunks_exact(channels).zip(found).enumerate() {
                let h = column.first[0] + at / column.size[1];
                let w = column.first[1] + at % column.size[1];
                let v = (d * nh + h) * nw + w;
                labels[v] = label;
                for (to, score) in out[v * channels..].iter_mut().zip(row) {
                    assert_eq!(*to, u32::MAX, "a voxel comes once");
                    *to = score.to_bits();
                }
            }
            Ok(())
        };
        blender.begin(column).unwrap();
        for start in grid.windows_of(column) {
            let scores = scores_of(start, grid.window() * channels);
            let shape = [grid.window(), channels];
            blender.add(&Tensor::from_slice(device, &scores, &shape).unwrap(), &mut keep).unwrap();
        }
        assert_eq!(next, nd);
    }
    (out, labels)
}

/// The class of every voxel of means `[voxels, channels]`: the first of the largest.
fn labels_of(bits: &[u32], channels: usize) -> Vec<u8> {
    let first = |row: &[u32]| {
        let larger = |best: usize, c: usize| f32::from_bits(row[c]) > f32::from_bits(row[best]);
        (0..channels).fold(0, |best, c| if larger(best, c) { c } else { best }) as u8
    };
    bits.chunks_exact(channels).map(first).collect()
}

/// The CPU and the kernels give the bits of the definition, whatever the sizes and the budget.
#[test]
fn every_device_has_the_bits_of_the_definition() {
    let emulated = || Device::emulated(Mode::Checked, Schedule::Ascending);
    let gaussian = Blending::Gaussian { sigma_scale: 0.125 };
    for (dims, roi, overlap, channels, blending) in [
        ([13, 9, 11], [5, 4, 6], 0.5, 3, gaussian),
        ([13, 9, 11], [5, 4, 6], 0.75, 14, Blending::Constant),
        ([9, 10, 8], [4, 4, 4], 0.0, 4, gaussian),
        ([7, 5, 3], [4, 8, 6], 0.5, 2, gaussian),
        ([3, 4, 5], [8, 7, 6], 0.75, 5, Blending::Constant),
        ([17, 3, 16], [3, 2, 8], 0.5, 1, gaussian),
    ] {
        let grid = WindowGrid::new(dims, roi, overlap).unwrap();
        let weights = blending.importance(roi);
        let expected = defined(&grid, &weights, channels);
        assert!(!expected.contains(&u32::MAX));
        for device in [Device::Cpu, emulated()] {
            let map = Importance::new(&device, DType::F32, roi, &weights).unwrap();
            for bytes in [u64::MAX, 0] {
                let columns = grid.columns(channels, bytes);
                let (bits, labels) = blend(&grid, &columns, &map, channels, &device);
                let case = format!("{dims:?} {roi:?} {overlap} {bytes} on {}", device.name());
                assert!(bits == expected, "{case}");
                assert_eq!(labels, labels_of(&expected, channels), "{case}");
            }
        }
    }
}

/// 14 classes over 600 slices: the device holds the ring, a window and a slab's labels. `examples/blend.rs`
/// does the same for 512 x 512 voxels a slice.
#[test]
fn the_device_holds_no_more_than_the_ring_and_a_window() {
    let (channels, roi) = (14, [96, 8, 16]);
    let grid = WindowGrid::new([600, 12, 24], roi, 0.5).unwrap();
    let device = Device::emulated(Mode::Plain, Schedule::Ascending);
    let weights = Blending::Constant.importance(roi);
    let map = Importance::new(&device, DType::F32, roi, &weights).unwrap();
    let scores = Tensor::zeros(&device, DType::F32, &[grid.window(), channels]).unwrap();
    for bytes in [u64::MAX, 1 << 20] {
        let columns = grid.columns(channels, bytes);
        let ring = columns.iter().map(|c| grid.column_bytes(*c, channels)).max().unwrap();
        assert!(ring <= bytes);
        let mut blender = Blender::new(&grid, &columns, channels, &map).unwrap();
        let Device::Emulated(emulated) = &device else { panic!("not emulated") };
        let (window, slab) = (scores.len() as u64 * 4, columns[0].slab() as u64);
        // Sizes are counted in whole pieces of 512 bytes: sums, weights, scores, labels.
        let bound = ring + window + slab + 4 * 512;
        let mut most = emulated.usage().live as u64;
        for &column in &columns {
            blender.begin(column).unwrap();
            for _ in grid.windows_of(column) {
                let mut keep = |_, means: &Tensor| {
                    let labels = argmax(means)?;
                    most = most.max(emulated.usage().live as u64);
                    assert_eq!(labels.to_vec::<u8>()?.len(), column.slab());
                    Ok(())
                };
                blender.add(&scores, &mut keep).unwrap();
            }
        }
        assert!(most >= ring + window + slab && most <= bound, "{most} of {bound}");
        let all = 4 * (channels as u64) * grid.dims.iter().product::<usize>() as u64;
        assert!(3 * most < all, "{most} of {all}");
    }
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
        let volume: Vec<f64> = (0..count).map(|i| 1.0 + i as f64).collect();
        let blending = match gaussian {
            true => Blending::Gaussian { sigma_scale: 0.125 },
            false => Blending::Constant,
        };
        let map = blending.importance(roi);
        let map = Importance::new(&Device::Cpu, DType::F64, roi, &map).unwrap();
        let mut blender = Blender::new(&grid, &[grid.whole()], 1, &map).unwrap();
        blender.begin(grid.whole()).unwrap();
        let mut window = vec![0.0; grid.window()];
        let slab = dims[1] * dims[2];
        let (mut expected, mut good) = (0, true);
        for start in grid.windows() {
            grid.cut(&volume, start, &mut window).unwrap();
            let scores = Tensor::from_slice(&Device::Cpu, &window, &[window.len(), 1]).unwrap();
            blender.add(&scores, &mut |d, means| {
                good &= d == expected && means.len() == slab;
                expected += 1;
                for (score, want) in means.host::<f64>()?.iter().zip(&volume[d * slab..]) {
                    good &= (score - want).abs() <= 1e-12 * want;
                }
                Ok(())
            }).unwrap();
        }
        prop_assert!(good && expected == dims[0]);
    }

    /// Whatever the budget: every voxel comes once, with the bits of the definition.
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
        let weights = blending.importance(roi);
        let map = Importance::new(&Device::Cpu, DType::F32, roi, &weights).unwrap();
        let all = defined(&grid, &weights, 2);
        let whole = grid.column_bytes(grid.whole(), 2);
        for bytes in [u64::MAX, 0, (whole as f64 * share) as u64] {
            let columns = grid.columns(2, bytes);
            let fits = columns.iter().all(|c| grid.column_bytes(*c, 2) <= bytes);
            prop_assert!(fits || columns == grid.columns(2, 0));
            prop_assert_eq!(&blend(&grid, &columns, &map, 2, &Device::Cpu).0, &all);
        }
    }
}
