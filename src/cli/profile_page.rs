//! The page of `glmae profile --html`: the source with its counters beside it, in one file without scripts of others.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use glmae::lab::profile::{Counted, KernelProfile, PassProfile};
use glmae_simt::bound::Gpu;

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
details{margin:.4em 0}summary{cursor:pointer}
.note{color:#555;max-width:60em}
";

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
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
        "<h3>{} ({})</h3>\n<p>{} launches, last grid {:?}, block {:?}; {} registers a thread, {} bytes of shared \
         memory a block: {} warps on a multiprocessor, limited by {}. Bound by <b>{}</b>.</p>\n\
         <table><tr><th class=s>unit<th>at least, &micro;s</tr>",
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
    _ = write!(out, "</table>\n{}", totals(c));
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

fn totals(c: &Counted) -> String {
    format!(
        "<table><tr><th>instructions<th>lanes<th>integer<th>fma<th>convert<th>special<th>load/store<th>tensor<th>control\
         <th>barriers<th>sectors<th>/ least<th>passes<th>/ least<th>async bytes<th>L2 bytes<th>wgmma bytes\
         <th>tensor GFLOP</tr>\
         <tr><td>{}<td>{:.1}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}{}<td>{}{}<td>{}<td>{}<td>{}<td>{}<td>{:.3}</tr></table>\n",
        c.instructions,
        c.lanes_per_instruction,
        c.integer,
        c.fma,
        c.convert,
        c.special,
        c.load_store,
        c.tensor,
        c.control,
        c.barriers,
        c.sectors,
        ratio(c.sectors_over_least, c.sectors),
        c.shared_passes,
        ratio(c.passes_over_least, c.shared_passes),
        c.async_bytes,
        c.l2_bytes,
        c.operand_bytes,
        c.tensor_flops as f64 * 1e-9
    )
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
            c.sectors,
            ratio(c.sectors_over_least, c.sectors),
            c.shared_passes,
            ratio(c.passes_over_least, c.shared_passes),
            escape(line)
        );
    }
    out.push_str("</table>\n");
}
