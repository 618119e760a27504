//! What the comments of a `.ptx` file ask for. Lines that start with `//!` hold:
//!
//! * `Sections ...`: those of the manual that the file is about. Every file has one.
//! * `case: items`: a launch of the kernel below that has to go well. Items stand between semicolons:
//!   `grid x y z`, `block x y z` (32 threads without), `shared n` (dynamic bytes); then the parameters in order:
//!   `in type n = values` a buffer that is read, `out type n = values` one that is written and has to hold
//!   these values then, `io type n = values -> values` both, `raw type n` one that nobody has written, `freed type
//!   n`, `val type = value` a number. Values are one expression in `i` (index), `t` (`i` modulo the threads of a
//!   block), `b` (`i` divided by them), `l` (`i % 32`) and `w` (`t / 32`), or a list of numbers; `_`: stays unwritten.
//!   `count mark name n ...`: what the counters say of the line with the comment `// @mark`.
//!   `spins`: a warp waits in a loop, or addresses depend on who comes first, so that counts depend on the schedule.
//!   `params n`: so many bytes of parameters instead of the right number. `kernel name`: another name.
//! * `fault "text" or "text": items`: the launch has to fail with a message that holds one of the texts, in which
//!   `@mark` stands for the number of a marked line. Further items: `lanes mask`, `thread x y z`, `cta x y z`,
//!   `at mark ...` (one of the marked lines; `at none`: no line), `checked` (only checked runs see it), `name
//!   instruction` (the one that is blamed).
//! * `error "text": items`: the kernel must not decode.
//! * `refused "text": instruction`: an instruction that must not decode.
//! * `op instruction | ... : inputs -> outputs`, with rows of values below, indented: see `table`.
//!
//! Lines that are indented hold further items of the case above.

use crate::expr::{Env, Expr, number, parse_list};

#[derive(Debug)]
pub enum Arg {
    Buffer {
        bytes: usize,
        n: usize,
        before: Option<Vec<Expr>>,
        after: Option<Vec<Expr>>,
        freed: bool,
    },
    Value {
        bytes: usize,
        value: Expr,
    },
}

#[derive(Debug)]
pub struct FaultWanted {
    pub texts: Vec<String>,
    pub lanes: Option<u32>,
    pub thread: Option<[u32; 3]>,
    pub cta: Option<[u32; 3]>,
    /// Lines of the PTX, one of which it has to be.
    pub lines: Vec<u32>,
    pub only_checked: bool,
    pub name: Option<String>,
}

#[derive(Debug)]
pub enum Wanted {
    Success,
    Fault(FaultWanted),
    Error(FaultWanted),
}

#[derive(Debug)]
pub struct Case {
    /// Line of the comment.
    pub line: usize,
    pub kernel: String,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared: u32,
    pub args: Vec<Arg>,
    pub param_bytes: Option<usize>,
    pub spins: bool,
    /// Line of the PTX, name of the counter, value.
    pub counts: Vec<(u32, String, u64)>,
    pub wanted: Wanted,
}

/// Instructions that are tried on rows of values.
#[derive(Debug, Default)]
pub struct Table {
    pub line: usize,
    pub instructions: Vec<String>,
    pub inputs: Vec<char>,
    pub outputs: Vec<char>,
    pub rows: Vec<Row>,
}

#[derive(Clone, Debug)]
pub struct Row {
    pub inputs: Vec<String>,
    pub outputs: Vec<String>,
    /// Instead of outputs: what the message of the fault has to say.
    pub fault: Option<String>,
}

pub struct Refused {
    pub line: usize,
    pub text: String,
    pub instruction: String,
}

pub struct Script {
    pub cases: Vec<Case>,
    pub tables: Vec<Table>,
    pub refused: Vec<Refused>,
}

