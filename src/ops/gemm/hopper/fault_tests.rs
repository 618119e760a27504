//! Faults put into the PTX of Hopper's kernels: what orders the copy engine, the tensor cores and the warps, one kind of
//! line at a time. A run with a fault must be reported or give wrong numbers, never pass.

use std::sync::Arc;

use crate::device::ptx::{Arch, Options, Ptx, Schedule};
use crate::device::{Device, KernelSet};

/// A change of every line that it applies to, of what the trimmed line is.
pub(in crate::ops) type Edit = fn(&str) -> Option<String>;

pub(in crate::ops) struct Fault {
    pub what: &'static str,
    pub edit: Edit,
    /// What the report says; nothing where numbers may tell.
    pub report: &'static str,
}

pub(in crate::ops) const fn fault(what: &'static str, edit: Edit, report: &'static str) -> Fault {
    Fault { what, edit, report }
}

pub(in crate::ops) fn without(line: &str, start: &str) -> Option<String> {
    line.starts_with(start).then(String::new)
}

pub(in crate::ops) fn replaced(line: &str, start: &str, from: &str, to: &str) -> Option<String> {
    (line.starts_with(start) && line.contains(from)).then(|| line.replacen(from, to, 1))
}

/// The line with its last operand exchanged for another.
pub(in crate::ops) fn last(line: &str, start: &str, operand: &str) -> Option<String> {
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

/// The line of a product with two of the registers of A exchanged.
pub(in crate::ops) fn exchanged_a(line: &str, i: usize, j: usize) -> Option<String> {
    let a_is_registers = line.matches('{').count() == 2;
    a_is_registers.then(|| exchanged(line, "wgmma.mma_async", i, j)).flatten()
}

/// A choice the other way round.
pub(in crate::ops) fn exchanged_sources(line: &str, start: &str) -> Option<String> {
    let operands: Vec<&str> = line.strip_prefix(start)?.trim_end_matches(';').split(',').collect();
    let [d, a, b, p] = operands[..] else { return None };
    Some(format!("{start} {d}, {b}, {a}, {p};"))
}

pub(in crate::ops) const INIT: &str = "mbarrier.init";
pub(in crate::ops) const EXPECT: &str = "mbarrier.arrive.expect_tx";
pub(in crate::ops) const WAIT: &str = "mbarrier.try_wait";
pub(in crate::ops) const LOAD: &str = "cp.async.bulk.tensor.2d.shared::cluster";
pub(in crate::ops) const STORE_2D: &str = "cp.async.bulk.tensor.2d.global";
pub(in crate::ops) const STORE_3D: &str = "cp.async.bulk.tensor.3d.global";
pub(in crate::ops) const DESCRIPTOR: &str = "or.b64";

/// What every kernel has that multiplies what a ring of stages brings.
pub(in crate::ops) const COMMON: &[Fault] = &[
    // Products.
    fault("no wait for products", |l| without(l, "wgmma.wait_group"), ""),
    fault(
        "the last products are not waited for",
        |l| replaced(l, "wgmma.wait_group", " 0;", " 1;"),
        "under way",
    ),
    fault("no fence before products", |l| without(l, "wgmma.fence"), "wgmma.fence"),
    fault("no commit of products", |l| without(l, "wgmma.commit_group"), ""),
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
        "the kernel before is waited for at the end",
        |l| {
            let last = replaced(l, "griddepcontrol.launch_dependents", "launch_dependents", "wait");
            last.or_else(|| without(l, "griddepcontrol.wait"))
        },
        "before griddepcontrol.wait",
    ),
    fault(
        "no fence between stores and the copy engine",
        |l| without(l, "fence.proxy.async"),
        "fence.proxy.async",
    ),
    fault("no registers given away", |l| without(l, "setmaxnreg.dec"), ""),
];

