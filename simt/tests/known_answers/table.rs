//! Tables of instructions and values. For every instruction a kernel is made that loads the operands of a row in
//! each lane, executes it and stores the results. Classes of operands: `p` predicate, `h` 16 bits, `r` 32, `d` 64.
//!
//! `op add.u32 | add.s32 : r r -> r` means `add.u32 $d, $a, $b;`. What is written with `$` stands as it is: inputs
//! are `$a`, `$b`, `$c`, `$e`, results `$d` and `$q`; `;` separates several instructions; `%s0` to `%s3` (32 bits),
//! `%t0` to `%t3` (64), `%g0`, `%g1` (16) and `%v0`, `%v1` (predicates) are free. Each is executed by a whole warp; once
//! with a guard that only odd lanes pass, so that the others must keep what they had; and with a number as the last
//! operand, where the form is short and the operand has 32 bits or more.
//!
//! `%cell` (32 bits) is the address of 16 bytes of shared memory of the lane's own, `%place` (64 bits) one in global
//! memory, `depot` 16 bytes of local memory, and `%in` the row of operands, of which each has 8 bytes.
//! `atom@add.u32` stores `$a` in such a cell, does the atomic with `$b` (and `$c`) there, and reads the cell again: the
//! old value is the first result, the new one the second. `red@` has only the latter. Either is tried in global and
//! shared memory and by generic addresses.

use glmae_simt::machine::{Launch, Schedule, run as execute};
use glmae_simt::program::{Numerics, Program};
use glmae_simt::ptx;

use crate::literal::{bits, matches};
use crate::run::{Report, SCHEDULES, new_memory};
use crate::script::{Refused, Row, Table};

const INPUTS: [&str; 4] = ["$a", "$b", "$c", "$e"];
const OUTPUTS: [&str; 2] = ["$d", "$q"];
/// What lanes that are off must keep.
const KEPT: u64 = 0x5a5a_5a5a_5a5a_5a5a;

