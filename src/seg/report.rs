//! An evaluation as JSON (nnU-Net's `summary.json`), as CSV and as a table to read.
//!
//! **Undefined values.** Metrics of empty classes are NaN or infinite by the table of
//! [`metrics`](super::metrics). JSON has neither: both are `null` there, and `n_pred` and `n_ref` of
//! the case say which class was empty. CSV has `nan` and `inf`, which pandas and R read. Means leave
//! NaN out and keep infinity.
//!
//! **Means.** `mean` is per class over the cases in which a value is defined; `foreground_mean` is
//! the mean of those over classes (nnU-Net's two). `case_mean` is the mean over classes within each
//! case, then over cases: MONAI's reduction `mean`, the number that GL-MAE's tables state.
//!
//! **Keys.** `Dice` and `IoU` are undefined (null) where the class is not in the reference, and
//! `Dice_counting_empty` is 1 where it is in neither map. nnU-Net's own `Dice` differs in one place:
//! it is 0 for a class that is in the prediction only. `HD95` and `HD` are in mm, `NSD_2mm` is the
//! surface Dice at 2 mm; `TP FP FN TN n_pred n_ref` count voxels.

use serde_json::{Map, Value, json};

use super::evaluate::{Evaluation, MissedDistance};
use super::metrics::{RegionMetrics, mean_of_cases, mean_per_class, nan_mean};
use crate::{Error, Result};

/// One metric of the tables.
struct Column {
    name: String,
    is_count: bool,
    get: Box<dyn Fn(&RegionMetrics) -> f64>,
}

fn columns(tolerances_mm: &[f64]) -> Vec<Column> {
    fn column(name: &str, is_count: bool, get: impl Fn(&RegionMetrics) -> f64 + 'static) -> Column {
        Column { name: name.to_owned(), is_count, get: Box::new(get) }
    }
    let mut columns = vec![
        column("Dice", false, RegionMetrics::dice),
        column("Dice_counting_empty", false, RegionMetrics::dice_counting_empty),
        column("IoU", false, RegionMetrics::iou),
        column("HD95", false, |m| m.hd95_mm),
        column("HD", false, |m| m.hd_mm),
    ];
    for (i, mm) in tolerances_mm.iter().enumerate() {
        let nsd = move |m: &RegionMetrics| m.nsd.get(i).copied().unwrap_or(f64::NAN);
        columns.push(column(&format!("NSD_{mm}mm"), false, nsd));
    }
    columns.extend([
        column("TP", true, |m| m.both_voxels as f64),
        column("FP", true, |m| (m.pred_voxels - m.both_voxels) as f64),
        column("FN", true, |m| (m.ref_voxels - m.both_voxels) as f64),
        column("TN", true, |m| (m.voxels + m.both_voxels - m.pred_voxels - m.ref_voxels) as f64),
        column("n_pred", true, |m| m.pred_voxels as f64),
        column("n_ref", true, |m| m.ref_voxels as f64),
    ]);
    columns
}

/// A column's values: a row per case, a value per class.
fn table(evaluation: &Evaluation, column: &Column) -> Vec<Vec<f64>> {
    let row = |metrics: &[RegionMetrics]| metrics.iter().map(|m| (column.get)(m)).collect();
    evaluation.cases.iter().map(|case| row(&case.metrics)).collect()
}

impl Evaluation {
    /// The mean of a metric over classes within a case, then over cases (MONAI's `mean`). Names are
    /// those of the CSV columns. `None` for an unknown name.
    pub fn case_mean(&self, metric: &str) -> Option<f64> {
        let column = columns(&self.tolerances_mm).into_iter().find(|c| c.name == metric)?;
        Some(mean_of_cases(&table(self, &column)))
    }

    /// nnU-Net's `summary.json` with this module's additions. Keys are sorted.
    pub fn to_json(&self) -> Value {
        let columns = columns(&self.tolerances_mm);
        let mut mean: Vec<Map<String, Value>> = vec![Map::new(); self.regions.len()];
        let (mut foreground, mut by_case) = (Map::new(), Map::new());
        for column in &columns {
            let values = table(self, column);
            let per_class = mean_per_class(&values);
            for (class, value) in mean.iter_mut().zip(&per_class) {
                class.insert(column.name.clone(), json!(value));
            }
            foreground.insert(column.name.clone(), json!(nan_mean(per_class)));
            by_case.insert(column.name.clone(), json!(mean_of_cases(&values)));
        }
        let keyed = |values: Vec<Map<String, Value>>| -> Map<String, Value> {
            self.regions.iter().zip(values).map(|(r, v)| (r.key(), v.into())).collect()
        };
        let cases = self.cases.iter().map(|case| {
            let metrics = case.metrics.iter().map(|m| {
                let cell = |c: &Column| match (c.get)(m) {
                    v if c.is_count => json!(v as u64),
                    v => json!(v),
                };
                columns.iter().map(|c| (c.name.clone(), cell(c))).collect()
            });
            let mut all = json!({
                "case": case.id,
                "prediction_file": case.prediction.display().to_string(),
                "reference_file": case.reference.display().to_string(),
                "metrics": keyed(metrics.collect()),
            });
            if let Some(how) = &case.turned {
                all["turned"] = json!(how);
            }
            all
        });
        let names: Map<String, Value> =
            self.regions.iter().map(|r| (r.key(), r.name.clone().into())).collect();
        json!({
            "metric_per_case": cases.collect::<Vec<_>>(),
            "mean": keyed(mean),
            "foreground_mean": foreground,
            "case_mean": by_case,
            "class_names": names,
            "tolerances_mm": self.tolerances_mm,
            "missed_distance": self.missed.name(),
            "ignore_label": self.ignore,
            "notes": self.notes,
        })
    }

