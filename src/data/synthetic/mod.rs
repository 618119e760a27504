//! Synthetic CT-like scans of chest and upper abdomen, for a demo and for tests that need no
//! patient data: drawn anatomy with partial volume, texture and noise, in HU, with a label map.

mod anatomy;
mod tubes;

use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use self::anatomy::{Body, Organ};
use super::geometry::{Affine, Orientation};
use super::nifti::{Stored, write_volume};
use super::volume::Volume;
use crate::rng::{Purpose, Rng};
use crate::{Error, Result};

/// Names of the labels, by their value in the label map.
pub const LABELS: [&str; 10] = [
    "background",
    "lungs",
    "heart",
    "aorta",
    "liver",
    "spleen",
    "stomach",
    "right kidney",
    "left kidney",
    "spine",
];

/// Orientations the scans are stored in, in turn.
const STORED: [&str; 4] = ["LPS", "RAS", "LIA", "PSR"];

/// One scan and its labels, on the same grid.
#[derive(Clone, Debug, PartialEq)]
pub struct Synthetic {
    /// HU, whole numbers from -1024 to 3071.
    pub image: Volume,
    /// Indices of [`LABELS`].
    pub label: Volume,
}

/// Draws scan number `index` of the set `seed`: about 96 x 80 x 80 voxels (right-left, front-back,
/// top-bottom), 3.4 to 4.4 mm apart, stored in one of four orientations.
///
/// The same seed and index give the same bits everywhere.
///
/// Errors: none in practice; the [`Result`] is that of [`Volume::new`].
pub fn scan(seed: u64, index: u32) -> Result<Synthetic> {
    let mut rng = Rng::new(seed, Purpose::Synthetic, 0, index, 0);
    let body = Body::draw(&mut rng);
    let in_plane = rng.range(3.7, 4.1);
    let spacing = [in_plane, in_plane, rng.range(3.4, 4.4)];
    let dims = [92 + rng.below(9) as usize, 74 + rng.below(9) as usize, 74 + rng.below(9) as usize];
    let centre = dims.map(|n| (n as f64 - 1.0) / 2.0);
    let at = |i: [usize; 3]| [0, 1, 2].map(|a| (i[a] as f64 - centre[a]) * spacing[a]);

    let slice = dims[1] * dims[2];
    let mut hu = vec![0f32; dims[0] * slice];
    let mut organs = vec![Organ::Background; hu.len()];
    hu.par_chunks_mut(slice).zip(organs.par_chunks_mut(slice)).enumerate().for_each(
        |(x, (hu, organs))| {
            for (i, (hu, organ)) in hu.iter_mut().zip(organs).enumerate() {
                (*hu, *organ) = body.at(at([x, i / dims[2], i % dims[2]]));
            }
        },
    );
    for tube in body.tubes(&mut rng) {
        tube.paint(&mut hu, &organs, dims, spacing);
    }
    blur(&mut hu, dims, 0.18);
    let mut noise = vec![0f32; hu.len()];
    noise.par_chunks_mut(slice).enumerate().for_each(|(x, noise)| {
        let mut rng = Rng::new(seed, Purpose::Synthetic, 0, index, 1 + x as u32);
        noise.iter_mut().for_each(|v| *v = rng.normal() as f32);
    });
    // Reconstruction kernels correlate the noise of neighbours.
    blur(&mut noise, dims, 0.12);
    for (v, n) in hu.iter_mut().zip(&noise) {
        *v = (*v + 28.0 * n).round().clamp(-1024.0, 3071.0);
    }
    let labels: Vec<f32> = organs.iter().map(|&organ| f32::from(organ as u8)).collect();

    let name = STORED[index as usize % STORED.len()];
    let orientation = parse(name)?;
    let stored_dims = orientation.world_axis.map(|world| dims[world]);
    let affine = stored_affine(&orientation, dims, spacing);
    let volume = |ras: &[f32]| {
        let voxels = orientation.voxels_from_ras(ras, stored_dims)?;
        Volume::new(voxels, 1, stored_dims, affine, 1)
    };
    Ok(Synthetic { image: volume(&hu)?, label: volume(&labels)? })
}

/// Writes `count` scans as an MSD data set: `dataset.json`, `imagesTr/synthetic_000.nii.gz` (int16)
/// and `labelsTr/synthetic_000.nii.gz` (uint8). Returns the images.
///
/// Errors: [`Error::Io`]; [`Error::Config`] for no scans or more than 100000.
pub fn generate(folder: &Path, count: usize, seed: u64) -> Result<Vec<PathBuf>> {
    if !(1..=100_000).contains(&count) {
        return Err(Error::Config(format!("{count} synthetic scans; 1 to 100000 can be drawn")));
    }
    for sub in ["imagesTr", "labelsTr"] {
        let sub = folder.join(sub);
        fs::create_dir_all(&sub).map_err(Error::io(&sub, "create"))?;
    }
    let name = |i: usize| format!("synthetic_{i:03}.nii.gz");
    let images = (0..count)
        .into_par_iter()
        .map(|i| {
            let scan = scan(seed, i as u32)?;
            let image = folder.join("imagesTr").join(name(i));
            write_volume(&image, &scan.image, Stored::I16)?;
            write_volume(&folder.join("labelsTr").join(name(i)), &scan.label, Stored::U8)?;
            Ok(image)
        })
        .collect::<Result<Vec<_>>>()?;
    let training: Vec<_> = (0..count)
        .map(|i| {
            serde_json::json!({
                "image": format!("./imagesTr/{}", name(i)),
                "label": format!("./labelsTr/{}", name(i)),
            })
        })
        .collect();
    let labels: serde_json::Map<_, _> =
        LABELS.iter().enumerate().map(|(i, &name)| (i.to_string(), name.into())).collect();
    let manifest = serde_json::json!({
        "name": "Synthetic",
        "description": format!("CT-like scans drawn by glmae, seed {seed}; no patient"),
        "modality": {"0": "CT"},
        "labels": labels,
        "numTraining": count,
        "numTest": 0,
        "training": training,
        "test": [],
    });
    let path = folder.join("dataset.json");
    fs::write(&path, format!("{manifest:#}\n")).map_err(Error::io(&path, "write"))?;
    Ok(images)
}

