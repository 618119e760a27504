//! Faults put into the PTX of Hopper's products: what orders the copy engine, the tensor cores and the warps, one kind of
//! line at a time. A run with a fault must be reported or give wrong numbers, never pass.

use std::sync::Arc;

use super::hopper_tests::{hopper, inputs};
use super::launch::{Forward, InputGradient, ParamGradient};
use super::tests::{Operand, product};
use crate::Result;
use crate::device::ptx::{Arch, Options, Ptx, Schedule};
use crate::device::{DType, Device, KernelSet, Tensor};
use crate::ops::Tolerance;
use crate::ops::gemm::hopper::{TILES, Tile};
use crate::ops::tolerance::{distance, within, within_bf16};
use crate::tape::GradMode;

/// A change of every line that it applies to, of what the trimmed line is.
pub(in crate::ops) type Edit = fn(&str) -> Option<String>;

struct Fault {
    what: &'static str,
    edit: Edit,
    /// What the report says; nothing where numbers may tell.
    report: &'static str,
}

const fn fault(what: &'static str, edit: Edit, report: &'static str) -> Fault {
    Fault { what, edit, report }
}

pub(in crate::ops) fn without(line: &str, start: &str) -> Option<String> {
    line.starts_with(start).then(String::new)
}

pub(in crate::ops) fn replaced(line: &str, start: &str, from: &str, to: &str) -> Option<String> {
    (line.starts_with(start) && line.contains(from)).then(|| line.replacen(from, to, 1))
}

/// The line with its last operand exchanged for another.
fn last(line: &str, start: &str, operand: &str) -> Option<String> {
    let (head, _) = line.strip_prefix(start)?.rsplit_once(',')?;
    Some(format!("{start}{head}, {operand};"))
}

/// The line with two operands of its list in braces exchanged.
pub(in crate::ops) fn exchanged(line: &str, start: &str, i: usize, j: usize) -> Option<String> {
    if !line.starts_with(start) {
        return None;
    }
    let (open, close) = (line.rfind('{')?, line.rfind('}')?);
    let mut list: Vec<&str> = line[open + 1..close].split(',').collect();
    (j < list.len()).then(|| list.swap(i, j))?;
    Some(format!("{}{{{}}}{}", &line[..open], list.join(","), &line[close + 1..]))
}

const INIT: &str = "mbarrier.init";
const EXPECT: &str = "mbarrier.arrive.expect_tx";
const WAIT: &str = "mbarrier.try_wait";
const LOAD: &str = "cp.async.bulk.tensor.2d.shared::cluster";
const STORE_2D: &str = "cp.async.bulk.tensor.2d.global";
const STORE_3D: &str = "cp.async.bulk.tensor.3d.global";
const DESCRIPTOR: &str = "or.b64";

