//! Messages advise only what exists: every `section.key` and every `--flag` in a string of the program, and
//! in the help of its flags, is a key of a configuration or of a task, or a flag of a verb.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use glmae::config::Config;
use glmae::config::finetune::FinetuneConfig;
use glmae::config::schema::names;
use glmae::seg::Task;
use glmae::study::StudyConfig;

use super::Cli;

/// Flags of other programs that strings name.
const FLAGS_OF_OTHERS: &[(&str, &str)] = &[
    ("--release", "cargo"),
    ("--features", "cargo"),
    ("--profile-from-start", "ncu"),
    ("--parts", "the reference's bench_torch.py"),
];

/// What looks like a key and is none.
const NO_KEYS: &[(&str, &str)] = &[
    ("head.mlp", "a parameter"),
    ("head.last_layer", "a parameter"),
    ("labels.ignore", "nnU-Net's dataset.json"),
];

/// Endings of files: `model.safetensors` is no key.
const ENDINGS: [&str; 8] = ["toml", "bin", "safetensors", "txt", "png", "json", "csv", "rs"];

#[test]
fn every_key_and_flag_in_a_message_exists() {
    let mut keys = BTreeSet::new();
    keys.extend(names::<Config>());
    keys.extend(names::<FinetuneConfig>());
    keys.extend(names::<StudyConfig>());
    keys.extend(names::<Task>());
    let sections: BTreeSet<&str> = keys.iter().filter_map(|k| Some(k.split_once('.')?.0)).collect();
    let mut flags = BTreeSet::from(["--help".to_owned(), "--version".to_owned()]);
    collect(&Cli::command(), &mut flags);

    let (mut wrong, mut seen) = (Vec::new(), [0, 0]);
    for path in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
        let text = fs::read_to_string(&path).unwrap();
        for literal in strings(&text, path.components().any(|c| c.as_os_str() == "cli")) {
            for key in keys_in(&literal, &sections) {
                seen[0] += 1;
                if !keys.contains(&key) && !NO_KEYS.iter().any(|(known, _)| *known == key) {
                    wrong.push(format!("{}: no key {key} in {literal:?}", path.display()));
                }
            }
            for flag in flags_in(&literal) {
                seen[1] += 1;
                if !flags.contains(&flag)
                    && !FLAGS_OF_OTHERS.iter().any(|(known, _)| *known == flag)
                {
                    wrong.push(format!("{}: no flag {flag} in {literal:?}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen[0] > 80 && seen[1] > 100, "only {seen:?} were found");
}

fn collect(command: &clap::Command, flags: &mut BTreeSet<String>) {
    flags.extend(command.get_arguments().filter_map(|a| Some(format!("--{}", a.get_long()?))));
    command.get_subcommands().for_each(|verb| collect(verb, flags));
}

/// Files of the program, without its tests.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "tests" {
            found.extend(sources(&path));
        } else if name.ends_with(".rs") && name != "tests.rs" && name != "advice.rs" {
            found.push(path);
        }
    }
    found
}

/// String literals up to the tests of a file, and doc comments if `help`: clap prints those.
fn strings(source: &str, help: bool) -> Vec<String> {
    let source = source.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let (mut found, mut rest) = (Vec::new(), source);
    while let Some(at) = rest.find(['"', '/', '\'', 'r']) {
        let from = &rest[at..];
        let length = if let Some(comment) = from.strip_prefix("//") {
            let line = comment.lines().next().unwrap_or_default();
            if help && line.starts_with('/') {
                found.push(line.to_owned());
            }
            2 + line.len()
        } else if let Some(raw) = from.strip_prefix("r#\"") {
            let text = raw.split("\"#").next().unwrap_or_default();
            found.push(text.to_owned());
            3 + text.len() + 2
        } else if let Some(text) = from.strip_prefix('"') {
            let end = closing(text);
            // A line that goes on begins at the first word of the next.
            let lines = text[..end].split("\\\n").map(str::trim_start);
            found.push(lines.collect());
            end + 2
        } else if from.starts_with("'\"'") {
            3
        } else if from.starts_with("'\\") {
            // `'\''` and `'\"'`.
            4
        } else {
            1
        };
        rest = rest.get(at + length..).unwrap_or_default();
    }
    found
}

/// Bytes before the quote that ends a string.
fn closing(text: &str) -> usize {
    let mut escaped = false;
    let end = text.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    });
    end.unwrap_or(text.len())
}

fn keys_in(literal: &str, sections: &BTreeSet<&str>) -> Vec<String> {
    let of_key = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-');
    let words = literal.split(|c| !of_key(c)).map(|word| word.trim_end_matches(['.', '-', '/']));
    let is_key = |word: &&str| match word.split_once('.') {
        Some((section, name)) => {
            sections.contains(section)
                && name.starts_with(|c: char| c.is_ascii_lowercase())
                && !name.contains(['.', '/', '-'])
                && !ENDINGS.contains(&name)
        }
        None => false,
    };
    words.filter(is_key).map(str::to_owned).collect()
}

fn flags_in(literal: &str) -> Vec<String> {
    let of_flag = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let words = literal.split(|c| !of_flag(c) && !char::is_alphanumeric(c) && c != '_');
    let is_flag = |word: &&str| {
        word.strip_prefix("--").is_some_and(|name| {
            name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(of_flag)
        })
    };
    words.filter(is_flag).map(|word| word.trim_end_matches('-').to_owned()).collect()
}

#[test]
fn the_scan_sees_what_messages_say() {
    let source = "// \"data.comment\"\nlet x = \"set data.nope, \\\n  or --no-such\"; '\"'; r#\"loss.raw\"#;\n\
                  #[cfg(test)]\nmod tests { \"data.test\" }";
    let found = strings(source, false);
    assert_eq!(found, ["set data.nope, or --no-such", "loss.raw"]);
    let sections = BTreeSet::from(["data", "loss"]);
    assert_eq!(keys_in(&found[0], &sections), ["data.nope"]);
    assert!(keys_in("data.csv a/data.x data.A", &sections).is_empty());
    assert_eq!(flags_in(&found[0]), ["--no-such"]);
    assert!(flags_in("a--b -- ---").is_empty());
}
