//! Writes NIfTI-1 files, `.nii` or `.nii.gz`, little-endian, without scaling.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder};

use crate::data::geometry::{Affine, polar_rotation, spacing_mm};
use crate::data::volume::Volume;
use crate::{Error, Result};

/// The type voxels are stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Bit for bit what the volume holds.
    F32,
    /// Whole numbers from -32768 to 32767, such as HU; other values are an error.
    I16,
    /// Whole numbers from 0 to 255, such as labels; other values are an error.
    U8,
}

impl Stored {
    /// NIfTI datatype code and bits per voxel.
    fn codes(self) -> (i16, i16) {
        match self {
            Self::F32 => (16, 32),
            Self::I16 => (4, 16),
            Self::U8 => (2, 8),
        }
    }

    fn holds(self, value: f32) -> bool {
        match self {
            Self::F32 => true,
            Self::I16 => value.fract() == 0.0 && (-32768.0..=32767.0).contains(&value),
            Self::U8 => value.fract() == 0.0 && (0.0..=255.0).contains(&value),
        }
    }
}

/// Writes `volume` as NIfTI-1; several channels become the fourth axis.
///
/// The affine goes into the sform and, when it has no shear, into the qform, rounded to f32. The
/// file is gzipped when its name ends in `.gz` (no time stamp: equal volumes give equal bytes). It
/// is written under a temporary name beside `path`, synced and renamed, so `path` never holds half
/// a file.
///
/// Errors: [`Error::Unsupported`] for an axis longer than 32767 voxels, for values `stored` cannot
/// hold, and for other file endings; [`Error::Io`].
pub fn write_volume(path: &Path, volume: &Volume, stored: Stored) -> Result<()> {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let gzip = name.ends_with(".nii.gz");
    if !gzip && !name.ends_with(".nii") {
        return Err(Error::Unsupported(format!(
            "{}: volumes are written as .nii or .nii.gz",
            path.display()
        )));
    }
    if let Some(value) = volume.data.iter().find(|&&v| !stored.holds(v)) {
        return Err(Error::Unsupported(format!(
            "{}: the value {value} cannot be stored as {stored:?}",
            path.display()
        )));
    }
    let header = header_bytes(volume, stored).ok_or_else(|| {
        Error::Unsupported(format!(
            "{}: {} channels of {:?} voxels do not fit NIfTI-1, whose axes end at 32767",
            path.display(),
            volume.channels,
            volume.dims
        ))
    })?;
    let temporary = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    let written = write_file(&temporary, gzip, &header, volume, stored)
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| sync_folder(path));
    written.map_err(|source| {
        // The first error is the one to report.
        let _ = fs::remove_file(&temporary);
        Error::Io { path: path.to_owned(), action: "write", source }
    })
}

fn write_file(
    path: &PathBuf,
    gzip: bool,
    header: &[u8],
    volume: &Volume,
    stored: Stored,
) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    if gzip {
        let mut encoder = GzBuilder::new().mtime(0).write(&mut file, Compression::new(4));
        write_body(&mut encoder, header, volume, stored)?;
        encoder.finish()?;
    } else {
        write_body(&mut file, header, volume, stored)?;
    }
    file.into_inner().map_err(|e| e.into_error())?.sync_all()
}

/// Header, then voxels with the first axis fastest.
fn write_body(
    out: &mut impl Write,
    header: &[u8],
    volume: &Volume,
    stored: Stored,
) -> io::Result<()> {
    out.write_all(header)?;
    let [nd, nh, nw] = volume.dims;
    let mut row = Vec::with_capacity(4 * nd);
    for channel in volume.data.chunks_exact(nd * nh * nw) {
        for w in 0..nw {
            for h in 0..nh {
                row.clear();
                for &v in channel.iter().skip(h * nw + w).step_by(nh * nw) {
                    match stored {
                        Stored::F32 => row.extend_from_slice(&v.to_le_bytes()),
                        Stored::I16 => row.extend_from_slice(&(v as i16).to_le_bytes()),
                        Stored::U8 => row.push(v as u8),
                    }
                }
                out.write_all(&row)?;
            }
        }
    }
    Ok(())
}

