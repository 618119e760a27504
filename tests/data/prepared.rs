//! Preparing cases, and the way back to the input.

use std::path::Path;

use glmae::data::layout::{DiscoverOptions, Layout};
use glmae::data::nifti::{Stored, write_volume};
use glmae::data::{
    Case, Intensity, Loader, LoaderConfig, NonFinite, PrepareConfig, ReadLimits, ReadOptions,
    Volume, discover, prepare, prepare_label, read_volume,
};
use glmae::rng::{Purpose, Rng};

use super::shared_data;

fn case(id: &str, images: &[&Path]) -> Case {
    Case {
        id: id.to_owned(),
        images: images.iter().map(|p| p.to_path_buf()).collect(),
        label: None,
    }
}

fn volume(dims: [usize; 3], data: Vec<f32>) -> Volume {
    let affine = [[-2., 0., 0., 9.], [0., 0., 3., 1.], [0., -1., 0., 5.], [0., 0., 0., 1.]];
    Volume::new(data, 1, dims, affine, 1).unwrap()
}

#[test]
fn reconstruction_returns_to_the_input_grid_and_units() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.nii.gz");
    let mut rng = Rng::new(31, Purpose::Test, 0, 0, 0);
    let dims = [6, 7, 8];
    // Air with a block of tissue, off centre.
    let mut data = vec![-1000.0; 6 * 7 * 8];
    for d in 1..4 {
        for h in 2..7 {
            for w in 3..5 {
                data[(d * 7 + h) * 8 + w] = (rng.below(1999) as f32) - 999.0;
            }
        }
    }
    let input = volume(dims, data);
    write_volume(&path, &input, Stored::I16).unwrap();
    let config = PrepareConfig { min_size: [4, 4, 4], ..PrepareConfig::default() };
    let prepared = prepare(&case("a", &[&path]), &config).unwrap();
    // LIA to RAS: axes d w h; the box 3 x 2 x 5 padded to 4 x 4 x 5.
    assert_eq!(input.orientation().unwrap().codes(), "LIA");
    assert_eq!(prepared.dims(), [4, 4, 5]);
    assert_eq!(prepared.spacing_mm(), [2.0, 3.0, 1.0]);
    assert!(prepared.voxels().iter().all(|v| (0.0..=1.0).contains(v)));
    let back = prepared.record().restore(prepared.voxels(), -1000.0).unwrap();
    assert_eq!((back.dims, back.affine), (input.dims, input.affine));
    for (got, want) in back.data.iter().zip(&input.data) {
        assert!((got - want).abs() < 1e-3, "{got} is not {want}");
    }
    assert!(prepared.record().restore(&[0.0; 3], 0.0).is_err());
}

/// Every voxel of a prepared real scan stands at the world position it had in the file.
#[test]
fn real_scans_come_back_exactly() {
    let Some(shared) = shared_data("preparing real scans") else { return };
    for name in
        ["ct/lung_2_ct.nii.gz", "mri/abdomen/abdomen_mr.nii.gz", "odd/niivue_space_ASL.nii.gz"]
    {
        let path = shared.join(name);
        let config = PrepareConfig {
            intensity: Intensity::Identity,
            foreground_threshold: Some(-500.0),
            min_size: [64, 64, 64],
            ..PrepareConfig::default()
        };
        let prepared = prepare(&case(name, &[&path]), &config).unwrap();
        let input = read_volume(&path, &ReadOptions::default()).unwrap();
        let back = prepared.record().restore(prepared.voxels(), f32::MIN).unwrap();
        let mut kept = 0;
        for (got, want) in back.data.iter().zip(&input.data) {
            assert!(got == want || (*got == f32::MIN && *want <= -500.0), "{name}");
            kept += usize::from(got == want);
        }
        assert!(kept > back.data.len() / 10, "{name}: {kept} voxels kept");
        let [nd, nh, nw] = prepared.dims();
        let record = prepared.record();
        let world = |m: &[[f64; 4]; 4], v: [usize; 3]| {
            [0, 1, 2].map(|r| (0..3).map(|c| m[r][c] * v[c] as f64).sum::<f64>() + m[r][3])
        };
        // A corner of the box, in both grids.
        let p = [record.crop.pad_before[0], record.crop.pad_before[1], record.crop.pad_before[2]];
        let q = [0, 1, 2].map(|axis: usize| {
            let at = record.crop.start[record.orientation.world_axis[axis]];
            match record.orientation.is_flipped[axis] {
                true => input.dims[axis] - 1 - at,
                false => at,
            }
        });
        let (a, b) = (world(prepared.affine(), p), world(&input.affine, q));
        for r in 0..3 {
            assert!((a[r] - b[r]).abs() < 1e-3, "{name}: {a:?} {b:?}");
        }
        let ours = prepared.voxels()[(p[0] * nh + p[1]) * nw + p[2]];
        assert!(nd > p[0]);
        assert_eq!(ours, input.data[(q[0] * input.dims[1] + q[1]) * input.dims[2] + q[2]]);
    }
}

