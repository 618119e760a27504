//! The house keeps its order: generated tables are current, one op has one name, links resolve.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use glmae::ops::OPS;

/// Lines of a file of src at most.
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
        // Every exported kernel begins with the name of its op.
        for line in read(&format!("kernels/{name}.cu")).lines() {
            if let Some(kernel) = line.strip_prefix("GLMAE_KERNEL(") {
                assert!(kernel.starts_with(&format!("{name}_")), "{name}.cu exports {line}");
            }
        }
    }
}

#[test]
fn every_op_has_its_file_and_cases() {
    for op in OPS {
        let name = op.name();
        let source = read(&format!("src/ops/{name}.rs"));
        assert!(source.contains("Shapes:"), "src/ops/{name}.rs does not document its shapes");
        assert!(!op.cases().is_empty(), "{name} has no cases");
        assert!(!op.summary().contains('\n') && !op.summary().is_empty(), "{name}: summary");
    }
}

#[test]
fn files_stay_small() {
    for path in files("src", ".rs") {
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

#[test]
fn links_in_documents_resolve() {
    let mut documents = files("docs", ".md");
    documents.extend(["README.md".to_owned(), "CHANGELOG.md".to_owned()]);
    let mut checked = 0;
    for document in documents {
        let text = read(&document);
        let folder = root().join(&document).parent().unwrap().to_owned();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap_or_default();
            if link.contains("://") || link.contains(char::is_whitespace) || target.is_empty() {
                continue;
            }
            checked += 1;
            assert!(folder.join(target).exists(), "{document}: link to {target}");
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
