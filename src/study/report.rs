//! The tables and figures of a study.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::config::StudyConfig;
use super::cost::Cost;
use super::grid::{SCRATCH, Start};
use super::result::{CellResult, Scores};
use super::statistics::{mean_sd, paired};
use crate::report::curve::{Curve, Series};
use crate::seg::Task;
use crate::{Error, Result, atomic};

/// Names of files in a study's folder.
pub const COSTS: &str = "costs.json";
const RESULTS: &str = "results.json";
const CSV: &str = "results.csv";
const TABLE: &str = "table.md";

/// Writes everything; returns the table and the files.
pub fn write(
    folder: &Path,
    config: &StudyConfig,
    task: &Task,
    results: &[CellResult],
) -> Result<(String, Vec<PathBuf>)> {
    let starts = config.starts()?;
    let costs = read_costs(folder)?;
    let table = markdown(config, task, &starts, results, &costs);
    let mut files = vec![folder.join(TABLE), folder.join(CSV), folder.join(RESULTS)];
    atomic::write_bytes(&files[0], table.as_bytes())?;
    atomic::write_bytes(&files[1], &csv(results)?)?;
    atomic::write_json(&files[2], &results)?;
    for (name, curve) in figures(config, task, &starts, results) {
        let path = folder.join(name);
        curve.render()?.save(&path)?;
        files.push(path);
    }
    Ok((table, files))
}

fn read_costs(folder: &Path) -> Result<Vec<Cost>> {
    let path = folder.join(COSTS);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path, "read"))?;
    serde_json::from_str(&text)
        .map_err(|e| Error::data(&path, format!("is no table of costs ({e}); delete it")))
}

/// Results of a start at a share of the labels.
fn of<'r>(results: &'r [CellResult], start: &Start, fraction: f64) -> Vec<&'r CellResult> {
    results.iter().filter(|r| r.start == start.name() && r.fraction == fraction).collect()
}

fn dice(results: &[&CellResult]) -> Vec<f64> {
    results.iter().filter_map(|r| r.held_out.dice).collect()
}

/// `0.8123 ± 0.0045 (3)`: mean, standard deviation over seeds, number of seeds.
fn spread(values: &[f64], digits: usize) -> String {
    match (values.len(), mean_sd(values)) {
        (0, _) => "-".to_owned(),
        (1, (mean, _)) => format!("{mean:.digits$} (1)"),
        (n, (mean, sd)) => format!("{mean:.digits$} ± {sd:.digits$} ({n})"),
    }
}

fn markdown(
    config: &StudyConfig,
    task: &Task,
    starts: &[Start],
    results: &[CellResult],
    costs: &[Cost],
) -> String {
    let mut text = format!("# {}\n\n", task.title);
    let cells = starts.len() * config.grid.fractions.len() * config.grid.seeds.len();
    let held = results.first().map_or(0, |r| r.held_out.cases.len());
    let _ = writeln!(
        text,
        "{} of {cells} fine-tunings are done. Each is judged with its last network on {held} cases \
         that no pre-training and no fine-tuning has seen, on the grids of their files. ± is the \
         standard deviation over seeds (their number in parentheses); a seed chooses the labelled \
         cases, weights, order and augmentation, the same for every start. A pre-training is done \
         once.\n",
        results.len()
    );
    for (title, digits, get) in [
        ("Dice", 4, (|s: &Scores| s.dice) as fn(&Scores) -> Option<f64>),
        ("HD95 in mm", 2, |s| s.hd95_mm),
        ("Surface Dice (NSD) at 1 mm", 4, |s| s.nsd_1mm),
    ] {
        let _ = writeln!(text, "## {title}\n");
        let values = |start: &Start, fraction: f64| -> String {
            let found = of(results, start, fraction);
            let values: Vec<f64> = found.iter().filter_map(|r| get(&r.held_out)).collect();
            spread(&values, digits)
        };
        text += &by_share(config, results, starts, &values);
    }
    for reference in starts {
        let others: Vec<Start> =
            starts.iter().skip_while(|s| *s != reference).skip(1).cloned().collect();
        if others.is_empty() {
            continue;
        }
        let _ = writeln!(text, "## Dice: difference to {}\n", reference.name());
        let values = |start: &Start, fraction: f64| -> String {
            let pairs = (of(results, start, fraction), of(results, reference, fraction));
            paired(&pairs.0, &pairs.1).map_or("-".to_owned(), |p| {
                format!(
                    "{:+.4} [{:+.4}, {:+.4}], {}/{} better",
                    p.mean, p.interval[0], p.interval[1], p.better, p.cases
                )
            })
        };
        text += &by_share(config, results, &others, &values);
    }
    if starts.len() > 1 {
        text += "Differences are of the same case, labels and seed, averaged over seeds; in brackets \
                 the 95 % bootstrap interval of the mean over cases.\n\n";
    }
    text += &cross_table(config, starts, results);
    if !costs.is_empty() {
        text += "## Cost of a pre-training step\n\n\
                 | objective | teacher | global views | local views | ms | peak MiB |\n\
                 | --- | --- | ---: | ---: | ---: | ---: |\n";
        for c in costs {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {:.0} | {:.0} |",
                c.objective,
                if c.has_teacher { "yes" } else { "no" },
                c.global_views,
                c.local_views,
                c.step_ms,
                c.peak_bytes as f64 / f64::from(1 << 20)
            );
        }
    }
    text
}

