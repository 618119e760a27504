//! What a kernel has of static shared memory.

use std::collections::BTreeSet;

use glmae_simt::ptx::ast::{Function, Module, Operand, Space, Variable};

/// Bytes of the `.shared` variables that a kernel and the functions it calls use, one behind the other, each at
/// its own alignment. What the launch decides the size of is not among them.
pub(super) fn static_bytes(module: &Module, kernel: &Function) -> u32 {
    let (mut open, mut seen) = (vec![kernel], BTreeSet::from([kernel.name.as_str()]));
    let mut end = 0u64;
    let mut place = |variable: &Variable| {
        if let (Space::Shared, Some(bytes)) = (variable.space, variable.bytes) {
            end = end.next_multiple_of(variable.align.max(1).into()).saturating_add(bytes);
        }
    };
    while let Some(function) = open.pop() {
        function.variables.iter().for_each(&mut place);
        let is_own = |name: &str| function.variables.iter().any(|v| v.name == name);
        for instruction in &function.instructions {
            for_symbols(&instruction.operands, &mut |name| {
                if is_own(name) || !seen.insert(name) {
                    return;
                }
                module.variables.iter().filter(|v| v.name == name).for_each(&mut place);
                open.extend(module.function(name));
            });
        }
    }
    u32::try_from(end).unwrap_or(u32::MAX)
}

/// Calls `found` with the name of every symbol in `operands`.
fn for_symbols<'a>(operands: &'a [Operand], found: &mut impl FnMut(&'a str)) {
    for operand in operands {
        match operand {
            Operand::Symbol(name, _) => found(name),
            Operand::Vector(inner) => for_symbols(inner, found),
            Operand::Address(inner, _) => for_symbols(std::slice::from_ref(inner), found),
            Operand::Tensor(inner, coordinates) => {
                for_symbols(std::slice::from_ref(inner), found);
                for_symbols(coordinates, found);
            }
            Operand::Pair(a, b) => {
                for_symbols(std::slice::from_ref(a), found);
                for_symbols(std::slice::from_ref(b), found);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use glmae_simt::ptx::parse;

    use super::*;

    const TEXT: &str = "
.version 9.0
.target sm_80
.address_size 64
.extern .shared .align 128 .b8 dynamic[];
.shared .align 4 .b8 flags[6];
.shared .align 16 .b8 tile[64];
.shared .align 8 .b8 unused[4096];
.global .align 4 .b8 table[32];

.visible .entry plain()
{
    .reg .b32 %r<3>;
    mov.u32 %r1, dynamic;
    mov.u32 %r2, table;
    ret;
}

.visible .entry both()
{
    .reg .b32 %r<3>;
    ld.shared.u8 %r1, [flags+1];
    mov.u32 %r2, tile;
    mov.u32 %r1, tile;
    ret;
}

.visible .entry demoted()
{
    .reg .b32 %r<3>;
    .shared .align 8 .b8 mine[24];
    mov.u32 %r1, mine;
    ret;
}
";

    #[test]
    fn variables_count_where_they_are_used() {
        let module = parse("test.ptx", TEXT).unwrap();
        let bytes = |name: &str| static_bytes(&module, module.function(name).unwrap());
        assert_eq!(bytes("plain"), 0);
        // 6 bytes, a gap up to 16, 64 bytes.
        assert_eq!(bytes("both"), 80);
        assert_eq!(bytes("demoted"), 24);
    }
}