pub fn parse(text: &str) -> Script {
    let lines: Vec<&str> = text.lines().collect();
    let has_sections = lines.iter().any(|l| l.starts_with("//! Sections "));
    assert!(has_sections, "the file names no sections of the manual");
    let mut script = Script { cases: Vec::new(), tables: Vec::new(), refused: Vec::new() };
    let mut at = 0;
    while at < lines.len() {
        let start = at;
        at += 1;
        let Some(first) = lines[start].strip_prefix("//! ") else { continue };
        let mut more: Vec<&str> = Vec::new();
        while let Some(next) = lines.get(at).and_then(|l| l.strip_prefix("//!   ")) {
            more.push(next.trim());
            at += 1;
        }
        let whole = || format!("{first};{}", more.join(";"));
        let line = start + 1;
        match first.split([':', ' ']).next() {
            Some("Sections") => {}
            Some("case" | "fault" | "error") => script.cases.push(case(&whole(), line, &lines)),
            Some("op") => script.tables.push(table(first, &more, line)),
            Some("refused") => {
                let (text, instruction) = quoted(&first["refused".len()..]);
                let instruction = instruction.trim_start_matches(':').trim().to_owned();
                script.refused.push(Refused { line, text, instruction });
            }
            _ => panic!("line {line}: cannot read '{first}'"),
        }
    }
    script
}

/// The text in quotation marks that comes first, and what is behind it.
fn quoted(text: &str) -> (String, &str) {
    let mut parts = text.trim_start().splitn(3, '"');
    assert_eq!(parts.next(), Some(""), "no text in quotation marks: {text}");
    let (inner, rest) = (parts.next().unwrap_or_default(), parts.next());
    (inner.to_owned(), rest.unwrap_or_else(|| panic!("a quotation mark is missing: {text}")).trim())
}

fn table(first: &str, more: &[&str], line: usize) -> Table {
    let rest = &first["op".len()..];
    let (instructions, signature) = rest.rsplit_once(" : ").expect("op instruction : in -> out");
    let (inputs, outputs) = signature.split_once("->").expect("in -> out");
    let classes = |text: &str| -> Vec<char> {
        text.split_whitespace().map(|c| c.chars().next().unwrap_or(' ')).collect()
    };
    let rows = more.iter().flat_map(|l| l.split(';')).map(str::trim).filter(|r| !r.is_empty());
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
    let row = |text: &str| {
        let (inputs, outputs) = text.split_once("->").unwrap_or_else(|| panic!("row {text}"));
        let fault = outputs.trim().strip_prefix("fault").map(|f| quoted(f).0);
        let outputs = if fault.is_some() { Vec::new() } else { words(outputs) };
        Row { inputs: words(inputs), outputs, fault }
    };
    let table = Table {
        line,
        instructions: instructions.split(" | ").map(|s| s.trim().to_owned()).collect(),
        inputs: classes(inputs),
        outputs: classes(outputs),
        rows: rows.map(row).collect(),
    };
    assert!(!table.rows.is_empty(), "line {line}: a table without rows");
    for row in &table.rows {
        let right = row.inputs.len() == table.inputs.len()
            && (row.fault.is_some() || row.outputs.len() == table.outputs.len());
        assert!(right, "line {line}: {row:?} does not have {signature}");
    }
    table
}

fn three(words: &[&str]) -> [u32; 3] {
    let mut all = [1; 3];
    for (slot, word) in all.iter_mut().zip(words) {
        *slot = word.parse().unwrap_or_else(|_| panic!("{words:?}"));
    }
    all
}

fn whole(word: &str) -> i128 {
    number(word).unwrap_or_else(|| panic!("'{word}' is no number"))
}

fn bytes_of(ty: &str) -> usize {
    match ty {
        "u8" => 1,
        "u16" => 2,
        "u32" => 4,
        "u64" => 8,
        _ => panic!("'{ty}' is none of u8, u16, u32, u64"),
    }
}

/// The kernel behind a line: its name, and the lines from its head to the next one's.
fn kernel_after(lines: &[&str], line: usize) -> (String, std::ops::Range<usize>) {
    let is_head = |l: &&str| l.contains(".entry ");
    let first = line + lines[line..].iter().position(is_head).expect("a kernel below");
    let behind = lines[first + 1..].iter().position(is_head).map_or(lines.len(), |n| first + 1 + n);
    let name = lines[first].split(".entry ").nth(1).unwrap_or_default();
    (name.split('(').next().unwrap_or_default().trim().to_owned(), first..behind)
}