const DECLARATIONS: &str = "
.version 9.0
.target sm_90
.address_size 64
.visible .entry k(.param .u64 k_in, .param .u64 k_out, .param .u64 k_cells)
{
.reg .pred %p<8>; .reg .pred %v<2>; .reg .pred %guard;
.reg .b16 %h<8>; .reg .b16 %g<2>;
.reg .b32 %r<8>; .reg .b32 %s<4>; .reg .b32 %w<4>;
.reg .b64 %d<8>; .reg .b64 %t<4>; .reg .b64 %in; .reg .b64 %out;
.reg .b32 %cell; .reg .b64 %place; .reg .b64 %generic;
.shared .align 16 .b8 tile[512];
.local .align 16 .b8 depot[16];
";

fn width(class: char) -> u32 {
    match class {
        'p' => 1,
        'h' => 16,
        'r' => 32,
        'd' => 64,
        _ => panic!("there is no class '{class}'"),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Form {
    Whole,
    Guarded,
}

/// The instruction with its operands. `last`: what stands for the last input.
fn instantiate(table: &Table, instruction: &str, last: Option<&str>, form: Form) -> String {
    let mut text = if instruction.contains('$') {
        instruction.to_owned()
    } else {
        let results = OUTPUTS[..table.outputs.len()].join("|");
        let inputs = &INPUTS[..table.inputs.len()];
        format!("{instruction} {}", [&[results.as_str()], inputs].concat().join(", "))
    };
    for (i, class) in table.inputs.iter().enumerate() {
        let register = format!("%{class}{i}");
        let is_last = i + 1 == table.inputs.len();
        let operand = if is_last { last.unwrap_or(&register) } else { &register };
        text = text.replace(INPUTS[i], operand);
    }
    for (i, class) in table.outputs.iter().enumerate() {
        text = text.replace(OUTPUTS[i], &format!("%{class}{}", i + 4));
    }
    let guard = if form == Form::Guarded { "@%guard " } else { "" };
    text.split(';').map(|one| format!("{guard}{};\n", one.trim())).collect()
}

/// What `atom@` and `red@` stand for; any other instruction stands for itself.
fn expand(table: &Table, instruction: &str) -> Vec<String> {
    let Some((opcode, rest)) = instruction.split_once('@') else {
        return vec![instruction.to_owned()];
    };
    let sources = if table.inputs.len() == 3 { "$b, $c" } else { "$b" };
    let (old, new) = if opcode == "atom" { ("$d, ", "$q") } else { ("", "$d") };
    let bits = format!("b{}", width(table.inputs[0]));
    [(".global", "%place"), (".shared", "%cell"), ("", "%generic")]
        .map(|(space, at)| {
            format!(
                "st{space}.{bits} [{at}], $a; {opcode}{space}.{rest} {old}[{at}], {sources}; \
                 ld{space}.{bits} {new}, [{at}]"
            )
        })
        .to_vec()
}

/// A kernel around instructions, and the lines where these are.
fn kernel(table: &Table, body: &str) -> (String, std::ops::Range<u32>) {
    let mut text = DECLARATIONS.to_owned();
    text.push_str(
        "ld.param.u64 %in, [k_in]; ld.param.u64 %out, [k_out];
        mov.u32 %w0, %ctaid.x; mov.u32 %w1, %tid.x; shl.b32 %w0, %w0, 5; add.u32 %w0, %w0, %w1;
        mul.wide.u32 %t0, %w0, 32; add.u64 %in, %in, %t0;
        mul.wide.u32 %t0, %w0, 16; add.u64 %out, %out, %t0;
        ld.param.u64 %place, [k_cells]; add.u64 %place, %place, %t0;
        mov.u32 %cell, tile; mad.lo.u32 %cell, %w1, 16, %cell;
        cvt.u64.u32 %generic, %cell; cvta.shared.u64 %generic, %generic;
        and.b32 %w3, %w1, 2; and.b32 %w1, %w1, 1; setp.ne.u32 %guard, %w1, 0;\n",
    );
    for (i, class) in table.inputs.iter().enumerate() {
        let at = 8 * i;
        text += &match class {
            'p' => format!("ld.global.u32 %w2, [%in+{at}]; setp.ne.u32 %p{i}, %w2, 0;\n"),
            class => format!("ld.global.b{} %{class}{i}, [%in+{at}];\n", width(*class)),
        };
    }
    for (i, class) in table.outputs.iter().enumerate() {
        let i = i + 4;
        text += &match class {
            'p' => format!("setp.ne.u32 %p{i}, %w3, 0;\n"),
            class => format!("mov.b{} %{class}{i}, {:#x};\n", width(*class), kept(*class, 0)),
        };
    }
    let first = text.lines().count() as u32 + 1;
    text.push_str(body);
    let behind = text.lines().count() as u32 + 1;
    for (i, class) in table.outputs.iter().enumerate() {
        let at = 8 * i;
        let i = i + 4;
        text += &match class {
            'p' => format!("selp.u32 %w2, 1, 0, %p{i}; st.global.u32 [%out+{at}], %w2;\n"),
            class => format!("st.global.b{} [%out+{at}], %{class}{i};\n", width(*class)),
        };
    }
    text.push_str("ret;\n}\n");
    (text, first..behind)
}

/// What a register holds before: a pattern, and of predicates the second bit of the lane.
fn kept(class: char, lane: usize) -> u64 {
    match class {
        'p' => lane as u64 >> 1 & 1,
        class => KEPT >> (64 - width(class)),
    }
}

/// The row's last operand as a number of the PTX, if its instruction takes one.
fn immediate(table: &Table, instruction: &str, row: &Row) -> Option<String> {
    if instruction.contains('$') || table.inputs.len() < 2 {
        return None;
    }
    let value = bits(row.inputs.last()?);
    let ty = instruction.rsplit('.').next()?;
    let class = *table.inputs.last()?;
    match (ty, class) {
        ("f32", 'r') => Some(format!("0f{:08X}", value as u32)),
        ("f64", 'd') => Some(format!("0d{value:016X}")),
        ("s32" | "s64" | "s16", 'r') => Some(format!("{}", value as u32 as i32)),
        ("s64", 'd') => Some(format!("{}", value as i64)),
        ("u32" | "b32" | "u64" | "b64" | "u16" | "b16", 'r') => {
            Some(format!("{:#x}", value as u32))
        }
        ("u64" | "b64", 'd') => Some(format!("{value:#x}")),
        _ => None,
    }
}

pub fn run(file: &str, table: &Table, report: &mut Report) {
    for instruction in table.instructions.iter().flat_map(|i| expand(table, i)) {
        let instruction = instruction.as_str();
        let mut fail = |message: String| {
            report.failures.push(format!("{file}:{}: {instruction}: {message}", table.line));
        };
        let good: Vec<&Row> = table.rows.iter().filter(|r| r.fault.is_none()).collect();
        for form in [Form::Whole, Form::Guarded] {
            let body = instantiate(table, instruction, None, form);
            if let Err(message) = rows_fit(table, &body, &good, form, &mut report.forms) {
                fail(format!("{body}: {message}"));
            }
        }
        for row in &good {
            let Some(number) = immediate(table, instruction, row) else { continue };
            let body = instantiate(table, instruction, Some(&number), Form::Whole);
            if let Err(message) = rows_fit(table, &body, &[row], Form::Whole, &mut report.forms) {
                fail(format!("{body}: {message}"));
            }
        }
        for row in &table.rows {
            let Some(wanted) = &row.fault else { continue };
            report.faults += 1;
            if let Err(message) = faults(table, instruction, good[0], row, wanted) {
                fail(format!("{row:?}: {message}"));
            }
        }
        report.rows += good.len();
    }
}

/// The operands of the rows, one in each lane, over and over.
fn operands(rows: &[&Row], lanes: usize) -> Vec<u8> {
    let mut all = Vec::with_capacity(32 * lanes);
    for lane in 0..lanes {
        let inputs = &rows[lane % rows.len()].inputs;
        for i in 0..4 {
            all.extend(inputs.get(i).map_or(0, |text| bits(text)).to_le_bytes());
        }
    }
    all
}

fn rows_fit(
    table: &Table,
    body: &str,
    rows: &[&Row],
    form: Form,
    forms: &mut std::collections::BTreeSet<String>,
) -> Result<(), String> {
    let (text, lines) = kernel(table, body);
    let module = ptx::parse("table", &text).map_err(|e| e.to_string())?;
    // Both results that a function may have which approximates.
    let numerics =
        [false, true].map(|is_perturbed| Numerics { is_perturbed, ..Default::default() });
    let programs = numerics.map(|numerics| Program::new(&module, "k", numerics));
    let [exact, perturbed] = programs.map(|p| p.map_err(|e| e.to_string()));
    let (exact, perturbed) = (exact?, perturbed?);
    // An odd count of rows: each comes to odd and to even lanes.
    let is_even = rows.len().is_multiple_of(2);
    let rows_of = if is_even { [rows, &rows[..1]].concat() } else { rows.to_vec() };
    let lanes = (2 * rows_of.len()).next_multiple_of(32);
    let programs = [&exact, &perturbed, &exact, &perturbed];
    for ((schedule, checked), program) in
        SCHEDULES.into_iter().zip([true, true, false, false]).zip(programs)
    {
        let mut memory = new_memory(checked);
        let input = memory.alloc(32 * lanes, "in").map_err(|e| e.to_string())?;
        let output = memory.alloc(16 * lanes, "out").map_err(|e| e.to_string())?;
        memory.upload(input, &operands(&rows_of, lanes)).map_err(|e| e.to_string())?;
        memory.fill(output, 0, 16 * lanes).map_err(|e| e.to_string())?;
        let cells = memory.alloc(16 * lanes, "cells").map_err(|e| e.to_string())?;
        let params = [input, output, cells].map(u64::to_le_bytes).concat();
        let launch = Launch {
            program,
            grid: [lanes as u32 / 32, 1, 1],
            block: [32, 1, 1],
            cluster: [1; 3],
            shared_bytes: 0,
            params: &params,
            memory: memory.map.clone(),
            is_checked: checked,
            schedule,
        };
        let counts = execute(&launch).map_err(|e| e.to_string())?;
        for (pc, count) in counts.instructions.iter().enumerate() {
            let is_tried = program.instructions.get(pc).is_some_and(|i| lines.contains(&i.line));
            if is_tried && count.lanes > 0 {
                forms.insert(program.name_of(pc as u32));
            }
        }
        let mut got = vec![0; 16 * lanes];
        memory.download(output, &mut got).map_err(|e| e.to_string())?;
        for lane in 0..lanes {
            let row = rows_of[lane % rows_of.len()];
            let is_on = form == Form::Whole || lane % 2 == 1;
            for (i, class) in table.outputs.iter().enumerate() {
                let at = 16 * lane + 8 * i;
                let mut value = [0; 8];
                value.copy_from_slice(&got[at..at + 8]);
                let value = u64::from_le_bytes(value);
                let fits = match is_on {
                    true => matches(&row.outputs[i], value, width(*class)),
                    false => value == kept(*class, lane),
                };
                if !fits {
                    let on = if is_on { "" } else { " (a lane that is off)" };
                    return Err(format!("{row:?}: result {i} is {value:#x}{on}"));
                }
            }
        }
    }
    Ok(())
}

/// Lane 3 has the row that must fault, the others one that is good.
fn faults(
    table: &Table,
    instruction: &str,
    good: &Row,
    bad: &Row,
    wanted: &str,
) -> Result<(), String> {
    let body = instantiate(table, instruction, None, Form::Whole);
    let (text, lines) = kernel(table, &body);
    let module = ptx::parse("table", &text).map_err(|e| e.to_string())?;
    let program = Program::new(&module, "k", Numerics::default()).map_err(|e| e.to_string())?;
    let mut rows = [good; 32];
    rows[3] = bad;
    for checked in [true, false] {
        let mut memory = new_memory(checked);
        let input = memory.alloc(32 * 32, "in").map_err(|e| e.to_string())?;
        let output = memory.alloc(16 * 32, "out").map_err(|e| e.to_string())?;
        memory.upload(input, &operands(&rows, 32)).map_err(|e| e.to_string())?;
        let cells = memory.alloc(16 * 32, "cells").map_err(|e| e.to_string())?;
        let params = [input, output, cells].map(u64::to_le_bytes).concat();
        let launch = Launch {
            program: &program,
            grid: [1; 3],
            block: [32, 1, 1],
            cluster: [1; 3],
            shared_bytes: 0,
            params: &params,
            memory: memory.map.clone(),
            is_checked: checked,
            schedule: Schedule::Ascending,
        };
        let Err(fault) = execute(&launch) else { return Err("no fault".into()) };
        let fits = fault.message.contains(wanted)
            && fault.lanes == 1 << 3
            && fault.thread == [3, 0, 0]
            && fault.kernel == "k"
            && lines.contains(&fault.line);
        if !fits {
            return Err(format!("{fault}"));
        }
    }
    Ok(())
}

/// An instruction that must not decode, for the reason given.
pub fn refuse(refused: &Refused) -> Result<(), String> {
    let Refused { text, instruction, .. } = refused;
    let (kernel, lines) = kernel(&Table::default(), &format!("{instruction}\n"));
    let module = ptx::parse("refused", &kernel).map_err(|e| format!("{instruction}: {e}"))?;
    let Err(error) = Program::new(&module, "k", Numerics::default()) else {
        return Err(format!("{instruction} decodes"));
    };
    let told = error.to_string();
    let is_named =
        instruction.split_whitespace().any(|w| w.trim_end_matches(';') == error.instruction);
    if told.contains(text.as_str()) && lines.contains(&error.line) && is_named {
        return Ok(());
    }
    Err(format!("{instruction}: {told}, wanted '{text}'"))
}
