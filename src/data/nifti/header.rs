//! The header of NIfTI-1 (348 bytes) and NIfTI-2 (540 bytes): only the fields that decide voxels
//! and geometry. Offsets: `nifti1.h` and `nifti2.h` of the NIfTI working group.

use super::ReadLimits;
use super::dtype::Dtype;
use crate::data::geometry::{Affine, corners_apart_mm, spacing_mm};

/// Which standard a file follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Nifti1,
    Nifti2,
}

impl Version {
    /// Bytes of the header itself.
    pub fn header_bytes(self) -> usize {
        match self {
            Self::Nifti1 => 348,
            Self::Nifti2 => 540,
        }
    }
}

/// A checked header.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    pub version: Version,
    pub big_endian: bool,
    /// Voxels are in a file of their own (`.img`), magic `ni1` or `ni2`.
    pub is_pair: bool,
    pub dtype: Dtype,
    /// Lengths of the axes, 2 to 7 of them, each at least 1.
    pub shape: Vec<usize>,
    /// Byte of the first voxel in the (unzipped) file that holds the voxels.
    pub vox_offset: u64,
    /// `Some((slope, intercept))` when values are scaled.
    pub scaling: Option<(f64, f64)>,
    /// Voxel indices to millimetres in RAS+ world space.
    pub affine: Affine,
    /// NIfTI code of the space of `affine`; 0 when it was made of the spacing alone.
    pub space_code: i16,
    pub placement: Placement,
}

/// How a file says where its voxels lie, word for word: a result on the same grid says it likewise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Placement {
    pub qform_code: i16,
    pub sform_code: i16,
    /// `pixdim[0..4]`: qfac and the spacing.
    pub pixdim: [f64; 4],
    /// `quatern_b, c, d`, then `qoffset_x, y, z`.
    pub qform: [f64; 6],
    /// `srow_x, y, z`.
    pub sform: [[f64; 4]; 3],
    /// `xyzt_units`.
    pub units: u8,
}

/// Fields by their offsets, in the byte order of the file. Reading beyond the end gives zeros: the
/// length is checked once, in [`Header::parse`].
pub(super) struct Fields<'a> {
    bytes: &'a [u8],
    big_endian: bool,
    version: Version,
}

impl Fields<'_> {
    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut raw: [u8; N] =
            self.bytes.get(at..at + N).and_then(|b| b.try_into().ok()).unwrap_or([0; N]);
        if self.big_endian {
            raw.reverse();
        }
        raw
    }

    /// The integer at `at1` (i16 of NIfTI-1) or `at2` (of `N2` bytes, NIfTI-2).
    fn int(&self, at1: usize, at2: usize, wide: bool) -> i64 {
        match (self.version, wide) {
            (Version::Nifti1, _) => i16::from_le_bytes(self.array(at1)).into(),
            (Version::Nifti2, true) => i64::from_le_bytes(self.array(at2)),
            (Version::Nifti2, false) => i32::from_le_bytes(self.array(at2)).into(),
        }
    }

    /// Element `index` of a float array at `at1` (f32, NIfTI-1) or `at2` (f64, NIfTI-2).
    pub(super) fn float(&self, at1: usize, at2: usize, index: usize) -> f64 {
        match self.version {
            Version::Nifti1 => f32::from_le_bytes(self.array(at1 + 4 * index)).into(),
            Version::Nifti2 => f64::from_le_bytes(self.array(at2 + 8 * index)),
        }
    }

    pub(super) fn version(&self) -> Version {
        self.version
    }

    pub(super) fn pixdim(&self, index: usize) -> f64 {
        self.float(76, 104, index)
    }

    /// qform code, sform code; codes the standard does not know count as 0, as in nibabel.
    pub(super) fn form_codes(&self) -> (i16, i16) {
        let known = |code: i64| if (0..=5).contains(&code) { code as i16 } else { 0 };
        (known(self.int(252, 344, false)), known(self.int(254, 348, false)))
    }

    pub(super) fn placement(&self) -> Placement {
        let (qform_code, sform_code) = self.form_codes();
        let units = match self.version {
            Version::Nifti1 => self.bytes.get(123).copied().unwrap_or(0),
            Version::Nifti2 => self.int(0, 500, false) as u8,
        };
        Placement {
            qform_code,
            sform_code,
            pixdim: [0, 1, 2, 3].map(|i| self.pixdim(i)),
            qform: [0, 1, 2, 3, 4, 5].map(|i| self.float(256, 352, i)),
            sform: [0, 1, 2]
                .map(|r| [0, 1, 2, 3].map(|c| self.float(280 + 16 * r, 400 + 32 * r, c))),
            units,
        }
    }
}

