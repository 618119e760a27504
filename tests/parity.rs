//! Parity with the PyTorch reference on every case that is at hand: `../shared/peer/cases`, and
//! the folder that `GLMAE_CASES` names.

use std::path::PathBuf;

use glmae::device::emulated::{Mode, Schedule};
use glmae::device::{DType, Device};
use glmae::lab::case::ReferenceCase;
use glmae::lab::verify::{Bounds, compare, run};

use crate::support::shared;

fn cases() -> Vec<(String, ReferenceCase)> {
    let folders = [shared("peer/cases"), std::env::var_os("GLMAE_CASES").map(PathBuf::from)];
    let mut cases = Vec::new();
    for folder in folders.into_iter().flatten() {
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        for file in files.iter().filter(|f| f.extension().is_some_and(|e| e == "safetensors")) {
            match ReferenceCase::load(file) {
                Ok(case) => cases.push((file.file_name().unwrap().display().to_string(), case)),
                // Cases of other networks (UNETR) have formats of their own.
                Err(e) => assert!(e.to_string().contains("format"), "{e}"),
            }
        }
    }
    cases
}

fn check(device: &Device, dtype: DType) {
    for (name, case) in cases() {
        let ours = run(&case, device, dtype).unwrap();
        let rows = compare(&case.tensors, &ours, &Bounds::of(dtype));
        assert!(rows.len() > 8, "{name}: only {} quantities", rows.len());
        for row in &rows {
            println!("{name} {dtype} {:28} {:9.2e} of {:.0e}", row.quantity, row.rel_l2, row.bound);
        }
        let failed: Vec<_> = rows.iter().filter(|r| !r.pass).collect();
        assert!(failed.is_empty(), "{name} {dtype}: {failed:#?}");
    }
}

#[test]
fn cases_agree_in_f64() {
    check(&Device::Cpu, DType::F64);
}

#[test]
fn cases_agree_in_f32() {
    check(&Device::Cpu, DType::F32);
}

/// The kernels, at the bounds of the CPU.
#[test]
fn cases_agree_on_the_emulated_device() {
    check(&Device::emulated(Mode::Plain, Schedule::Ascending), DType::F32);
}
