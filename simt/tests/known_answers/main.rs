//! Known answers: small kernels by hand, one file for each family of instructions, with what they have to give
//! written beside them (the grammar: see `script` and `table`). Every case runs under all schedules, checked and
//! unchecked. Expected values come from the text of the PTX ISA manual, version 9.0, not from the executor.
//!
//! `cargo test -p glmae-simt --test known_answers -- --nocapture coverage` prints what is covered.

mod coverage;
mod expr;
mod harness;
mod literal;
mod random_flow;
mod run;
mod script;
mod table;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use run::Report;

/// The report of a file, made once.
fn report(name: &str) -> Arc<OnceLock<Report>> {
    static REPORTS: Mutex<Option<HashMap<String, Arc<OnceLock<Report>>>>> = Mutex::new(None);
    let mut all = REPORTS.lock().expect("no test holds it for long");
    let cell = all.get_or_insert_default().entry(name.to_owned()).or_default().clone();
    drop(all);
    cell.get_or_init(|| {
        let path = format!("{}/tests/ptx/{name}.ptx", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        run::file(&format!("{name}.ptx"), &text)
    });
    cell
}

fn check(name: &str) {
    let cell = report(name);
    let failures = &cell.get().expect("made above").failures;
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

macro_rules! families {
    ($($name:ident)+) => {
        const FAMILIES: &[&str] = &[$(stringify!($name)),+];
        $(#[test] fn $name() { check(stringify!($name)); })+
    };
}

families! {
    moves
    integer
    logic
    compare
    float
    double
    half
    convert
    special
    memory
    atomics
    flow
    collectives
    barriers
    copies
    ldmatrix
    mma
    bounds
    races
    counts












}