const FAULTS: &[Fault] = &[
    // Products.
    fault("no wait for products", |l| without(l, "wgmma.wait_group"), ""),
    fault(
        "a stage is given back a group early",
        |l| replaced(l, "wgmma.wait_group", " 1;", " 2;"),
        "",
    ),
    fault(
        "the last products are not waited for",
        |l| replaced(l, "wgmma.wait_group", " 0;", " 1;"),
        "under way",
    ),
    fault("no fence before products", |l| without(l, "wgmma.fence"), "wgmma.fence"),
    fault("no commit of products", |l| without(l, "wgmma.commit_group"), ""),
    fault("B transposed", |l| replaced(l, "wgmma.mma_async", "1, 1, 0, 0;", "1, 1, 0, 1;"), ""),
    fault("B not transposed", |l| replaced(l, "wgmma.mma_async", "1, 1, 0, 1;", "1, 1, 0, 0;"), ""),
    fault("A not transposed", |l| replaced(l, "wgmma.mma_async", "1, 1, 1, 1;", "1, 1, 0, 1;"), ""),
    fault("sums that never start anew", |l| replaced(l, "setp.ne.b32 adds", ", 0;", ", 7;"), ""),
    fault(
        "sums that always start anew",
        |l| l.starts_with("setp.ne.b32 adds").then(|| "setp.ne.b32 adds, 0, 0;".to_owned()),
        "",
    ),
    // Descriptors: swizzle, the next eight rows, the next 64 columns, the next 16 k.
    fault("descriptor: no swizzle", |l| descriptor(l, |d| d & !(3 << 62)), ""),
    fault("descriptor: swizzle of 64 bytes", |l| descriptor(l, |d| d & !(3 << 62) | 2 << 62), ""),
    fault("descriptor: eight rows are 512 bytes", |l| descriptor(l, |d| d ^ 96 << 32), ""),
    fault("descriptor: 64 columns are 4096 bytes", |l| descriptor(l, |d| d ^ 768 << 16), ""),
    fault("K-major: 16 k are 64 bytes", |l| replaced(l, "add.s64", ", 2;", ", 4;"), ""),
    fault("MN-major: 16 k are 32 bytes", |l| replaced(l, "add.s64", ", 128;", ", 2;"), ""),
    // Barriers in shared memory.
    fault("barriers of one arrival", |l| last(l, INIT, "1"), ""),
    fault("barriers of an arrival too many", |l| last(l, INIT, "17"), "deadlock"),
    fault("barriers of two arrivals", |l| last(l, INIT, "2"), ""),
    fault("initialised barriers without a fence", |l| without(l, "fence.mbarrier_init"), "fence"),
    fault("fewer bytes expected", |l| last(l, EXPECT, "4096"), ""),
    fault("more bytes expected", |l| last(l, EXPECT, "65536"), "deadlock"),
    fault(
        "bytes expected without an arrival",
        |l| {
            replaced(
                l,
                EXPECT,
                "arrive.expect_tx.shared::cta.b64 _,",
                "expect_tx.relaxed.cta.shared::cta.b64",
            )
        },
        "deadlock",
    ),
    fault(
        "an arrival that expects no bytes",
        |l| {
            let (head, _) = l.strip_prefix(EXPECT)?.rsplit_once(',')?;
            Some(format!("mbarrier.arrive{head};"))
        },
        "",
    ),
    fault("parity always 0", |l| last(l, WAIT, "0"), ""),
    fault("parity always 1", |l| last(l, WAIT, "1"), ""),
    fault("waits that do not wait", |l| without(l, "@!over bra"), ""),
    fault(
        "a stage is not given back to the others",
        |l| without(l, "mbarrier.arrive.shared::cluster"),
        "deadlock",
    ),
    fault("a stage is given back to one block only", |l| last(l, "mapa.", "0"), ""),
    fault(
        "an arrival of the block's own space",
        |l| replaced(l, "mbarrier.arrive.shared::cluster", "shared::cluster", "shared::cta"),
        "",
    ),
    fault(
        "the turn of the other warpgroup never comes",
        |l| without(l, "mbarrier.arrive.shared::cta"),
        "deadlock",
    ),
    fault(
        "the kernel before is waited for at the end",
        |l| {
            let last = replaced(l, "griddepcontrol.launch_dependents", "launch_dependents", "wait");
            last.or_else(|| without(l, "griddepcontrol.wait"))
        },
        "before griddepcontrol.wait",
    ),
    // Copies.
    fault("a multicast for one block", |l| multicast(l, "1"), "deadlock"),
    fault(
        "both blocks load the same half",
        |l| replaced(l, "mov.u32", "%cluster_ctarank", "0"),
        "",
    ),
    fault("coordinates of loads exchanged", |l| exchanged(l, LOAD, 0, 1), ""),
    fault("coordinates of stores exchanged", |l| exchanged(l, STORE_2D, 0, 1), ""),
    fault("coordinates of parts exchanged", |l| exchanged(l, STORE_3D, 1, 2), ""),
    fault("no commit of stores", |l| without(l, "cp.async.bulk.commit_group"), ""),
    fault(
        "stores are not waited for before their buffers are written",
        |l| without(l, "cp.async.bulk.wait_group.read"),
        "",
    ),
    fault(
        "stores are not waited for at the end",
        |l| without(l, "cp.async.bulk.wait_group 0"),
        "wait_group",
    ),
    fault(
        "a sum is stored in place of added",
        |l| {
            let rest = l.strip_prefix("cp.reduce.async.bulk.tensor")?;
            Some(format!("cp.async.bulk.tensor{}", rest.replacen(".add.", ".", 1)))
        },
        "",
    ),
    fault(
        "no fence between stores and the copy engine",
        |l| without(l, "fence.proxy.async"),
        "fence.proxy.async",
    ),
    // Warps.
    fault("no barrier of a warpgroup", |l| without(l, "bar.sync"), ""),
    fault("no barriers of the cluster", |l| without(l, "barrier.cluster"), ""),
    fault("more registers than there are", |l| replaced(l, "setmaxnreg.inc", "232", "240"), ""),
    fault("no registers given away", |l| without(l, "setmaxnreg.dec"), ""),
    // Panels.
    fault("stmatrix: matrices exchanged", |l| exchanged(l, "stmatrix", 0, 1), ""),
    fault("stmatrix: halves exchanged", |l| exchanged(l, "stmatrix", 0, 2), ""),
    fault("stmatrix: transposed", |l| replaced(l, "stmatrix", ".x4.", ".x4.trans."), ""),
    fault("ldmatrix: matrices exchanged", |l| exchanged(l, "ldmatrix", 1, 2), ""),
    fault("f32 panels: columns exchanged", |l| exchanged(l, "st.shared.v2.f32", 0, 1), ""),
];

