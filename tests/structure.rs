//! The house keeps its order: generated tables are current, one op has one name, links resolve.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use glmae::ops::OPS;

/// Files of src that may be longer than [`LONG`] lines, with the reason.
const LONG_FILES: &[(&str, &str)] =
    &[("src/config.rs", "one table of keys; the sections read best together")];
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
    for op in OPS {
        let name = op.name();
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
fn ops_and_tape_import_from_below() {
    let tape = [files("src/tape", ".rs"), vec!["src/tape.rs".to_owned()]].concat();
    for (paths, above) in
        [(files("src/ops", ".rs"), &["crate::nn"][..]), (tape, &["crate::nn", "crate::ops"])]
    {
        for path in paths {
            for name in above {
                assert!(!read(&path).contains(name), "{path} imports {name}");
            }
        }
    }
}

#[test]
fn files_stay_small() {
    for path in files("src", ".rs") {
        let lines = read(&path).lines().count();
        let allowed = LONG_FILES.iter().any(|(known, _)| *known == path);
        assert!(lines <= LONG || allowed, "{path} has {lines} lines: split it by idea");
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
