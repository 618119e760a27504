use std::path::{Path, PathBuf};

use super::*;

fn shared() -> PathBuf {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    std::env::var_os("GLMAE_SHARED").map_or_else(beside, PathBuf::from)
}

/// A volume stored LPS, x fastest, as `[d, h, w]` in RAS.
fn to_ras<T: Copy>(stored: &[T], [nx, ny, nz]: [usize; 3]) -> Vec<T> {
    let mut out = Vec::with_capacity(stored.len());
    for x in (0..nx).rev() {
        for y in (0..ny).rev() {
            out.extend((0..nz).map(|z| stored[x + nx * (y + ny * z)]));
        }
    }
    out
}

#[test]
fn tiles_follow_the_spacing() {
    let mut panel = Panel::new([10, 20, 5], [2.0, 1.0, 8.0]).unwrap();
    panel.tile_px = 100;
    // 20 x 20 x 40 mm
    assert_eq!(Plane::ALL.map(|p| panel.tile(p)), [[100, 100], [100, 200], [100, 200]]);
}

#[test]
fn markers_appear_where_they_belong() {
    // Bright in the patient's right, anterior, superior octant only.
    let shape = [8, 8, 8];
    let index = |i: usize| [i / 64, i / 8 % 8, i % 8];
    let voxels: Vec<f32> =
        (0..512).map(|i| if index(i).iter().all(|v| *v >= 4) { 1.0 } else { 0.0 }).collect();
    for (convention, right_is_left) in
        [(Convention::Radiological, true), (Convention::Neurological, false)]
    {
        let mut panel = Panel::new(shape, [1.0; 3]).unwrap();
        panel.convention = convention;
        panel.tile_px = 64;
        panel.centre = [6, 6, 6];
        let column = |hidden, labels| Column {
            title: "x".into(),
            voxels: voxels.as_slice().into(),
            hidden,
            labels,
        };
        panel.push(column(None, None)).unwrap();
        panel.push(column(Some(vec![true; 512].into()), None)).unwrap();
        panel.push(column(None, Some(vec![1; 512].into()))).unwrap();
        let canvas = panel.render().unwrap();
        // Quarter points of each tile, away from the letters at the edges.
        let probe = |column: usize, row: usize, right: bool, bottom: bool| {
            let x = LEFT + column * (64 + GAP) + if right { 52 } else { 22 };
            canvas.get(x, TOP + row * (64 + GAP) + if bottom { 50 } else { 10 }).unwrap()
        };
        for row in 0..3 {
            // In the sagittal row anterior is on the left in both conventions.
            let left_is_bright = row == 2 || right_is_left;
            assert_eq!(probe(0, row, !left_is_bright, false), [255; 3], "row {row}");
            assert_eq!(probe(0, row, left_is_bright, false), [0; 3], "row {row}");
            assert_eq!(probe(0, row, false, true), [0; 3], "row {row}");
            assert_eq!(probe(0, row, true, true), [0; 3], "row {row}");
            assert!(HIDDEN.contains(&probe(1, row, true, true)));
            let tinted = probe(2, row, true, true);
            assert!(tinted[0] > tinted[1] && tinted[0] > tinted[2], "{tinted:?}");
        }
    }
}

#[test]
fn the_blend_shows_input_where_it_was_visible() {
    let (input, recon) = (vec![0.25f32; 64], vec![0.75f32; 64]);
    let hidden: Vec<bool> = (0..64).map(|i| i % 2 == 0).collect();
    let panel = Panel::reconstruction([4; 3], [1.0; 3], &input, &recon, &hidden).unwrap();
    let titles: Vec<_> = panel.columns.iter().map(|c| c.title.as_ref()).collect();
    assert_eq!(titles, ["input", "masked", "reconstruction", "visible + recon."]);
    let blend = &panel.columns[3].voxels;
    assert!(blend.iter().enumerate().all(|(i, v)| *v == if i % 2 == 0 { 0.75 } else { 0.25 }));
}

#[test]
fn bad_input_is_an_error_not_a_picture() {
    assert!(matches!(Panel::new([0, 1, 1], [1.0; 3]), Err(Error::Shape { .. })));
    assert!(matches!(Panel::new([1; 3], [1.0, 0.0, 1.0]), Err(Error::Config(_))));
    assert!(matches!(Panel::new([1; 3], [1.0, f64::NAN, 1.0]), Err(Error::Config(_))));
    let short = Panel::reconstruction([2; 3], [1.0; 3], &[0.0; 8], &[0.0; 7], &[false; 8]);
    assert!(matches!(short, Err(Error::Shape { .. })));
    let mut panel = Panel::new([2; 3], [1.0; 3]).unwrap();
    panel.centre = [2, 0, 0];
    assert!(matches!(panel.render(), Err(Error::Shape { .. })));
    panel.centre = [1, 0, 0];
    panel.window = [0.0, f32::INFINITY];
    assert!(matches!(panel.render(), Err(Error::Config(_))));
}

