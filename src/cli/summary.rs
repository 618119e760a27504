//! What a run says when it is over.

use std::path::Path;

use glmae::config::{TERMS, TOTAL};
use glmae::limits::bounds;
use glmae::train::pretrain::Pretrained;
use glmae::train::run::{MemoryPlan, Summary, Values, value};

use super::term::{self, Table};

/// Quarantined cases that are printed; the run folder has all of them.
const SHOWN: usize = 5;

/// What each term of the loss is, for people who see the numbers for the first time.
fn meaning(term: &str) -> &'static str {
    match term {
        TOTAL => "the weighted sum that is minimised",
        "dice_loss" => "1 - soft Dice, mean over classes",
        "cross_entropy" => "per voxel, between prediction and label",
        _ => TERMS.iter().find(|row| row.name == term).map_or("", |row| row.meaning),
    }
}

/// Losses, held-out measure, files, and whatever deserves attention.
pub fn text(summary: &Summary<Pretrained>, out: &Path) -> String {
    let mut text = format!("{} steps done, run folder {}\n\n", summary.steps, out.display());
    text += &losses(&summary.first, &summary.last);
    if let Some(held) = &summary.found.heldout {
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

/// The terms of the loss in the first and the last step.
pub fn losses(first: &Values, last: &Values) -> String {
    let mut table = Table::new(&["<loss", ">first", ">last", ">change", "<"]);
    for &(name, last) in last {
        let start = value(first, name).unwrap_or(f64::NAN);
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
    table.render("  ")
}

/// Cases left out, and warnings.
fn attention(summary: &Summary<Pretrained>) -> String {
    let mut text = String::new();
    let left_out = &summary.found.quarantined;
    if !left_out.is_empty() {
        text += &format!("\n{} cases were left out:\n", left_out.len());
        for case in left_out.iter().take(SHOWN) {
            text += &format!("  {}: {}\n", term::clean(&case.id), term::clean(&case.reason));
        }
        if left_out.len() > SHOWN {
            text += "  ... (log.jsonl in the run folder has all of them)\n";
        }
    }
    text + &warnings(&summary.warnings)
}

/// What deserves attention.
pub fn warnings(all: &[String]) -> String {
    all.iter().map(|warning| format!("\nwarning: {}\n", term::clean(warning))).collect()
}

/// The memory that a run needs, beside the limits of this process.
pub fn plan(plan: &MemoryPlan) -> String {
    let mut device = Table::new(&["<memory of the device", ">bytes"]);
    for (class, bytes) in &plan.classes {
        device.row([(*class).to_owned(), term::bytes(*bytes)]);
    }
    device.row(["peak".to_owned(), term::bytes(plan.peak_bytes)]);
    device.row(["with rounding and gaps".to_owned(), term::bytes(plan.reserved_bytes)]);
    let mut host = Table::new(&["<memory of the host", ">bytes"]);
    for (part, bytes) in plan.host.parts() {
        host.row([part.to_owned(), term::bytes(bytes)]);
    }
    host.row(["together, at least".to_owned(), term::bytes(plan.host.total())]);
    let limits: String =
        bounds().iter().map(|bound| format!("  {}\n", term::clean(&bound.to_string()))).collect();
    format!(
        "{}\nactivations in {}, {} launches per step\n\n{}{limits}",
        device.render("  "),
        plan.dtype,
        plan.launches,
        host.render("  "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_loss_has_its_line_and_its_meaning() {
        let names = TERMS.each_ref().map(|row| row.name);
        let names = [&[TOTAL, "dice_loss", "cross_entropy"][..], &names].concat();
        let of = |value: f64| names.iter().map(|name| (*name, value)).collect::<Values>();
        let text = losses(&of(4.0), &of(3.0));
        for name in names {
            let line =
                text.lines().skip(1).find(|line| line.split_whitespace().next() == Some(name));
            let line = line.unwrap_or_else(|| panic!("{name}: {text}"));
            assert!(!meaning(name).is_empty() && line.ends_with(meaning(name)), "{line}");
            assert!(line.contains("-25.0 %"), "{line}");
        }
    }
}
