//! TOML text and the command line become a configuration. Whatever cannot be read is an error that names the
//! key, the value and the place it stands in; `--set` and flags are read by the same rules.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::schema::{Kind, Settings, keys};
use crate::data::text::read_text;
use crate::{Error, Result};

/// A value for a key from the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    key: String,
    text: String,
    /// The text is the value, even if it looks like TOML: a path.
    literal: bool,
    flag: String,
}

impl Change {
    /// From `--set section.key=value`.
    pub fn set(item: &str) -> Result<Self> {
        let (key, text) = item
            .split_once('=')
            .ok_or_else(|| Error::Config(format!("--set {item}: write it as section.key=value")))?;
        let (key, text) = (key.trim().to_owned(), text.trim().to_owned());
        Ok(Self { key, text, literal: false, flag: "--set".to_owned() })
    }

    /// From every `section.key=value` of a list.
    pub fn sets(items: &[String]) -> Result<Vec<Self>> {
        items.iter().map(|item| Self::set(item)).collect()
    }

    /// From a flag that stands for a key. Its value is read as that of `--set` is.
    pub fn flag(flag: &str, key: &str, text: &str) -> Self {
        let [flag, key, text] = [flag, key, text].map(str::to_owned);
        Self { key, text, literal: false, flag }
    }

    /// From a flag whose value is a name or a path, whatever it looks like.
    pub fn literal(flag: &str, key: &str, text: &str) -> Self {
        Self { literal: true, ..Self::flag(flag, key, text) }
    }

    fn value(&self, kind: &Kind) -> Value {
        if self.literal { Value::String(self.text.clone()) } else { read_value(&self.text, kind) }
    }
}

/// As it was written: `--set optim.lr=1`, or `--lr 1 (optim.lr)`.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.flag.as_str() {
            "--set" => write!(f, "--set {}={}", self.key, self.text),
            flag => write!(f, "{flag} {} ({})", self.text, self.key),
        }
    }
}

/// Where the value of a key was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WrittenAt {
    Line { source: String, line: usize },
    CommandLine(Change),
}

impl fmt::Display for WrittenAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line { source, line } => write!(f, "{source}, line {line}"),
            Self::CommandLine(change) => change.fmt(f),
        }
    }
}

/// The keys that a user asked for by name: in a file, with `--set` or with a flag. What a shipped preset or
/// a default says is not among them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explicit(BTreeMap<String, WrittenAt>);

impl Explicit {
    /// Where `section.key` was asked for.
    pub fn written_at(&self, key: &str) -> Option<&WrittenAt> {
        self.0.get(key)
    }

    /// Errors: [`Error::Config`] when one of `keys` was asked for and `used` has another value there, with
    /// `why` it is ignored and what to do. A key that agrees with what is used is no error.
    pub fn refuse_ignored<C: Settings>(
        &self,
        asked: &C,
        used: &C,
        keys: &[&str],
        why: &str,
    ) -> Result<()> {
        let table = |c: &C| Table::try_from(c).map_err(|e| Error::Config(e.to_string()));
        let (asked, used) = (table(asked)?, table(used)?);
        let ignored = keys.iter().filter_map(|key| {
            let written = self.written_at(key)?;
            let (wanted, used) = (get(&asked, key)?, get(&used, key)?);
            let at = match written {
                WrittenAt::Line { .. } => format!("{written}: {key} = {wanted}"),
                WrittenAt::CommandLine(_) => written.to_string(),
            };
            (wanted != used).then(|| format!("{at}: {used} is used"))
        });
        let ignored: Vec<String> = ignored.collect();
        require_none(&ignored, why)
    }
}

fn require_none(ignored: &[String], why: &str) -> Result<()> {
    if ignored.is_empty() {
        return Ok(());
    }
    Err(Error::Config(format!("{}; {why}", ignored.join("; "))))
}

/// A configuration, and what of it was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded<C> {
    pub config: C,
    pub explicit: Explicit,
}

