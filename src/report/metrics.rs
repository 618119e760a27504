//! `metrics.csv` and `log.jsonl`: one row per logged step, flushed row by row.
//!
//! Both survive a kill at any moment. On opening, rows after the step that the run resumes from and
//! a torn last line are cut off (through an atomic rewrite), so steps are unique and increase.
//!
//! Numbers are printed with the fewest digits that read back as the same f64. What is not finite is
//! `NaN`, `inf`, `-inf` in CSV (pandas reads these), and the strings `"NaN"`, `"Infinity"`,
//! `"-Infinity"` in JSON, which has no such numbers (Python's `float()` reads these).

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::atomic;
use crate::error::{Error, Result};

/// `metrics.csv`: the column `step`, then one column per name.
#[derive(Debug)]
pub struct CsvLog {
    path: PathBuf,
    file: File,
    columns: Vec<String>,
    last_step: Option<u64>,
}

impl CsvLog {
    /// Opens or creates the file. Rows of steps up to `keep` stay, all others go; `None` keeps
    /// nothing. Columns that an existing file lacks are added to it, with empty cells.
    ///
    /// Errors: [`Error::Config`] for a column name with a comma, quote or line break, an empty,
    /// doubled or reserved one (`step`); [`Error::Data`] for a file that is no metrics file;
    /// [`Error::Io`].
    pub fn open(path: impl AsRef<Path>, keep: Option<u64>, columns: &[&str]) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let bad = |c: &str| c.is_empty() || c == "step" || c.contains([',', '"', '\n', '\r']);
        for (i, name) in columns.iter().enumerate() {
            if bad(name) || columns.iter().take(i).any(|c| c == name) {
                return Err(Error::Config(format!("metrics column {name:?} cannot be used")));
            }
        }
        let old = read_lines(&path)?;
        let mut names: Vec<String> = Vec::new();
        let mut rows: Vec<(u64, &str)> = Vec::new();
        if let Some((header, lines)) = old.split_first() {
            let Some(found) =
                header.strip_prefix("step").filter(|f| f.is_empty() || f.starts_with(','))
            else {
                let reason =
                    "not a metrics file (its header must begin with `step,`); move it away";
                return Err(Error::data(&path, reason));
            };
            if let Some(keep) = keep {
                names.extend(found.split(',').skip(1).map(str::to_owned));
                rows = kept_rows(lines, names.len(), keep);
            }
        }
        let kept = names.len();
        for name in columns {
            if !names.iter().any(|n| n == name) {
                names.push((*name).to_owned());
            }
        }
        let padding = ",".repeat(names.len() - kept);
        let last_step = rows.last().map(|(step, _)| *step);
        atomic::write(&path, |w| {
            w.write_all(b"step")?;
            names.iter().try_for_each(|n| write!(w, ",{n}"))?;
            w.write_all(b"\n")?;
            for (step, cells) in &rows {
                let comma = if kept > 0 { "," } else { "" };
                writeln!(w, "{step}{comma}{cells}{padding}")?;
            }
            Ok(())
        })?;
        let file = append(&path)?;
        Ok(Self { path, file, columns: names, last_step })
    }

    /// Appends one row; columns without a value stay empty.
    ///
    /// Errors: [`Error::Data`] for a name that is no column, or a step that does not lie after the
    /// last one; [`Error::Io`].
    pub fn log(&mut self, step: u64, values: &[(&str, f64)]) -> Result<()> {
        check_order(&self.path, self.last_step, step, false)?;
        if let Some((name, _)) = values.iter().find(|(n, _)| !self.columns.iter().any(|c| c == n)) {
            return Err(Error::data(&self.path, format!("there is no column {name:?}")));
        }
        let mut row = step.to_string();
        for column in &self.columns {
            row.push(',');
            if let Some((_, value)) = values.iter().find(|(n, _)| n == column) {
                row.push_str(&number(*value));
            }
        }
        row.push('\n');
        // One call, so that a kill cannot easily tear a row.
        self.file.write_all(row.as_bytes()).map_err(Error::io(&self.path, "write"))?;
        self.last_step = Some(step);
        Ok(())
    }

    /// Makes the rows so far durable; call it when a checkpoint is written.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(Error::io(&self.path, "sync"))
    }
}

/// `log.jsonl`: one JSON object per line, first `step` and `kind`, then the fields.
#[derive(Debug)]
pub struct JsonLog {
    path: PathBuf,
    file: File,
    last_step: Option<u64>,
}

