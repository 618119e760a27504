//! The floors of docs/architecture.md are those of the code: every place is in the table, imports only from
//! below, and no places import from each other in a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::{files, read, root};

/// Where a place stands.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Floor {
    /// May import from lower numbers, and from every place beside.
    Of(u32),
    /// The number of a row beside the floors: may import from the rows below it.
    Beside(usize),
}

impl Floor {
    /// Whether a place here may import from one there, or in which direction it must not.
    fn import(self, from: Self) -> Result<(), &'static str> {
        let is_below = match (self, from) {
            (Self::Of(a), Self::Of(b)) => b < a,
            (Self::Beside(a), Self::Beside(b)) => a < b,
            (Self::Of(_), Self::Beside(_)) => true,
            (Self::Beside(_), Self::Of(_)) => false,
        };
        if is_below { Ok(()) } else { Err(if self == from { "across" } else { "up" }) }
    }
}

/// A module by its names from the root of the crate on; the root itself has none.
type Module = Vec<String>;

/// The places of src in the table `| floor | place | ... |`, such as `src/nn/` or `src/{error,rng}.rs`.
fn places(page: &str) -> BTreeMap<Module, Floor> {
    let mut places = BTreeMap::new();
    let rows = page.lines().skip_while(|line| !line.starts_with("| floor | place |")).skip(2);
    for (number, row) in rows.take_while(|line| line.starts_with('|')).enumerate() {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let floor = match cells[1] {
            "beside" => Floor::Beside(number),
            n => Floor::Of(n.parse().unwrap_or_else(|_| panic!("no floor: {row}"))),
        };
        for path in cells[2].split('`').skip(1).step_by(2) {
            let (before, rest) = path.split_once('{').unwrap_or((path, ""));
            let (names, after) = rest.split_once('}').unwrap_or(("", ""));
            for name in names.split(',') {
                let path = format!("{before}{name}{after}");
                let Some(path) = path.strip_prefix("src/") else { continue };
                let before = places.insert(module(path), floor);
                assert!(before.is_none_or(|f| f == floor), "{path} stands on two floors");
            }
        }
    }
    assert!(!places.is_empty(), "the page has no table of floors");
    places
}

/// The module of a file or folder, relative to src.
fn module(path: &str) -> Module {
    let path = path.trim_end_matches(".rs").trim_end_matches('/');
    let path = path.strip_suffix("/mod").unwrap_or(path);
    path.split('/').filter(|name| *name != "lib").map(str::to_owned).collect()
}

/// The place that a module belongs to: the longest one that it lies in.
fn place<'p>(places: &'p BTreeMap<Module, Floor>, module: &[String]) -> Option<&'p Module> {
    places.keys().filter(|place| module.starts_with(place)).max_by_key(|place| place.len())
}

/// Names, `::`, and single characters of Rust text without its comments, strings and characters.
fn tokens(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = text;
    let skip = |rest: &str, from: usize, to: &str| {
        rest[from..].find(to).map_or(rest.len(), |at| from + at + to.len())
    };
    while let Some(c) = rest.chars().next() {
        let is_name = |c: char| c.is_alphanumeric() || c == '_';
        let raw = rest.strip_prefix('b').unwrap_or(rest).strip_prefix('r');
        let hashes = raw.map_or(0, |raw| raw.len() - raw.trim_start_matches('#').len());
        let length = if rest.starts_with("//") {
            skip(rest, 0, "\n")
        } else if rest.starts_with("/*") {
            skip(rest, 2, "*/")
        } else if raw.is_some_and(|raw| raw[hashes..].starts_with('"')) {
            let start = rest.find('"').unwrap_or(0) + 1;
            skip(rest, start, &format!("\"{}", "#".repeat(hashes)))
        } else if c == '"' {
            let mut is_escaped = false;
            let end = rest[1..].find(|c| {
                let ends = c == '"' && !is_escaped;
                is_escaped = c == '\\' && !is_escaped;
                ends
            });
            end.map_or(rest.len(), |end| end + 2)
        } else if c == '\'' {
            // A character ends with a quote; a lifetime does not.
            let second = rest[1..].chars().next().map_or(0, char::len_utf8);
            match rest[1..].starts_with('\\') {
                true => skip(rest, 3, "'"),
                false if rest[1 + second..].starts_with('\'') => 2 + second,
                false => 1,
            }
        } else {
            let length = match rest.starts_with("::") {
                true => 2,
                false if is_name(c) => rest.find(|c| !is_name(c)).unwrap_or(rest.len()),
                false => c.len_utf8(),
            };
            if !c.is_whitespace() {
                found.push(rest[..length].to_owned());
            }
            length
        };
        rest = &rest[length..];
    }
    found
}

