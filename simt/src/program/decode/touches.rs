//! Which instructions touch registers of products of warpgroups, or copies of these, without being one.

use std::collections::{HashMap, HashSet};

use crate::program::layout::{Class, Slots};
use crate::program::op::{Inst, Op, Src, Touch};
use crate::ptx::ast::{Function, Operand, Reg};

/// Opcodes whose first operand is no result.
const NO_RESULT: &[&str] = &[
    "st", "red", "cp", "bar", "barrier", "mbarrier", "prefetch", "bra", "brx", "stmatrix", "trap",
    "ret", "exit",
];

/// By index of the instruction.
pub fn find(
    function: &Function,
    slots: &Slots,
    instructions: &[Inst],
    products: &HashSet<u32>,
) -> HashMap<u32, Touch> {
    let mut all = HashMap::new();
    if products.is_empty() {
        return all;
    }
    let products = &with_copies(instructions, products);
    let slot = |reg: Reg| match slots.class(reg) {
        Class::Half(slot) | Class::Word(slot) => Some(slot).filter(|s| products.contains(s)),
        _ => None,
    };
    for (pc, (inst, decoded)) in function.instructions.iter().zip(instructions).enumerate() {
        if matches!(decoded.op, Op::Product(_)) {
            continue;
        }
        let mut touch = Touch::default();
        for (i, operand) in inst.operands.iter().enumerate() {
            let mut found = Vec::new();
            registers(operand, &mut |reg| found.extend(slot(reg)));
            let is_result = i == 0 && !NO_RESULT.contains(&inst.opcode.as_str());
            if is_result { touch.writes.extend(found) } else { touch.reads.extend(found) }
        }
        if let Op::Mov { d, a: Src::Slot(a) } = decoded.op
            && products.contains(&a)
            && inst.guard.is_none()
        {
            touch.copy = Some((d, a));
        }
        if !touch.writes.is_empty() || !touch.reads.is_empty() {
            all.insert(pc as u32, touch);
        }
    }
    all
}

/// The registers, and all that they are copied to.
fn with_copies(instructions: &[Inst], products: &HashSet<u32>) -> HashSet<u32> {
    let mut all = products.clone();
    loop {
        let before = all.len();
        for inst in instructions.iter().filter(|i| i.guard.is_none()) {
            if let Op::Mov { d, a: Src::Slot(a) } = inst.op
                && all.contains(&a)
            {
                all.insert(d);
            }
        }
        if all.len() == before {
            return all;
        }
    }
}

fn registers(operand: &Operand, found: &mut impl FnMut(Reg)) {
    match operand {
        Operand::Register(reg) | Operand::Negated(reg) => found(*reg),
        Operand::Vector(all) => all.iter().for_each(|o| registers(o, found)),
        Operand::Address(base, _) => registers(base, found),
        Operand::Tensor(map, all) => {
            registers(map, found);
            all.iter().for_each(|o| registers(o, found));
        }
        Operand::Pair(a, b) => {
            registers(a, found);
            registers(b, found);
        }
        _ => {}
    }
}
