//! What `inspect` says of files whose contents are known.

use glmae::data::nifti::{Stored, write_volume};
use glmae::data::{Volume, geometry};

use super::run;
use crate::support::shared;

#[test]
fn a_scan_with_a_name_in_its_header() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("scan.nii");
    // 0, 1, ..., 23 on a grid that runs left, posterior, superior.
    let affine =
        [[-2.0, 0.0, 0.0, 5.0], [0.0, -1.5, 0.0, 0.0], [0.0, 0.0, 3.0, 0.0], [0.0, 0.0, 0.0, 1.0]];
    assert_eq!(geometry::spacing_mm(&affine), [2.0, 1.5, 3.0]);
    let data = (0..24).map(|i| i as f32).collect();
    let volume = Volume::new(data, 1, [2, 3, 4], affine, 1).unwrap();
    write_volume(&path, &volume, Stored::F32).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[148..148 + 10].copy_from_slice(b"Doe^Jane\x1b[");
    std::fs::write(&path, bytes).unwrap();
    let path = path.to_str().unwrap();

    let (code, out, err) = run(&["inspect", path]);
    assert_eq!((code, err.as_str()), (0, ""));
    for words in [
        "2 x 3 x 4",
        "float32",
        "2.0000 x 1.5000 x 3.0000 mm",
        "LPS (turned to RAS",
        "scanner (code 1)",
        "11.5000",
        "6.9222",
        "not shown (--show-identifiers)",
    ] {
        assert!(out.contains(words), "'{words}' is not in: {out}");
    }
    assert!(!out.contains("Doe"), "{out}");

    let (_, out, _) = run(&["inspect", path, "--show-identifiers", "--header-only"]);
    assert!(out.contains("Doe^Jane") && !out.contains('\u{1b}'), "{out}");
    assert!(!out.contains("median"), "{out}");
}

#[test]
fn a_reference_case() {
    let Some(case) = shared("peer/cases/mini.safetensors") else { return };
    let (code, out, _) = run(&["inspect", case.to_str().unwrap()]);
    assert_eq!(code, 0);
    assert!(
        out.contains("format: glmae-case-1") && out.contains("init.student.cls_token"),
        "{out}"
    );
    assert!(out.trim_end().lines().last().unwrap().contains("tensors, "), "{out}");
}