/// Every path that a file names from `crate`, `self` or `super` on (in the program also from `glmae` on), as
/// names from the root on. `own` is the module of the file.
fn imports(own: &Module, text: &str) -> BTreeSet<Module> {
    let tokens = tokens(text);
    let is_program = matches!(own.first().map(String::as_str), Some("main" | "cli"));
    let mut found = BTreeSet::new();
    // The module at hand, and for every open brace whether it is one of a module.
    let (mut at, mut braces) = (own.clone(), Vec::new());
    for (i, token) in tokens.iter().enumerate() {
        let before = |n: usize| i.checked_sub(n).map_or("", |i| tokens[i].as_str());
        match token.as_str() {
            "{" => {
                braces.push(before(2) == "mod");
                if before(2) == "mod" {
                    at.push(before(1).to_owned());
                }
            }
            "}" if braces.pop() == Some(true) => {
                at.pop();
            }
            "crate" | "self" | "super" | "glmae" if before(1) != "::" => {
                let start = match token.as_str() {
                    "glmae" if !is_program => continue,
                    "crate" | "glmae" => Module::new(),
                    "self" => at.clone(),
                    _ => at[..at.len().saturating_sub(1)].to_vec(),
                };
                follow(&tokens[i + 1..], start, &mut found);
            }
            _ => {}
        }
    }
    found
}

/// Takes down the paths that begin at `start` and go on with `::`, through braces. Returns how many tokens
/// they take.
fn follow(tokens: &[String], start: Module, found: &mut BTreeSet<Module>) -> usize {
    let (mut path, mut i) = (start, 0);
    while tokens.get(i).is_some_and(|token| token == "::") {
        match tokens.get(i + 1).map(String::as_str) {
            Some("super") => drop(path.pop()),
            Some("{") => {
                i += 2;
                while let Some(token) = tokens.get(i).filter(|token| *token != "}") {
                    let mut inner = path.clone();
                    if token != "self" && token != "," {
                        inner.push(token.clone());
                    }
                    i += 1;
                    if token != "," {
                        i += follow(&tokens[i..], inner, found);
                    }
                    // ` as name`
                    i += 2 * usize::from(tokens.get(i).is_some_and(|token| token == "as"));
                }
                return i + 1;
            }
            Some(name) => path.push(name.to_owned()),
            None => {}
        }
        i += 2;
    }
    if i > 0 || !path.is_empty() {
        found.insert(path);
    }
    i
}

