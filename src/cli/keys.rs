//! The tables of configuration keys, made from the types of the configurations themselves
//! (`glmae::config::schema`): so they cannot rot.

use anyhow::Result;
use glmae::config::Config;
use glmae::config::finetune::FinetuneConfig;
use glmae::config::schema::{Key, Kind, Section, Settings};
use glmae::study::StudyConfig;

use super::{presets, term};

/// Whose keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Pretrain,
    Finetune,
    Study,
}

impl Verb {
    fn sections(self) -> Vec<Section> {
        match self {
            Self::Pretrain => Config::sections(),
            Self::Finetune => FinetuneConfig::sections(),
            Self::Study => StudyConfig::sections(),
        }
    }
}

/// `docs/configuration.md`.
pub fn markdown() -> Result<String> {
    let mut text = format!("{INTRODUCTION}{}", tables(Verb::Pretrain, ""));
    text += &format!("\n# Fine-tuning\n\n{FINETUNING}\n{}", presets::finetuning(true)?);
    text += &tables(Verb::Finetune, "Fine-tuning: ");
    text += &format!("\n# Studies\n\n{STUDIES}");
    Ok(text + &tables(Verb::Study, "Study: "))
}

/// A table for every section; `before` goes before the names of the sections.
fn tables(verb: Verb, before: &str) -> String {
    let mut text = String::new();
    for section in verb.sections() {
        text += &format!("\n## {before}`[{}]`\n\n{}\n\n", section.name, section.docs);
        text += "| key | default | meaning |\n| --- | --- | --- |\n";
        // Keys that share a comment share a row.
        for keys in section.keys.chunk_by(|a, b| !a.docs.is_empty() && a.docs == b.docs) {
            let cell = |of: fn(&Key) -> String| {
                keys.iter().map(|k| format!("`{}`", of(k))).collect::<Vec<_>>().join("<br>")
            };
            let mut docs = keys.first().map(|k| k.docs.clone()).unwrap_or_default();
            for (value, meaning) in keys.iter().flat_map(choices) {
                docs += &format!("<br>`{value}`: {meaning}");
            }
            let docs = docs.replace('|', "\\|");
            text += &format!("| {} | {} | {docs} |\n", cell(|k| k.name.clone()), cell(default));
        }
    }
    text
}

/// The same for a terminal.
pub fn plain(verb: Verb) -> String {
    let mut text = String::new();
    for section in verb.sections() {
        let mut table = term::Table::new(&["<", "<", "<"]);
        let mut above = String::new();
        for key in section.keys {
            let name = format!("{}.{}", section.name, key.name);
            // A comment that covers several keys is printed at the first.
            let covered = !key.docs.is_empty() && key.docs == above;
            let mut docs = if covered { String::new() } else { key.docs.clone() };
            let values: Vec<&str> = choices(&key).iter().map(|(v, _)| v.as_str()).collect();
            if !values.is_empty() {
                docs += &format!(" [{}]", values.join(", "));
            }
            table.row([name, default(&key), docs]);
            above = key.docs;
        }
        text += &format!("{}\n{}\n", section.docs, table.render("  "));
    }
    text
}

/// As TOML writes it.
fn default(key: &Key) -> String {
    key.default.as_ref().map_or("absent".to_owned(), ToString::to_string)
}

fn choices(key: &Key) -> &[(String, String)] {
    match &key.kind {
        Kind::Choice(words) => words,
        _ => &[],
    }
}

const INTRODUCTION: &str = "\
# Configuration

A configuration is a preset (`glmae presets`) or a TOML file. What it does not name has the default
below; a key that does not exist is an error with a suggestion, a value that its key cannot hold one that
names both and where they stand. Any key can be set on the command line with `--set section.key=value`; lists
may be written without brackets (`--set views.local_size=48,48,48`), words without quotes. Flags such as `--lr`
stand for keys, take the same values and win over `--set`.
The resolved configuration is stored in the run folder and in every checkpoint.

Keys that share a comment share a row. \"U1\" to \"U10\" mark the [points that the paper leaves
open](method.md#9-open-points); the default is our reading. Volume axes are always d, h, w: the
axes of the NIfTI file in its order, after reorientation to RAS.

Below are the keys of `glmae pretrain`, then those of [`glmae finetune`](#fine-tuning) and of
[`glmae study`](#studies).

<!-- Made by `glmae presets --keys --markdown`; a test compares. Edit the comments in src/config and
src/study/config.rs instead. -->
";

const FINETUNING: &str = "\
Settings of `glmae finetune` are a preset (`glmae presets --finetune`) or a TOML file; the task, which says
spacing, classes and split of a set, is another file ([evaluation](evaluation.md)). `model.patch`, `dim`,
`depth`, `heads`, `mlp_ratio` and `norm_eps` are those of the encoder's file where there is one.
";

const STUDIES: &str = "\
What `glmae study` compares ([study](study.md)). `pretrain` and `finetune` name settings from above.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enum_values_are_those_that_serde_reads() {
        let mut tried = 0;
        for verb in [Verb::Pretrain, Verb::Finetune] {
            for section in verb.sections() {
                for (key, (value, _)) in
                    section.keys.iter().flat_map(|k| choices(k).iter().map(move |v| (k, v)))
                {
                    let set = [format!("{}.{}={value}", section.name, key.name)];
                    let parsed = match verb {
                        Verb::Pretrain => Config::load("tiny", &set).map(|_| ()),
                        _ => FinetuneConfig::load("author", &set).map(|_| ()),
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
            "`mask_ratios`",
            "`all`: Every i and j.",
        ] {
            assert!(text.contains(value), "{value}");
        }
    }
}
