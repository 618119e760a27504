//! The house keeps its order: generated tables are current, one op has one name, links resolve; `floors` is
//! about who imports from whom.

mod floors;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use glmae::config::{OBJECTIVES, TERMS};
use glmae::ops::OPS;

/// Lines of a file of the crates at most.
const LONG: usize = 500;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn glmae(args: &[&str]) -> String {
    let program = assert_cmd::cargo::cargo_bin!("glmae");
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Files below a folder whose name ends so, relative to the root.
fn files(folder: &str, end: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![root().join(folder)];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if path.to_string_lossy().ends_with(end) {
                let relative = path.strip_prefix(root()).unwrap();
                found.push(relative.to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    found
}

/// The part of the README between `<!-- NAME:begin -->` and `<!-- NAME:end -->`.
fn part(text: &str, name: &str) -> String {
    let (begin, end) = (format!("<!-- {name}:begin -->\n"), format!("<!-- {name}:end -->"));
    let rest = text.split_once(&begin).unwrap_or_else(|| panic!("no {begin}")).1;
    rest.split_once(&end).unwrap_or_else(|| panic!("no {end}")).0.to_owned()
}

#[test]
fn generated_tables_are_current() {
    let readme = read("README.md");
    for (name, args) in [("ops", ["ops", "--markdown"]), ("presets", ["presets", "--markdown"])] {
        assert_eq!(part(&readme, name), glmae(&args), "run scripts/generate-docs.sh");
    }
    let configuration = glmae(&["presets", "--keys", "--markdown"]);
    assert_eq!(read("docs/configuration.md"), configuration, "run scripts/generate-docs.sh");
}

#[test]
fn every_kernel_has_its_op() {
    let kernels: Vec<String> = fs::read_dir(root().join("kernels"))
        .unwrap()
        .filter_map(|e| e.unwrap().file_name().to_str()?.strip_suffix(".cu").map(str::to_owned))
        .collect();
    assert!(!kernels.is_empty());
    for name in kernels {
        assert!(OPS.iter().any(|op| op.name() == name), "kernels/{name}.cu is no op of OPS");
        let faults = root().join(format!("tests/mutation/{name}.txt"));
        assert!(faults.is_file(), "tests/mutation/{name}.txt: no faults for kernels/{name}.cu");
        // Every exported kernel begins with the name of its op.
        let mut exports = 0;
        for line in read(&format!("kernels/{name}.cu")).lines() {
            let macros = [("GLMAE_KERNEL(", 1), ("GLMAE_INSTANCE(", 1), ("GLMAE_TWINS(", 2)];
            for (start, names) in macros {
                let Some(rest) = line.strip_prefix(start) else { continue };
                for kernel in rest.split([',', ')']).take(names).map(str::trim) {
                    assert!(kernel.starts_with(&format!("{name}_")), "{name}.cu exports {line}");
                    exports += 1;
                }
            }
        }
        assert!(exports > 0, "kernels/{name}.cu exports nothing");
    }
}

/// Kernels that differ in their type alone come from one template through one macro.
#[test]
fn twins_are_not_written_by_hand() {
    for path in files("kernels", ".cu") {
        let text = read(&path);
        let written: Vec<&str> = text
            .lines()
            .filter_map(|l| l.strip_prefix("GLMAE_KERNEL(")?.split(',').next())
            .collect();
        for name in &written {
            let twin = name.replace("_f32", "_bf16");
            assert!(
                twin == *name || !written.contains(&twin.as_str()),
                "{path}: {name} and {twin}"
            );
        }
    }
}

/// A fault whose text is gone would be reported only by the long run of scripts/mutate-kernels.py.
#[test]
fn every_fault_of_the_mutation_tables_can_be_made() {
    let mut faults = 0;
    for table in files("tests/mutation", ".txt") {
        let op = Path::new(&table).file_stem().unwrap().to_string_lossy().into_owned();
        for fault in read(&table).split("\n== ").skip(1) {
            let (head, change) = fault.split_once("\n---\n").unwrap();
            let file = head.lines().find_map(|line| line.strip_prefix("file "));
            let file = file.map_or(format!("{op}.cu"), |file| file.trim().to_owned());
            let old = change.split("\n+++").next().unwrap().trim_matches('\n');
            let found = read(&format!("kernels/{file}")).matches(old).count();
            assert_eq!(found, 1, "{table}: {head}\nthe old text occurs {found} times in {file}");
            faults += 1;
        }
    }
    assert!(faults > 200, "only {faults} faults were found");
}

#[test]
fn every_op_has_its_file_and_cases() {
    let kernels = read("docs/kernels.md");
    let floors = kernels.split_once("## Floors").expect("a section").1;
    for op in OPS {
        let name = op.name();
        // The first cell of a row names one op or several: `| patch_gather, unpatchify | ...`.
        let mut rows =
            floors.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
        let is_listed = rows.any(|cell| cell.split([' ', ',']).any(|word| word == name));
        assert!(is_listed, "docs/kernels.md, Floors: no row for {name}");
        let source = read(&format!("src/ops/{name}.rs"));
        assert!(source.contains("Shapes:"), "src/ops/{name}.rs does not document its shapes");
        let lower = root().join(format!("src/tape/{name}.rs"));
        let example = source.contains("/// ```\n")
            || fs::read_to_string(lower).is_ok_and(|lower| lower.contains("/// ```\n"));
        assert!(example, "src/ops/{name}.rs has no example");
        assert!(!op.cases().is_empty(), "{name} has no cases");
        assert!(!op.summary().contains('\n') && !op.summary().is_empty(), "{name}: summary");
    }
}

/// The parts that several ops share know no op, and an op asks none of them to choose for it.
#[test]
fn the_fast_path_of_an_op_stands_beside_it() {
    for path in files("src/ops/cpu", ".rs") {
        let (place, text) = (path.trim_end_matches(".rs").split('/'), read(&path));
        for name in place {
            assert!(OPS.iter().all(|op| op.name() != name), "{path} belongs to the op {name}");
        }
        for op in OPS {
            let used = text.contains(&format!("ops::{}::", op.name()));
            assert!(!used, "{path} uses the op {}", op.name());
        }
    }
    for path in files("src/ops", ".rs") {
        let central = read(&path).contains("trait Kernels");
        assert!(!central, "{path}: one trait with a method per op");
    }
}

#[test]
fn files_stay_small() {
    for path in [files("src", ".rs"), files("simt", ".rs")].concat() {
        let lines = read(&path).lines().count();
        assert!(lines <= LONG, "{path} has {lines} lines: split it by idea");
    }
}

/// `println!` and `eprintln!` end the program where a stream takes nothing more.
#[test]
fn nothing_is_printed_past_the_functions_for_it() {
    for path in files("src", ".rs").into_iter().filter(|path| !path.ends_with("tests.rs")) {
        for line in read(&path).split("#[cfg(test)]\nmod tests {").next().unwrap().lines() {
            let code = line.split("//").next().unwrap_or_default();
            for call in ["println!(", "print!(", "eprintln!(", "eprint!(", "dbg!("] {
                assert!(!code.contains(call), "{path}: {call}; use term::print or stderr::say");
            }
        }
    }
}

/// The configuration is beside all floors: it knows no op, and no op knows it.
#[test]
fn configuration_and_ops_do_not_know_each_other() {
    for path in files("src", ".rs") {
        let wrong = match path.as_str() {
            p if p.starts_with("src/config") => "crate::ops",
            p if p.starts_with("src/ops") => "crate::config",
            _ => continue,
        };
        assert!(!read(&path).contains(wrong), "{path} imports {wrong}");
    }
}

/// The table of docs/method.md, 4.5 is that of the program.
#[test]
fn the_method_lists_every_objective_with_its_terms() {
    let method = read("docs/method.md");
    let mut rows = method.lines().skip_while(|line| !line.starts_with("| objective |"));
    let cells = |line: &str| -> Vec<String> {
        let cells = line.trim_matches('|').split('|').skip(1);
        cells.map(|cell| cell.split('`').nth(1).unwrap_or(cell.trim()).to_owned()).collect()
    };
    let columns = cells(rows.next().unwrap());
    let mut known: Vec<&str> = TERMS.iter().map(|row| row.name).collect();
    known.sort_by_key(|name| columns.iter().position(|column| column == name));
    assert_eq!(columns, known);
    rows.next();
    for row in &OBJECTIVES {
        let line = rows.next().unwrap();
        assert!(line.starts_with(&format!("| `{}` |", row.name)), "{line}");
        for (cell, name) in cells(line).iter().zip(&columns) {
            let has = row.terms.iter().any(|term| term.name() == name);
            assert_eq!(cell == "yes", has, "{}: {name}", row.name);
        }
    }
}

/// The names under which the headings of a document can be linked to, as GitHub makes them.
fn anchors(text: &str) -> Vec<String> {
    let mut is_code = false;
    let headings = text.lines().filter(|line| {
        is_code ^= line.starts_with("```");
        !is_code && line.starts_with('#')
    });
    let kept = |c: &char| c.is_alphanumeric() || "-_ ".contains(*c);
    headings
        .map(|line| line.trim_start_matches('#').trim().to_lowercase())
        .map(|title| title.chars().filter(kept).collect::<String>().replace(' ', "-"))
        .collect()
}

#[test]
fn links_in_documents_resolve() {
    let mut documents = files("docs", ".md");
    documents.extend(files("benches", ".md"));
    documents.extend(["README.md", "CHANGELOG.md", "CONTRIBUTING.md"].map(String::from));
    let mut checked = 0;
    for document in documents {
        let text = read(&document);
        let folder = root().join(&document).parent().unwrap().to_owned();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (target, anchor) = link.split_once('#').unwrap_or((link, ""));
            if link.contains("://") || link.contains(char::is_whitespace) || link.is_empty() {
                continue;
            }
            checked += 1;
            let path = if target.is_empty() { root().join(&document) } else { folder.join(target) };
            assert!(path.exists(), "{document}: link to {target}");
            if !anchor.is_empty() {
                let anchors = anchors(&fs::read_to_string(&path).unwrap());
                assert!(anchors.contains(&anchor.to_owned()), "{document}: no heading for {link}");
            }
        }
    }
    assert!(checked > 10, "only {checked} links were found");
}

#[test]
fn scripts_say_what_they_are_and_stop_on_errors() {
    let mut scripts = files("scripts", ".sh");
    scripts.push(".ci/run".to_owned());
    for path in scripts {
        let text = read(&path);
        assert!(text.starts_with("#!/usr/bin/env bash\n# "), "{path}: shebang and purpose");
        assert!(text.contains("set -euo pipefail"), "{path}");
        assert!(Path::new(&root().join(&path)).is_file());
    }
}

/// Numbers of the headings of a document: `3.2` of `### 3.2 Position tables`, `U1` of `### U1. ...`.
fn numbered_headings(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .filter_map(|line| line.trim_start_matches('#').split_whitespace().next())
        .map(|number| number.trim_end_matches('.').to_owned())
        .filter(|number| is_section(number))
        .collect()
}

/// `3`, `3.2` or `U1`.
fn is_section(word: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    word.strip_prefix('U').map_or_else(|| word.split('.').all(digits), digits)
}

/// The documents that a text cites, `docs/training.md` or `docs/method.md, 3.2 and U2`, with the sections.
fn citations(text: &str) -> Vec<(String, Vec<String>)> {
    // A citation may be broken by the end of a line of a comment.
    let lines = text.lines().map(|line| line.trim_start().trim_start_matches(['/', '!', '#']));
    let text = lines.map(str::trim).collect::<Vec<_>>().join(" ");
    let mut found = Vec::new();
    for (at, _) in text.match_indices("docs/") {
        let rest = &text[at..];
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-_/".contains(c);
        let Some(end) = rest.find(|c| !is_name(c)).filter(|&end| rest[end..].starts_with(".md"))
        else {
            continue;
        };
        let (name, after) = rest.split_at(end + 3);
        let mut sections = Vec::new();
        if let Some(list) = after.strip_prefix(", ") {
            for word in list.split_whitespace().take(8) {
                let number = word.trim_end_matches(|c: char| !c.is_ascii_digit());
                match word {
                    "and" | "to" => {}
                    _ if !number.is_empty() && is_section(number) => {
                        sections.push(number.to_owned());
                        // `3.2, U2` goes on, `3.2).` and `3.2;` do not.
                        if word != number && word[number.len()..] != *"," {
                            break;
                        }
                    }
                    _ => break,
                }
            }
        }
        found.push((name.to_owned(), sections));
    }
    found
}

/// Everything that people write in this repository, but for what is generated elsewhere.
fn sources() -> Vec<String> {
    let alone =
        ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "Cargo.toml", "build.rs", ".ci/run"];
    let mut all = alone.map(String::from).to_vec();
    for folder in
        ["src", "simt", "kernels", "tests", "examples", "scripts", "configs", "benches", "docs"]
    {
        for end in [".rs", ".cu", ".cuh", ".h", ".cpp", ".py", ".sh", ".toml", ".txt", ".md"] {
            all.extend(files(folder, end));
        }
    }
    all
}

#[test]
fn citations_are_of_documents_and_sections_that_exist() {
    let sample = "/// Source: docs/method.md, 3.2, 6.1\n/// and U2. See docs/training.md, which\n// docs/x.md, 1.0";
    let of = |name: &str, sections: &[&str]| {
        (format!("docs/{name}.md"), sections.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>())
    };
    let expected = [of("method", &["3.2", "6.1", "U2"]), of("training", &[]), of("x", &["1.0"])];
    assert_eq!(citations(sample), expected);

    let mut checked = 0;
    for path in sources() {
        // This file holds the sample.
        if path == "tests/structure.rs" {
            continue;
        }
        for (document, sections) in citations(&read(&path)) {
            assert!(root().join(&document).is_file(), "{path} cites {document}: no such file");
            let known = numbered_headings(&read(&document));
            for section in sections {
                checked += 1;
                assert!(
                    known.contains(&section),
                    "{path} cites {document}, {section}: no such section"
                );
            }
        }
    }
    assert!(checked > 30, "only {checked} citations of sections were found");
}

/// Documents that readers of this repository do not have.
#[test]
fn nothing_outside_of_the_repository_is_cited() {
    let names =
        ["UNETR_CASES", "peer README", "check_unetr", "gl-mae-spec", "consistency-collapse"];
    for path in sources().iter().filter(|path| *path != "tests/structure.rs") {
        let text = read(path);
        for name in names {
            assert!(!text.contains(name), "{path} cites {name}, which is not in the repository");
        }
        for (at, found) in text.match_indices("gl-mae ") {
            // A section such as 2.2; results such as 2.05 or 0.84 are none.
            let after = &text[at + found.len()..];
            let end = after.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(after.len());
            let number = after[..end].trim_end_matches('.');
            let is_cited = number.len() == 3 && is_section(number);
            assert!(!is_cited, "{path} cites gl-mae {number}, which is not in the repository");
        }
    }
}

/// The open points that keys are documented with have a section each, and what the method's document calls
/// a key is one.
#[test]
fn open_points_and_keys_of_the_method_exist() {
    let method = read("docs/method.md");
    let (known, configuration) = (numbered_headings(&method), read("docs/configuration.md"));
    for n in 1..=10 {
        let point = format!("U{n}");
        assert!(known.contains(&point), "docs/method.md has no section {point}");
    }
    for word in configuration.split(|c: char| !c.is_ascii_alphanumeric()) {
        if word.len() > 1 && word.starts_with('U') && is_section(word) {
            assert!(known.contains(&word.to_owned()), "{word} has no section in docs/method.md");
        }
    }
    let mut keys = 0;
    for word in method.split('`').skip(1).step_by(2) {
        let parts = word.split_once('.').filter(|(section, key)| {
            let is_name = |s: &str| {
                !s.is_empty()
                    && s.bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit())
            };
            is_name(section) && is_name(key) && configuration.contains(&format!("`[{section}]`"))
        });
        if let Some((_, key)) = parts {
            keys += 1;
            assert!(configuration.contains(&format!("`{key}`")), "docs/method.md: no key `{word}`");
        }
    }
    assert!(keys > 30, "only {keys} keys were found");
}