/// What is wrong with the imports of `sources`, which are names relative to src and texts, by the table of
/// `page`.
fn faults(page: &str, sources: &[(String, String)]) -> Vec<String> {
    let places = places(page);
    let name = |module: &Module| module.join("::");
    let mut faults = Vec::new();
    // What the root of the crate hands on under a name of its own.
    let root = sources.iter().find(|(path, _)| path == "lib.rs");
    let handed: BTreeMap<String, String> = root.map_or(BTreeMap::new(), |(_, text)| handed(text));
    let mut graph: BTreeMap<&Module, BTreeMap<&Module, String>> = BTreeMap::new();
    for (path, text) in sources {
        let own = module(path);
        let Some(here) = place(&places, &own) else {
            // A folder whose modules stand in several places only lists them.
            let lists = own.is_empty() || places.keys().any(|place| place.starts_with(&own));
            if !lists {
                faults.push(format!("{path} is in no place of the table"));
            } else if !own.is_empty() && !imports(&own, text).is_empty() {
                faults.push(format!("{path} lists places of several floors, and imports"));
            }
            continue;
        };
        for mut import in imports(&own, text) {
            if let Some(module) = import.first().and_then(|first| handed.get(first)) {
                import.insert(0, module.clone());
            }
            match place(&places, &import) {
                Some(there) if there == here => {}
                Some(there) => {
                    let text = format!("{path} imports {}", name(&import));
                    graph.entry(here).or_default().entry(there).or_insert_with(|| text.clone());
                    if let Err(direction) = places[here].import(places[there]) {
                        faults.push(format!("an arrow {direction}: {text}"));
                    }
                }
                // A macro or the crate itself.
                None if import.is_empty() || own.starts_with(&import) => {}
                None => faults.push(format!("{path} imports {}, in no place", name(&import))),
            }
        }
    }
    for circle in circles(&graph) {
        let mut text = "a circle:".to_owned();
        for from in &circle {
            for (to, how) in graph[*from].iter().filter(|(to, _)| circle.contains(*to)) {
                let _ = write!(text, " {} -> {} ({how})", name(from), name(to));
            }
        }
        faults.push(text);
    }
    faults
}

/// The names that the root of the crate hands on, and the module that each is from.
fn handed(root: &str) -> BTreeMap<String, String> {
    let mut names = BTreeMap::new();
    for list in tokens(root).join(" ").split("pub use ").skip(1) {
        let Some((module, rest)) = list.split_once(" :: ") else { continue };
        for name in rest.split(';').next().unwrap_or_default().split_whitespace() {
            names.insert(name.to_owned(), module.to_owned());
        }
    }
    names
}

/// Sets of places that reach one another.
fn circles<'p>(
    graph: &BTreeMap<&'p Module, BTreeMap<&'p Module, String>>,
) -> BTreeSet<BTreeSet<&'p Module>> {
    let reached = |from: &'p Module| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(at) = open.pop() {
            for &to in graph.get(at).into_iter().flat_map(BTreeMap::keys) {
                if seen.insert(to) {
                    open.push(to);
                }
            }
        }
        seen
    };
    let all: BTreeMap<&Module, BTreeSet<&Module>> =
        graph.keys().map(|&place| (place, reached(place))).collect();
    let of = |place: &&'p Module| -> BTreeSet<&'p Module> {
        let back = |to: &&&'p Module| all.get(**to).is_some_and(|reached| reached.contains(*place));
        all[*place].iter().filter(back).copied().collect()
    };
    graph.keys().map(of).filter(|circle| !circle.is_empty()).collect()
}

/// Names relative to src, and texts.
fn sources() -> Vec<(String, String)> {
    let all = files("src", ".rs").into_iter();
    all.map(|path| (path.strip_prefix("src/").unwrap_or(&path).to_owned(), read(&path))).collect()
}

#[test]
fn imports_come_from_below_and_not_in_circles() {
    let (page, sources) = (read("docs/architecture.md"), sources());
    let faults = faults(&page, &sources);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    // Every place of the table exists.
    for place in places(&page).keys() {
        let path = root().join("src").join(place.join("/"));
        assert!(path.is_dir() || path.with_extension("rs").is_file(), "no {}", path.display());
    }
    // It did not merely find nothing.
    let found: usize = sources.iter().map(|(path, text)| imports(&module(path), text).len()).sum();
    assert!(found > 1000, "only {found} imports were found");
}