/// Makes the rename durable. Folders cannot be opened everywhere; then there is nothing to sync.
fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent().map(|p| if p.as_os_str().is_empty() { Path::new(".") } else { p }) {
        Some(folder) if cfg!(unix) => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

/// 348 header bytes and four zeros (no extensions). `None` when an axis is too long.
fn header_bytes(volume: &Volume, stored: Stored) -> Option<[u8; 352]> {
    let mut h = [0u8; 352];
    let mut put = |at: usize, bytes: &[u8]| h[at..at + bytes.len()].copy_from_slice(bytes);
    let (datatype, bitpix) = stored.codes();
    put(0, &348i32.to_le_bytes());
    // Obsolete, but ANALYZE readers look for it.
    put(38, b"r");
    let axes = if volume.channels > 1 { 4 } else { 3 };
    put(40, &(axes as i16).to_le_bytes());
    for at in 1..=7 {
        let n = match at {
            1..=3 => volume.dims[at - 1],
            4 => volume.channels,
            _ => 1,
        };
        put(40 + 2 * at, &i16::try_from(n).ok()?.to_le_bytes());
    }
    put(70, &datatype.to_le_bytes());
    put(72, &bitpix.to_le_bytes());

    let form = qform(&volume.affine);
    let qfac = form.map_or(1.0, |(_, qfac)| qfac);
    let [sd, sh, sw] = spacing_mm(&volume.affine);
    for (at, mm) in [qfac, sd, sh, sw, 1.0].into_iter().enumerate() {
        put(76 + 4 * at, &(mm as f32).to_le_bytes());
    }
    put(108, &352f32.to_le_bytes());
    put(112, &1f32.to_le_bytes());
    // Millimetres and seconds.
    put(123, &[2 | 8]);
    // A space nobody named is "aligned", as in nibabel.
    let code = if (1..=5).contains(&volume.space_code) { volume.space_code } else { 2 };
    if let Some((bcd, _)) = form {
        put(252, &code.to_le_bytes());
        for r in 0..3 {
            put(256 + 4 * r, &(bcd[r] as f32).to_le_bytes());
            put(268 + 4 * r, &(volume.affine[r][3] as f32).to_le_bytes());
        }
    }
    put(254, &code.to_le_bytes());
    for r in 0..3 {
        for c in 0..4 {
            put(280 + 16 * r + 4 * c, &(volume.affine[r][c] as f32).to_le_bytes());
        }
    }
    put(344, b"n+1\0");
    Some(h)
}

/// Quaternion `(b, c, d)` and qfac of an affine without shear, by the formulas of `nifti1_io.c`.
fn qform(affine: &Affine) -> Option<([f64; 3], f64)> {
    let mm = spacing_mm(affine);
    let mut m = polar_rotation(affine)?;
    for r in 0..3 {
        for c in 0..3 {
            if (affine[r][c] / mm[c] - m[r][c]).abs() > 1e-4 {
                return None;
            }
        }
    }
    let det = m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1])
        - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0])
        + m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0]);
    let qfac = if det < 0.0 { -1.0 } else { 1.0 };
    for row in &mut m {
        row[2] *= qfac;
    }
    let (xx, yy, zz) = (m[0][0], m[1][1], m[2][2]);
    // Four times the square of each component; the largest is the safe one to divide by.
    let four = [1.0 + xx + yy + zz, 1.0 + xx - yy - zz, 1.0 - xx + yy - zz, 1.0 - xx - yy + zz];
    let largest = (0..4).fold(0, |best, i| if four[i] > four[best] { i } else { best });
    let root = 2.0 * four[largest].sqrt();
    let [a, b, c, d] = match largest {
        0 => [four[0], m[2][1] - m[1][2], m[0][2] - m[2][0], m[1][0] - m[0][1]],
        1 => [m[2][1] - m[1][2], four[1], m[0][1] + m[1][0], m[0][2] + m[2][0]],
        2 => [m[0][2] - m[2][0], m[0][1] + m[1][0], four[2], m[1][2] + m[2][1]],
        _ => [m[1][0] - m[0][1], m[0][2] + m[2][0], m[1][2] + m[2][1], four[3]],
    };
    let sign = if a < 0.0 { -1.0 } else { 1.0 };
    Some(([b, c, d].map(|q| sign * q / root), qfac))
}