#[test]
fn nan_voxels_are_named_or_zeroed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nan.nii");
    let mut data = vec![5.0; 24];
    data[7] = f32::NAN;
    data[20] = f32::NEG_INFINITY;
    write_volume(&path, &volume([2, 3, 4], data), Stored::F32).unwrap();
    let mut config = PrepareConfig::default();
    let error = prepare(&case("nan", &[&path]), &config).unwrap_err().to_string();
    assert!(error.contains("nan.nii") && error.contains("2 voxels"), "{error}");
    assert!(error.contains("[0, 1, 3]"), "{error}");
    config.nonfinite = NonFinite::Zero;
    let prepared = prepare(&case("nan", &[&path]), &config).unwrap();
    assert!(prepared.voxels().iter().all(|v| v.is_finite()));
}

#[test]
fn channels_must_share_their_grid() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let data: Vec<f32> = (0..24).map(|v| v as f32).collect();
    let good = volume([2, 3, 4], data.clone());
    let mut moved = good.clone();
    moved.affine[0][3] += 0.5;
    let other = volume([2, 4, 3], data);
    for (name, v) in [("a", &good), ("b", &good), ("moved", &moved), ("other", &other)] {
        write_volume(&path(&format!("{name}.nii")), v, Stored::F32).unwrap();
    }
    let config = PrepareConfig { channels: 2, ..PrepareConfig::default() };
    let run = |second: &str| prepare(&case("c", &[&path("a.nii"), &path(second)]), &config);
    let both = run("b.nii").unwrap();
    assert_eq!(both.channels(), 2);
    let (first, second) = both.voxels().split_at(24);
    assert_eq!(first, second);
    for second in ["moved.nii", "other.nii"] {
        assert!(run(second).unwrap_err().to_string().contains("another grid"));
    }
    let error = prepare(&case("c", &[&path("a.nii")]), &config).unwrap_err().to_string();
    assert!(error.contains("2 are expected") && error.contains("model.in_chans"), "{error}");
}

#[test]
fn a_case_of_air_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("air.nii");
    write_volume(&path, &volume([2, 3, 4], vec![-1000.0; 24]), Stored::I16).unwrap();
    let error = prepare(&case("air", &[&path]), &PrepareConfig::default()).unwrap_err();
    assert!(error.to_string().contains("no foreground"), "{error}");
}

/// The whole way on a real task with one broken file among its cases.
#[test]
fn a_real_task_loads_with_a_broken_file_in_it() {
    let Some(shared) = shared_data("loading a real task") else { return };
    let source = discover(&shared.join("hippocampus"), &DiscoverOptions::default()).unwrap();
    assert_eq!((source.layout, source.cases.len()), (Layout::Msd, 200));
    assert!(source.cases.iter().all(|c| c.label.as_ref().is_some_and(|l| l.is_file())));
    let mut cases = source.cases;
    cases[5].images = vec![shared.join("odd/made_truncated.nii.gz")];
    let prepare = PrepareConfig {
        intensity: Intensity::PercentileZScore { lo: 0.5, hi: 99.5 },
        foreground_threshold: None,
        min_size: [48; 3],
        ..PrepareConfig::default()
    };
    let plan = |step: u64| (0..4).map(|i| (4 * step as usize + i) % 200).collect();
    let config = LoaderConfig { threads: 2, ..LoaderConfig::default() };
    let mut loader = Loader::new(cases, prepare, plan, config).unwrap();
    for step in 0..50 {
        let batch = loader.get(step).unwrap();
        assert_eq!(batch.len(), 4);
        for (i, prepared) in batch.iter().enumerate() {
            let index = 4 * step as usize + i;
            let expected = if index == 5 { 6 } else { index };
            assert_eq!(prepared.id, loader.cases()[expected].id);
            assert!(prepared.dims().iter().all(|&n| n >= 48));
        }
    }
    assert_eq!(loader.quarantined().len(), 1);
    assert!(loader.quarantined()[0].reason.contains("cut off"), "{:?}", loader.quarantined());
    println!("{:?}", loader.stats());
}

