//! The files of a run beside its checkpoints: `config.toml`, `env.json`, `log.jsonl`,
//! `metrics.csv`, `tb/`.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use super::lock::host;
use crate::device::Device;
use crate::report::metrics::{CsvLog, JsonLog};
use crate::report::tensorboard::EventWriter;
use crate::{Error, Result, atomic};

/// Columns of `metrics.csv`. A run without some terms leaves theirs empty.
pub const COLUMNS: [&str; 22] = [
    "loss",
    "rec_global",
    "rec_local",
    "g2g",
    "l2g",
    "lr",
    "weight_decay",
    "ema",
    "tau_t",
    "grad_norm",
    "teacher_entropy",
    "assignment_entropy",
    "kl",
    "center_norm",
    "spread",
    "embedding_std",
    "embedding_cosine",
    "bad_steps",
    "heldout_explained",
    "heldout_mean_guess",
    "steps_per_s",
    "data_wait",
];

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

/// Writes `config.toml` and `env.json`.
pub fn describe(out: &Path, config_toml: &str, device: &Device, threads: usize) -> Result<()> {
    fs::create_dir_all(out).map_err(Error::io(out, "create"))?;
    atomic::write_bytes(out.join("config.toml"), config_toml.as_bytes())?;
    let env = json!({
        "program": "glmae",
        "version": env!("CARGO_PKG_VERSION"),
        "git": option_env!("GLMAE_GIT_HASH").unwrap_or("unknown"),
        "device": device.name(),
        "threads": threads,
        "os": std::env::consts::OS,
        "arch": std::env::consts::ARCH,
        "host": host(),
        "pid": std::process::id(),
        "started": utc_now(),
        "command": std::env::args().collect::<Vec<_>>(),
    });
    atomic::write_json(out.join("env.json"), &env)?;
    Ok(())
}

fn utc_now() -> String {
    utc(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()))
}

/// `2026-11-23T08:02:35Z`. Days to dates as in Howard Hinnant's `civil_from_days`: years begin in
/// March, so that the leap day is the last of its year.
fn utc(seconds: u64) -> String {
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + 400 * era + u64::from(month <= 2);
    let (h, m, s) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(utc(1_709_251_199), "2024-02-29T23:59:59Z");
        assert_eq!(utc(4_102_444_800), "2100-01-01T00:00:00Z");
    }
}