fn descriptor(line: &str, change: fn(u64) -> u64) -> Option<String> {
    let (head, constant) = line.strip_prefix(DESCRIPTOR)?.trim_end_matches(';').rsplit_once(',')?;
    let constant: u64 = constant.trim().parse().ok().filter(|&d| d >= 1 << 62)?;
    Some(format!("{DESCRIPTOR}{head}, {};", change(constant) as i64))
}

fn multicast(line: &str, mask: &str) -> Option<String> {
    line.contains(".multicast::cluster").then(|| last(line, LOAD, mask)).flatten()
}

/// The PTX with the edit made of every line that it applies to; nothing where that is none.
pub(in crate::ops) fn edited(text: &str, edit: Edit) -> Option<String> {
    let mut is_changed = false;
    let lines: Vec<String> = text
        .lines()
        .map(|line| {
            let new = edit(line.trim());
            is_changed |= new.is_some();
            new.unwrap_or_else(|| line.to_owned())
        })
        .collect();
    is_changed.then(|| lines.join("\n"))
}

/// The kernels of one tile: the others would only be parsed.
pub(in crate::ops) fn kernels(text: &str, tile: Tile) -> String {
    const ENTRY: &str = ".visible .entry ";
    let mut parts = text.split(ENTRY);
    let head = parts.next().unwrap_or_default();
    let is_kept = |part: &&str| part.split('(').next().unwrap_or("").ends_with(tile.variant);
    // Behind the last kernel there are the sources' names.
    let behind = text.rfind("\n}\n").map_or("", |at| &text[at + 3..]);
    let kept: String = parts.filter(is_kept).map(|part| format!("{ENTRY}{part}\n")).collect();
    match kept.ends_with(&format!("{behind}\n")) {
        true => head.to_owned() + &kept,
        false => head.to_owned() + &kept + behind,
    }
}

/// Everything that the kernels of a tile can do; the first thing that is wrong.
fn run(device: &Device, tile: Tile, expected: &Expected) -> Result<Option<String>> {
    let (dtype, [rows, out, fan_in]) = (DType::Bf16, SIZE);
    let upload = |operand: &Operand, dtype, shape: &[usize]| {
        Tensor::from_f64(device, dtype, &operand.host, shape)
    };
    let i = &expected.inputs;
    let (x, w) = (upload(&i.x, dtype, &[rows, fan_in])?, upload(&i.w, dtype, &[out, fan_in])?);
    let (dy, residual) =
        (upload(&i.dy, dtype, &[rows, out])?, upload(&i.residual, dtype, &[rows, out])?);
    let wrong = |what: &str, ours: &Tensor, reference: &[f64]| -> Result<Option<String>> {
        let d = distance(&ours.to_f64_vec()?, reference);
        let close = match ours.dtype() {
            DType::Bf16 => within_bf16(&d),
            _ => within(&d, Tolerance::Products { k: out }, 1.0),
        };
        Ok((!close).then(|| format!("{what}: {d:?}").lines().next().unwrap_or_default().to_owned()))
    };

    let mut forward = Forward::new(&x, &w)?;
    forward.choice = Some(hopper(tile, [rows, out, fan_in], 1));
    let mut y = Tensor::empty(device, dtype, &[rows, out])?;
    forward.run(&mut y, None, None, Some(&residual), false)?;
    if let Some(found) = wrong("y", &y, &expected.y)? {
        return Ok(Some(found));
    }
    let mut pre = Tensor::empty(device, dtype, &[rows, out])?;
    forward.run(&mut y, Some(&mut pre), None, None, true)?;
    if let Some(found) = wrong("pre", &pre, &expected.pre)? {
        return Ok(Some(found));
    }
    let mut gradient = InputGradient::new(&dy, &w)?;
    gradient.choice = Some(hopper(tile, [rows, fan_in, out], 1));
    let mut dx = Tensor::empty(device, dtype, &[rows, fan_in])?;
    gradient.run(&mut dx.as_mut(), None, GradMode::Overwrite)?;
    if let Some(found) = wrong("dx", &dx, &expected.dx)? {
        return Ok(Some(found));
    }
    let mut gradient = ParamGradient::new(&dy, &x)?;
    let mut dw = Tensor::empty(device, DType::F32, &[out, fan_in])?;
    let mut db = Tensor::empty(device, DType::F32, &[out])?;
    for (parts, mode) in [(2, GradMode::Overwrite), (1, GradMode::Accumulate)] {
        gradient.choice = hopper(tile, [out, fan_in, rows], parts);
        gradient.run(true, |call, place| {
            let call = place.append(call, &mut dw.as_mut())?;
            Ok((call.output(&mut db)?, [mode; 2]))
        })?;
    }
    match wrong("dw", &dw, &expected.dw)? {
        None => wrong("db", &db, &expected.db),
        found => Ok(found),
    }
}