impl JsonLog {
    /// Opens or creates the file. Records of steps up to `keep` stay; `None` keeps nothing. Lines
    /// that are no JSON object with a `step` (torn ones) go as well.
    pub fn open(path: impl AsRef<Path>, keep: Option<u64>) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let old = read_lines(&path)?;
        let mut last_step = None;
        let mut lines: Vec<&str> = Vec::new();
        for line in &old {
            let record: Option<Value> = serde_json::from_str(line).ok();
            let step = record.as_ref().and_then(|r| r.get("step")).and_then(Value::as_u64);
            if let (Some(step), Some(keep)) = (step, keep)
                && step <= keep
                && last_step.is_none_or(|last| last <= step)
            {
                last_step = Some(step);
                lines.push(line);
            }
        }
        atomic::write(&path, |w| lines.iter().try_for_each(|line| writeln!(w, "{line}")))?;
        let file = append(&path)?;
        Ok(Self { path, file, last_step })
    }

    /// Appends the record of a training step: `{"step":N,"kind":"step",...}`.
    pub fn log(&mut self, step: u64, values: &[(&str, f64)]) -> Result<()> {
        let fields = values.iter().map(|(n, v)| ((*n).to_owned(), json_number(*v))).collect();
        self.event(step, "step", fields)
    }

    /// Appends any other record (`start`, `checkpoint`, `validation`, ...). Several records may
    /// have one step.
    ///
    /// Errors: [`Error::Data`] for a step before the last one or fields named `step` or `kind`.
    pub fn event(&mut self, step: u64, kind: &str, fields: Map<String, Value>) -> Result<()> {
        check_order(&self.path, self.last_step, step, true)?;
        if let Some(name) = ["step", "kind"].into_iter().find(|n| fields.contains_key(*n)) {
            return Err(Error::data(&self.path, format!("a field cannot be named {name:?}")));
        }
        let mut line = format!("{{\"step\":{step},\"kind\":{}", Value::from(kind));
        for (name, value) in fields {
            line.push_str(&format!(",{}:{value}", Value::from(name)));
        }
        line.push_str("}\n");
        self.file.write_all(line.as_bytes()).map_err(Error::io(&self.path, "write"))?;
        self.last_step = Some(step);
        Ok(())
    }

    /// Makes the records so far durable; call it when a checkpoint is written.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(Error::io(&self.path, "sync"))
    }
}

/// A number for [`JsonLog::event`]; see the module for those that are not finite.
pub fn json_number(x: f64) -> Value {
    match serde_json::Number::from_f64(x) {
        Some(number) => Value::Number(number),
        None if x.is_nan() => "NaN".into(),
        None if x > 0.0 => "Infinity".into(),
        None => "-Infinity".into(),
    }
}

/// The sound rows up to a step; what has another number of cells, or a step that does not rise, was
/// damaged by a crash of the machine.
fn kept_rows(lines: &[String], columns: usize, keep: u64) -> Vec<(u64, &str)> {
    let mut rows: Vec<(u64, &str)> = Vec::new();
    for line in lines {
        let (step, cells) = line.split_once(',').unwrap_or((line, ""));
        let whole = line.matches(',').count() == columns;
        if let Some(step) = step.parse::<u64>().ok().filter(|step| whole && *step <= keep)
            && rows.last().is_none_or(|(last, _)| *last < step)
        {
            rows.push((step, cells));
        }
    }
    rows
}

fn number(x: f64) -> String {
    // Rust prints 1e-300 with 300 zeros unless told otherwise.
    match x.abs() {
        a if a == 0.0 || (1e-5..1e16).contains(&a) || !a.is_finite() => format!("{x}"),
        _ => format!("{x:e}"),
    }
}

fn check_order(path: &Path, last: Option<u64>, step: u64, equal: bool) -> Result<()> {
    match last {
        Some(last) if step < last || (step == last && !equal) => {
            Err(Error::data(path, format!("step {step} cannot be logged after step {last}")))
        }
        _ => Ok(()),
    }
}

/// The lines that end with a line break and are UTF-8; nothing for an absent file.
fn read_lines(path: &Path) -> Result<Vec<String>> {
    let bytes = match fs::read(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(Error::io(path, "read"))?,
    };
    let whole = bytes.iter().rposition(|b| *b == b'\n').and_then(|end| bytes.get(..end));
    let lines = whole.map(|w| w.split(|b| *b == b'\n')).into_iter().flatten();
    Ok(lines.filter_map(|line| String::from_utf8(line.to_vec()).ok()).collect())
}

fn append(path: &Path) -> Result<File> {
    OpenOptions::new().append(true).open(path).map_err(Error::io(path, "open"))
}

#[cfg(test)]
mod tests;
