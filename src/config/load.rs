//! Presets, TOML files and `--set` overrides.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::Config;
use crate::data::text::read_text;
use crate::{Error, Result};

/// The shipped presets by name, built into the program so that it needs no files beside it.
pub const PRESETS: &[(&str, &str)] = &[
    ("demo", include_str!("../../configs/demo.toml")),
    ("tiny", include_str!("../../configs/tiny.toml")),
    ("small", include_str!("../../configs/small.toml")),
    ("hippocampus", include_str!("../../configs/hippocampus.toml")),
    ("ct-small", include_str!("../../configs/ct-small.toml")),
    ("vit-b", include_str!("../../configs/vit-b.toml")),
    ("vit-l", include_str!("../../configs/vit-l.toml")),
    ("vit-h", include_str!("../../configs/vit-h.toml")),
];

/// What a run can be configured by: sections of keys, all of which have defaults.
pub(crate) trait Settings: Default + Serialize + DeserializeOwned {
    /// Keys that may be absent, which their defaults therefore do not show.
    const OPTIONAL: &'static [&'static str];

    /// Checks that the values go together. Errors name the key and what it may be.
    fn validate(&self) -> Result<()>;
}

impl Settings for Config {
    const OPTIONAL: &'static [&'static str] = &["data.foreground"];

    fn validate(&self) -> Result<()> {
        Self::validate(self)
    }
}

/// A shipped preset.
pub fn preset(name: &str) -> Result<Config> {
    Config::load(name, &[])
}

impl Config {
    /// A preset's name or the path of a TOML file, then overrides `section.key=value`.
    /// Errors: an unknown name, a file that is not TOML, an unknown key (with the nearest one),
    /// values that do not go together.
    pub fn load(source: &str, overrides: &[String]) -> Result<Self> {
        Self::parse(&text_of(source, PRESETS)?, source, overrides)
    }

    /// As [`Config::load`], from TOML text; `source` names it in errors.
    pub fn parse(text: &str, source: &str, overrides: &[String]) -> Result<Self> {
        parse(text, source, overrides)
    }

    /// The whole configuration as TOML, for the run folder.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string_pretty(self).map_err(|e| Error::Config(e.to_string()))
    }
}

/// The text of a shipped preset or of a file.
pub(crate) fn text_of(source: &str, presets: &[(&str, &str)]) -> Result<String> {
    match presets.iter().find(|(name, _)| *name == source) {
        Some((_, text)) => Ok((*text).to_owned()),
        None if Path::new(source).exists() => read_text(Path::new(source)),
        None => {
            let names: Vec<&str> = presets.iter().map(|(name, _)| *name).collect();
            Err(Error::Config(format!(
                "'{source}' is neither a file nor a preset; presets: {}",
                names.join(", ")
            )))
        }
    }
}

/// Settings from TOML text and overrides; `source` names the text in errors.
pub(crate) fn parse<C: Settings>(text: &str, source: &str, overrides: &[String]) -> Result<C> {
    let mut table: Table = text
        .parse()
        .map_err(|e: toml::de::Error| Error::Config(format!("{source}: {}", e.message())))?;
    check_keys::<C>(&table, source)?;
    for item in overrides {
        let (key, value) = item
            .split_once('=')
            .ok_or_else(|| Error::Config(format!("--set {item}: write it as section.key=value")))?;
        set::<C>(&mut table, key.trim(), parse_value(value.trim()))?;
    }
    let config: C = Value::Table(table)
        .try_into()
        .map_err(|e: toml::de::Error| Error::Config(format!("{source}: {}", e.message())))?;
    config.validate()?;
    Ok(config)
}

