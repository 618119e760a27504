//! Faults put into the compiled kernels themselves: one change of the PTX, and the cases of an op must notice it. What is
//! changed is what inline PTX says (operands, their order, modifiers, sizes) and what orders threads.

use std::sync::Arc;

use glmae::device::ptx::{Arch, Options, Ptx};
use glmae::device::{DType, Device};
use glmae::lab::check::ops::units;

/// A change of every line that it applies to.
type Edit = fn(&str) -> Option<String>;

struct Fault {
    what: &'static str,
    /// The file of kernels, and the op whose cases must notice.
    file: &'static str,
    op: &'static str,
    dtype: DType,
    edit: Edit,
    /// What the report says; nothing where only numbers tell.
    report: &'static str,
}

/// `line` with its lists in braces split into operands.
fn exchange(line: &str, list: usize, i: usize, j: usize) -> Option<String> {
    let starts: Vec<usize> = line.match_indices('{').map(|(at, _)| at).collect();
    let start = *starts.get(list)?;
    let end = start + line[start..].find('}')?;
    let mut parts: Vec<&str> = line[start + 1..end].split(',').collect();
    if i >= parts.len() || j >= parts.len() || parts[i].trim() == parts[j].trim() {
        return None;
    }
    parts.swap(i, j);
    Some(format!("{}{{{}}}{}", &line[..start], parts.join(","), &line[end + 1..]))
}

fn replaced(line: &str, start: &str, from: &str, to: &str) -> Option<String> {
    (line.trim_start().starts_with(start) && line.contains(from))
        .then(|| line.replacen(from, to, 1))
}

fn without(line: &str, start: &str) -> Option<String> {
    line.trim_start().starts_with(start).then(String::new)
}

const MMA: &str = "mma.sync";
const LINEAR: (&str, &str) = ("linear", "linear");

const FAULTS: &[Fault] = &[
    fault("mma: registers of A exchanged", LINEAR, |l| of(l, MMA, |l| exchange(l, 1, 0, 1)), ""),
    fault(
        "mma: the other registers of A exchanged",
        LINEAR,
        |l| of(l, MMA, |l| exchange(l, 1, 2, 3)),
        "",
    ),
    fault("mma: halves of A exchanged", LINEAR, |l| of(l, MMA, |l| exchange(l, 1, 0, 2)), ""),
    fault("mma: registers of B exchanged", LINEAR, |l| of(l, MMA, |l| exchange(l, 2, 0, 1)), ""),
    fault(
        "mma: accumulators exchanged on the way in",
        LINEAR,
        |l| of(l, MMA, |l| exchange(l, 3, 0, 1)),
        "",
    ),
    fault(
        "mma: rows of the accumulators exchanged",
        LINEAR,
        |l| of(l, MMA, |l| exchange(l, 3, 1, 2)),
        "",
    ),
    fault(
        "mma: rows of the results exchanged",
        LINEAR,
        |l| of(l, MMA, |l| exchange(l, 0, 0, 2)),
        "",
    ),
    fault(
        "mma: f16 in place of bf16",
        LINEAR,
        |l| replaced(l, MMA, "f32.bf16.bf16.f32", "f32.f16.f16.f32"),
        "",
    ),
    fault("ldmatrix without .trans", LINEAR, |l| replaced(l, "ldmatrix", ".trans", ""), ""),
    fault(
        "ldmatrix with .trans",
        LINEAR,
        |l| {
            let plain = l.contains("ldmatrix") && !l.contains(".trans");
            if plain { replaced(l, "ldmatrix", "m8n8.x4", "m8n8.x4.trans") } else { None }
        },
        "",
    ),
    fault(
        "ldmatrix: results exchanged",
        LINEAR,
        |l| of(l, "ldmatrix", |l| exchange(l, 0, 1, 2)),
        "",
    ),
    fault(
        "ldmatrix: the next row's address",
        LINEAR,
        |l| replaced(l, "ldmatrix", "];", "+16];"),
        "",
    ),
    fault(
        "ldmatrix: an address off by 8 bytes",
        LINEAR,
        |l| replaced(l, "ldmatrix", "];", "+8];"),
        "misaligned",
    ),
    fault(
        "cp.async without zero fill",
        LINEAR,
        |l| {
            let at = l.find(", 16, ").filter(|_| l.trim_start().starts_with("cp.async.cg"))?;
            Some(format!("{}, 16;", &l[..at]))
        },
        "read of 16 bytes",
    ),
    fault(
        "cp.async of 8 bytes",
        LINEAR,
        |l| {
            let at = l.find(", 16, ").filter(|_| l.trim_start().starts_with("cp.async.cg"))?;
            Some(format!("{}, 8;", l[..at].replace("cp.async.cg", "cp.async.ca")))
        },
        "",
    ),
    fault(
        "cp.async to the next 16 bytes",
        LINEAR,
        |l| replaced(l, "cp.async.cg", "], [", "+16], ["),
        "",
    ),
    fault(
        "no commit of copies",
        LINEAR,
        |l| without(l, "cp.async.commit_group"),
        "was not waited for",
    ),
    fault(
        "no wait for copies",
        LINEAR,
        |l| without(l, "cp.async.wait_group"),
        "was not waited for",
    ),
    fault(
        "a wait for one group too few",
        LINEAR,
        |l| {
            let n: u32 = l
                .trim()
                .strip_prefix("cp.async.wait_group ")?
                .trim_end_matches(';')
                .parse()
                .ok()?;
            Some(format!("\tcp.async.wait_group {};", n + 1))
        },
        "was not waited for",
    ),
    fault("no barriers", LINEAR, |l| without(l, "bar.sync"), "data race"),
    fault(
        "shuffle to the wrong lane",
        ("layer_norm", "layer_norm"),
        |l| replaced(l, "shfl.sync.bfly", "shfl.sync.bfly", "shfl.sync.up"),
        "",
    ),
    fault(
        "shuffle of half a warp",
        ("layer_norm", "layer_norm"),
        |l| {
            let at = l.rfind(',').filter(|_| l.trim_start().starts_with("shfl.sync.bfly"))?;
            Some(format!("{}, 65535;", &l[..at]))
        },
        "mask",
    ),
    fault(
        "a vector's elements exchanged on the way in",
        ("layer_norm", "layer_norm"),
        |l| of(l, "ld.global.nc.v4", |l| exchange(l, 0, 1, 2)),
        "",
    ),
    fault(
        "a vector's elements exchanged on the way out",
        ("layer_norm", "layer_norm"),
        |l| of(l, "st.global", |l| exchange(l, 0, 0, 3)),
        "",
    ),
    fault(
        "bf16 in the lower half",
        ("layer_norm", "layer_norm"),
        |l| {
            let at = l.find("{0,").filter(|_| l.contains("mov.b32"))?;
            let end = at + l[at..].find('}')?;
            Some(format!("{}{{{},0}}{}", &l[..at], &l[at + 3..end], &l[end + 1..]))
        },
        "",
    ),
    fault(
        "one row too many",
        ("layer_norm", "layer_norm"),
        |l| replaced(l, "setp.ge.s64", "setp.ge.s64", "setp.gt.s64"),
        "",
    ),
    fault(
        "no barriers between passes",
        ("instance_norm", "instance_norm"),
        |l| without(l, "bar.sync"),
        "",
    ),
    fault(
        "exponential to the wrong base",
        ("attention", "attention"),
        |l| replaced(l, "ex2.approx.ftz.f32", "ex2", "lg2"),
        "",
    ),
    fault(
        "attention: registers of A exchanged",
        ("attention", "attention"),
        |l| of(l, MMA, |l| exchange(l, 1, 1, 2)),
        "",
    ),
    fault(
        "attention: no wait for copies",
        ("attention", "attention"),
        |l| without(l, "cp.async.wait_group"),
        "was not waited for",
    ),
    fault(
        "attention: transposed where it is not",
        ("attention", "attention"),
        |l| replaced(l, "ldmatrix", ".x4.trans", ".x4"),
        "",
    ),
    fault(
        "conv3d: registers of B exchanged",
        ("conv3d", "conv3d"),
        |l| of(l, MMA, |l| exchange(l, 2, 0, 1)),
        "",
    ),
    fault("conv3d: no barriers", ("conv3d", "conv3d"), |l| without(l, "bar.sync"), ""),
    fault(
        "a store one element on",
        ("accumulate", "accumulate"),
        |l| of(l, "st.global", |l| l.contains(']').then(|| l.replacen(']', "+16]", 1))),
        "",
    ),
    fault(
        "a load of half as much",
        ("accumulate", "accumulate"),
        |l| replaced(l, "ld.global", ".v4.u32", ".v2.u32"),
        "registers for 2 elements",
    ),
];