impl Header {
    /// Reads and checks a header. `bytes` may be longer than the header.
    ///
    /// Errors: the reason in words, without the file's name.
    pub fn parse(bytes: &[u8], limits: &ReadLimits) -> Result<Self, String> {
        let (version, big_endian) = identify(bytes)?;
        let fields = Fields { bytes, big_endian, version };
        let is_pair = pair_by_magic(bytes, version)?;

        let intent = fields.int(68, 504, false);
        if (3000..3100).contains(&intent) {
            return Err(format!(
                "a CIFTI file (intent {intent}): connectivity or surface data, not a volume"
            ));
        }
        let code = match version {
            Version::Nifti1 => fields.int(70, 0, false),
            Version::Nifti2 => i16::from_le_bytes(fields.array(12)).into(),
        };
        let dtype = Dtype::from_code(code as i16)?;
        let shape = shape(&fields, limits)?;
        let vox_offset = vox_offset(&fields, is_pair, limits)?;
        let scaling = scaling(fields.float(112, 176, 0), fields.float(116, 184, 0))?;
        let (affine, space_code) = super::affine::best_affine(&fields, &shape)?;
        Ok(Self {
            version,
            big_endian,
            is_pair,
            dtype,
            shape,
            vox_offset,
            scaling,
            affine,
            space_code,
            placement: fields.placement(),
        })
    }

    /// What other viewers will do otherwise, when sform and qform are both set and put a corner of the
    /// grid more than a tenth of a voxel apart: the sform is used here, as nibabel and MONAI do.
    pub fn forms_disagree(&self) -> Option<String> {
        let Placement { qform_code, sform_code, .. } = self.placement;
        if qform_code <= 0 || sform_code <= 0 {
            return None;
        }
        let apart = match super::affine::qform_of(&self.placement, self.version) {
            Ok(qform) => {
                let apart = corners_apart_mm(self.spatial_dims(), &self.affine, &qform);
                let edge = spacing_mm(&self.affine).into_iter().fold(f64::INFINITY, f64::min);
                if apart <= 0.1 * edge {
                    return None;
                }
                format!("the qform puts corners of the grid up to {apart:.1} mm elsewhere")
            }
            Err(why) => why,
        };
        Some(format!(
            "sform and qform disagree: {apart}. The sform is used, as by nibabel; viewers that take \
             the qform will show this image and its results elsewhere"
        ))
    }

    /// The first three axes; a missing third one has length 1.
    pub fn spatial_dims(&self) -> [usize; 3] {
        [0, 1, 2].map(|axis| self.shape.get(axis).copied().unwrap_or(1))
    }

    /// The product of the axes after the third.
    pub fn channels(&self) -> usize {
        self.shape.iter().skip(3).product()
    }

    /// Number of stored values. Checked against the limits in [`Header::parse`].
    pub fn values(&self) -> u64 {
        self.shape.iter().map(|&n| n as u64).product()
    }
}

