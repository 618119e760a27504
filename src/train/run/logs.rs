//! The logs of a run: `log.jsonl`, `metrics.csv`, `tb/`.

use std::path::Path;

use serde_json::{Map, Value};

use crate::Result;
use crate::report::metrics::{CsvLog, JsonLog};
use crate::report::tensorboard::EventWriter;

/// The logs of a run, opened so that no step occurs twice after a resume.
#[derive(Debug)]
pub struct Logs {
    csv: CsvLog,
    json: JsonLog,
    events: EventWriter,
}

impl Logs {
    /// Opens the logs in `out`; entries of steps up to `keep` stay, later ones go.
    pub fn open(out: &Path, keep: Option<u64>, columns: &[&str]) -> Result<Self> {
        Ok(Self {
            csv: CsvLog::open(out.join("metrics.csv"), keep, columns)?,
            json: JsonLog::open(out.join("log.jsonl"), keep)?,
            events: EventWriter::open(out.join("tb"), keep)?,
        })
    }

    /// One logged step in all three; `extra` goes into `log.jsonl` only.
    pub fn step(&mut self, step: u64, values: &[(&str, f64)], extra: &[(&str, f64)]) -> Result<()> {
        self.csv.log(step, values)?;
        let all: Vec<(&str, f64)> = values.iter().chain(extra).copied().collect();
        self.json.log(step, &all)?;
        self.events.scalars(step, values)
    }

    /// Any other record of `log.jsonl`; `fields` is a JSON object.
    pub fn event(&mut self, step: u64, kind: &str, fields: Value) -> Result<()> {
        let fields = match fields {
            Value::Object(fields) => fields,
            other => Map::from_iter([("value".to_owned(), other)]),
        };
        self.json.event(step, kind, fields)
    }

    /// A picture, for TensorBoard.
    pub fn picture(&mut self, step: u64, name: &str, size: [usize; 2], png: &[u8]) -> Result<()> {
        self.events.image(step, name, size, 3, png)
    }

    /// Makes everything so far durable; before a checkpoint is written.
    pub fn sync(&self) -> Result<()> {
        self.csv.sync()?;
        self.json.sync()?;
        self.events.sync()
    }
}
