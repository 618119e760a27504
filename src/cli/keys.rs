//! The tables of configuration keys, made from the source of the configurations themselves: names, order
//! and meaning from their doc comments, defaults from `Default`. So they cannot rot.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use glmae::config::Config;
use glmae::config::finetune::FinetuneConfig;
use toml::{Table, Value};

use super::{presets, term};

/// Where the structs and enums of the configurations stand; a name means the same in all.
const SOURCES: [&str; 3] = [
    include_str!("../config.rs"),
    include_str!("../ops/teacher_targets.rs"),
    include_str!("../config/finetune.rs"),
];

/// Whose keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Pretrain,
    Finetune,
}

impl Verb {
    /// The struct that has the sections.
    fn root(self) -> &'static str {
        match self {
            Self::Pretrain => "Config",
            Self::Finetune => "FinetuneConfig",
        }
    }

    fn defaults(self) -> Result<Table> {
        Ok(match self {
            Self::Pretrain => Table::try_from(Config::default())?,
            Self::Finetune => Table::try_from(FinetuneConfig::default())?,
        })
    }
}

/// A struct or an enum of the configuration.
#[derive(Default)]
struct Item {
    docs: String,
    rename_all: String,
    members: Vec<Member>,
}

/// A field or a variant.
struct Member {
    docs: String,
    name: String,
    /// Type of a field.
    kind: String,
}

/// A line of the table.
struct Key {
    name: String,
    default: String,
    docs: String,
    /// Values of an enum, with their meanings.
    values: Vec<(String, String)>,
}

struct Section {
    name: String,
    docs: String,
    keys: Vec<Key>,
}

/// `docs/configuration.md`.
pub fn markdown() -> Result<String> {
    let mut text = format!("{INTRODUCTION}{}", tables(Verb::Pretrain, "")?);
    text += &format!("\n# Fine-tuning\n\n{FINETUNING}\n{}", presets::finetuning(true)?);
    Ok(text + &tables(Verb::Finetune, "Fine-tuning: ")?)
}

/// A table for every section; `before` goes before the names of the sections.
fn tables(verb: Verb, before: &str) -> Result<String> {
    let mut text = String::new();
    for section in sections(verb)? {
        text += &format!("\n## {before}`[{}]`\n\n{}\n\n", section.name, section.docs);
        text += "| key | default | meaning |\n| --- | --- | --- |\n";
        // Keys that share a comment share a row.
        for keys in section.keys.chunk_by(|a, b| !a.docs.is_empty() && a.docs == b.docs) {
            let cell = |of: fn(&Key) -> &str| {
                keys.iter().map(|k| format!("`{}`", of(k))).collect::<Vec<_>>().join("<br>")
            };
            let mut docs = keys.first().map(|k| k.docs.clone()).unwrap_or_default();
            for (value, meaning) in keys.iter().flat_map(|k| &k.values) {
                docs += &format!("<br>`{value}`: {meaning}");
            }
            let docs = docs.replace('|', "\\|");
            text += &format!("| {} | {} | {docs} |\n", cell(|k| &k.name), cell(|k| &k.default));
        }
    }
    Ok(text)
}

/// The same for a terminal.
pub fn plain(verb: Verb) -> Result<String> {
    let mut text = String::new();
    for section in sections(verb)? {
        let mut table = term::Table::new(&["<", "<", "<"]);
        let mut above = String::new();
        for key in section.keys {
            let name = format!("{}.{}", section.name, key.name);
            // A comment that covers several keys is printed at the first.
            let covered = !key.docs.is_empty() && key.docs == above;
            let mut docs = if covered { String::new() } else { key.docs.clone() };
            above = key.docs;
            if !key.values.is_empty() {
                let values: Vec<&str> = key.values.iter().map(|(v, _)| v.as_str()).collect();
                docs += &format!(" [{}]", values.join(", "));
            }
            table.row([name, key.default, docs]);
        }
        text += &format!("{}\n{}\n", section.docs, table.render("  "));
    }
    Ok(text)
}

fn sections(verb: Verb) -> Result<Vec<Section>> {
    let items: BTreeMap<String, Item> = SOURCES.iter().flat_map(|s| parse(s)).collect();
    let defaults = verb.defaults()?;
    let root = items.get(verb.root()).context("a configuration is not where it was")?;
    root.members
        .iter()
        .map(|section| {
            let item = items.get(&section.kind).with_context(|| section.kind.clone())?;
            let values = defaults.get(&section.name).and_then(Value::as_table);
            let about = |field: &Member| match items.get(&field.kind) {
                Some(kind) if field.docs.is_empty() => kind.docs.clone(),
                _ => field.docs.clone(),
            };
            let keys = item.members.iter().map(|field| Key {
                name: field.name.clone(),
                default: values
                    .and_then(|t| t.get(&field.name))
                    .map_or("absent".to_owned(), ToString::to_string),
                docs: about(field),
                values: items.get(&field.kind).map(variants).unwrap_or_default(),
            });
            Ok(Section {
                name: section.name.clone(),
                docs: item.docs.clone(),
                keys: keys.collect(),
            })
        })
        .collect()
}

fn variants(item: &Item) -> Vec<(String, String)> {
    item.members.iter().map(|m| (m.name.clone(), m.docs.clone())).collect()
}

