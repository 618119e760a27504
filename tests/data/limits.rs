//! Files made byte by byte: every stored type, both byte orders, both versions, offsets, gzip in
//! several members, and whatever must be refused.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use flate2::{Compression, write::GzEncoder};
use glmae::data::{Channels, ReadLimits, ReadOptions, Volume, read_volume};

/// A NIfTI file in the making. Fields are written at their offsets by the caller.
#[derive(Clone)]
pub struct Raw {
    pub bytes: Vec<u8>,
    big: bool,
    two: bool,
}

impl Raw {
    /// Header of `dims` and datatype `code`, `vox_offset` right behind it, spacing 1, no forms.
    pub fn new(two: bool, big: bool, dims: &[i64], code: i16, bits: i16) -> Self {
        let size = if two { 540 } else { 348 };
        let mut raw = Self { bytes: vec![0; size + 4], big, two };
        raw.put(0, &(size as i32).to_le_bytes());
        raw.dim(0, dims.len() as i64);
        for i in 1..8 {
            raw.dim(i, dims.get(i - 1).copied().unwrap_or(1));
            raw.float(76 + 4 * i, 104 + 8 * i, 1.0);
        }
        raw.put(if two { 12 } else { 70 }, &code.to_le_bytes());
        raw.put(if two { 14 } else { 72 }, &bits.to_le_bytes());
        raw.offset(size as f64 + 4.0);
        raw.magic(if two { b"n+2\0" } else { b"n+1\0" });
        raw
    }

    pub fn magic(&mut self, magic: &[u8; 4]) {
        let at = if self.two { 4 } else { 344 };
        self.bytes[at..at + 4].copy_from_slice(magic);
    }

    /// Little-endian bytes, turned round for a big-endian file.
    pub fn put(&mut self, at: usize, le: &[u8]) {
        let mut field = le.to_vec();
        if self.big {
            field.reverse();
        }
        self.bytes[at..at + field.len()].copy_from_slice(&field);
    }

    pub fn dim(&mut self, i: usize, n: i64) {
        match self.two {
            true => self.put(16 + 8 * i, &n.to_le_bytes()),
            false => self.put(40 + 2 * i, &(n as i16).to_le_bytes()),
        }
    }

    pub fn float(&mut self, at1: usize, at2: usize, value: f64) {
        match self.two {
            true => self.put(at2, &value.to_le_bytes()),
            false => self.put(at1, &(value as f32).to_le_bytes()),
        }
    }

    pub fn offset(&mut self, offset: f64) {
        match self.two {
            true => self.put(168, &(offset as i64).to_le_bytes()),
            false => self.put(108, &(offset as f32).to_le_bytes()),
        }
    }

    pub fn form_codes(&mut self, qform: i32, sform: i32) {
        for (at1, at2, code) in [(252, 344, qform), (254, 348, sform)] {
            match self.two {
                true => self.put(at2, &code.to_le_bytes()),
                false => self.put(at1, &(code as i16).to_le_bytes()),
            }
        }
    }

    pub fn voxel(&mut self, le: &[u8]) {
        let at = self.bytes.len();
        self.bytes.resize(at + le.len(), 0);
        self.put(at, le);
    }
}

/// 2x3x2 voxels 0, 1, .. 11 of uint8.
pub fn small(two: bool, big: bool) -> Raw {
    let mut raw = Raw::new(two, big, &[2, 3, 2], 2, 8);
    raw.bytes.extend(0..12);
    raw
}

/// What [`small`] holds, in our order.
const SMALL: [f32; 12] = [0., 6., 2., 8., 4., 10., 1., 7., 3., 9., 5., 11.];

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn read(&self, raw: &Raw) -> Result<Volume, String> {
        read(&self.write("x.nii", &raw.bytes))
    }

    fn refused(&self, raw: &Raw, why: &str) {
        let error = self.read(raw).unwrap_err();
        assert!(error.contains(why), "expected {why:?}, got {error:?}");
    }
}

fn read(path: &Path) -> Result<Volume, String> {
    read_volume(path, &ReadOptions::default()).map_err(|e| {
        assert!(matches!(e, glmae::Error::Data { .. }), "{e:?}");
        e.to_string()
    })
}