/// A TOML value if it is one, else a string: `--set loss.gg_pairs=all` needs no quotes. Sizes may
/// be written without brackets: `--set views.local_size=8,8,8`.
fn parse_value(text: &str) -> Value {
    let parse = |t: &str| format!("v = {t}").parse::<Table>().ok().and_then(|mut t| t.remove("v"));
    parse(text)
        .or_else(|| text.contains(',').then(|| parse(&format!("[{text}]"))).flatten())
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

fn set<C: Settings>(table: &mut Table, key: &str, value: Value) -> Result<()> {
    let full = known_keys::<C>();
    if !full.iter().any(|k| k == key) {
        return Err(unknown(key, "--set", &full));
    }
    if let Some((section, name)) = key.split_once('.') {
        let section = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
        if let Some(section) = section.as_table_mut() {
            section.insert(name.to_owned(), coerce::<C>(key, value));
        }
    }
    Ok(())
}

/// Whole numbers are welcome where the key holds a float (`--set loss.beta1=1`).
fn coerce<C: Settings>(key: &str, value: Value) -> Value {
    let defaults = Value::try_from(C::default()).ok();
    let (section, name) = key.split_once('.').unwrap_or((key, ""));
    let default = defaults.as_ref().and_then(|d| d.get(section)?.get(name));
    match (default, value) {
        (Some(Value::Float(_)), Value::Integer(i)) => Value::Float(i as f64),
        (Some(Value::Array(d)), Value::Array(v)) if matches!(d.first(), Some(Value::Float(_))) => {
            let float = |x: Value| x.as_integer().map_or(x.clone(), |i| Value::Float(i as f64));
            Value::Array(v.into_iter().map(float).collect())
        }
        (_, value) => value,
    }
}

/// Every `section.key` there is.
fn known_keys<C: Settings>() -> Vec<String> {
    let Ok(Value::Table(table)) = Value::try_from(C::default()) else { return Vec::new() };
    let mut keys: Vec<String> = table
        .iter()
        .filter_map(|(section, v)| Some((section, v.as_table()?)))
        .flat_map(|(section, t)| t.keys().map(move |k| format!("{section}.{k}")))
        .collect();
    // Absent optional values do not serialise.
    keys.extend(C::OPTIONAL.iter().map(|key| (*key).to_owned()));
    keys.dedup();
    keys
}

fn check_keys<C: Settings>(table: &Table, source: &str) -> Result<()> {
    let known = known_keys::<C>();
    for (section, value) in table {
        let Some(inner) = value.as_table() else { return Err(unknown(section, source, &known)) };
        for key in inner.keys() {
            let full = format!("{section}.{key}");
            if !known.contains(&full) {
                return Err(unknown(&full, source, &known));
            }
        }
    }
    Ok(())
}

fn unknown(key: &str, source: &str, known: &[String]) -> Error {
    let nearest = known.iter().min_by_key(|k| distance(k, key));
    let hint = nearest.map(|k| format!("; did you mean '{k}'?")).unwrap_or_default();
    Error::Config(format!("{source}: unknown key '{key}'{hint}"))
}

/// Levenshtein distance, for suggestions.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, &cb) in b.iter().enumerate() {
            let cost = diagonal + usize::from(ca != cb);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_valid() {
        for (name, _) in PRESETS {
            preset(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }

    #[test]
    fn the_written_config_reads_back() {
        let config = preset("hippocampus").unwrap();
        let text = config.to_toml().unwrap();
        assert_eq!(Config::parse(&text, "test", &[]).unwrap(), config);
    }

    #[test]
    fn unknown_keys_get_a_suggestion() {
        let e = Config::parse("[loss]\nbeta_1 = 0.1\n", "run.toml", &[]).unwrap_err().to_string();
        assert!(e.contains("run.toml") && e.contains("did you mean 'loss.beta1'"), "{e}");
        let e = Config::load("tiny", &["train.step=5".into()]).unwrap_err().to_string();
        assert!(e.contains("'train.steps'"), "{e}");
        assert!(Config::parse("batch = 3", "x", &[]).is_err());
    }

    #[test]
    fn overrides_are_typed() {
        let set =
            ["loss.beta1=1", "loss.gg_pairs=all", "views.local_size=8,16,16", "train.steps=7"];
        let config = Config::load("tiny", &set.map(String::from)).unwrap();
        assert_eq!((config.loss.beta1, config.train.steps), (1.0, 7));
        assert_eq!(config.views.local_size, [8, 16, 16]);
        assert!(Config::load("tiny", &["train.steps=-3".into()]).is_err());
        assert!(Config::load("tiny", &["optim.lr=nan".into()]).is_err());
        assert!(Config::load("tiny", &["views.local_size=8,8,9".into()]).is_err());
    }
}
