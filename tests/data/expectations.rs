//! Every shared volume equals what nibabel reads, or is refused with a reason. The table is made by
//! `scripts/make-odd-expectations.py`.

use std::collections::BTreeMap;

use flate2::Crc;
use glmae::data::geometry::to_ras;
use glmae::data::{Channels, ReadOptions, Volume, read_volume};
use serde::Deserialize;

use super::shared_data;

#[derive(Deserialize)]
#[serde(untagged)]
enum Expected {
    Refused {
        refused: String,
    },
    Read {
        shape: [usize; 4],
        codes: String,
        crc32: u32,
        affine: Option<Box<[[f64; 4]; 4]>>,
        sum: Option<f64>,
        min: Option<f64>,
        max: Option<f64>,
    },
}

fn table() -> BTreeMap<String, Expected> {
    serde_json::from_str(include_str!("expectations.json")).unwrap()
}

const OPTIONS: ReadOptions = ReadOptions {
    channels: Channels::UpTo(64),
    limits: glmae::data::ReadLimits {
        max_voxels: 1 << 31,
        max_gz_ratio: 200,
        gz_free_bytes: 64 << 20,
        max_extension_bytes: 1 << 20,
    },
};

fn crc32(volume: &Volume) -> u32 {
    let mut crc = Crc::new();
    for v in &volume.data {
        crc.update(&v.to_le_bytes());
    }
    crc.sum()
}

/// What differs from the expectation, if anything.
fn difference(volume: &Volume, expected: &Expected) -> Option<String> {
    let Expected::Read { shape, codes, crc32: crc, affine, sum, min, max } = expected else {
        return Some("nibabel refuses it, we read it".to_owned());
    };
    let [d, h, w] = volume.dims;
    if [volume.channels, d, h, w] != *shape {
        return Some(format!("shape {:?}, nibabel {shape:?}", [volume.channels, d, h, w]));
    }
    if volume.orientation().unwrap().codes() != *codes {
        return Some(format!("axes {}, nibabel {codes}", volume.orientation().unwrap().codes()));
    }
    if let Some(affine) = affine {
        let pairs = volume.affine.iter().flatten().zip(affine.iter().flatten());
        let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        if worst > 1e-6 {
            return Some(format!("affine off by {worst}"));
        }
    }
    // Before the checksum: these say more when something is wrong.
    let values = || volume.data.iter().map(|&v| f64::from(v));
    for (name, got, want) in [
        ("sum", values().sum::<f64>(), sum),
        ("min", values().fold(f64::INFINITY, f64::min), min),
        ("max", values().fold(f64::NEG_INFINITY, f64::max), max),
    ] {
        if let Some(want) = want
            && (got - want).abs() > 1e-9 * want.abs().max(1.0)
        {
            return Some(format!("{name} {got}, nibabel {want}"));
        }
    }
    (crc32(volume) != *crc).then(|| "voxels differ".to_owned())
}

/// Reads every file of the table under one of `parts` and returns what went wrong; prints verdicts
/// when `print`.
fn verdicts(test: &str, parts: &[&str], print: bool) -> Option<(usize, Vec<String>)> {
    let shared = shared_data(test)?;
    let (mut count, mut wrong) = (0, Vec::new());
    for (name, expected) in table() {
        if !parts.iter().any(|part| name.starts_with(part)) {
            continue;
        }
        count += 1;
        let verdict = match (read_volume(&shared.join(&name), &OPTIONS), &expected) {
            (Ok(volume), expected) => match difference(&volume, expected) {
                None => format!("equal    {:?} x {}", volume.dims, volume.channels),
                Some(what) => {
                    wrong.push(format!("{name}: {what}"));
                    format!("WRONG    {what}")
                }
            },
            (Err(error), Expected::Refused { refused }) => {
                let reason = error.to_string();
                let reason = reason.rsplit_once(&name).map_or(&*reason, |(_, why)| why);
                assert!(matches!(error, glmae::Error::Data { .. }), "{name}: {error:?}");
                format!("refused {reason}   [nibabel: {refused}]")
            }
            (Err(error), Expected::Read { .. }) => {
                wrong.push(format!("{name}: {error}"));
                format!("WRONG    {error}")
            }
        };
        if print {
            println!("{name:44} {verdict}");
        }
    }
    Some((count, wrong))
}

#[test]
fn odd_files_are_read_as_nibabel_reads_them_or_refused() {
    let Some((count, wrong)) = verdicts("odd files", &["odd/"], true) else { return };
    assert!(wrong.is_empty(), "{wrong:#?}");
    // 31 files, two of which are one pair.
    assert_eq!(count, 30);
    let Some(shared) = shared_data("the pair by its second name") else { return };
    let pair = |name: &str| read_volume(&shared.join("odd").join(name), &OPTIONS).unwrap();
    assert_eq!(pair("niftirs_pair.img"), pair("niftirs_pair.hdr"));
}

#[test]
fn real_volumes_equal_nibabel() {
    let parts = ["ct/", "mri/", "hippocampus/"];
    let Some((count, wrong)) = verdicts("real volumes", &parts, false) else { return };
    println!("{count} volumes, {} differ", wrong.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(count > 400);
}

/// One brain stored in five axis orders: after turning to RAS all voxels and affines agree.
#[test]
fn five_axis_orders_become_one() {
    let Some(shared) = shared_data("axis orders") else { return };
    let ras = |codes: &str| {
        let path = shared.join(format!("odd/niivue_space_{codes}.nii.gz"));
        let volume = read_volume(&path, &OPTIONS).unwrap();
        assert_eq!(volume.orientation().unwrap().codes(), codes);
        let (dims, data) = (volume.dims, volume.data.clone());
        let (turned, orientation) = to_ras(volume).unwrap();
        assert!(orientation.voxels_from_ras(&turned.data, dims).unwrap() == data);
        turned
    };
    let reference = ras("RAS");
    for codes in ["LPI", "ASL", "SAR", "IPR"] {
        let other = ras(codes);
        assert_eq!(other.dims, reference.dims, "{codes}");
        assert!(other.data == reference.data, "{codes}: voxels differ");
        let pairs = other.affine.iter().flatten().zip(reference.affine.iter().flatten());
        let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(worst < 1e-4, "{codes}: affine off by {worst} mm");
    }
}
