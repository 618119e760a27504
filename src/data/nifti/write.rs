//! Writes NIfTI-1 files, `.nii` or `.nii.gz`, little-endian, without scaling.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder};

use super::header::Placement;
use crate::data::geometry::{Affine, polar_rotation, spacing_mm};
use crate::data::text::readable;
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

    /// Appends the stored form of a value that it holds.
    fn put(self, value: f32, bytes: &mut Vec<u8>) {
        match self {
            Self::F32 => bytes.extend_from_slice(&value.to_le_bytes()),
            Self::I16 => bytes.extend_from_slice(&(value as i16).to_le_bytes()),
            Self::U8 => bytes.push(value as u8),
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

/// Where the voxels of a file lie: all of a [`Volume`] but its values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Frame {
    pub dims: [usize; 3],
    pub affine: Affine,
    pub space_code: i16,
    /// Of a file on the same grid, whose header is repeated; absent: made of the affine.
    pub placement: Option<Placement>,
}

impl Frame {
    fn of(volume: &Volume) -> Self {
        let Volume { dims, affine, space_code, .. } = *volume;
        Self { dims, affine, space_code, placement: None }
    }

    /// The error of a number of values that is not one per voxel.
    fn expect(&self, len: usize) -> Result<()> {
        let count = self.dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        match count == Some(len) && len > 0 {
            true => Ok(()),
            false => Err(Error::shape(
                "write",
                format!("{:?} values, none of them zero", self.dims),
                format!("{len} values"),
            )),
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
    check_values(path, &volume.data, stored)?;
    let frame = Frame::of(volume);
    let count = volume.voxels_per_channel();
    write(path, &frame, volume.channels, stored, &mut |out| {
        for channel in volume.data.chunks_exact(count) {
            write_channel(out, frame.dims, channel, |v, bytes| stored.put(v, bytes))?;
        }
        Ok(())
    })
}

/// Writes a label map `[d, h, w]` as unsigned bytes; else as [`write_volume`].
///
/// Errors: as [`write_volume`]; [`Error::Shape`] when there is not one label per voxel.
pub fn write_labels(path: &Path, labels: &[u8], frame: &Frame) -> Result<()> {
    frame.expect(labels.len())?;
    write(path, frame, 1, Stored::U8, &mut |out| {
        write_channel(out, frame.dims, labels, |v, bytes| bytes.push(v))
    })
}

/// Writes a volume of `channels` that are made one at a time: `channel(c)` gives `[d, h, w]`. Else as
/// [`write_volume`].
///
/// Errors: as [`write_volume`]; [`Error::Shape`] when a channel has not one value per voxel; what
/// `channel` returns.
pub fn write_channels(
    path: &Path,
    frame: &Frame,
    channels: usize,
    stored: Stored,
    channel: &mut dyn FnMut(usize) -> Result<Vec<f32>>,
) -> Result<()> {
    write(path, frame, channels, stored, &mut |out| {
        for c in 0..channels {
            let values = channel(c)?;
            frame.expect(values.len())?;
            check_values(path, &values, stored)?;
            write_channel(out, frame.dims, &values, |v, bytes| stored.put(v, bytes))?;
        }
        Ok(())
    })
}

fn check_values(path: &Path, values: &[f32], stored: Stored) -> Result<()> {
    match values.iter().find(|&&v| !stored.holds(v)) {
        None => Ok(()),
        Some(value) => Err(Error::Unsupported(format!(
            "{}: the value {value} cannot be stored as {stored:?}",
            path.display()
        ))),
    }
}

/// What goes wrong while a file is written: the disk, or what makes the voxels.
enum Failure {
    Disk(io::Error),
    Source(Error),
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        Self::Disk(e)
    }
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Self::Source(e)
    }
}

type Body<'a> = &'a mut dyn FnMut(&mut dyn Write) -> std::result::Result<(), Failure>;

fn write(path: &Path, frame: &Frame, channels: usize, stored: Stored, body: Body) -> Result<()> {
    let name = readable(path.file_name().unwrap_or_default());
    let gzip = name.ends_with(".nii.gz");
    if !gzip && !name.ends_with(".nii") {
        return Err(Error::Unsupported(format!(
            "{}: volumes are written as .nii or .nii.gz",
            path.display()
        )));
    }
    let header = header_bytes(frame, channels, stored).ok_or_else(|| {
        Error::Unsupported(format!(
            "{}: {channels} channels of {:?} voxels do not fit NIfTI-1, whose axes end at 32767",
            path.display(),
            frame.dims
        ))
    })?;
    let temporary = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    let written = write_file(&temporary, gzip, &header, body).and_then(|()| {
        fs::rename(&temporary, path)?;
        Ok(sync_folder(path)?)
    });
    written.map_err(|failure| {
        // The first error is the one to report.
        let _ = fs::remove_file(&temporary);
        match failure {
            Failure::Disk(source) => Error::Io { path: path.to_owned(), action: "write", source },
            Failure::Source(error) => error,
        }
    })
}

fn write_file(
    path: &PathBuf,
    gzip: bool,
    header: &[u8],
    body: Body,
) -> std::result::Result<(), Failure> {
    let mut file = BufWriter::new(File::create(path)?);
    if gzip {
        let mut encoder = GzBuilder::new().mtime(0).write(&mut file, Compression::new(4));
        encoder.write_all(header)?;
        body(&mut encoder)?;
        encoder.finish()?;
    } else {
        file.write_all(header)?;
        body(&mut file)?;
    }
    Ok(file.into_inner().map_err(|e| e.into_error())?.sync_all()?)
}

/// The voxels of a channel with the first axis fastest.
fn write_channel<T: Copy>(
    out: &mut dyn Write,
    [nd, nh, nw]: [usize; 3],
    channel: &[T],
    put: impl Fn(T, &mut Vec<u8>),
) -> std::result::Result<(), Failure> {
    let mut row = Vec::with_capacity(4 * nd);
    for w in 0..nw {
        for h in 0..nh {
            row.clear();
            for &v in channel.iter().skip(h * nw + w).step_by(nh * nw) {
                put(v, &mut row);
            }
            out.write_all(&row)?;
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
fn header_bytes(frame: &Frame, channels: usize, stored: Stored) -> Option<[u8; 352]> {
    let mut h = [0u8; 352];
    let mut put = |at: usize, bytes: &[u8]| h[at..at + bytes.len()].copy_from_slice(bytes);
    let (datatype, bitpix) = stored.codes();
    put(0, &348i32.to_le_bytes());
    // Obsolete, but ANALYZE readers look for it.
    put(38, b"r");
    let axes = if channels > 1 { 4 } else { 3 };
    put(40, &(axes as i16).to_le_bytes());
    for at in 1..=7 {
        let n = match at {
            1..=3 => frame.dims[at - 1],
            4 => channels,
            _ => 1,
        };
        put(40 + 2 * at, &i16::try_from(n).ok()?.to_le_bytes());
    }
    put(70, &datatype.to_le_bytes());
    put(72, &bitpix.to_le_bytes());

    let place = frame.placement.unwrap_or_else(|| placement(frame));
    let mut put_floats = |at: usize, values: &[f64]| {
        for (i, &v) in values.iter().enumerate() {
            put(at + 4 * i, &(v as f32).to_le_bytes());
        }
    };
    put_floats(76, &place.pixdim);
    put_floats(92, &[1.0]);
    put_floats(108, &[352.0, 1.0]);
    put_floats(256, &place.qform);
    for (r, row) in place.sform.iter().enumerate() {
        put_floats(280 + 16 * r, row);
    }
    put(123, &[place.units]);
    put(252, &place.qform_code.to_le_bytes());
    put(254, &place.sform_code.to_le_bytes());
    put(344, b"n+1\0");
    Some(h)
}

/// Where an affine puts the voxels: in the sform, and in the qform when it has no shear.
fn placement(frame: &Frame) -> Placement {
    let affine = &frame.affine;
    let form = qform(affine);
    let [sd, sh, sw] = spacing_mm(affine);
    // A space without a code counts as "aligned", as in nibabel.
    let code = if (1..=5).contains(&frame.space_code) { frame.space_code } else { 2 };
    let mut placed = Placement {
        qform_code: 0,
        sform_code: code,
        pixdim: [1.0, sd, sh, sw],
        qform: [0.0; 6],
        sform: [affine[0], affine[1], affine[2]],
        // Millimetres and seconds.
        units: 2 | 8,
    };
    if let Some(([b, c, d], qfac)) = form {
        placed.qform_code = code;
        placed.pixdim[0] = qfac;
        placed.qform = [b, c, d, affine[0][3], affine[1][3], affine[2][3]];
    }
    placed
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
    use super::super::{Channels, ReadLimits, ReadOptions, read_header, read_volume};
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

    /// Labels as bytes and channels made one by one are the same files.
    #[test]
    fn every_writer_writes_the_same_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let volume = random_volume(1, [5, 18, 7], true);
        let frame = Frame::of(&volume);
        let labels: Vec<u8> = volume.data.iter().map(|&v| v as u8).collect();
        write_volume(&path("a.nii"), &volume, Stored::U8).unwrap();
        write_labels(&path("b.nii"), &labels, &frame).unwrap();
        assert!(fs::read(path("a.nii")).unwrap() == fs::read(path("b.nii")).unwrap());
        assert!(write_labels(&path("c.nii"), &labels[1..], &frame).is_err());

        let volume = random_volume(3, [5, 18, 7], false);
        let channel = |c: usize| volume.data[c * 630..][..630].to_vec();
        write_volume(&path("d.nii.gz"), &volume, Stored::F32).unwrap();
        write_channels(&path("e.nii.gz"), &frame, 3, Stored::F32, &mut |c| Ok(channel(c))).unwrap();
        assert!(fs::read(path("d.nii.gz")).unwrap() == fs::read(path("e.nii.gz")).unwrap());
        let failed = &mut |c: usize| match c {
            0 => Ok(channel(0)),
            _ => Err(Error::NotFinite("a channel".into())),
        };
        let error = write_channels(&path("f.nii"), &frame, 3, Stored::F32, failed).unwrap_err();
        assert!(matches!(error, Error::NotFinite(_)), "{error}");
        let short = &mut |_| Ok(vec![0.0; 629]);
        assert!(write_channels(&path("f.nii"), &frame, 1, Stored::F32, short).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4);
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
            let header = read_header(&path, &ReadLimits::default()).unwrap();
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