    /// One line per case and class: `case,class,name`, then the metrics.
    ///
    /// Errors: [`Error::Io`], which only a full memory can cause.
    pub fn to_csv(&self) -> Result<Vec<u8>> {
        let columns = columns(&self.tolerances_mm);
        let mut out = csv::Writer::from_writer(Vec::new());
        let failed = |e: csv::Error| Error::io("csv", "write")(e.into());
        let head = ["case", "class", "name"].into_iter();
        let head: Vec<&str> = head.chain(columns.iter().map(|c| c.name.as_str())).collect();
        out.write_record(head).map_err(failed)?;
        for case in &self.cases {
            for (region, m) in self.regions.iter().zip(&case.metrics) {
                let mut row = vec![case.id.clone(), region.key(), region.name.clone()];
                row.extend(columns.iter().map(|c| match (c.get)(m) {
                    v if v.is_nan() => "nan".to_owned(),
                    v => v.to_string(),
                }));
                out.write_record(row).map_err(failed)?;
            }
        }
        out.into_inner().map_err(|e| Error::io("csv", "write")(e.into_error()))
    }

    /// A table of the means, one row per class, with the counts that means hide.
    pub fn to_text(&self) -> String {
        let columns: Vec<Column> = columns(&self.tolerances_mm)
            .into_iter()
            .filter(|c| !c.is_count && c.name != "Dice_counting_empty")
            .collect();
        let head = ["class", "cases", "missed", "extra"].map(str::to_owned).into_iter();
        let titles = columns.iter().map(|c| match c.name.as_str() {
            "HD95" | "HD" => format!("{} mm", c.name),
            name => name.replace('_', " "),
        });
        let mut rows: Vec<Vec<String>> = vec![head.chain(titles).collect()];
        let tables: Vec<_> = columns.iter().map(|c| table(self, c)).collect();
        let per_class: Vec<_> = tables.iter().map(|t| mean_per_class(t)).collect();
        let cells = |values: Vec<f64>| values.into_iter().zip(&columns).map(cell);
        let (mut all_missed, mut all_extra) = (0, 0);
        for (i, region) in self.regions.iter().enumerate() {
            let of = |wanted: fn(&RegionMetrics) -> bool| {
                self.cases.iter().filter_map(|c| c.metrics.get(i)).filter(|m| wanted(m)).count()
            };
            let present = of(|m| m.ref_voxels > 0);
            let missed = of(|m| m.ref_voxels > 0 && m.pred_voxels == 0);
            let extra = of(|m| m.ref_voxels == 0 && m.pred_voxels > 0);
            all_missed += missed;
            all_extra += extra;
            let mut row = vec![
                region.to_string(),
                present.to_string(),
                missed.to_string(),
                extra.to_string(),
            ];
            let values = per_class.iter().map(|v| v.get(i).copied().unwrap_or(f64::NAN));
            row.extend(cells(values.collect()));
            rows.push(row);
        }
        let blank = || vec![String::new(); 3];
        let foreground = per_class.iter().map(|v| nan_mean(v.iter().copied())).collect();
        let by_case = tables.iter().map(|t| mean_of_cases(t)).collect();
        for (name, values) in [("mean of classes", foreground), ("mean of cases", by_case)] {
            rows.push([vec![name.to_owned()], blank(), cells(values).collect()].concat());
        }
        let count = match self.cases.len() {
            1 => "1 case".to_owned(),
            n => format!("{n} cases"),
        };
        let mut text = format!("{count}\n\n{}", aligned(&rows));
        if all_missed + all_extra > 0 {
            let missed = match self.missed {
                MissedDistance::LeftOut => "in no mean of HD95",
                MissedDistance::Diagonal => "HD95 and HD are the diagonal of its volume",
            };
            text += &format!(
                "\nmissed: in the reference only; counts as Dice 0 and NSD 0, {missed}.\n\
                 extra: in the prediction only; counts as NSD 0, in no mean of Dice or HD95.\n"
            );
        }
        for note in &self.notes {
            let note: String =
                note.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
            text += &format!("\nnote: {note}\n");
        }
        text
    }
}

fn cell((value, column): (f64, &Column)) -> String {
    match value {
        v if v.is_nan() => "-".to_owned(),
        v if column.name.starts_with("HD") => format!("{v:.2}"),
        v => format!("{v:.4}"),
    }
}

/// The first column flush left, the others flush right.
pub(super) fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| {
        rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (i, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            // Names come from files: nothing of them may steer a terminal.
            let cell: String =
                cell.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
            line += &match i {
                0 => format!("  {cell:<width$}"),
                _ => format!("  {cell:>width$}"),
            };
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests;
