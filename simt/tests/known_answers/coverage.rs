//! That every file is run, that every opcode of the decoder has a case, and a table of what there is.

use std::collections::BTreeSet;

use glmae_simt::program::OPCODES;

use crate::{FAMILIES, report};

/// Opcodes of sm_90 whose cases are yet to be written.
const TO_COME: &[&str] =
    &["griddepcontrol", "mapa", "mbarrier", "nanosleep", "setmaxnreg", "wgmma"];

#[test]
fn every_file_is_a_test() {
    let folder = format!("{}/tests/ptx", env!("CARGO_MANIFEST_DIR"));
    let files = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{folder}: {e}"));
    let files: BTreeSet<String> = files
        .map(|f| f.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter_map(|name| name.strip_suffix(".ptx").map(str::to_owned))
        // These are run by `tests/hopper`.
        .filter(|name| !name.starts_with("hopper_"))
        .collect();
    let tests: BTreeSet<String> = FAMILIES.iter().map(|&f| f.to_owned()).collect();
    assert_eq!(files, tests);
}

#[test]
fn coverage_of_opcodes() {
    let mut forms = BTreeSet::new();
    let mut sum = [0; 4];
    println!(
        "{:<16}{:>8}{:>8}{:>8}{:>8}{:>10}",
        "family", "forms", "rows", "cases", "faults", "refused"
    );
    for family in FAMILIES {
        let cell = report(family);
        let report = cell.get().expect("made by the call");
        let numbers = [report.rows, report.cases, report.faults, report.refusals];
        let [rows, cases, faults, refusals] = numbers;
        let n = report.forms.len();
        println!("{family:<16}{n:>8}{rows:>8}{cases:>8}{faults:>8}{refusals:>10}");
        sum.iter_mut().zip(numbers).for_each(|(s, n)| *s += n);
        forms.extend(report.forms.iter().filter(|f| !f.is_empty()).cloned());
    }
    let [rows, cases, faults, refusals] = sum;
    let n = forms.len();
    println!("{:<16}{n:>8}{rows:>8}{cases:>8}{faults:>8}{refusals:>10}", "all");
    let covered: BTreeSet<&str> = forms.iter().map(|f| f.split('.').next().unwrap_or(f)).collect();
    let missing: Vec<&str> = OPCODES.iter().copied().filter(|o| !covered.contains(o)).collect();
    assert_eq!(missing, TO_COME, "opcodes without a case");
}