#[test]
fn every_type_in_both_orders_and_versions() {
    let folder = Folder::new();
    for (two, big) in [(false, false), (false, true), (true, false), (true, true)] {
        assert_eq!(folder.read(&small(two, big)).unwrap().data, SMALL);
        macro_rules! check {
            ($($code:literal $t:ty),*) => {$(
                let values: [$t; 4] = [3 as $t, 101 as $t, <$t>::MIN, <$t>::MAX];
                let bits = 8 * size_of::<$t>() as i16;
                let mut raw = Raw::new(two, big, &[4, 1, 1], $code, bits);
                values.iter().for_each(|v| raw.voxel(&v.to_le_bytes()));
                assert_eq!(folder.read(&raw).unwrap().data, values.map(|v| v as f32));
                // Scaled in f64, rounded once.
                raw.float(112, 176, f64::from(0.1f32));
                raw.float(116, 184, f64::from(-3.3f32));
                let scaled = values.map(|v| (v as f64 * f64::from(0.1f32) + f64::from(-3.3f32)) as f32);
                assert_eq!(folder.read(&raw).unwrap().data, scaled);
            )*};
        }
        check!(2 u8, 256 i8, 4 i16, 512 u16, 8 i32, 768 u32, 1024 i64, 1280 u64, 16 f32, 64 f64);
    }
}

#[test]
fn types_that_are_no_real_numbers_are_refused_by_name() {
    let folder = Folder::new();
    for (code, name) in [
        (32, "complex64"),
        (1792, "complex128"),
        (2048, "complex256"),
        (128, "RGB24"),
        (2304, "RGBA32"),
        (1536, "float128"),
        (1, "1-bit"),
        (77, "77"),
    ] {
        folder.refused(&Raw::new(false, false, &[1, 1, 1], code, 8), name);
    }
}

#[test]
fn offsets_are_honoured_to_the_byte() {
    let folder = Folder::new();
    for offset in [352, 353, 368, 416, 496, 1000] {
        let mut raw = small(false, false);
        raw.offset(f64::from(offset));
        // The gap holds what a reader that ignores the offset would take for voxels.
        raw.bytes.splice(352..352, (352..offset).map(|_| 99));
        assert_eq!(folder.read(&raw).unwrap().data, SMALL, "offset {offset}");
    }
    for bad in [f64::NAN, f64::INFINITY, -16.0, 0.0, 348.0, 352.5, 1e9] {
        let mut raw = small(false, false);
        raw.offset(bad);
        folder.refused(&raw, "vox_offset");
    }
    let mut raw = small(true, false);
    raw.put(168, &i64::MIN.to_le_bytes());
    folder.refused(&raw, "vox_offset");
}

#[test]
fn gzip_is_known_by_its_bytes_and_may_have_members() {
    let folder = Folder::new();
    let bytes = small(false, true).bytes;
    let whole = gz(&bytes);
    assert_eq!(read(&folder.write("named.nii", &whole)).unwrap().data, SMALL);
    assert_eq!(read(&folder.write("plain.nii.gz", &bytes)).unwrap().data, SMALL);
    let members = [gz(&bytes[..100]), gz(&bytes[100..355]), gz(&bytes[355..])].concat();
    assert_eq!(read(&folder.write("members.nii.gz", &members)).unwrap().data, SMALL);
    let padded = [&whole[..], &[0; 700]].concat();
    assert_eq!(read(&folder.write("padded.nii.gz", &padded)).unwrap().data, SMALL);
    // Every truncation, and a wrong checksum.
    for cut in 0..whole.len() {
        assert!(read(&folder.write("cut.nii.gz", &whole[..cut])).is_err(), "cut at {cut}");
    }
    let mut flipped = whole.clone();
    let crc = flipped.len() - 6;
    flipped[crc] ^= 1;
    assert!(read(&folder.write("crc.nii.gz", &flipped)).unwrap_err().contains("damaged"));
    for cut in 0..bytes.len() {
        assert!(read(&folder.write("cut.nii", &bytes[..cut])).is_err(), "cut at {cut}");
    }
}

#[test]
fn pairs_are_found_by_either_name() {
    let folder = Folder::new();
    let mut raw = small(false, false);
    let voxels = raw.bytes.split_off(352);
    raw.magic(b"ni1\0");
    raw.offset(0.0);
    let header = folder.write("p.hdr", &raw.bytes);
    assert!(read(&header).unwrap_err().contains(".img file is missing"));
    folder.write("p.img.gz", &gz(&voxels));
    assert_eq!(read(&header).unwrap().data, SMALL);
    let image = folder.write("p.img", &voxels);
    assert_eq!(read(&image).unwrap().data, SMALL);
    assert!(read(&folder.write("lonely.img", &voxels)).unwrap_err().contains("no .hdr"));
    // The header of a pair under the name of a single file.
    folder.refused(&raw, "pair");
}

#[test]
fn scaling_follows_nibabel() {
    let folder = Folder::new();
    for slope in [0.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let mut raw = small(false, false);
        raw.float(112, 0, slope);
        raw.float(116, 0, f64::NAN);
        assert_eq!(folder.read(&raw).unwrap().data, SMALL);
    }
    let mut raw = small(false, false);
    raw.float(112, 0, 2.0);
    raw.float(116, 0, f64::NAN);
    folder.refused(&raw, "scl_inter");
}