/// A table of starts by shares of the labels.
fn by_share(
    config: &StudyConfig,
    results: &[CellResult],
    starts: &[Start],
    cell: &dyn Fn(&Start, f64) -> String,
) -> String {
    let fractions = &config.grid.fractions;
    let head = fractions.iter().map(|&f| {
        let cases = results.iter().find(|r| r.fraction == f).map(|r| r.training_cases);
        let cases = cases.map_or(String::new(), |n| format!(", {n} cases"));
        format!("{} %{cases}", 100.0 * f)
    });
    let mut text = format!("| start | {} |\n", head.collect::<Vec<_>>().join(" | "));
    text += &format!("| --- |{}\n", " --- |".repeat(fractions.len()));
    for start in starts {
        let cells: Vec<String> = fractions.iter().map(|&f| cell(start, f)).collect();
        text += &format!("| {} | {} |\n", start.name(), cells.join(" | "));
    }
    text + "\n"
}

/// Dice on other sets without fine-tuning on them.
fn cross_table(config: &StudyConfig, starts: &[Start], results: &[CellResult]) -> String {
    let mut titles: Vec<&String> = Vec::new();
    for (title, _) in results.iter().flat_map(|r| &r.cross) {
        if !titles.contains(&title) {
            titles.push(title);
        }
    }
    let mut text = String::new();
    for title in titles {
        let _ = writeln!(text, "## Dice on {title}, not fine-tuned on\n");
        let values = |start: &Start, fraction: f64| {
            let found = of(results, start, fraction);
            let scores = found.iter().flat_map(|r| &r.cross).filter(|(t, _)| t == title);
            spread(&scores.filter_map(|(_, s)| s.dice).collect::<Vec<_>>(), 4)
        };
        text += &by_share(config, results, starts, &values);
    }
    text
}

/// One line per cell, and the mean Dice of every region.
fn csv(results: &[CellResult]) -> Result<Vec<u8>> {
    let failed = |e: csv::Error| Error::io("csv", "write")(e.into());
    let mut out = csv::Writer::from_writer(Vec::new());
    let regions: Vec<String> = results
        .first()
        .map(|r| r.held_out.regions.iter().map(|(name, _)| format!("Dice {name}")).collect())
        .unwrap_or_default();
    let head =
        ["start", "fraction", "seed", "training_cases", "updates", "Dice", "HD95", "NSD_1mm"];
    let head = head.iter().map(|h| (*h).to_owned()).chain(regions);
    out.write_record(head).map_err(failed)?;
    let number = |x: Option<f64>| x.map_or("nan".to_owned(), |x| x.to_string());
    for r in results {
        let mut row = vec![
            r.start.clone(),
            r.fraction.to_string(),
            r.seed.to_string(),
            r.training_cases.to_string(),
            r.updates.to_string(),
        ];
        row.extend([r.held_out.dice, r.held_out.hd95_mm, r.held_out.nsd_1mm].map(number));
        row.extend(r.held_out.regions.iter().map(|(_, dice)| number(*dice)));
        out.write_record(row).map_err(failed)?;
    }
    out.into_inner().map_err(|e| Error::io("csv", "write")(e.into_error()))
}

/// A mean, and from where to where the seeds lie.
struct Point {
    at: (f64, f64),
    bar: (f64, [f64; 2]),
}

fn series(name: &str, points: impl Iterator<Item = Point>) -> Series {
    let (points, bars) = points.map(|p| (p.at, p.bar)).unzip();
    Series { name: name.to_owned(), points, bars }
}

/// Dice over the shares of labels, and over each axis of pre-training that was swept.
fn figures(
    config: &StudyConfig,
    task: &Task,
    starts: &[Start],
    results: &[CellResult],
) -> Vec<(&'static str, Curve)> {
    let fractions = &config.grid.fractions;
    let point = |start: &Start, fraction: f64, x: f64| {
        let values = dice(&of(results, start, fraction));
        let limits = values
            .iter()
            .fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], &v| [low.min(v), high.max(v)]);
        (!values.is_empty()).then(|| Point { at: (x, mean_sd(&values).0), bar: (x, limits) })
    };
    let chart = |x_label: &str| {
        let title = format!("{}: mean, least and most of the seeds", task.title);
        let mut curve = Curve::new(&title, "Dice on held-out cases");
        curve.x_label = x_label.to_owned();
        curve
    };
    let mut labels = chart("labelled cases");
    for start in starts {
        let cases = |f: f64| {
            results.iter().find(|r| r.fraction == f).map_or(f64::NAN, |r| r.training_cases as f64)
        };
        let points = fractions.iter().filter_map(|&f| point(start, f, cases(f)));
        labels.series.push(series(start.name(), points));
    }
    let mut all = vec![("dice_by_labels.png", labels)];
    type AxisValue = fn(&super::grid::Pretraining) -> Option<f64>;
    let axes: [(&str, &str, bool, AxisValue); 2] = [
        ("dice_by_mask_ratio.png", "mask ratio", config.grid.mask_ratios.len() > 1, |p| {
            p.mask_ratio
        }),
        (
            "dice_by_images.png",
            "share of the images that are pre-trained on",
            config.grid.pretrain_fractions.len() > 1,
            |p| Some(p.share),
        ),
    ];
    for (file, label, is_swept, value) in axes {
        if !is_swept {
            continue;
        }
        let mut curve = chart(label);
        for name in config.grid.objectives.iter().filter(|n| *n != SCRATCH) {
            for &fraction in fractions {
                let swept = starts.iter().filter(|s| s.objective() == name);
                let points = swept.filter_map(|s| {
                    point(s, fraction, s.pretraining().and_then(value).unwrap_or(f64::NAN))
                });
                let title = format!("{name}, {} % of labels", 100.0 * fraction);
                curve.series.push(series(&title, points));
            }
        }
        all.push((file, curve));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_are_told_with_their_number() {
        assert_eq!(spread(&[0.5, 0.7], 2), "0.60 ± 0.14 (2)");
        assert_eq!(spread(&[0.5], 2), "0.50 (1)");
        assert_eq!(spread(&[], 2), "-");
    }
}
