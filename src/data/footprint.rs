//! What prepared cases take in memory, from their headers alone.

use super::geometry::{Orientation, spacing_mm};
use super::layout::Case;
use super::nifti::{Header, read_header};
use super::prepare::PrepareConfig;
use super::resample::Resample;

/// Bytes of prepared cases, before the foreground is cut out: at most that much is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Of the cases that were looked at.
    pub total: u64,
    /// Of the largest of them.
    pub largest: u64,
    /// Cases that were looked at.
    pub cases: usize,
}

/// Reads headers in the order of `cases`: of `few` at least, and until their volumes take `enough` bytes,
/// which is what a cache can hold at most: a large set need not be read to its end. `more_per_voxel` bytes
/// come to those of the channels: 1 for labels. Files that cannot be read count nothing; the loader names
/// them.
pub fn footprint(
    cases: &[Case],
    config: &PrepareConfig,
    more_per_voxel: u64,
    few: usize,
    enough: u64,
) -> Footprint {
    let per_voxel = 4 * config.channels as u64 + more_per_voxel;
    let mut found = Footprint::default();
    for case in cases {
        if found.cases >= few && found.total >= enough {
            break;
        }
        let header = case.images.first().and_then(|p| read_header(p, &config.limits).ok());
        let bytes = header.map_or(0, |h| voxels(&h, config).saturating_mul(per_voxel));
        found.total = found.total.saturating_add(bytes);
        found.largest = found.largest.max(bytes);
        found.cases += 1;
    }
    found
}

/// Sizes `d h w` of a case that is prepared with `config`, in voxels, before the foreground is cut out: on no
/// axis is it larger. From its first header; `None` for a file that cannot be read or turned, which
/// [`super::prepare()`] names.
pub fn prepared_dims(case: &Case, config: &PrepareConfig) -> Option<[usize; 3]> {
    let header = read_header(case.images.first()?, &config.limits).ok()?;
    let turned = Orientation::from_affine(&header.affine).ok()?;
    let dims = turned.ras_dims(header.spatial_dims());
    let dims = match config.spacing_mm {
        None => dims,
        Some(spacing) => {
            let affine = turned.ras_affine(&header.affine, header.spatial_dims());
            Resample::to_spacing(dims, &affine, spacing).ok()?.to_dims
        }
    };
    Some([0, 1, 2].map(|a| dims[a].max(config.min_size[a])))
}

/// Voxels of a channel at the spacing of `config`, padded.
fn voxels(header: &Header, config: &PrepareConfig) -> u64 {
    let dims = header.spatial_dims().map(|n| n as f64);
    let scale = match config.spacing_mm {
        None => 1.0,
        Some(to) => {
            let from = spacing_mm(&header.affine);
            (0..3).map(|a| from[a] / to[a]).product()
        }
    };
    let least: f64 = config.min_size.iter().map(|&n| n as f64).product();
    (dims.iter().product::<f64>() * scale).max(least).ceil() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::intensity::Intensity;
    use crate::data::nifti::{Stored, write_volume};
    use crate::data::{Volume, prepare};

    #[test]
    fn headers_tell_what_cases_take() {
        let dir = tempfile::tempdir().unwrap();
        let case = |name: &str, n: usize| {
            let path = dir.path().join(name);
            let mut affine = [[0.0; 4]; 4];
            (0..4).for_each(|a| affine[a][a] = if a < 3 { 2.0 } else { 1.0 });
            let data = (0..n * n * n).map(|i| i as f32).collect();
            let volume = Volume::new(data, 1, [n; 3], affine, 1).unwrap();
            write_volume(&path, &volume, Stored::F32).unwrap();
            Case { id: name.to_owned(), images: vec![path], label: None }
        };
        let gone = dir.path().join("gone.nii");
        let gone = Case { id: "gone".into(), images: vec![gone], label: None };
        let cases = [case("a.nii", 4), gone, case("b.nii", 8), case("c.nii", 2)];
        let config = PrepareConfig::default();
        let all = footprint(&cases, &config, 1, 0, u64::MAX);
        assert_eq!(all, Footprint { total: 5 * (64 + 512 + 8), largest: 5 * 512, cases: 4 });
        assert_eq!(footprint(&cases, &config, 0, 0, 300).cases, 3);
        assert_eq!(footprint(&cases, &config, 0, 4, 300).cases, 4);
        assert_eq!(footprint(&cases, &config, 0, 0, 0).cases, 0);
        let fine = PrepareConfig { spacing_mm: Some([1.0, 2.0, 2.0]), ..config };
        assert_eq!(footprint(&cases, &fine, 0, 0, u64::MAX).largest, 4 * 1024);
        // As they are prepared.
        let sizes =
            |config: &PrepareConfig| cases.each_ref().map(|case| prepared_dims(case, config));
        assert_eq!(sizes(&config), [Some([4; 3]), None, Some([8; 3]), Some([2; 3])]);
        let fine = PrepareConfig { min_size: [1, 5, 1], foreground_threshold: None, ..fine };
        assert_eq!(sizes(&fine)[0], Some([7, 5, 4]));
        let fine = PrepareConfig { intensity: Intensity::Identity, ..fine };
        assert_eq!(prepare(&cases[0], &fine).unwrap().dims(), [7, 5, 4]);
        let padded = PrepareConfig { min_size: [16; 3], ..config };
        assert_eq!(footprint(&cases[..1], &padded, 0, 1, u64::MAX).total, 4 * 4096);
    }
}