/// A page and files that are made up: what is wrong with them is found, and nothing else.
#[test]
fn arrows_up_and_circles_are_found() {
    let page = "\
| floor | place | what lives there |
| --- | --- | --- |
| 2 | `src/upper/` | |
| 1 | `src/left/`, `src/right.rs` | |
| 0 | `src/both/{one,two}/` | |
| beside | `src/{format,text}.rs` | |
| beside | `src/error.rs` | |
";
    let of = |changes: &[(&str, &str)]| {
        let sound = [
            ("lib.rs", "pub mod upper;\npub use error::{Error, Result};"),
            ("upper/mod.rs", "use crate::{Error, left::{self, deep as d}};\nmod inner;"),
            ("upper/inner.rs", "use super::x;\nfn f() { crate::right::g(); }"),
            ("left/mod.rs", "use crate::both::one::A; // use crate::upper::x;"),
            ("left/tests.rs", "const T: &str = \"crate::upper\"; const C: char = '\"';"),
            ("right.rs", "use crate::text;\n#[cfg(test)]\nmod tests { use super::*; }"),
            ("both/mod.rs", "pub mod one;\npub mod two;"),
            ("both/one/mod.rs", "use super::super::text;\npub(in crate::both) struct A;"),
            ("both/two/mod.rs", "mod inner { use super::*; }"),
            ("format.rs", "use crate::error::Error;"),
            ("error.rs", "pub struct Error;"),
            ("text.rs", "use crate::Result;"),
        ];
        let mut sources: BTreeMap<&str, &str> = sound.into_iter().collect();
        sources.extend(changes.iter().copied());
        let sources: Vec<_> =
            sources.into_iter().map(|(path, text)| (path.into(), text.into())).collect();
        faults(page, &sources)
    };
    assert_eq!(of(&[]), [""; 0]);
    for (path, text, fault) in [
        ("left/mod.rs", "use crate::{both::one, upper::U};", "left/mod.rs imports upper::U"),
        ("left/mod.rs", "fn f() { let x = crate::upper::f(); }", "left/mod.rs imports upper::f"),
        ("left/tests.rs", "mod tests { use super::super::super::upper; }", "imports upper"),
        ("both/one/mod.rs", "use super::super::right::R;", "both/one/mod.rs imports right::R"),
        ("error.rs", "use crate::{format::F};", "error.rs imports format::F"),
        (
            "error.rs",
            "macro_rules! m { () => { $crate::right::g() } }",
            "error.rs imports right::g",
        ),
    ] {
        let found = of(&[(path, text)]);
        let up = |found: &String| found.starts_with("an arrow up: ") && found.contains(fault);
        assert!(found.iter().any(up), "{path}: {text}: {found:?}");
    }
    let found = of(&[("left/mod.rs", "use crate::right::R;"), ("right.rs", "use super::left::L;")]);
    let circle = "a circle: left -> right (left/mod.rs imports right::R) \
                  right -> left (right.rs imports left::L)";
    let across = ["left/mod.rs imports right::R", "right.rs imports left::L"];
    let across = across.map(|text| format!("an arrow across: {text}"));
    assert_eq!(found, [&across[0], &across[1], circle]);
    // A circle over two floors is an arrow up as well; one arrow across is no circle.
    let found = of(&[("left/mod.rs", "use crate::upper;")]);
    assert_eq!(found[0], "an arrow up: left/mod.rs imports upper");
    assert!(found.len() == 2 && found[1].starts_with("a circle: left -> upper ("), "{found:?}");
    let found = of(&[("both/two/mod.rs", "use super::one::A;")]);
    assert_eq!(found, ["an arrow across: both/two/mod.rs imports both::one::A"]);
    assert_eq!(of(&[("new.rs", "")]), ["new.rs is in no place of the table"]);
    assert_eq!(of(&[("both/mod.rs", "pub use crate::right::R;")]).len(), 1);
    let nowhere = of(&[("upper/inner.rs", "use crate::missing::M;")]);
    assert_eq!(nowhere, ["upper/inner.rs imports missing::M, in no place"]);
}
