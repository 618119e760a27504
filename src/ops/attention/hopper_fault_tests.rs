//! Faults put into the PTX of Hopper's attention.

use super::hopper_tests::{Case, Inputs};
use crate::Result;
use crate::device::{Device, Tensor};
use crate::ops::gemm::hopper::fault_tests::*;
use crate::ops::tolerance::{distance, within_bf16};

const LOAD_3D: &str = "cp.async.bulk.tensor.3d.shared::cluster";

const FAULTS: &[Fault] = &[
    // Products whose A are registers.
    fault("A in registers: rows exchanged", |l| exchanged_a(l, 0, 1), ""),
    fault(
        "values not transposed",
        |l| replaced(l, "wgmma.mma_async", "adds, 1, 1, 1;", "adds, 1, 1, 0;"),
        "",
    ),
    fault("keys transposed", |l| replaced(l, "wgmma.mma_async", "1, 1, 0, 0;", "1, 1, 0, 1;"), ""),
    fault(
        "dS not transposed",
        |l| replaced(l, "wgmma.mma_async", "1, 1, 1, 1;", "1, 1, 0, 1;"),
        "",
    ),
    fault("the next 16 columns are 64 bytes away", |l| replaced(l, "add.s64", ", 2;", ", 4;"), ""),
    fault(
        "the next 16 rows are 1024 bytes away",
        |l| replaced(l, "add.s64", ", 128;", ", 64;"),
        "",
    ),
    // Boxes.
    fault("rows and sequences of boxes exchanged", |l| exchanged(l, LOAD_3D, 1, 2), ""),
    fault("the other run's map", |l| exchanged_sources(l, "selp.b64"), ""),
    fault("boxes of the next row", next_row, ""),
    // Softmax.
    fault("no mask of keys beyond the end", unmasked, ""),
    fault(
        "a row's maximum without its neighbours",
        |l| without_shuffle(l, "shfl.sync.bfly.b32"),
        "",
    ),
    fault(
        "exponentials to another base",
        |l| replaced(l, "mul.f32", "0f3FB8AA3B", "0f3F800000"),
        "",
    ),
    fault(
        "a sum is not rescaled",
        |l| replaced(l, "ex2.approx.ftz.f32", "ex2.approx.ftz.f32", "mov.f32"),
        "",
    ),
    fault(
        "the exponent of a polynomial is off by one place",
        |l| replaced(l, "shl.b32", ", 23;", ", 22;"),
        "",
    ),
    fault(
        "a coefficient of the polynomial",
        |l| replaced(l, "mov.f32", "0f3F31798D", "0f3F11798D"),
        "",
    ),
    // Turns.
    fault("no barrier between dS and dQ", |l| without(l, "bar.sync"), ""),
];

/// Scores are kept whatever their key.
fn unmasked(line: &str) -> Option<String> {
    const INFINITY: &str = "0fFF800000";
    let operands: Vec<&str> =
        line.strip_prefix("selp.f32")?.trim_end_matches(';').split(',').map(str::trim).collect();
    let [d, a, b, _] = operands[..] else { return None };
    let kept = match (a, b) {
        (INFINITY, kept) | (kept, INFINITY) => kept,
        _ => return None,
    };
    Some(format!("mov.f32 {d}, {kept};"))
}

fn without_shuffle(line: &str, start: &str) -> Option<String> {
    let operands: Vec<&str> = line.strip_prefix(start)?.split(',').collect();
    let target = operands.first()?.split('|').next()?;
    Some(format!("mov.b32 {target}, {};", operands.get(1)?))
}

/// Rows of a copy count from 1.
fn next_row(line: &str) -> Option<String> {
    if !line.starts_with(LOAD_3D) {
        return None;
    }
    let (open, close) = (line.rfind('{')?, line.rfind('}')?);
    let list: Vec<&str> = line[open + 1..close].split(',').map(str::trim).collect();
    let [x, y, z] = list[..] else { return None };
    let copy = format!("{}{{{x}, next, {z}}}{}", &line[..open], &line[close + 1..]);
    Some(format!("{{\n.reg .b32 next;\nadd.s32 next, {y}, 1;\n{copy}\n}}"))
}

/// Kernels of 64 and of 32 columns: narrow and wide sequences, long ones, last steps of both sizes.
const CASES: [[Case<'_>; 2]; 2] =
    [[(2, 64, &[180, 180, 9]), (1, 64, &[330])], [(3, 32, &[100, 20]), (1, 32, &[290, 400])]];

fn run(device: &Device, cases: &[Case<'_>]) -> Result<Option<String>> {
    for &case in cases {
        let inputs = Inputs::new(device, case).on(1);
        let wrong = |what: &str, ours: &Tensor, reference: &[f64]| -> Result<Option<String>> {
            let d = distance(&ours.to_f64_vec()?, reference);
            Ok((!within_bf16(&d)).then(|| format!("{what}: {d:?}")))
        };
        let [out, lse] = inputs.forward(case.0)?;
        if let Some(found) = wrong("out", &out, &inputs.out)? {
            return Ok(Some(found));
        }
        let dqkv = inputs.backward(&out, &lse)?;
        if let Some(found) = wrong("dqkv", &dqkv, &inputs.dqkv)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

#[test]
fn faults_in_hoppers_attention_are_noticed() {
    expect_noticed(
        "hopper/attention",
        &["_d64", "_d32"],
        &[COMMON, ROWS_OUT, FAULTS],
        |device, i| run(device, &CASES[i]),
    );
}
