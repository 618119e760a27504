//! Safetensors files and the checkpoints made of them.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Result;
use glmae::Error;
use glmae::nn::network::CLASSIFIER;
use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::Metadata;
use serde_json::Value;

use crate::cli::term::{self, Table};

/// Longest piece of metadata that is printed.
const SHOWN: usize = 160;

/// Every tensor of a safetensors file, its metadata, and totals.
pub fn file(path: &Path) -> Result<String> {
    let (metadata, size) = read(path)?;
    let mut table = Table::new(&["<tensor", "<type", "<shape", ">elements"]);
    let (mut elements, mut bytes) = (0, 0);
    for name in metadata.offset_keys() {
        let Some(info) = metadata.info(&name) else { continue };
        let count: usize = info.shape.iter().product();
        elements += count;
        bytes += info.data_offsets.1 - info.data_offsets.0;
        table.row([
            term::clean(&name),
            format!("{:?}", info.dtype).to_lowercase(),
            term::dims(&info.shape),
            term::count(count),
        ]);
    }
    let mut text = format!("{}: safetensors, {}\n", path.display(), term::bytes(size));
    let mut keys: Vec<_> = metadata.metadata().iter().flatten().collect();
    keys.sort();
    for (key, value) in keys {
        text += &format!("  {}: {}\n", term::clean(key), shorten(value));
    }
    text += &format!("\n{}", table.render("  "));
    text += &format!(
        "\n{} tensors, {} elements, {}\n",
        metadata.offset_keys().len(),
        term::count(elements),
        term::bytes(bytes as u64)
    );
    Ok(text)
}

/// Header and size; the tensors are not read.
fn read(path: &Path) -> Result<(Metadata, u64)> {
    let file = File::open(path).map_err(Error::io(path, "open"))?;
    let size = file.metadata().map_err(Error::io(path, "read"))?.len();
    // SAFETY: the map is read only, used in this function only, and not kept. Another process
    // that truncates the file meanwhile could end this one; `inspect` has nothing to lose.
    let map = unsafe { Mmap::map(&file) }.map_err(Error::io(path, "read"))?;
    let (_, metadata) = SafeTensors::read_metadata(&map)
        .map_err(|e| Error::data(path, format!("not a sound safetensors file: {e}")))?;
    Ok((metadata, size))
}

/// Sums of a checkpoint's files and its state.
pub fn checkpoint(folder: &Path) -> Result<String> {
    let state_file = folder.join("state.json");
    let text = std::fs::read_to_string(&state_file).map_err(Error::io(&state_file, "read"))?;
    let state: Value = serde_json::from_str(&text)
        .map_err(|e| Error::data(&state_file, format!("not JSON: {e}")))?;
    let mut out = format!("{}: checkpoint\n", folder.display());
    for (key, value) in state.as_object().into_iter().flatten() {
        // Files have the table below; a configuration is long (it is TOML in the run folder).
        match value {
            _ if ["files", "config", "tensors", "network", "task", "best"]
                .contains(&key.as_str()) => {}
            Value::Object(fields) => {
                let fields: Vec<String> =
                    fields.iter().map(|(k, v)| format!("{k} {}", brief(v))).collect();
                out += &format!("  {}: {}\n", term::clean(key), shorten(&fields.join(", ")));
            }
            value => out += &format!("  {}: {}\n", term::clean(key), brief(value)),
        }
    }
    out += &segmentation(&state);
    let mut table = Table::new(&["<file", ">size", ">tensors", ">elements"]);
    for path in safetensors_in(folder)? {
        let (metadata, size) = read(&path)?;
        let infos = metadata.tensors();
        let elements: usize = infos.values().map(|i| i.shape.iter().product::<usize>()).sum();
        table.row([
            path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            term::bytes(size),
            infos.len().to_string(),
            term::count(elements),
        ]);
    }
    out += &format!("\n{}", table.render("  "));
    out += "\n`glmae inspect FILE.safetensors` lists the tensors of one file\n";
    Ok(out)
}

/// Of a fine-tuned network: its task, sizes and best validation, which are texts in the state.
fn segmentation(state: &Value) -> String {
    let toml = |key: &str| state.get(key)?.as_str()?.parse::<toml::Table>().ok();
    let mut out = String::new();
    if let Some(title) = toml("task").and_then(|task| Some(task.get("title")?.as_str()?.to_owned()))
    {
        out += &format!("  task: {}\n", term::clean(&title));
    }
    if let Some(network) = toml("network") {
        let sizes: Vec<String> = network.iter().map(|(k, v)| format!("{k} {v}")).collect();
        let name = if is_classifier(state) { "classifier" } else { "UNETR" };
        out += &format!("  network: {name}, {}\n", term::clean(&sizes.join(", ")));
    }
    match best_of(state) {
        Some(best) => out + &format!("  best validation: {best}\n"),
        None => out,
    }
}

/// The best validation that a checkpoint folder knows of.
pub(super) fn best(folder: &Path) -> Option<String> {
    let text = std::fs::read_to_string(folder.join("state.json")).ok()?;
    best_of(&serde_json::from_str(&text).ok()?)
}

fn best_of(state: &Value) -> Option<String> {
    let best = state.get("best")?;
    let (epoch, score) = (best.get(0)?.as_u64()?, best.get(1)?.as_str()?.parse::<f64>().ok()?);
    let name = if is_classifier(state) { "accuracy" } else { "Dice" };
    Some(format!("{name} {score:.4} at epoch {epoch}"))
}

fn is_classifier(state: &Value) -> bool {
    state.get("kind").and_then(Value::as_str) == Some(CLASSIFIER)
}

fn safetensors_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).map_err(Error::io(folder, "read"))?;
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| super::has_extension(p, "safetensors"))
        .collect();
    paths.sort();
    Ok(paths)
}

fn brief(value: &Value) -> String {
    match value {
        Value::String(text) => shorten(text),
        Value::Array(items) => format!("[{} items]", items.len()),
        Value::Object(fields) => format!("{{{} fields}}", fields.len()),
        other => other.to_string(),
    }
}

fn shorten(text: &str) -> String {
    let clean = term::clean(text);
    match clean.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}... ({} characters)", &clean[..at], text.chars().count()),
        None => clean,
    }
}