#[test]
fn affine_rules() {
    let folder = Folder::new();
    let diagonal = |v: &Volume| [0, 1, 2].map(|i| v.affine[i][i]);
    // No forms: spacing, centred, first axis to the left; signs and zeros repaired.
    let mut raw = small(false, false);
    raw.float(80, 0, -2.0);
    raw.float(84, 0, 0.0);
    raw.float(88, 0, 3.0);
    let volume = folder.read(&raw).unwrap();
    assert_eq!(diagonal(&volume), [-2.0, 1.0, 3.0]);
    assert_eq!([0, 1, 2].map(|i| volume.affine[i][3]), [1.0, -1.0, -1.5]);
    // qform: qfac -1 flips the third axis, other values count as 1, as does a form code of 77.
    for (qfac, third) in [(-1.0, -3.0), (1.0, 3.0), (0.0, 3.0), (-7.0, 3.0)] {
        raw.form_codes(1, 77);
        raw.float(76, 0, qfac);
        let volume = folder.read(&raw).unwrap();
        assert_eq!((diagonal(&volume), volume.space_code), ([2.0, 1.0, third], 1));
    }
    raw.float(256, 0, 1.5);
    folder.refused(&raw, "quaternion");
    // A set sform wins, and must be usable.
    raw.form_codes(1, 3);
    folder.refused(&raw, "singular");
    for (i, at) in [280, 300, 320].into_iter().enumerate() {
        raw.float(at, 0, [4.0, 5.0, 6.0][i]);
    }
    let volume = folder.read(&raw).unwrap();
    assert_eq!((diagonal(&volume), volume.space_code), ([4.0, 5.0, 6.0], 3));
    raw.float(284, 0, f64::NAN);
    folder.refused(&raw, "not finite");
    let mut raw = small(false, false);
    raw.float(80, 0, f64::NAN);
    folder.refused(&raw, "not finite");
}

#[test]
fn axes_after_the_third_are_channels_when_asked_for() {
    let folder = Folder::new();
    let mut raw = Raw::new(false, false, &[1, 2, 1, 3], 2, 8);
    raw.bytes.extend(0..6);
    folder.refused(&raw, "model.in_chans = 3");
    let options = ReadOptions { channels: Channels::UpTo(3), ..ReadOptions::default() };
    let volume = read_volume(&folder.write("x.nii", &raw.bytes), &options).unwrap();
    assert_eq!((volume.channels, volume.dims), (3, [1, 2, 1]));
    assert_eq!(volume.data, [0., 1., 2., 3., 4., 5.]);
    for dims in [&[2i64, 3, 2, 1, 1][..], &[2, 6], &[12, 1]] {
        let mut raw = Raw::new(false, false, dims, 2, 8);
        raw.bytes.extend(0..12);
        assert_eq!(folder.read(&raw).unwrap().channels, 1);
    }
}

#[test]
fn lies_are_refused_at_once_and_name_the_limit() {
    let folder = Folder::new();
    let started = Instant::now();
    for (dims, why) in [
        (&[0i64, 3, 2][..], "dim[1] is 0"),
        (&[2, -3, 2], "dim[2] is -3"),
        (&[32767, 32767, 32767], "limits.max_voxels"),
        (&[1024, 1024, 1024], "truncated"),
        (&[12], "dim[0] is 1"),
    ] {
        let mut raw = Raw::new(false, false, dims, 2, 8);
        raw.bytes.extend(0..12);
        folder.refused(&raw, why);
    }
    let mut raw = Raw::new(true, false, &[i64::MAX, i64::MAX, 7], 2, 8);
    raw.bytes.extend(0..12);
    folder.refused(&raw, "limits.max_voxels");
    // Half a megabyte of gzip that would become 512 MiB.
    let mut raw = Raw::new(false, false, &[1024, 1024, 512], 2, 8);
    raw.bytes.resize(352 + (8 << 20), 0);
    let bomb = gz(&raw.bytes);
    let path = folder.write("bomb.nii.gz", &bomb);
    assert!(read(&path).unwrap_err().contains("limits.max_gz_ratio"));
    assert!(started.elapsed() < Duration::from_secs(5));

    let small = small(false, false);
    let path = folder.write("x.nii", &small.bytes);
    let strict = ReadLimits { max_voxels: 11, ..ReadLimits::default() };
    let options = ReadOptions { limits: strict, ..ReadOptions::default() };
    assert!(read_volume(&path, &options).is_err());
}

#[test]
fn a_missing_file_is_an_io_error() {
    let folder = Folder::new();
    let missing = read_volume(&folder.0.path().join("x.nii"), &ReadOptions::default());
    assert!(matches!(missing, Err(glmae::Error::Io { .. })));
    assert!(read(folder.0.path()).is_err());
}