#[test]
fn a_voxel_that_is_no_number_is_seen() {
    let voxels = vec![f32::NAN; 8];
    let mut panel = Panel::new([2; 3], [1.0; 3]).unwrap();
    let column = Column { title: "x".into(), voxels: voxels.into(), hidden: None, labels: None };
    panel.push(column).unwrap();
    let canvas = panel.render().unwrap();
    assert_eq!(canvas.get(LEFT + 60, TOP + 60), Some(NOT_A_NUMBER));
    // A window of one value, and a single voxel, draw too.
    panel.window = [1.0, 1.0];
    assert!(panel.render().is_ok());
}

#[test]
fn the_window_ignores_outliers() {
    let mut voxels: Vec<f32> = (0..1000).map(|i| i as f32).collect();
    voxels.extend([1e9, f32::NAN, f32::NEG_INFINITY]);
    let [low, high] = robust_window(&voxels);
    assert!((0.0..10.0).contains(&low) && (990.0..1000.0).contains(&high), "{low} {high}");
    assert_eq!(robust_window(&[]), [0.0, 1.0]);
    assert_eq!(robust_window(&[7.0; 3]), [7.0, 8.0]);
}

/// A real chest CT: superior is up, posterior down, the descending aorta on the patient's left.
#[test]
fn a_chest_ct_is_the_right_way_round() {
    use nifti::{NiftiObject, NiftiVolume, ReaderOptions};
    let folder = shared().join("data/ct");
    if !folder.join("chest_ct.nii.gz").exists() {
        println!("skipped: no {}", folder.join("chest_ct.nii.gz").display());
        return;
    }
    let read = |name: &str| ReaderOptions::new().read_file(folder.join(name)).unwrap();
    let ct = read("chest_ct.nii.gz").into_volume();
    let shape = [0, 1, 2].map(|i| usize::from(ct.dim()[i]));
    let ct: Vec<i16> = ct.into_nifti_typed_data().unwrap();
    let seg: Vec<u8> = read("chest_seg.nii.gz").into_volume().into_nifti_typed_data().unwrap();
    let input: Vec<f32> = to_ras(&ct, shape).into_iter().map(f32::from).collect();
    let labels = to_ras(&seg, shape);
    // Patches of 16 voxels, three of four hidden; a blurred copy stands for the reconstruction.
    let at = |i: usize| [i / (shape[1] * shape[2]), i / shape[2] % shape[1], i % shape[2]];
    let hidden: Vec<bool> = (0..input.len())
        .map(|i| {
            let patch = at(i).map(|v| (v / 16) as u32);
            crate::rng::philox4x32([patch[0], patch[1], patch[2], 0], [7, 7])[0] > u32::MAX / 4
        })
        .collect();
    let blurred: Vec<f32> = (0..input.len())
        .map(|i| {
            let around = input.get(i.saturating_sub(4)..(i + 5).min(input.len())).unwrap();
            around.iter().sum::<f32>() / around.len() as f32
        })
        .collect();
    let mut panel = Panel::reconstruction(shape, [1.5; 3], &input, &blurred, &hidden).unwrap();
    panel.window = [-1000.0, 600.0];
    panel.caption = "chest_ct   step 12000".into();
    let picture = panel.render().unwrap();
    let mut overlay = Panel::new(shape, [1.5; 3]).unwrap();
    overlay.window = [-160.0, 240.0];
    for (title, labels) in [("input", None), ("labels", Some(labels.as_slice().into()))] {
        let voxels = input.as_slice().into();
        overlay.push(Column { title: title.into(), voxels, hidden: None, labels }).unwrap();
    }
    let overlay = overlay.render().unwrap();
    if let Some(dir) = std::env::var_os("GLMAE_REPORT_OUT") {
        picture.save(Path::new(&dir).join("panel.png")).unwrap();
        overlay.save(Path::new(&dir).join("labels.png")).unwrap();
    }
    // Below the diaphragm there is no air-filled lung: the coronal picture is denser at its bottom.
    let coronal = Plane::Coronal.cut(&input, shape, shape[1] / 2, Convention::Radiological);
    let quarter = coronal.len() / 4;
    let air = |part: &[f32]| part.iter().filter(|v| **v < -500.0).count();
    let (above, below) = (air(&coronal[..quarter]), air(&coronal[3 * quarter..]));
    assert!(above > 10 * below, "{above} voxels of air above, {below} below");
    // The descending aorta (labels 1 and 2, lumina of a dissection) runs left of the spine: in
    // the right half of a radiological picture, near its bottom.
    let (index, quarter) = (shape[2] / 2, shape[0] * shape[1] / 4);
    let labels = Plane::Axial.cut(&labels, shape, index, Convention::Radiological);
    let aorta = labels.iter().enumerate().skip(3 * quarter).filter(|(_, l)| matches!(l, 1 | 2));
    let columns: Vec<usize> = aorta.map(|(i, _)| i % shape[0]).collect();
    let mean = columns.iter().sum::<usize>() as f64 / columns.len() as f64;
    assert!(columns.len() > 50 && mean > 0.52 * shape[0] as f64, "mean column {mean}");
}
