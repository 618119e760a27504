//! TensorBoard event files, written by hand: the record framing of TFRecord and the few protobuf
//! fields of `Event` and `Summary` that scalars, images and text need.
//!
//! A record is `length: u64 LE, masked crc32c(length): u32 LE, data, masked crc32c(data): u32 LE`,
//! with `mask(crc) = rotate_right(crc, 15) + 0xa282ead8`. Field numbers: tensorflow's `event.proto`
//! and `summary.proto`; `scripts/check-tensorboard.py` reads a folder with TensorBoard's own loader.
//!
//! A resumed run leaves no step twice, for any reader: the events of steps after the checkpoint are
//! removed from the older files, and the new file begins with `SessionLog START` at the next step,
//! which makes a TensorBoard that is open at the time drop what it has already read.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::atomic;
use crate::error::{Error, Result};

mod protobuf;
mod record;

use protobuf::Message;

/// Name that every event file of a folder begins with.
const PREFIX: &str = "events.out.tfevents.";
/// Files of version 2 or later are purged by `SessionLog START`.
const FILE_VERSION: &str = "brain.Event:2";

/// Appends events to one new file; every start of a run has its own.
#[derive(Debug)]
pub struct EventWriter {
    path: PathBuf,
    file: File,
}

impl EventWriter {
    /// Starts a new event file in `dir` (created if absent). Events of steps up to `keep` in the
    /// older files stay, later ones go; `None` keeps nothing.
    ///
    /// Errors: [`Error::Io`].
    pub fn open(dir: impl AsRef<Path>, keep: Option<u64>) -> Result<Self> {
        Self::open_at(dir.as_ref(), keep, now())
    }

    fn open_at(dir: &Path, keep: Option<u64>, wall_time: f64) -> Result<Self> {
        fs::create_dir_all(dir).map_err(Error::io(dir, "create"))?;
        let mut newest = 0;
        for path in event_files(dir)? {
            newest = newest.max(seconds_in_name(&path).unwrap_or(0));
            truncate(&path, keep)?;
        }
        // Readers take the files in the order of their names: a restart within the same second, or
        // with a clock set back, must still sort last.
        let seconds = (wall_time as u64).max(newest + 1);
        let path = dir.join(format!("{PREFIX}{seconds:010}.glmae.{}.0", std::process::id()));
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .open(&path)
            .map_err(Error::io(&path, "create"))?;
        let mut writer = Self { path, file };
        let mut version = Message::default();
        version.double(1, wall_time);
        version.bytes(3, FILE_VERSION.as_bytes());
        writer.append(&version)?;
        // START purges events of its own step too, so it names the first step that will be written.
        let first = keep.map_or(0, |step| step.saturating_add(1));
        let mut session = Message::default();
        session.varint(1, 1);
        let mut start = event(wall_time, first);
        start.message(7, &session);
        writer.append(&start)?;
        Ok(writer)
    }

    /// The file that is written.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// One event with all scalars of a step (stored as f32, as TensorBoard does).
    pub fn scalars(&mut self, step: u64, values: &[(&str, f64)]) -> Result<()> {
        self.append(&scalars_event(now(), step, values))
    }

    /// An encoded PNG of the given size in pixels. `channels` is 1 for grey, 3 for RGB.
    pub fn image(
        &mut self,
        step: u64,
        tag: &str,
        [width, height]: [usize; 2],
        channels: u8,
        png: &[u8],
    ) -> Result<()> {
        let mut image = Message::default();
        image.varint(1, height as u64);
        image.varint(2, width as u64);
        image.varint(3, u64::from(channels));
        image.bytes(4, png);
        let mut value = Message::default();
        value.bytes(1, tag.as_bytes());
        value.message(4, &image);
        self.append(&summary_event(now(), step, &[value]))
    }

    /// Markdown text, e.g. the configuration of the run.
    pub fn text(&mut self, step: u64, tag: &str, markdown: &str) -> Result<()> {
        const DT_STRING: u64 = 7;
        const DATA_CLASS_TENSOR: u64 = 2;
        let mut plugin = Message::default();
        plugin.bytes(1, b"text");
        let mut metadata = Message::default();
        metadata.message(1, &plugin);
        metadata.varint(4, DATA_CLASS_TENSOR);
        // A tensor of shape [1]: the text plugin lays rank-1 tensors out as paragraphs.
        let mut dim = Message::default();
        dim.varint(1, 1);
        let mut shape = Message::default();
        shape.message(2, &dim);
        let mut tensor = Message::default();
        tensor.varint(1, DT_STRING);
        tensor.message(2, &shape);
        tensor.bytes(8, markdown.as_bytes());
        let mut value = Message::default();
        value.bytes(1, tag.as_bytes());
        value.message(8, &tensor);
        value.message(9, &metadata);
        self.append(&summary_event(now(), step, &[value]))
    }

    /// Makes the events so far durable; call it when a checkpoint is written.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(Error::io(&self.path, "sync"))
    }

    fn append(&mut self, event: &Message) -> Result<()> {
        // One call per record, so that a kill cannot easily tear it.
        let record = record::frame(event.as_bytes());
        self.file.write_all(&record).map_err(Error::io(&self.path, "write"))
    }
}

fn event(wall_time: f64, step: u64) -> Message {
    let mut event = Message::default();
    event.double(1, wall_time);
    event.varint(2, step);
    event
}

fn summary_event(wall_time: f64, step: u64, values: &[Message]) -> Message {
    let mut summary = Message::default();
    values.iter().for_each(|v| summary.message(1, v));
    let mut event = event(wall_time, step);
    event.message(5, &summary);
    event
}

fn scalars_event(wall_time: f64, step: u64, values: &[(&str, f64)]) -> Message {
    let values: Vec<Message> = values
        .iter()
        .map(|(tag, x)| {
            let mut value = Message::default();
            value.bytes(1, tag.as_bytes());
            value.float(2, *x as f32);
            value
        })
        .collect();
    summary_event(wall_time, step, &values)
}

fn now() -> f64 {
    // A clock before 1970 only spoils the time axis.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

fn event_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::io(dir, "list"))? {
        let entry = entry.map_err(Error::io(dir, "list"))?;
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

fn seconds_in_name(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix(PREFIX)?.split('.').next()?.parse().ok()
}

/// Rewrites an event file without events after `keep` and without damaged records; removes it when
/// no event is left.
fn truncate(path: &Path, keep: Option<u64>) -> Result<()> {
    let bytes = match fs::read(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        other => other.map_err(Error::io(path, "read"))?,
    };
    let (mut kept, mut contents) = (Vec::new(), 0);
    for record in record::records(&bytes) {
        let head = protobuf::event_head(record.data);
        let wanted = head.has_summary && keep.is_some_and(|k| head.step <= k);
        // TensorBoard purges nothing at the first START it sees, so the older ones must stay.
        let start = head.is_session && keep.is_some_and(|k| head.step <= k.saturating_add(1));
        if head.is_version || wanted || start {
            kept.push(record.framed);
            contents += usize::from(wanted);
        }
    }
    if contents == 0 {
        return match fs::remove_file(path) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io(path, "remove")(e)),
            _ => Ok(()),
        };
    }
    if kept.iter().map(|r| r.len()).sum::<usize>() != bytes.len() {
        atomic::write(path, |w| kept.iter().try_for_each(|r| w.write_all(r)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