/// Rows, out, in: several tiles, more stages than the ring has, tails of everything.
const SIZE: [usize; 3] = [330, 200, 328];

struct Expected {
    inputs: super::hopper_tests::Inputs,
    y: Vec<f64>,
    pre: Vec<f64>,
    dx: Vec<f64>,
    dw: Vec<f64>,
    db: Vec<f64>,
}

impl Expected {
    fn new() -> Self {
        let [rows, out, fan_in] = SIZE;
        let inputs = inputs(&Device::Cpu, DType::F32, SIZE);
        let (x, w, dy) = (&inputs.x.host, &inputs.w.host, &inputs.dy.host);
        let pre = product([rows, out, fan_in], |i, k| x[i * fan_in + k], |k, j| w[j * fan_in + k]);
        let y = pre.iter().zip(&inputs.residual.host).map(|(a, b)| a + b).collect();
        let dx = product([rows, fan_in, out], |i, k| dy[i * out + k], |k, j| w[k * fan_in + j]);
        let twice = |v: Vec<f64>| v.into_iter().map(|x| 2.0 * x).collect();
        let dw = product([out, fan_in, rows], |i, k| dy[k * out + i], |k, j| x[k * fan_in + j]);
        let db = product([out, 1, rows], |i, k| dy[k * out + i], |_, _| 1.0);
        Self { y, pre, dx, dw: twice(dw), db: twice(db), inputs }
    }
}

#[test]
fn faults_in_hoppers_products_are_noticed() {
    // Both blocks of a cluster on one tile of rows, and a warpgroup each.
    let tiles = [TILES[1], TILES[3]];
    let options = |schedule| Options { schedule, kernels: KernelSet::Hopper, ..Options::default() };
    if let Err(e) = Ptx::new(Arch::Sm90a, options(Schedule::Ascending)) {
        println!("skipped: {e}");
        return;
    }
    let expected = Expected::new();
    let whole = Ptx::new(Arch::Sm90a, options(Schedule::Ascending)).unwrap();
    let whole = whole.text("hopper/linear").unwrap();
    let texts = tiles.map(|tile| kernels(&whole, tile));
    // What is noticed of an edit in the kernels of a tile; nothing where the edit changes none of them.
    let seen = |edit: Edit, schedule, i: usize, changed: &mut usize| -> Option<String> {
        let ptx = Arc::new(Ptx::new(Arch::Sm90a, options(schedule)).unwrap());
        let text = edited(&texts[i], edit)?;
        *changed += 1;
        if let Err(e) = ptx.replace("hopper/linear", &text) {
            return Some(e.to_string());
        }
        run(&Device::Ptx(ptx), tiles[i], &expected).unwrap_or_else(|e| Some(e.to_string()))
    };
    let schedules = [Schedule::Shuffled(1), Schedule::Ascending, Schedule::Descending];
    let same: Edit = |line| line.starts_with("ret").then(|| line.to_owned());
    for (i, schedule) in schedules.into_iter().enumerate().take(tiles.len()) {
        let mut changed = 0;
        assert_eq!(seen(same, schedule, i, &mut changed), None);
        assert!(changed > 0);
    }
    let mut missed = Vec::new();
    for (i, Fault { what, edit, report }) in FAULTS.iter().enumerate() {
        // Nearly all are noticed with either tile and whatever the order of threads; the others with the next ones.
        let mut changed = 0;
        let found = (0..6)
            .find_map(|j| seen(*edit, schedules[(i + j) % 3], (i + j) % tiles.len(), &mut changed));
        match found {
            _ if changed == 0 => missed.push(format!("{what}: nothing in the PTX is like that")),
            Some(message) if message.contains(report) => {
                let first = message.lines().next().unwrap_or_default();
                println!("| {what} | {} |", first.replace('|', "\\|"));
            }
            Some(message) => missed.push(format!("{what}: '{message}' lacks '{report}'")),
            None => missed.push(format!("{what}: not noticed")),
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
    println!("{} faults in Hopper's products, all noticed", FAULTS.len());
}
