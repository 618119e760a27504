//! Runs the cases of a file under all schedules, checked and unchecked.

use std::collections::BTreeSet;
use std::fmt::Debug;

use glmae_simt::count::Counts;
use glmae_simt::machine::{Fault, Launch, Schedule, run};
use glmae_simt::memory::{Memory, Options};
use glmae_simt::program::{Numerics, Program, SumOrder};
use glmae_simt::ptx::{self, ast::Module};

use crate::expr::Env;
use crate::script::{self, Arg, Case, FaultWanted, Wanted};
use crate::table;

pub const SCHEDULES: [Schedule; 4] =
    [Schedule::Ascending, Schedule::Descending, Schedule::Shuffled(1), Schedule::Shuffled(0x5eed)];

/// What became of a file.
#[derive(Default)]
pub struct Report {
    pub failures: Vec<String>,
    /// Instructions with modifiers that lanes have executed, or that faulted.
    pub forms: BTreeSet<String>,
    pub cases: usize,
    pub rows: usize,
    pub faults: usize,
    pub refusals: usize,
}

/// Runs all that a file asks for.
pub fn file(name: &str, text: &str) -> Report {
    let mut report = Report::default();
    let script = script::parse(text);
    let module = ptx::parse(name, text).unwrap_or_else(|e| panic!("{e}"));
    for case in &script.cases {
        if let Err(message) = one_case(&module, case, &mut report) {
            report.failures.push(format!("{name}:{}: {}: {message}", case.line, case.kernel));
        }
    }
    for table in &script.tables {
        table::run(name, table, &mut report);
    }
    for refused in &script.refused {
        report.refusals += 1;
        if let Err(message) = table::refuse(refused) {
            report.failures.push(format!("{name}:{}: {message}", refused.line));
        }
    }
    report
}

pub fn new_memory(checked: bool) -> Memory {
    Memory::new(Options { device: "test", checked, unit: 512, poison: |_, _, _| {} })
}

fn one_case(module: &Module, case: &Case, report: &mut Report) -> Result<(), String> {
    let numerics = [SumOrder::First, SumOrder::Second]
        .map(|sums| Numerics { sums, ..Numerics::default() })
        .map(|numerics| Program::new(module, &case.kernel, numerics));
    let [first, second] = match (numerics, &case.wanted) {
        ([Ok(first), Ok(second)], Wanted::Success | Wanted::Fault(_)) => [first, second],
        ([Err(error), _], Wanted::Error(wanted)) => {
            report.refusals += 1;
            let text = error.to_string();
            text_fits(wanted, &text)?;
            line_fits(wanted, error.line)?;
            return same("kernel of the error", &error.kernel, &case.kernel);
        }
        ([Ok(_), _], Wanted::Error(_)) => return Err("it decodes".into()),
        ([Err(error), _] | [_, Err(error)], _) => return Err(error.to_string()),
    };
    let mut counts: Option<Counts> = None;
    match &case.wanted {
        Wanted::Fault(_) => report.faults += 1,
        _ => report.cases += 1,
    }
    for (program, schedule, checked) in SCHEDULES
        .into_iter()
        .flat_map(|s| [(&first, s, true), (&first, s, false)])
        .chain([(&second, Schedule::Ascending, true)])
    {
        let told = |message: String| format!("{schedule:?}, checked {checked}: {message}");
        match &case.wanted {
            Wanted::Fault(wanted) if checked || !wanted.only_checked => {
                let fault = match launch(program, case, schedule, checked).0 {
                    Ok(_) => return Err(told("no fault".into())),
                    Err(fault) => fault,
                };
                fault_fits(wanted, case, &fault).map_err(|m| told(format!("{m}; {fault}")))?;
                report.forms.insert(fault.instruction.clone());
            }
            Wanted::Fault(_) | Wanted::Error(_) => {}
            Wanted::Success => {
                let (outcome, memory, buffers) = launch(program, case, schedule, checked);
                let got = outcome.map_err(|fault| told(fault.to_string()))?;
                buffers_fit(case, &memory, &buffers, checked).map_err(told)?;
                let known = counts.get_or_insert_with(|| got.clone());
                if !case.spins {
                    same("counts under two schedules", &got, known).map_err(told)?;
                }
            }
        }
    }
    let Some(counts) = counts else { return Ok(()) };
    for (pc, count) in counts.instructions.iter().enumerate().filter(|(_, c)| c.lanes > 0) {
        same("times issued", &(count.issued > 0), &true)?;
        report.forms.insert(first.name_of(pc as u32));
    }
    counts_fit(case, &first, &counts)
}

type Outcome = Result<Counts, Box<Fault>>;