fn case(text: &str, line: usize, lines: &[&str]) -> Case {
    let (kernel, range) = kernel_after(lines, line);
    let mark = |name: &str| -> u32 {
        let found = |i: &usize| lines[*i].split("// @").nth(1).is_some_and(|m| m.trim() == name);
        let i = range.clone().find(found).unwrap_or_else(|| panic!("line {line}: no mark {name}"));
        i as u32 + 1
    };
    let (head, mut rest) = text.split_at(text.find([':', ' ']).unwrap_or(text.len()));
    let mut wanted = FaultWanted {
        texts: Vec::new(),
        lanes: None,
        thread: None,
        cta: None,
        lines: Vec::new(),
        only_checked: false,
        name: None,
    };
    while head != "case" && !rest.starts_with(':') {
        let (mut message, behind) = quoted(rest);
        if let Some((start, name)) = message.split_once('@') {
            let end = name.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(name.len());
            message = format!("{start}{}{}", mark(&name[..end]), &name[end..]);
        }
        wanted.texts.push(message);
        rest = behind.strip_prefix("or").unwrap_or(behind).trim_start();
    }
    let mut case = Case {
        line,
        kernel,
        grid: [1; 3],
        block: [32, 1, 1],
        shared: 0,
        args: Vec::new(),
        param_bytes: None,
        spins: false,
        counts: Vec::new(),
        wanted: Wanted::Success,
    };
    for item in rest.trim_start_matches(':').split(';').map(str::trim).filter(|i| !i.is_empty()) {
        let words: Vec<&str> = item.split_whitespace().collect();
        match words[0] {
            "grid" => case.grid = three(&words[1..]),
            "block" => case.block = three(&words[1..]),
            "shared" => case.shared = whole(words[1]) as u32,
            "spins" => case.spins = true,
            "params" => case.param_bytes = Some(whole(words[1]) as usize),
            "kernel" => case.kernel = words[1].to_owned(),
            "lanes" => wanted.lanes = Some(whole(words[1]) as u32),
            "thread" => wanted.thread = Some(zeroed(&words)),
            "cta" => wanted.cta = Some(zeroed(&words)),
            "at" if words[1] == "none" => wanted.lines.push(0),
            "at" => wanted.lines.extend(words[1..].iter().map(|m| mark(m))),
            "name" => wanted.name = Some(words[1].to_owned()),
            "checked" => wanted.only_checked = true,
            "count" => {
                for pair in words[2..].chunks(2) {
                    let [name, value] = pair else { panic!("line {line}: {item}") };
                    case.counts.push((mark(words[1]), (*name).to_owned(), whole(value) as u64));
                }
            }
            "val" => {
                let value = item.split_once('=').expect("val type = value").1;
                let value = parse_list(value).remove(0);
                case.args.push(Arg::Value { bytes: bytes_of(words[1]), value });
            }
            "in" | "out" | "io" | "raw" | "freed" => case.args.push(buffer(item, &words)),
            other => panic!("line {line}: what is '{other}'?"),
        }
    }
    case.wanted = match head {
        "case" => Wanted::Success,
        "fault" => Wanted::Fault(wanted),
        _ => Wanted::Error(wanted),
    };
    case
}

fn zeroed(words: &[&str]) -> [u32; 3] {
    let mut all = [0; 3];
    for (slot, word) in all.iter_mut().zip(&words[1..]) {
        *slot = whole(word) as u32;
    }
    all
}

fn buffer(item: &str, words: &[&str]) -> Arg {
    let (bytes, n) = (bytes_of(words[1]), whole(words[2]) as usize);
    let values = item.split_once('=').map(|v| v.1);
    let (mut before, mut after) = (None, None);
    match (words[0], values) {
        ("in", Some(values)) => before = Some(parse_list(values)),
        ("out", Some(values)) => after = Some(parse_list(values)),
        ("io", Some(values)) => {
            let (first, second) = values.split_once("->").expect("before -> after");
            (before, after) = (Some(parse_list(first)), Some(parse_list(second)));
        }
        ("raw" | "freed", None) => {}
        _ => panic!("cannot read '{item}'"),
    }
    for list in [&before, &after].into_iter().flatten() {
        assert!(list.len() == 1 || list.len() == n, "{} values for {n}: {item}", list.len());
    }
    Arg::Buffer { bytes, n, before, after, freed: words[0] == "freed" }
}

/// The values of a buffer; `None` where nobody writes.
pub fn values(list: &[Expr], n: usize, threads: u32) -> Vec<Option<i128>> {
    let threads = i128::from(threads);
    (0..n)
        .map(|index| {
            let i = index as i128;
            let all = [("i", i), ("t", i % threads), ("b", i / threads), ("l", i % 32)];
            let mut env: Env = all.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect();
            env.insert("w".into(), i % threads / 32);
            list[if list.len() == 1 { 0 } else { index }].value(&mut env)
        })
        .collect()
}