#[cfg(test)]
mod tests {
    use super::super::{Channels, Limits, ReadOptions, read_header, read_volume};
    use super::*;
    use crate::rng::{Purpose, Rng};

    fn random_volume(channels: usize, dims: [usize; 3], whole: bool) -> Volume {
        let mut rng = Rng::new(1, Purpose::Test, 0, 0, 0);
        let n = channels * dims.iter().product::<usize>();
        let value = |rng: &mut Rng| match whole {
            true => rng.below(256) as f32,
            false => rng.normal() as f32,
        };
        let data = (0..n).map(|_| value(&mut rng)).collect();
        let affine = [
            [0.0, -1.5, 0.0, 10.0],
            [0.75, 0.0, 0.0, -20.5],
            [0.0, 0.0, 3.0, 4.25],
            [0.0, 0.0, 0.0, 1.0],
        ];
        Volume::new(data, channels, dims, affine, 1).unwrap()
    }

    #[test]
    fn reads_back_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let options = ReadOptions { channels: Channels::UpTo(3), ..ReadOptions::default() };
        for (name, stored, channels) in [
            ("a.nii", Stored::F32, 1),
            ("b.nii.gz", Stored::F32, 3),
            ("c.nii.gz", Stored::I16, 1),
            ("d.nii", Stored::U8, 2),
        ] {
            let path = folder.path().join(name);
            let mut volume = random_volume(channels, [5, 18, 37], stored != Stored::F32);
            if stored == Stored::F32 {
                volume.data[7] = f32::INFINITY;
            }
            write_volume(&path, &volume, stored).unwrap();
            assert_eq!(read_volume(&path, &options).unwrap(), volume, "{name}");
        }
        // No temporary file is left.
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4);
    }

    #[test]
    fn values_that_do_not_fit_are_refused_and_leave_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let volume = random_volume(1, [2, 3, 4], false);
        for stored in [Stored::I16, Stored::U8] {
            let error = write_volume(&folder.path().join("x.nii"), &volume, stored).unwrap_err();
            assert!(matches!(error, Error::Unsupported(_)), "{error}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    /// With the sform switched off the reader falls back to the qform: both must be the affine.
    #[test]
    fn qform_equals_sform_for_rotations_of_both_hands() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("q.nii");
        let mut rng = Rng::new(3, Purpose::Test, 0, 0, 0);
        let mut exact = 0;
        for case in 0..50 {
            let mut volume = random_volume(1, [2, 2, 2], true);
            let raw = [[0; 4]; 4].map(|row: [i32; 4]| row.map(|_| rng.normal()));
            let rotation = polar_rotation(&raw).unwrap();
            for r in 0..3 {
                for (c, mm) in [0.7, 1.3, 5.0].into_iter().enumerate() {
                    volume.affine[r][c] = rotation[r][c] * mm;
                }
            }
            write_volume(&path, &volume, Stored::U8).unwrap();
            let mut bytes = fs::read(&path).unwrap();
            bytes[254] = 0;
            fs::write(&path, bytes).unwrap();
            let header = read_header(&path, &Limits::default()).unwrap();
            let pairs = header.affine.iter().flatten().zip(volume.affine.iter().flatten());
            let worst = pairs.map(|(got, want)| (got - want).abs()).fold(0.0, f64::max);
            // The format stores three components in f32 and takes the first from their length:
            // near half turns that loses half of the digits, for every writer.
            assert!(worst < 5e-3, "case {case}: off by {worst}");
            exact += usize::from(worst < 1e-5);
        }
        assert!(exact > 40, "only {exact} of 50 are exact to f32");
    }
}
