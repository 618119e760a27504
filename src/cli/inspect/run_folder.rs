//! Run folders: configuration, last metrics, checkpoints.

use std::path::Path;

use anyhow::Result;
use glmae::Error;
use glmae::config::Config;
use glmae::config::finetune::FinetuneConfig;
use serde::Serialize;
use serde_json::Value;

use crate::cli::term::{self, Table};

/// A summary of a run folder. Parts that are not there yet are left out.
pub fn folder(path: &Path) -> Result<String> {
    let mut text = format!("{}: run folder\n", path.display());
    text += &environment(&path.join("env.json"));
    text += &config(&path.join("config.toml"))?;
    text += &metrics(&path.join("metrics.csv"))?;
    text += &checkpoints(&path.join("checkpoints"))?;
    Ok(text)
}

/// The plain fields of env.json.
fn environment(path: &Path) -> String {
    let Ok(text) = std::fs::read_to_string(path) else { return String::new() };
    let Ok(Value::Object(fields)) = serde_json::from_str(&text) else {
        return "  env.json is damaged\n".to_owned();
    };
    let mut table = Table::new(&["<", "<"]);
    for (key, value) in &fields {
        let value = match value {
            Value::String(text) => term::clean(text),
            Value::Number(_) | Value::Bool(_) => value.to_string(),
            _ => continue,
        };
        table.row([term::clean(key), value]);
    }
    format!("\n{}", table.render("  "))
}

/// The keys that differ from the defaults.
fn config(path: &Path) -> Result<String> {
    if !path.is_file() {
        return Ok(String::new());
    }
    let (source, text) = (
        path.display().to_string(),
        std::fs::read_to_string(path).map_err(Error::io(path, "read"))?,
    );
    // A run writes every section; only fine-tuning has this one.
    let is_finetuning = text.parse::<toml::Table>().is_ok_and(|t| t.contains_key("infer"));
    match is_finetuning {
        true => differences("fine-tuning", &FinetuneConfig::parse(&text, &source, &[])?),
        false => differences("pre-training", &Config::parse(&text, &source, &[])?),
    }
}

fn differences<C: Default + Serialize>(verb: &str, config: &C) -> Result<String> {
    let (ours, defaults) = (toml::Table::try_from(config)?, toml::Table::try_from(C::default())?);
    let mut table = Table::new(&["<", "<", "<"]);
    for (section, values) in &ours {
        for (key, value) in values.as_table().into_iter().flatten() {
            let default = defaults.get(section).and_then(|s| s.get(key));
            if default != Some(value) {
                let default = default.map_or("absent".to_owned(), ToString::to_string);
                let key = format!("{section}.{key}");
                table.row([key, value.to_string(), format!("(default {default})")]);
            }
        }
    }
    let rows = table.render("  ");
    Ok(format!("\nconfiguration of {verb} (config.toml has all of it)\n{rows}"))
}

/// First and last value of every column of metrics.csv, side by side.
fn metrics(path: &Path) -> Result<String> {
    if !path.is_file() {
        return Ok("\nno metrics yet\n".to_owned());
    }
    let bad = |e: csv::Error| Error::data(path, format!("not a metrics file: {e}"));
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_path(path).map_err(bad)?;
    let names = reader.headers().map_err(bad)?.clone();
    let mut ends = vec![[String::new(), String::new()]; names.len()];
    let mut lines = 0;
    for record in reader.records() {
        lines += 1;
        // Some columns are filled now and then only.
        for (cell, [first, last]) in record.map_err(bad)?.iter().zip(&mut ends) {
            if !cell.is_empty() {
                *last = number(cell);
                if first.is_empty() {
                    first.clone_from(last);
                }
            }
        }
    }
    let mut table = Table::new(&["<metric", ">first", ">last"]);
    for (name, [first, last]) in names.iter().zip(ends) {
        if !last.is_empty() {
            table.row([term::clean(name), first, last]);
        }
    }
    Ok(format!("\nmetrics ({lines} lines)\n{}", table.render("  ")))
}

/// At most six digits of a number; other text as it is.
fn number(text: &str) -> String {
    match text.parse::<f64>() {
        Ok(x) if x.fract() == 0.0 && x.abs() < 1e15 => format!("{x}"),
        Ok(x) if (1e-3..1e6).contains(&x.abs()) => format!("{x:.5}"),
        Ok(x) => format!("{x:.3e}"),
        Err(_) => term::clean(text),
    }
}

fn checkpoints(path: &Path) -> Result<String> {
    let Ok(entries) = std::fs::read_dir(path) else {
        return Ok("\nno checkpoints yet\n".to_owned());
    };
    let mut folders: Vec<_> = entries
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| p.join("state.json").is_file())
        .collect();
    folders.sort();
    let mut table = Table::new(&["<checkpoint", ">size"]);
    let mut best = String::new();
    for folder in &folders {
        let files = std::fs::read_dir(folder).map_err(Error::io(folder, "read"))?;
        let size = files.filter_map(|f| Some(f.ok()?.metadata().ok()?.len())).sum();
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        table.row([term::clean(&name), term::bytes(size)]);
        // The newest comes last.
        if let Some(found) = super::tensors::best(folder) {
            best = format!("\nbest validation: {found}\n");
        }
    }
    match folders.len() {
        0 => Ok("\nno checkpoints yet\n".to_owned()),
        _ => Ok(format!("\n{}{best}", table.render("  "))),
    }
}
