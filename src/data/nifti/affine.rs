//! Which affine a header means: nibabel's `get_best_affine` with its header repairs.

use super::header::{Fields, Placement, Version};
use crate::data::geometry::{Affine, check_affine};

/// sform when its code is set, else qform when its code is set, else the spacing with the origin in
/// the centre of the grid and the first axis pointing left (the ANALYZE convention nibabel keeps).
///
/// Returns the affine and the code of its space.
pub(super) fn best_affine(fields: &Fields, shape: &[usize]) -> Result<(Affine, i16), String> {
    let (qform_code, sform_code) = fields.form_codes();
    let (name, affine, code) = if sform_code > 0 {
        ("sform", sform(fields), sform_code)
    } else if qform_code > 0 {
        ("qform", qform(fields)?, qform_code)
    } else {
        ("spacing", from_spacing(fields, shape), 0)
    };
    check_affine(&affine).map_err(|why| format!("the {name} affine {why}: {affine:?}"))?;
    Ok((affine, code))
}

fn sform(fields: &Fields) -> Affine {
    let row = |r: usize| [0, 1, 2, 3].map(|c| fields.float(280 + 16 * r, 400 + 32 * r, c));
    [row(0), row(1), row(2), [0.0, 0.0, 0.0, 1.0]]
}

/// Spacing of the first three axes; 0 counts as 1 and a sign is dropped.
fn spacing(fields: &Fields) -> [f64; 3] {
    [1, 2, 3].map(|i| length(fields.pixdim(i)))
}

fn length(pixdim: f64) -> f64 {
    match pixdim {
        0.0 => 1.0,
        mm => mm.abs(),
    }
}

fn qform(fields: &Fields) -> Result<Affine, String> {
    qform_of(&fields.placement(), fields.version())
}

/// The affine of the quaternion, whatever its code.
pub(super) fn qform_of(placement: &Placement, version: Version) -> Result<Affine, String> {
    let [b, c, d, x0, y0, z0] = placement.qform;
    let tolerance = 3.0
        * match version {
            Version::Nifti1 => f64::from(f32::EPSILON),
            Version::Nifti2 => f64::EPSILON,
        };
    let aa = 1.0 - (b * b + c * c + d * d);
    if aa.is_nan() || aa <= -tolerance {
        return Err(format!("the qform quaternion ({b}, {c}, {d}) is longer than 1"));
    }
    let a = if aa < tolerance { 0.0 } else { aa.sqrt() };
    let s = 2.0 / (a * a + b * b + c * c + d * d);
    let rotation = [
        [1.0 - s * (c * c + d * d), s * (b * c - a * d), s * (b * d + a * c)],
        [s * (b * c + a * d), 1.0 - s * (b * b + d * d), s * (c * d - a * b)],
        [s * (b * d - a * c), s * (c * d + a * b), 1.0 - s * (b * b + c * c)],
    ];
    let [qfac, mm @ ..] = placement.pixdim;
    let mut mm = mm.map(length);
    // qfac: anything but -1 counts as 1.
    if qfac == -1.0 {
        mm[2] = -mm[2];
    }
    let origin = [x0, y0, z0];
    let row = |r: usize| {
        let [x, y, z] = rotation[r];
        [x * mm[0], y * mm[1], z * mm[2], origin[r]]
    };
    Ok([row(0), row(1), row(2), [0.0, 0.0, 0.0, 1.0]])
}

fn from_spacing(fields: &Fields, shape: &[usize]) -> Affine {
    let mut mm = spacing(fields);
    for (axis, mm) in mm.iter_mut().enumerate().skip(shape.len()) {
        debug_assert!(axis < 3);
        *mm = 1.0;
    }
    mm[0] = -mm[0];
    let mut affine = [[0.0; 4]; 4];
    for axis in 0..3 {
        let n = shape.get(axis).copied().unwrap_or(1) as f64;
        affine[axis][axis] = mm[axis];
        affine[axis][3] = -(n - 1.0) / 2.0 * mm[axis];
    }
    affine[3][3] = 1.0;
    affine
}
