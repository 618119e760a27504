//! The page of `glmae profile --html`: the source with its counters beside it, in one file without scripts of others.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use glmae::lab::profile::{Counted, KernelProfile, PassProfile};
use glmae_simt::bound::Gpu;

use super::term;

const STYLE: &str = "
body{font:14px/1.45 system-ui,sans-serif;margin:1.5em;color:#1a1a1a;background:#fff}
h1{font-size:1.3em}h2{font-size:1.1em;margin-top:2em}h3{font-size:1em}
table{border-collapse:collapse;margin:.5em 0}
td,th{padding:.1em .6em;text-align:right;white-space:nowrap}
th{border-bottom:1px solid #999;font-weight:600;position:sticky;top:0;background:#fff}
td.s,th.s{text-align:left}
table.code{font:12px/1.35 ui-monospace,monospace}
table.code td.s{white-space:pre;color:#222}
tr.on td{background:#f6f8fb}
tr.hot td.n{background:#ffd9a8}
td.bad{color:#b00020;font-weight:600}
.pair{display:flex;gap:3em;align-items:flex-start}
details{margin:.4em 0}summary{cursor:pointer}
.note{color:#555;max-width:60em}
";

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A count, where there is any.
fn some(n: u64) -> String {
    if n == 0 { String::new() } else { n.to_string() }
}

/// A ratio that should be 1.
fn ratio(value: f64, of: u64) -> String {
    match of {
        0 => "<td></td>".into(),
        _ if value > 1.05 => format!("<td class=bad>{value:.2}</td>"),
        _ => format!("<td>{value:.2}</td>"),
    }
}

pub fn page(passes: &[PassProfile], gpu: &Gpu, sources: &Path) -> String {
    let mut out = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>glmae profile</title><style>{STYLE}</style>\n\
         <h1>Counted on the compiled kernels, without a GPU</h1>\n\
         <p class=note>The PTX that nvcc made of the kernels was executed and every instruction counted. \
         &ldquo;At least&rdquo; is what one unit of {} would need alone, kept busy on all {} multiprocessors: a bound, \
         not a time. Caches, latencies and scheduling are not modelled. Red: more than 1.05 times the sectors or \
         passes that the bytes need.</p>\n",
        escape(gpu.name),
        gpu.multiprocessors
    );
    for pass in passes {
        _ = write!(
            out,
            "<h2>{} {} {}</h2>\n<p>Bytes that have to be moved once: {}, {:.1} &micro;s of memory; {:.3} GFLOP.</p>\n",
            escape(&pass.op),
            escape(&pass.case),
            pass.pass,
            pass.bytes,
            pass.memory_us,
            pass.flops as f64 * 1e-9
        );
        for kernel in &pass.kernels {
            kernel_section(&mut out, kernel, sources);
        }
    }
    out + "</html>\n"
}

fn kernel_section(out: &mut String, kernel: &KernelProfile, sources: &Path) {
    let c = &kernel.total;
    _ = write!(
        out,
        "<h3>{} ({})</h3>\n<p>Launches: {}, the last of grid {:?}, block {:?}; {} registers a thread, {} bytes of shared \
         memory a block: {} warps on a multiprocessor, limited by {}. Bound by <b>{}</b>.</p>\n\
         <div class=pair><table><tr><th class=s>unit<th>at least, &micro;s</tr>",
        escape(&kernel.kernel),
        escape(&kernel.target),
        kernel.launches,
        kernel.grid,
        kernel.block,
        kernel.registers.map_or("unknown".into(), |n| n.to_string()),
        kernel.shared_bytes,
        kernel.warps_per_multiprocessor,
        kernel.occupancy_limit,
        kernel.binding
    );
    for (unit, us) in &kernel.at_least_us {
        _ = write!(out, "<tr><td class=s>{unit}<td>{us:.3}</tr>");
    }
    _ = writeln!(out, "</table>\n{}</div>", totals(c));
    let mut files: BTreeMap<&str, BTreeMap<u32, &Counted>> = BTreeMap::new();
    for line in &kernel.lines {
        files.entry(&line.file).or_default().insert(line.line, &line.counted);
    }
    for (file, lines) in files {
        let share: u64 = lines.values().map(|c| c.instructions).sum();
        let percent = 100.0 * share as f64 / c.instructions.max(1) as f64;
        _ = writeln!(
            out,
            "<details{}><summary>{} &middot; {percent:.1} % of the instructions</summary>",
            if percent > 40.0 { " open" } else { "" },
            escape(file)
        );
        source(out, file, &lines, c.instructions, sources);
        out.push_str("</details>\n");
    }
}

/// Counts of the whole kernel, a line each.
fn totals(c: &Counted) -> String {
    let whole = |n: u64| format!("<td>{}", term::count(n as usize));
    let of_all = |n: u64| {
        let percent = 100.0 * n as f64 / c.instructions.max(1) as f64;
        format!("{}<td>{percent:.1} %", whole(n))
    };
    let rows = [
        ("instructions", whole(c.instructions)),
        ("active lanes of 32", format!("<td>{:.1}", c.lanes_per_instruction)),
        ("integer", of_all(c.integer)),
        ("fma", of_all(c.fma)),
        ("convert", of_all(c.convert)),
        ("special", of_all(c.special)),
        ("load/store", of_all(c.load_store)),
        ("tensor", of_all(c.tensor)),
        ("control", of_all(c.control)),
        ("barriers", whole(c.barriers)),
        ("sectors, over least", whole(c.sectors) + &ratio(c.sectors_over_least, c.sectors)),
        (
            "shared passes, over least",
            whole(c.shared_passes) + &ratio(c.passes_over_least, c.shared_passes),
        ),
        ("bytes of asynchronous copies", whole(c.async_bytes)),
        ("bytes to the second cache", whole(c.l2_bytes)),
        ("bytes that wgmma reads", whole(c.operand_bytes)),
        ("GFLOP of products", format!("<td>{:.3}", c.tensor_flops as f64 * 1e-9)),
    ];
    let mut out = String::from("<table><tr><th class=s>counted<th>in all<th></tr>");
    for (name, cells) in rows {
        _ = write!(out, "<tr><td class=s>{name}{cells}</tr>");
    }
    out + "</table>"
}

/// The lines of a file with their counters; only those that have some where the file is not there.
fn source(out: &mut String, file: &str, lines: &BTreeMap<u32, &Counted>, all: u64, sources: &Path) {
    out.push_str(
        "<table class=code><tr><th>line<th>instr.<th>%<th>lanes<th>sectors<th>/ least<th>passes<th>/ least\
         <th class=s>source</tr>\n",
    );
    let text = std::fs::read_to_string(sources.join(file)).ok();
    let numbered: Vec<(u32, &str)> = match &text {
        Some(text) => text.lines().enumerate().map(|(i, line)| (i as u32 + 1, line)).collect(),
        None => lines.keys().map(|&line| (line, "")).collect(),
    };
    for (number, line) in numbered {
        let Some(c) = lines.get(&number) else {
            _ = writeln!(
                out,
                "<tr><td>{number}<td><td><td><td><td><td><td><td class=s>{}</tr>",
                escape(line)
            );
            continue;
        };
        let share = 100.0 * c.instructions as f64 / all.max(1) as f64;
        _ = writeln!(
            out,
            "<tr class=\"on{}\"><td>{number}<td class=n>{}<td class=n>{share:.1}<td>{:.1}<td>{}{}<td>{}{}<td class=s>{}</tr>",
            if share >= 5.0 { " hot" } else { "" },
            c.instructions,
            c.lanes_per_instruction,
            some(c.sectors),
            ratio(c.sectors_over_least, c.sectors),
            some(c.shared_passes),
            ratio(c.passes_over_least, c.shared_passes),
            escape(line)
        );
    }
    out.push_str("</table>\n");
}

#[cfg(test)]
mod tests {
    use glmae::lab::profile::LineProfile;
    use glmae_simt::profile::Sums;

    use super::*;

    /// A kernel that touches 6 sectors for 4, at a line of a source that is not there.
    fn example() -> PassProfile {
        let sums = Sums {
            issued: 1200,
            lanes: 1200 * 16,
            load_store: 300,
            sectors: 6,
            least_sectors: 4,
            ..Sums::default()
        };
        let counted = Counted::from(&sums);
        let line = LineProfile { file: "kernels/<none>.cu".into(), line: 77, counted };
        let kernel = KernelProfile {
            op: "copy".into(),
            case: "n=1".into(),
            pass: "fwd",
            kernel: "copy_f32".into(),
            target: "sm_80".into(),
            launches: 1,
            grid: [5, 1, 1],
            block: [64, 1, 1],
            shared_bytes: 128,
            registers: Some(33),
            blocks_per_multiprocessor: 4,
            warps_per_multiprocessor: 8,
            occupancy_limit: "registers",
            total: counted,
            at_least_us: vec![("issue", 1.5)],
            binding: "issue",
            lines: vec![line],
        };
        PassProfile {
            op: "copy".into(),
            case: "n=1".into(),
            pass: "fwd",
            bytes: 128,
            flops: 0,
            memory_us: 0.5,
            floor_us: 0.5,
            kernels: vec![kernel],
        }
    }

    #[test]
    fn counts_stand_beside_their_names() {
        let page = page(&[example()], &glmae_simt::bound::GPUS[0], Path::new("/nowhere"));
        for text in [
            "<td class=s>instructions<td>1,200</tr>",
            "<td class=s>active lanes of 32<td>16.0</tr>",
            "<td class=s>load/store<td>300<td>25.0 %</tr>",
            "<td class=s>sectors, over least<td>6<td class=bad>1.50</td></tr>",
            "33 registers a thread, 128 bytes of shared",
            "8 warps on a multiprocessor, limited by registers",
            "<td class=s>issue<td>1.500</tr>",
            "<td>77<td class=n>1200<td class=n>100.0<td>16.0<td>6<td class=bad>1.50</td><td><td></td>",
            "kernels/&lt;none&gt;.cu",
        ] {
            assert!(page.contains(text), "no {text} in\n{page}");
        }
        for (open, close) in
            [("<table", "</table>"), ("<details", "</details>"), ("<div", "</div>")]
        {
            assert_eq!(page.matches(open).count(), page.matches(close).count(), "{open}");
        }
    }
}
