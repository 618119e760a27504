//! What a run says when it is over.

use std::path::Path;

use super::engine::{MemoryPlan, Summary};
use super::term::{self, Table};

/// Quarantined cases that are printed; the run folder has all of them.
const SHOWN: usize = 5;

/// What each term of the loss is, for people who see the numbers for the first time.
fn meaning(term: &str) -> &'static str {
    match term {
        "loss" => "the weighted sum that is minimised",
        "rec_global" => "squared error of hidden voxels, global views",
        "rec_local" => "squared error of hidden voxels, local views",
        "g2g" => "cross-entropy, masked global view against intact one",
        "l2g" => "cross-entropy, local view against intact global one",
        _ => "",
    }
}

/// Losses, held-out measure, files, and whatever deserves attention.
pub fn text(summary: &Summary, out: &Path) -> String {
    let mut text = format!("{} steps done, run folder {}\n\n", summary.steps, out.display());
    let mut table = Table::new(&["<loss", ">first", ">last", ">change", "<"]);
    let first = summary.first.terms();
    for (name, last) in summary.last.terms() {
        let start = first.iter().find(|(n, _)| *n == name).map_or(f64::NAN, |(_, v)| *v);
        let change = match 100.0 * (last / start - 1.0) {
            c if c.is_finite() => format!("{c:+.1} %"),
            _ => String::new(),
        };
        table.row([
            name.to_owned(),
            format!("{start:.4}"),
            format!("{last:.4}"),
            change,
            meaning(name).to_owned(),
        ]);
    }
    text += &table.render("  ");
    if let Some(held) = &summary.heldout {
        text += &format!("\nheld out: {}\n", held.text());
    }
    if let Some(checkpoint) = &summary.checkpoint {
        text += &format!("\ncheckpoint  {}\n", checkpoint.display());
    }
    if let Some(picture) = summary.pictures.last() {
        text += &format!(
            "pictures    {} files, the newest {}\n",
            summary.pictures.len(),
            picture.display()
        );
    }
    text + &attention(summary)
}

/// Cases left out, and warnings.
fn attention(summary: &Summary) -> String {
    let mut text = String::new();
    if !summary.quarantined.is_empty() {
        text += &format!("\n{} cases were left out:\n", summary.quarantined.len());
        for case in summary.quarantined.iter().take(SHOWN) {
            text += &format!("  {}: {}\n", term::clean(&case.id), term::clean(&case.reason));
        }
        if summary.quarantined.len() > SHOWN {
            text += "  ... (log.jsonl in the run folder has all of them)\n";
        }
    }
    for warning in &summary.warnings {
        text += &format!("\nwarning: {}\n", term::clean(warning));
    }
    text
}

/// The memory that a run needs.
pub fn plan(plan: &MemoryPlan) -> String {
    let mut table = Table::new(&["<memory of the device", ">bytes"]);
    for (class, bytes) in &plan.classes {
        table.row([(*class).to_owned(), term::bytes(*bytes)]);
    }
    table.row(["peak".to_owned(), term::bytes(plan.peak_bytes)]);
    table.row(["with rounding and gaps".to_owned(), term::bytes(plan.reserved_bytes)]);
    format!(
        "{}\nactivations in {}, {} launches per step; up to {} of host memory for prepared cases\n",
        table.render("  "),
        plan.dtype,
        plan.launches,
        term::bytes(plan.cache_bytes)
    )
}
