//! From the tree of a kernel to instructions that can be executed: registers become slots, names become
//! addresses, and every modifier is understood or refused.

mod arithmetic;
mod compare;
mod control;
mod convert;
mod memory;
mod modifiers;
mod moves;
mod operands;
mod special;

use std::fmt;

use self::modifiers::Modifiers;
use super::flow::{self, Next};
use super::layout::{Layout, Slots};
use super::op::{Inst, Op, Pipe};
use super::{Numerics, Program};
use crate::ptx::ast::{Function, Instruction, LabelId, Module};

/// A kernel that cannot be executed, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError {
    pub kernel: String,
    /// Line of the PTX.
    pub line: u32,
    /// The instruction with its modifiers; empty where it is not about one.
    pub instruction: String,
    pub message: String,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kernel {}, line {}", self.kernel, self.line)?;
        if !self.instruction.is_empty() {
            write!(f, ", {}", self.instruction)?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for DecodeError {}

/// Every opcode that is implemented, at least with some modifiers. Others are refused before any decoder sees them.
pub const OPCODES: &[&str] = &[
    "abs",
    "activemask",
    "add",
    "and",
    "applypriority",
    "atom",
    "bar",
    "barrier",
    "bfe",
    "bfi",
    "bfind",
    "bra",
    "brev",
    "brx",
    "clz",
    "cnot",
    "copysign",
    "cp",
    "cvt",
    "cvta",
    "div",
    "elect",
    "ex2",
    "exit",
    "fence",
    "fma",
    "isspacep",
    "ld",
    "ldmatrix",
    "ldu",
    "lg2",
    "lop3",
    "mad",
    "match",
    "max",
    "membar",
    "min",
    "mma",
    "mov",
    "mul",
    "neg",
    "not",
    "or",
    "popc",
    "prefetch",
    "prefetchu",
    "prmt",
    "rcp",
    "red",
    "redux",
    "rem",
    "ret",
    "rsqrt",
    "selp",
    "set",
    "setp",
    "shf",
    "shfl",
    "shl",
    "shr",
    "sqrt",
    "st",
    "stmatrix",
    "sub",
    "trap",
    "vote",
    "xor",
];

/// What one instruction decodes to, or why it does not.
type Decoded = Result<(Op, Pipe), String>;

/// What the decoders of single instructions look at.
struct Decoder<'a> {
    function: &'a Function,
    layout: &'a Layout,
    slots: &'a Slots,
    numerics: Numerics,
    /// Targets of `brx.idx`, by table.
    tables: Vec<Vec<u32>>,
}

/// Decodes the kernel of this name.
pub fn decode(module: &Module, kernel: &str, numerics: Numerics) -> Result<Program, DecodeError> {
    let error = |line, instruction: &str, message: String| DecodeError {
        kernel: kernel.to_owned(),
        line,
        instruction: instruction.to_owned(),
        message,
    };
    let function = module
        .function(kernel)
        .filter(|f| f.is_entry)
        .ok_or_else(|| error(0, "", "the module has no kernel of this name".into()))?;
    let layout = Layout::new(module, function).map_err(|m| error(function.line, "", m))?;
    let slots = Slots::new(function);
    let mut decoder =
        Decoder { function, layout: &layout, slots: &slots, numerics, tables: Vec::new() };
    let mut instructions = Vec::with_capacity(function.instructions.len() + 1);
    for instruction in &function.instructions {
        let (op, pipe) = decoder
            .one(instruction)
            .map_err(|m| error(instruction.line, &instruction.name(), m))?;
        let guard = match instruction.guard {
            None => None,
            Some(guard) => {
                let slot = slots.pred(guard.register).ok_or_else(|| {
                    error(instruction.line, &instruction.name(), "the guard is no predicate".into())
                })?;
                Some((slot, guard.negated))
            }
        };
        instructions.push(Inst { op, guard, pipe, line: instruction.line, at: instruction.at });
    }
    let tables = decoder.tables;
    // Running off the end of a kernel ends the thread.
    let line = instructions.last().map_or(function.line, |i| i.line);
    instructions.push(Inst { op: Op::Exit, guard: None, pipe: Pipe::Control, line, at: None });
    let next: Vec<Next> = instructions.iter().map(|i| follow(i, &tables)).collect();
    let meets = flow::meeting_points(&next);
    let names = function.instructions.iter().map(Instruction::name).collect();
    Ok(Program {
        name: kernel.to_owned(),
        target: module.target.clone(),
        numerics,
        instructions,
        meets,
        tables,
        layout,
        counts: slots.counts(),
        max_threads: function.required_threads.or(function.max_threads),
        required_threads: function.required_threads,
        cluster: function.cluster,
        places: function.places.clone(),
        files: module.files.clone(),
        names,
    })
}

fn follow(inst: &Inst, tables: &[Vec<u32>]) -> Next {
    match inst.op {
        Op::Branch { target, .. } => {
            Next::Jump { targets: vec![target], falls: inst.guard.is_some() }
        }
        Op::BranchTable { table, .. } => {
            Next::Jump { targets: tables[table as usize].clone(), falls: inst.guard.is_some() }
        }
        Op::Exit | Op::Trap => Next::End { falls: inst.guard.is_some() },
        _ => Next::Through,
    }
}

impl Decoder<'_> {
    fn one(&mut self, inst: &Instruction) -> Decoded {
        let mut modifiers = Modifiers::new(inst);
        let decoded = self.dispatch(inst, &mut modifiers)?;
        modifiers.done()?;
        Ok(decoded)
    }

    fn dispatch(&mut self, inst: &Instruction, m: &mut Modifiers) -> Decoded {
        if !OPCODES.contains(&inst.opcode.as_str()) {
            return Err(not_implemented());
        }
        match inst.opcode.as_str() {
            "mov" => self.mov(inst, m),
            "selp" => self.selp(inst, m),
            "setp" | "set" => self.setp(inst, m),
            "cvt" => self.cvt(inst, m),
            "cvta" | "isspacep" | "mapa" => self.address_of(inst, m),
            "ld" | "ldu" => self.load(inst, m),
            "st" => self.store(inst, m),
            "atom" | "red" => self.atomic(inst, m),
            "prefetch" | "prefetchu" | "applypriority" | "discard" => self.hint(inst, m),
            "ldmatrix" | "stmatrix" => self.matrix(inst, m),
            "cp" => self.copy(inst, m),
            "mma" => self.mma(inst, m),
            "bra" | "brx" | "ret" | "exit" | "trap" => self.branch(inst, m),
            "bar" | "barrier" => self.barrier(inst, m),
            "membar" | "fence" => self.fence(inst, m),
            "shfl" | "vote" | "match" | "redux" | "activemask" | "elect" => {
                self.collective(inst, m)
            }
            _ => self.arithmetic(inst, m),
        }
    }

    fn target(&self, label: LabelId) -> u32 {
        self.function.labels[label.0 as usize].at
    }
}

/// Why an instruction is refused that may be perfectly legal.
fn not_implemented() -> String {
    "this instruction is not implemented".into()
}