fn parse(codes: &str) -> Result<Orientation> {
    let mut orientation = Orientation { world_axis: [0; 3], is_flipped: [false; 3] };
    for (axis, code) in codes.chars().take(3).enumerate() {
        let (world, flipped) = match code {
            'R' => (0, false),
            'L' => (0, true),
            'A' => (1, false),
            'P' => (1, true),
            'S' => (2, false),
            'I' => (2, true),
            _ => return Err(Error::Config(format!("{codes:?} names no orientation"))),
        };
        orientation.world_axis[axis] = world;
        orientation.is_flipped[axis] = flipped;
    }
    Ok(orientation)
}

/// The affine of the stored grid when the RAS grid is centred on the origin.
fn stored_affine(orientation: &Orientation, ras_dims: [usize; 3], spacing: [f64; 3]) -> Affine {
    let mut affine = [[0.0; 4]; 4];
    for axis in 0..3 {
        let world = orientation.world_axis[axis];
        let sign = if orientation.is_flipped[axis] { -1.0 } else { 1.0 };
        affine[world][axis] = sign * spacing[world];
        affine[world][3] = -sign * spacing[world] * (ras_dims[world] as f64 - 1.0) / 2.0;
    }
    affine[3][3] = 1.0;
    affine
}

/// Separable three-tap blur with weight `side` for each neighbour; edges repeat.
fn blur(data: &mut [f32], [nd, nh, nw]: [usize; 3], side: f32) {
    let mut line: Vec<f32> = Vec::new();
    for (n, stride) in [(nd, nh * nw), (nh, nw), (nw, 1)] {
        let blocks = (0..data.len()).step_by(n * stride);
        for start in blocks.flat_map(|block| block..block + stride) {
            line.clear();
            line.extend(data[start..].iter().step_by(stride).take(n).copied());
            for i in 0..n {
                let sides = line[i.saturating_sub(1)] + line[(i + 1).min(n - 1)];
                data[start + i * stride] = (1.0 - 2.0 * side) * line[i] + side * sides;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::{DiscoverOptions, discover};
    use super::super::prepare::{PrepareConfig, prepare};
    use super::*;

    /// HU of the organs must be what a radiologist expects, in every orientation.
    #[test]
    fn organs_have_plausible_sizes_and_densities() {
        let ranges = [
            ("lungs", 2000.0..7000.0, -900.0..-700.0),
            ("heart", 250.0..900.0, 40.0..200.0),
            ("aorta", 40.0..250.0, 40.0..250.0),
            ("liver", 700.0..2600.0, 50.0..140.0),
            ("spleen", 80.0..500.0, 60.0..160.0),
            ("stomach", 80.0..600.0, -400.0..60.0),
            ("right kidney", 60.0..350.0, 80.0..220.0),
            ("left kidney", 60.0..350.0, 80.0..220.0),
            ("spine", 150.0..900.0, 100.0..500.0),
        ];
        for index in 0..4 {
            let scan = scan(7, index).unwrap();
            assert_eq!(scan.image.orientation().unwrap().codes(), STORED[index as usize]);
            assert_eq!(scan.image.affine, scan.label.affine);
            let millilitres = scan.image.spacing_mm().iter().product::<f64>() / 1000.0;
            for (name, volumes, densities) in &ranges {
                let value = LABELS.iter().position(|l| l == name).unwrap() as f32;
                let hu: Vec<f64> = scan
                    .label
                    .data
                    .iter()
                    .zip(&scan.image.data)
                    .filter(|(l, _)| **l == value)
                    .map(|(_, v)| f64::from(*v))
                    .collect();
                let volume = hu.len() as f64 * millilitres;
                let mean = hu.iter().sum::<f64>() / hu.len() as f64;
                assert!(volumes.contains(&volume), "scan {index}, {name}: {volume} ml");
                assert!(densities.contains(&mean), "scan {index}, {name}: {mean} HU");
            }
        }
    }

    #[test]
    fn generated_sets_are_equal_and_load() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        for folder in &folders {
            generate(folder.path(), 2, 11).unwrap();
        }
        let read = |f: usize, name: &str| fs::read(folders[f].path().join(name)).unwrap();
        for name in
            ["dataset.json", "imagesTr/synthetic_001.nii.gz", "labelsTr/synthetic_000.nii.gz"]
        {
            assert_eq!(read(0, name), read(1, name), "{name}");
        }
        assert_ne!(scan(11, 0).unwrap(), scan(12, 0).unwrap());
        let source = discover(folders[0].path(), &DiscoverOptions::default()).unwrap();
        assert_eq!(source.cases.len(), 2);
        let config = PrepareConfig { min_size: [112; 3], ..PrepareConfig::default() };
        for case in &source.cases {
            assert_eq!(prepare(case, &config).unwrap().dims(), [112; 3]);
        }
    }
}