/// What kernels have besides whose rows go out by threads, through a buffer in shared memory.
pub(in crate::ops) const ROWS_OUT: &[Fault] = &[
    fault("A in registers: halves of 16 k exchanged", |l| exchanged_a(l, 0, 2), ""),
    fault("nobody gives anything back", |l| without(l, "mbarrier.arrive.shared::cta"), "deadlock"),
    fault("warps that do not wait", |l| without(l, "bar.warp.sync"), ""),
    fault("stmatrix: matrices exchanged", |l| exchanged(l, "stmatrix", 0, 1), ""),
    fault("stmatrix: transposed", |l| replaced(l, "stmatrix", ".x4.", ".x4.trans."), ""),
    fault("ldmatrix: matrices exchanged", |l| exchanged(l, "ldmatrix", 1, 2), ""),
    fault(
        "columns of a row exchanged on their way out",
        |l| exchanged(l, "st.global.v4.u32", 0, 3),
        "",
    ),
    fault("more registers than there are", |l| replaced(l, "setmaxnreg.inc", " 240;", " 248;"), ""),
];

pub(in crate::ops) fn descriptor(line: &str, change: fn(u64) -> u64) -> Option<String> {
    let (head, constant) = line.strip_prefix(DESCRIPTOR)?.trim_end_matches(';').rsplit_once(',')?;
    let constant: u64 = constant.trim().parse().ok().filter(|&d| d >= 1 << 62)?;
    Some(format!("{DESCRIPTOR}{head}, {};", change(constant) as i64))
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

/// The kernels whose names end like that, or that, or that: the others would only be parsed.
pub(in crate::ops) fn kernels(text: &str, endings: &str) -> String {
    const ENTRY: &str = ".visible .entry ";
    let mut parts = text.split(ENTRY);
    let head = parts.next().unwrap_or_default();
    let is_kept = |part: &&str| {
        let name = part.split('(').next().unwrap_or_default();
        endings.split('|').any(|ending| name.ends_with(ending))
    };
    // Behind the last kernel there are the sources' names.
    let behind = text.rfind("\n}\n").map_or("", |at| &text[at + 3..]);
    let kept: String = parts.filter(is_kept).map(|part| format!("{ENTRY}{part}\n")).collect();
    match kept.ends_with(&format!("{behind}\n")) {
        true => head.to_owned() + &kept,
        false => head.to_owned() + &kept + behind,
    }
}

/// Puts each fault into a file of kernels, of which only those with these endings, in turn; `run` says what is wrong, first
/// of the kernels as they are. Nearly all faults are noticed with any kernels and whatever the order of threads; the others
/// with the next ones.
pub(in crate::ops) fn expect_noticed(
    file: &str,
    endings: &[&str],
    lists: &[&[Fault]],
    run: impl Fn(&Device, usize) -> crate::Result<Option<String>>,
) {
    let options = |schedule| Options { schedule, kernels: KernelSet::Hopper, ..Options::default() };
    let whole = match Ptx::new(Arch::Sm90a, options(Schedule::Ascending)) {
        Ok(ptx) => ptx.text(file).unwrap(),
        Err(e) => return println!("skipped: {e}"),
    };
    let texts: Vec<String> = endings.iter().map(|ending| kernels(&whole, ending)).collect();
    // What is noticed of an edit; nothing where it changes nothing.
    let seen = |edit: Edit, schedule, i: usize, changed: &mut usize| -> Option<String> {
        let ptx = Arc::new(Ptx::new(Arch::Sm90a, options(schedule)).unwrap());
        let text = edited(&texts[i], edit)?;
        *changed += 1;
        if let Err(e) = ptx.replace(file, &text) {
            return Some(e.to_string());
        }
        run(&Device::Ptx(ptx), i).unwrap_or_else(|e| Some(e.to_string()))
    };
    let schedules = [Schedule::Shuffled(1), Schedule::Ascending, Schedule::Descending];
    let same: Edit = |line| line.starts_with("ret").then(|| line.to_owned());
    for i in 0..texts.len() {
        let mut changed = 0;
        assert_eq!(seen(same, schedules[i % 3], i, &mut changed), None);
        assert!(changed > 0);
    }
    let mut missed = Vec::new();
    let faults = lists.iter().copied().flatten();
    for (i, Fault { what, edit, report }) in faults.clone().enumerate() {
        let mut changed = 0;
        let found = (0..6)
            .find_map(|j| seen(*edit, schedules[(i + j) % 3], (i + j) % texts.len(), &mut changed));
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
    println!("{} faults in {file}, all noticed", faults.count());
}