/// The addresses of the buffers come back as well.
fn launch(
    program: &Program,
    case: &Case,
    schedule: Schedule,
    checked: bool,
) -> (Outcome, Memory, Vec<u64>) {
    let mut memory = new_memory(checked);
    let mut params = vec![0u8; program.param_bytes() as usize];
    assert_eq!(program.params().len(), case.args.len(), "line {}: parameters", case.line);
    let threads: u32 = case.block.iter().product();
    let mut buffers = Vec::new();
    // Messages name the first buffer `arg0`, and so on.
    for (i, (arg, param)) in case.args.iter().zip(program.params()).enumerate() {
        let value = match arg {
            Arg::Value { value, .. } => value.value(&mut Env::new()).expect("a value") as u64,
            Arg::Buffer { bytes, n, before, freed, .. } => {
                let at = memory.alloc(n * bytes, &format!("arg{i}")).expect("memory");
                if let Some(before) = before {
                    for (i, value) in script::values(before, *n, threads).iter().enumerate() {
                        let Some(value) = value else { continue };
                        let place = at + (i * bytes) as u64;
                        memory.upload(place, &value.to_le_bytes()[..*bytes]).expect("upload");
                    }
                }
                if *freed {
                    memory.free(at).expect("free");
                }
                buffers.push(at);
                at
            }
        };
        if let Arg::Value { bytes, .. } = arg {
            assert_eq!(*bytes, param.bytes as usize, "line {}: size of a parameter", case.line);
        }
        let range = param.offset as usize..(param.offset + param.bytes) as usize;
        params[range].copy_from_slice(&value.to_le_bytes()[..param.bytes as usize]);
    }
    if let Some(n) = case.param_bytes {
        params.resize(n, 0);
    }
    let outcome = run(&Launch {
        program,
        grid: case.grid,
        block: case.block,
        cluster: [1; 3],
        shared_bytes: case.shared,
        params: &params,
        memory: memory.map.clone(),
        is_checked: checked,
        schedule,
    });
    (outcome, memory, buffers)
}

fn buffers_fit(case: &Case, memory: &Memory, at: &[u64], checked: bool) -> Result<(), String> {
    memory.check_guards().map_err(|e| e.to_string())?;
    let threads: u32 = case.block.iter().product();
    let buffers = case.args.iter().filter(|a| matches!(a, Arg::Buffer { .. }));
    for (number, (arg, &at)) in buffers.zip(at).enumerate() {
        let Arg::Buffer { bytes, n, before, after, freed } = arg else { continue };
        // What is only read stays as it was.
        let Some(wanted) = after.as_ref().or(before.as_ref()) else { continue };
        if *freed {
            continue;
        }
        for (i, wanted) in script::values(wanted, *n, threads).into_iter().enumerate() {
            let mut raw = [0u8; 16];
            let place = at + (i * bytes) as u64;
            let got = memory.download(place, &mut raw[..*bytes]);
            let got = got.map(|()| u128::from_le_bytes(raw));
            let mask = (1u128 << (8 * bytes)) - 1;
            let wanted = wanted.map(|w| w as u128 & mask);
            let fits = match (&got, wanted) {
                (Ok(got), Some(wanted)) => *got == wanted,
                (Ok(got), None) => !checked && *got == mask,
                (Err(_), None) => true,
                (Err(_), Some(_)) => false,
            };
            if !fits {
                let wanted = wanted.map_or("nothing".into(), |w| format!("{w:#x}"));
                let got = got.map_or_else(|e| e.to_string(), |g| format!("{g:#x}"));
                return Err(format!("buffer {number}, element {i}: {got}, wanted {wanted}"));
            }
        }
    }
    Ok(())
}

fn same<T: PartialEq + Debug>(what: &str, got: &T, wanted: &T) -> Result<(), String> {
    if got == wanted { Ok(()) } else { Err(format!("{what}: {got:?}, wanted {wanted:?}")) }
}

fn text_fits(wanted: &FaultWanted, message: &str) -> Result<(), String> {
    if wanted.texts.iter().any(|text| message.contains(text.as_str())) {
        return Ok(());
    }
    Err(format!("the message lacks {:?}: {message}", wanted.texts))
}

fn line_fits(wanted: &FaultWanted, line: u32) -> Result<(), String> {
    if wanted.lines.is_empty() || wanted.lines.contains(&line) {
        return Ok(());
    }
    Err(format!("line {line}, wanted one of {:?}", wanted.lines))
}

fn fault_fits(wanted: &FaultWanted, case: &Case, fault: &Fault) -> Result<(), String> {
    text_fits(wanted, &fault.message)?;
    line_fits(wanted, fault.line)?;
    same("kernel", &fault.kernel, &case.kernel)?;
    if let Some(lanes) = wanted.lanes {
        same("lanes", &format!("{:#x}", fault.lanes), &format!("{lanes:#x}"))?;
    }
    if let Some(thread) = wanted.thread {
        same("thread", &fault.thread, &thread)?;
    }
    if let Some(name) = &wanted.name {
        same("instruction", &fault.instruction, name)?;
    }
    if let Some(cta) = wanted.cta {
        same("block", &fault.block, &cta)?;
    }
    Ok(())
}

fn counts_fit(case: &Case, program: &Program, counts: &Counts) -> Result<(), String> {
    for (line, name, wanted) in &case.counts {
        let pc = program.instructions.iter().position(|i| i.line == *line);
        let count = counts.instructions[pc.ok_or("a marked line without an instruction")?];
        let got = match name.as_str() {
            "issued" => count.issued,
            "lanes" => count.lanes,
            "requests" => count.traffic.requests,
            "bytes" => count.traffic.bytes,
            "sectors" => count.traffic.sectors,
            "least_sectors" => count.traffic.least_sectors,
            "passes" => count.traffic.passes,
            "least_passes" => count.traffic.least_passes,
            other => return Err(format!("there is no counter {other}")),
        };
        if got != *wanted {
            return Err(format!("line {line}: {name} is {got}, wanted {wanted}"));
        }
    }
    Ok(())
}