/// Structs and enums with documented public members, as rustfmt lays them out.
fn parse(source: &str) -> Vec<(String, Item)> {
    let mut found = Vec::new();
    let mut open: Option<(String, Item)> = None;
    let (mut docs, mut fresh) = (String::new(), true);
    let (mut rename_all, mut rename) = (String::new(), None);
    for line in source.lines() {
        let text = line.trim();
        if let Some(doc) = text.strip_prefix("///") {
            if !fresh {
                docs.clear();
            }
            docs = format!("{docs} {}", doc.trim()).trim().to_owned();
            fresh = true;
        } else if let Some(name) = attribute(text, "rename_all") {
            rename_all = name;
        } else if let Some(name) = attribute(text, "rename") {
            rename = Some(name);
        } else if let Some(name) = header(line) {
            let item =
                Item { docs: docs.clone(), rename_all: rename_all.clone(), ..Item::default() };
            (open, fresh) = (Some((name, item)), false);
            docs.clear();
        } else if line == "}" {
            found.extend(open.take());
            (fresh, rename_all) = (false, String::new());
            docs.clear();
        } else if let (Some((_, item)), Some(member)) = (&mut open, text.strip_suffix(',')) {
            // A comment stands for the members below it, up to the next comment.
            let (name, kind) = match member.strip_prefix("pub ").and_then(|m| m.split_once(": ")) {
                Some((name, kind)) => (name.to_owned(), kind.to_owned()),
                None => {
                    (rename.take().unwrap_or_else(|| cased(member, &item.rename_all)), "".into())
                }
            };
            item.members.push(Member { docs: docs.clone(), name, kind });
            fresh = false;
        }
    }
    found
}

/// `Name` of `pub struct Name {` or `pub enum Name {`.
fn header(line: &str) -> Option<String> {
    let rest = line.strip_prefix("pub struct ").or_else(|| line.strip_prefix("pub enum "))?;
    Some(rest.strip_suffix(" {")?.to_owned())
}

/// `x` of `#[serde(key = "x")]`.
fn attribute(text: &str, key: &str) -> Option<String> {
    let rest = text.strip_prefix("#[serde(")?.strip_prefix(key)?;
    Some(rest.strip_prefix(" = \"")?.split('"').next()?.to_owned())
}

/// A variant's name as serde writes it.
fn cased(name: &str, rename_all: &str) -> String {
    match rename_all {
        "lowercase" => name.to_lowercase(),
        "snake_case" => {
            let mut out = String::new();
            for c in name.chars() {
                if c.is_uppercase() && !out.is_empty() {
                    out.push('_');
                }
                out.extend(c.to_lowercase());
            }
            out
        }
        _ => name.to_owned(),
    }
}

const INTRODUCTION: &str = "\
# Configuration

A configuration is a preset (`glmae presets`) or a TOML file. What it does not name has the default
below; a key that does not exist is an error with a suggestion. Any key can be set on the command line
with `--set section.key=value`; lists may be written without brackets (`--set views.local_size=48,48,48`).
The resolved configuration is stored in the run folder and in every checkpoint.

Keys that share a comment share a row. \"U1\" to \"U10\" mark the [points that the paper leaves
open](method.md#9-open-points); the default is our reading. Volume axes are always d, h, w: the
axes of the NIfTI file in its order, after reorientation to RAS.

Below are the keys of `glmae pretrain`, then those of [`glmae finetune`](#fine-tuning).

<!-- Made by `glmae presets --keys --markdown`; a test compares. Edit src/config.rs and
src/config/finetune.rs instead. -->
";

const FINETUNING: &str = "\
Settings of `glmae finetune` are a preset (`glmae presets --finetune`) or a TOML file; the task, which says
spacing, classes and split of a set, is another file ([evaluation](evaluation.md)). `model.patch`, `dim`,
`depth`, `heads`, `mlp_ratio` and `norm_eps` are those of the encoder's file where there is one.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_listed_and_explained() {
        for verb in [Verb::Pretrain, Verb::Finetune] {
            let (sections, defaults) = (sections(verb).unwrap(), verb.defaults().unwrap());
            assert_eq!(sections.len(), defaults.len());
            for section in &sections {
                let listed: Vec<&str> = section.keys.iter().map(|k| k.name.as_str()).collect();
                for key in defaults[&section.name].as_table().unwrap().keys() {
                    assert!(listed.contains(&key.as_str()), "{}.{key} is missing", section.name);
                }
            }
        }
    }

    #[test]
    fn enum_values_are_those_that_serde_reads() {
        let mut tried = 0;
        for verb in [Verb::Pretrain, Verb::Finetune] {
            for section in sections(verb).unwrap() {
                for (key, (value, _)) in
                    section.keys.iter().flat_map(|k| k.values.iter().map(move |v| (k, v)))
                {
                    let set = [format!("{}.{}={value}", section.name, key.name)];
                    let parsed = match verb {
                        Verb::Pretrain => Config::load("tiny", &set).map(|_| ()),
                        Verb::Finetune => FinetuneConfig::load("author", &set).map(|_| ()),
                    };
                    assert!(parsed.is_ok(), "{set:?}: {}", parsed.unwrap_err());
                    tried += usize::from(verb == Verb::Finetune);
                }
            }
        }
        assert!(tried >= 3, "the values of train.precision");
        let text = markdown().unwrap();
        assert!(!text.contains("|  |"), "a key without a meaning");
        for value in [
            "`interp_from_local`",
            "`mae3d`",
            "`+g2g`",
            "`standardise`",
            "`zscore`",
            "`frozen_encoder`",
        ] {
            assert!(text.contains(value), "{value}");
        }
    }
}