#[test]
fn folders_of_real_scans_leave_labels_out() {
    let Some(shared) = shared_data("folders of real scans") else { return };
    let source = discover(&shared.join("ct"), &DiscoverOptions::default()).unwrap();
    let ids: Vec<&str> = source.cases.iter().map(|c| c.id.as_str()).collect();
    assert_eq!(
        ids,
        [
            "abdomen_ct",
            "chest_ct",
            "lung_1_ct",
            "lung_2_ct",
            "spleen_2_ct",
            "thorax_ct",
            "unlabelled/brain_ct_atlas"
        ]
    );
    assert_eq!(source.left_out.labels.len(), 7);
}

#[test]
fn labels_follow_their_image() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut rng = Rng::new(41, Purpose::Test, 0, 0, 0);
    let dims = [5, 6, 7];
    let labels: Vec<f32> = (0..210).map(|_| rng.below(4) as f32).collect();
    // The image holds the label as its value, so that both can be compared after the way.
    let image = volume(dims, labels.iter().map(|&l| if l > 0.0 { l } else { -1.0 }).collect());
    let label = volume(dims, labels);
    write_volume(&path("image.nii"), &image, Stored::F32).unwrap();
    write_volume(&path("label.nii.gz"), &label, Stored::U8).unwrap();
    let config = PrepareConfig {
        intensity: Intensity::Identity,
        min_size: [9; 3],
        ..PrepareConfig::default()
    };
    let prepared = prepare(&case("c", &[&path("image.nii")]), &config).unwrap();
    let run = |name: &str| prepare_label(&path(name), prepared.record(), &ReadLimits::default());
    let got = run("label.nii.gz").unwrap();
    assert_eq!(got.len(), prepared.voxels().len());
    for (l, v) in got.iter().zip(prepared.voxels()) {
        assert_eq!(f32::from(*l), v.max(0.0));
    }

    let write = |name: &str, change: &dyn Fn(&mut Volume)| {
        let mut changed = label.clone();
        change(&mut changed);
        write_volume(&path(name), &changed, Stored::F32).unwrap();
        run(name)
    };
    // Within rounding of a whole number is fine, halves and values out of range are not.
    assert_eq!(write("near.nii", &|v| v.data[3] += 5e-4).unwrap(), got);
    for bad in [0.5, -1.0, 256.0, f32::NAN] {
        let error = write("bad.nii", &|v| v.data[46] = bad).unwrap_err().to_string();
        assert!(error.contains("[1, 0, 4]") && error.contains("bad.nii"), "{error}");
    }
    let error = write("moved.nii", &|v| v.affine[1][3] += 1.0).unwrap_err().to_string();
    assert!(error.contains("another grid"), "{error}");
}

/// Every label of the real task fits its image.
#[test]
fn labels_of_a_real_task_fit() {
    let Some(shared) = shared_data("labels of a real task") else { return };
    let source = discover(&shared.join("hippocampus"), &DiscoverOptions::default()).unwrap();
    let config = PrepareConfig {
        intensity: Intensity::ZScore { nonzero: false },
        foreground_threshold: None,
        ..PrepareConfig::default()
    };
    for case in &source.cases {
        let prepared = prepare(case, &config).unwrap();
        let path = case.label.as_ref().unwrap();
        let labels = prepare_label(path, prepared.record(), &ReadLimits::default()).unwrap();
        assert!(labels.iter().all(|&l| l <= 2), "{}", case.id);
        let foreground = labels.iter().filter(|&&l| l > 0).count();
        assert!(foreground > 500, "{}: {foreground} voxels", case.id);
    }
}