/// A shipped preset by name or a TOML file, and `changes` over it.
pub(crate) fn load<C: Settings>(
    source: &str,
    presets: &[(&str, &str)],
    changes: &[Change],
) -> Result<Loaded<C>> {
    if let Some((_, text)) = presets.iter().find(|(name, _)| *name == source) {
        let loaded: Loaded<C> = read(text, source, changes)?;
        let of_user = |written: &WrittenAt| matches!(written, WrittenAt::CommandLine(_));
        let explicit = loaded.explicit.0.into_iter().filter(|(_, written)| of_user(written));
        return Ok(Loaded { config: loaded.config, explicit: Explicit(explicit.collect()) });
    }
    if !Path::new(source).exists() {
        let names: Vec<&str> = presets.iter().map(|(name, _)| *name).collect();
        return Err(Error::Config(format!(
            "'{source}' is neither a file nor a preset; presets: {}",
            names.join(", ")
        )));
    }
    let text = read_text(Path::new(source))?;
    read(&text, source, changes)
}

/// From TOML text and overrides `section.key=value`; `source` names the text in errors.
pub(crate) fn parse<C: Settings>(text: &str, source: &str, overrides: &[String]) -> Result<C> {
    Ok(read(text, source, &Change::sets(overrides)?)?.config)
}

fn read<C: Settings>(text: &str, source: &str, changes: &[Change]) -> Result<Loaded<C>> {
    // Editors of other systems begin a file with a byte-order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let line = |at: usize| text.as_bytes()[..at].iter().filter(|b| **b == b'\n').count() + 1;
    let no_toml = |e: toml::de::Error| {
        let at = e.span().map_or(String::new(), |s| format!(", line {}", line(s.start)));
        Error::Config(format!("{source}{at}: {}", e.message()))
    };
    let document = DeTable::parse(text).map_err(no_toml)?;
    let mut table: Table = text.parse().map_err(no_toml)?;
    let known = keys::<C>();
    let mut explicit = Explicit::default();
    let mut place = |key: &str, at: usize| {
        let written = WrittenAt::Line { source: source.to_owned(), line: line(at) };
        let Some((_, kind)) = known.iter().find(|(k, _)| k == key) else {
            return Err(unknown(key, &written.to_string(), &known));
        };
        let value = get(&table, key).cloned().unwrap_or(Value::Boolean(false));
        check::<C>(key, kind, &value, &written)?;
        explicit.0.insert(key.to_owned(), written);
        Ok(())
    };
    walk(document.get_ref(), "", &known, &mut place)?;
    for change in changes {
        let key = change.key.as_str();
        let Some((_, kind)) = known.iter().find(|(k, _)| k == key) else {
            return Err(unknown(key, &change.flag, &known));
        };
        let (value, written) = (change.value(kind), WrittenAt::CommandLine(change.clone()));
        check::<C>(key, kind, &value, &written)?;
        put(&mut table, key, value);
        explicit.0.insert(key.to_owned(), written);
    }
    let config: C = Value::Table(table)
        .try_into()
        .map_err(|e: toml::de::Error| Error::Config(format!("{source}: {}", e.message())))?;
    config.validate()?;
    Ok(Loaded { config, explicit })
}

/// Calls `place(key, where it stands)` for everything in `table` that is a key or should be one.
fn walk(
    table: &DeTable<'_>,
    before: &str,
    known: &[(String, Kind)],
    place: &mut impl FnMut(&str, usize) -> Result<()>,
) -> Result<()> {
    for (name, value) in table {
        let key = format!("{before}{}", name.get_ref());
        let inside = format!("{key}.");
        match value.get_ref() {
            DeValue::Table(inner) if known.iter().any(|(k, _)| k.starts_with(&inside)) => {
                walk(inner, &inside, known, place)?;
            }
            _ => place(&key, name.span().start)?,
        }
    }
    Ok(())
}

/// Whether the key can hold the value: a configuration that has only this one can be read.
fn check<C: Settings>(key: &str, kind: &Kind, value: &Value, written: &WrittenAt) -> Result<()> {
    let mut table = Table::new();
    put(&mut table, key, value.clone());
    let read: std::result::Result<C, _> = Value::Table(table).try_into();
    if read.is_ok() {
        return Ok(());
    }
    let (words, hint) = (kind.words(), hint(kind, value));
    let shown: String = value.to_string().chars().take(80).collect();
    Err(Error::Config(match written {
        WrittenAt::Line { .. } => format!("{written}: {key} = {shown}: expected {words}{hint}"),
        WrittenAt::CommandLine(_) => format!("{written}: expected {words}{hint}"),
    }))
}