const fn fault(
    what: &'static str,
    (file, op): (&'static str, &'static str),
    edit: Edit,
    report: &'static str,
) -> Fault {
    Fault { what, file, op, dtype: DType::Bf16, edit, report }
}

/// The edit of lines that begin so.
fn of(line: &str, start: &str, edit: impl Fn(&str) -> Option<String>) -> Option<String> {
    line.trim_start().starts_with(start).then(|| edit(line)).flatten()
}

/// The first thing that goes wrong with a fault, or nothing.
fn noticed(fault: &Fault) -> Option<String> {
    let ptx = Arc::new(Ptx::new(Arch::Sm80, Options::default()).unwrap());
    let text = ptx.text(fault.file).unwrap();
    let mut changed = 0;
    let edited: Vec<String> = text
        .lines()
        .map(|line| match (fault.edit)(line) {
            Some(new) => {
                changed += 1;
                new
            }
            None => line.to_owned(),
        })
        .collect();
    if changed == 0 {
        return Some(format!("nothing in {}.ptx is like that", fault.file));
    }
    if let Err(e) = ptx.replace(fault.file, &edited.join("\n")) {
        return Some(e.to_string());
    }
    let device = Device::Ptx(ptx);
    let (units, _) = units(&[fault.op.to_owned()], Some(fault.dtype)).unwrap();
    units.iter().find_map(|unit| match unit.check(std::slice::from_ref(&device)) {
        Err(e) => Some(e.to_string()),
        Ok(verdict) => verdict.fault,
    })
}

#[test]
fn faults_in_compiled_kernels_are_noticed() {
    if let Err(e) = Ptx::new(Arch::Sm80, Options::default()) {
        println!("skipped: {e}");
        return;
    }
    let mut missed = Vec::new();
    for fault in FAULTS {
        match noticed(fault) {
            Some(message)
                if message.contains(fault.report) && !message.starts_with("nothing in") =>
            {
                let first = message.lines().next().unwrap_or_default();
                println!("| {} | {} |", fault.what, first.replace('|', "\\|"));
            }
            Some(message) => {
                missed.push(format!("{}: '{message}' lacks '{}'", fault.what, fault.report))
            }
            None => missed.push(format!("{}: not noticed", fault.what)),
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
    println!("{} faults in compiled kernels, all noticed", FAULTS.len());
}
