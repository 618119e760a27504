//! From the tree of a kernel to instructions that can be executed: registers become slots, names become
//! addresses, and every modifier is understood or refused.

mod arithmetic;
mod bits;
mod compare;
mod control;
mod convert;
mod functions;
mod hopper;
mod memory;
mod modifiers;
mod moves;
mod opcodes;
mod operands;
mod special;
mod touches;

use std::fmt;

use self::modifiers::Modifiers;
pub use self::opcodes::OPCODES;
use super::flow::{self, Next};
use super::layout::{Layout, Slots};
use super::op::{Inst, Op, Pipe, Product};
use super::own::{self, OwnAddress};
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

/// What one instruction decodes to, or why it does not.
type Decoded = Result<(Op, Pipe), String>;

/// What the decoders of single instructions look at.
struct Decoder<'a> {
    function: &'a Function,
    layout: &'a Layout,
    slots: &'a Slots,
    own: &'a [OwnAddress],
    numerics: Numerics,
    /// Targets of `brx.idx`, by table.
    tables: Vec<Vec<u32>>,
    products: Vec<Product>,
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
    let mut counts = slots.counts();
    let own = own::find(function, &layout, &mut counts);
    let mut decoder = Decoder {
        function,
        layout: &layout,
        slots: &slots,
        own: &own,
        numerics,
        tables: Vec::new(),
        products: Vec::new(),
    };
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
        let (line, at) = (instruction.line, instruction.at);
        let may_wait = may_wait(&op);
        instructions.push(Inst { op, guard, pipe, may_wait, touches: false, line, at });
    }
    let Decoder { tables, products, .. } = decoder;
    let product_slots =
        products.iter().flat_map(Product::registers).map(|(slot, _)| slot).collect();
    let touches = touches::find(function, &slots, &instructions, &product_slots);
    touches.keys().for_each(|&pc| instructions[pc as usize].touches = true);
    // Running off the end of a kernel ends the thread.
    let line = instructions.last().map_or(function.line, |i| i.line);
    instructions.push(Inst {
        op: Op::Exit,
        guard: None,
        pipe: Pipe::Control,
        may_wait: false,
        touches: false,
        line,
        at: None,
    });
    let meets = meets(&instructions, &tables);
    let increments = instructions.iter().filter_map(|inst| match inst.op {
        Op::SetMaxRegisters { count, is_more: true } => Some(count),
        _ => None,
    });
    let largest_inc = increments.max();
    let awaits_grids = instructions.iter().any(|inst| matches!(inst.op, Op::GridWait));
    let names = function.instructions.iter().map(Instruction::name).collect();
    Ok(Program {
        name: kernel.to_owned(),
        target: module.target.clone(),
        numerics,
        instructions,
        meets,
        tables,
        layout,
        counts,
        own,
        max_threads: function.required_threads.or(function.max_threads),
        required_threads: function.required_threads,
        min_blocks: function.min_blocks,
        max_registers: function.max_registers,
        largest_inc,
        awaits_grids,
        cluster: function.cluster,
        products,
        touches,
        register_names: slots.names(function),
        places: function.places.clone(),
        files: module.files.clone(),
        names,
    })
}

/// Whether a path may have to wait at the instruction for other paths, warps, blocks or copies.
fn may_wait(op: &Op) -> bool {
    matches!(
        op,
        Op::Barrier { .. }
            | Op::WarpSync { .. }
            | Op::Shuffle { .. }
            | Op::Vote { .. }
            | Op::MatchAny { .. }
            | Op::MatchAll { .. }
            | Op::MatchAny64 { .. }
            | Op::MatchAll64 { .. }
            | Op::Redux { .. }
            | Op::Elect { .. }
            | Op::ClusterBarrier { .. }
            | Op::MbarrierWait { .. }
            | Op::BulkWait { .. }
            | Op::ProductWait { .. }
            | Op::SetMaxRegisters { .. }
    )
}

/// Where lanes meet again that disagree about a branch. Lanes that return early, or trap, never come there, and do not
/// keep the others from meeting; where nothing is left without them (a loop that only a return ends), they count.
fn meets(instructions: &[Inst], tables: &[Vec<u32>]) -> Vec<u32> {
    let all = |early: bool| -> Vec<u32> {
        let next: Vec<Next> =
            instructions.iter().map(|i| follow(i, instructions, tables, early)).collect();
        flow::meeting_points(&next)
    };
    let (without, with) = (all(false), all(true));
    without.into_iter().zip(with).map(|(w, o)| if w == flow::NEVER { o } else { w }).collect()
}

/// Where control may go after an instruction; `early`: returns and traps of some lanes are a way as well.
fn follow(inst: &Inst, instructions: &[Inst], tables: &[Vec<u32>], early: bool) -> Next {
    let falls = inst.guard.is_some();
    let is_return = |target: u32| {
        let there = instructions.get(target as usize);
        there.is_some_and(|i| matches!(i.op, Op::Exit) && i.guard.is_none())
    };
    match inst.op {
        Op::Branch { target, .. } if falls && !early && is_return(target) => {
            Next::Jump { targets: Vec::new(), falls }
        }
        Op::Branch { target, .. } => Next::Jump { targets: vec![target], falls },
        Op::BranchTable { table, .. } => {
            Next::Jump { targets: tables[table as usize].clone(), falls }
        }
        Op::Trap if !early => Next::Jump { targets: Vec::new(), falls },
        Op::Exit if !early && falls => Next::Through,
        Op::Exit | Op::Trap => Next::End { falls },
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
            "mbarrier" => self.mbarrier(inst, m),
            "wgmma" => self.wgmma(inst, m),
            "setmaxnreg" => self.set_max_registers(inst, m),
            "griddepcontrol" => self.grid_dependency(inst, m),
            // Sleeping changes nothing here.
            "nanosleep" => {
                while m.first().is_some() {}
                Ok((Op::Nop, Pipe::Control))
            }
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