/// What the writer may have meant.
fn hint(kind: &Kind, value: &Value) -> String {
    match (kind, value) {
        (Kind::Number | Kind::Whole, Value::String(text)) => {
            let point = text.replace(',', ".");
            let is_number = |t: &str| t.parse::<f64>().is_ok();
            match (is_number(text), is_number(&point)) {
                (true, _) if text.bytes().all(|b| b.is_ascii_digit()) => {
                    format!("; write it without quotes, at most {}", i64::MAX)
                }
                (true, _) => format!("; write it without quotes: {text}"),
                (false, true) => format!("; decimals have a point: {point}"),
                _ => String::new(),
            }
        }
        (Kind::Whole, Value::Float(x)) if x.fract() == 0.0 && (0.0..1e15).contains(x) => {
            format!("; write {x:.0}")
        }
        (Kind::Text | Kind::Choice(_), Value::Integer(_) | Value::Float(_) | Value::Boolean(_)) => {
            format!("; write it in quotes: \"{value}\"")
        }
        _ => String::new(),
    }
}

/// A value of the command line for a key of this kind: as TOML has it, and what people write besides. Words
/// need no quotes (`--set loss.gg_pairs=all`), lists no brackets (`--set views.local_size=8,8,8`). What is
/// none comes back as text, which the check of the key refuses.
fn read_value(text: &str, kind: &Kind) -> Value {
    let toml = toml_value(text);
    match (kind, toml) {
        (Kind::Text | Kind::Choice(_), Some(Value::String(text))) => Value::String(text),
        (Kind::Text | Kind::Choice(_), _) => Value::String(text.to_owned()),
        (Kind::Number, Some(Value::Integer(n))) => Value::Float(n as f64),
        (Kind::Number, Some(Value::Float(x))) => Value::Float(x),
        // TOML knows neither `.5` nor a whole number above 2^63.
        (Kind::Number, _) => text.parse().map_or(Value::String(text.to_owned()), Value::Float),
        (Kind::Whole, None) => text.parse().map_or(Value::String(text.to_owned()), Value::Integer),
        (Kind::List(item, _), Some(Value::Array(values))) => {
            let read = |v: Value| match (&**item, v) {
                (Kind::Number, Value::Integer(n)) => Value::Float(n as f64),
                (_, v) => v,
            };
            Value::Array(values.into_iter().map(read).collect())
        }
        (Kind::List(item, _), _) if !text.starts_with('[') => {
            Value::Array(text.split(',').map(|part| read_value(part.trim(), item)).collect())
        }
        (_, Some(value)) => value,
        (_, None) => Value::String(text.to_owned()),
    }
}

fn toml_value(text: &str) -> Option<Value> {
    let mut table: Table = format!("v = {text}").parse().ok()?;
    table.remove("v").filter(|_| table.is_empty())
}

fn get<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    let mut names = key.split('.');
    let first = table.get(names.next()?)?;
    names.try_fold(first, |value, name| value.get(name))
}

fn put(table: &mut Table, key: &str, value: Value) {
    let Some((first, rest)) = key.split_once('.') else {
        table.insert(key.to_owned(), value);
        return;
    };
    let inner = table.entry(first).or_insert_with(|| Value::Table(Table::new()));
    if let Value::Table(inner) = inner {
        put(inner, rest, value);
    }
}

fn unknown(key: &str, written: &str, known: &[(String, Kind)]) -> Error {
    let inside = format!("{key}.");
    if known.iter().any(|(k, _)| k.starts_with(&inside)) {
        return Error::Config(format!(
            "{written}: '{key}' is a section: write its keys below [{key}]"
        ));
    }
    let nearest = known.iter().min_by_key(|(k, _)| distance(k, key));
    let hint = nearest.map(|(k, _)| format!("; did you mean '{k}'?")).unwrap_or_default();
    Error::Config(format!("{written}: unknown key '{key}'{hint}"))
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
mod tests;