/// Version and byte order from `sizeof_hdr`, the first four bytes.
fn identify(bytes: &[u8]) -> Result<(Version, bool), String> {
    let size: [u8; 4] = match bytes.get(..4).and_then(|b| b.try_into().ok()) {
        Some(size) => size,
        None => return Err(format!("{} bytes are too few for a NIfTI header", bytes.len())),
    };
    let found = match (i32::from_le_bytes(size), i32::from_be_bytes(size)) {
        (348, _) => (Version::Nifti1, false),
        (_, 348) => (Version::Nifti1, true),
        (540, _) => (Version::Nifti2, false),
        (_, 540) => (Version::Nifti2, true),
        (le, _) => {
            return Err(format!("not a NIfTI file: sizeof_hdr is {le}, must be 348 or 540"));
        }
    };
    let needed = found.0.header_bytes();
    if bytes.len() < needed {
        return Err(format!("the header ends after {} of {needed} bytes", bytes.len()));
    }
    Ok(found)
}

/// Whether the voxels are in a second file.
fn pair_by_magic(bytes: &[u8], version: Version) -> Result<bool, String> {
    let (at, single, pair) = match version {
        Version::Nifti1 => (344, *b"n+1\0", *b"ni1\0"),
        Version::Nifti2 => (4, *b"n+2\0", *b"ni2\0"),
    };
    let magic = bytes.get(at..at + 4).unwrap_or_default();
    if magic == single {
        Ok(false)
    } else if magic == pair {
        Ok(true)
    } else if magic == [0; 4] && version == Version::Nifti1 {
        Err("no NIfTI magic: an ANALYZE 7.5 header, which says nothing of orientation; \
             convert the file to NIfTI"
            .to_owned())
    } else {
        Err(format!("not a NIfTI file: magic is \"{}\"", magic.escape_ascii()))
    }
}

fn shape(fields: &Fields, limits: &ReadLimits) -> Result<Vec<usize>, String> {
    let dim = |i: usize| match fields.version {
        Version::Nifti1 => fields.int(40 + 2 * i, 0, false),
        Version::Nifti2 => fields.int(0, 16 + 8 * i, true),
    };
    let count = dim(0);
    if !(2..=7).contains(&count) {
        return Err(format!("dim[0] is {count}; a volume has 2 to 7 axes"));
    }
    let axes: Vec<i64> = (1..=count as usize).map(dim).collect();
    let mut values: u64 = 1;
    for (i, &n) in axes.iter().enumerate() {
        if n < 1 {
            return Err(format!("dim[{}] is {n}; every axis needs at least one voxel", i + 1));
        }
        values = values.saturating_mul(n as u64);
    }
    if values > limits.max_voxels {
        return Err(format!(
            "the header claims {axes:?} = {values} voxels, more than limits.max_voxels = {}",
            limits.max_voxels
        ));
    }
    Ok(axes.into_iter().map(|n| n as usize).collect())
}

/// The first voxel's byte. A single file has its voxels after the header and its four extension
/// flags; what lies between (extensions, padding) is skipped unread.
fn vox_offset(fields: &Fields, is_pair: bool, limits: &ReadLimits) -> Result<u64, String> {
    let offset = match fields.version {
        Version::Nifti1 => fields.float(108, 0, 0),
        Version::Nifti2 => fields.int(0, 168, true) as f64,
    };
    let first = if is_pair { 0 } else { fields.version.header_bytes() as u64 + 4 };
    if !offset.is_finite() || offset < 0.0 || offset.fract() != 0.0 {
        return Err(format!("vox_offset is {offset}; it must be a number of bytes"));
    }
    if offset < first as f64 {
        return Err(format!("vox_offset is {offset}, inside the header; the least is {first}"));
    }
    if offset - first as f64 > limits.max_extension_bytes as f64 {
        return Err(format!(
            "vox_offset is {offset}: more header extensions than limits.max_extension_bytes = {}",
            limits.max_extension_bytes
        ));
    }
    Ok(offset as u64)
}

/// nibabel's rule: a slope of 0, NaN or infinity means no scaling at all; with a good slope the
/// intercept must be finite.
fn scaling(slope: f64, inter: f64) -> Result<Option<(f64, f64)>, String> {
    if slope == 0.0 || !slope.is_finite() {
        return Ok(None);
    }
    if !inter.is_finite() {
        return Err(format!("scl_inter is {inter} while scl_slope = {slope} is valid"));
    }
    Ok((slope != 1.0 || inter != 0.0).then_some((slope, inter)))
}
