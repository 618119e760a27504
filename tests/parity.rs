//! Parity with the PyTorch reference on every case that is at hand.

use glmae::device::{DType, Device};
use glmae::lab::case::ReferenceCase;
use glmae::lab::verify::{Bounds, compare, run};

use crate::support::shared;

fn check(dtype: DType) {
    let Some(folder) = shared("peer/cases") else { return };
    for name in ["mini", "mini_alt", "tiny"] {
        let case = ReferenceCase::load(&folder.join(format!("{name}.safetensors"))).unwrap();
        let ours = run(&case, &Device::Cpu, dtype).unwrap();
        let rows = compare(&case, &ours, &Bounds::of(dtype));
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
    check(DType::F64);
}

#[test]
fn cases_agree_in_f32() {
    check(DType::F32);
}
