//! Where everything of a kernel lies: registers in slots, variables in their state spaces, parameters in the
//! buffer that a launch fills.

use std::collections::HashMap;

use crate::ptx::ast::{Function, Module, Reg, Space, Type, Variable};

/// Shared memory starts here within its window: the first kibibyte is the system's, as on the hardware, so that
/// a null pointer is no valid shared address.
pub const SHARED_START: u64 = 1024;
/// Bytes between two shared variables that belong to neither, so that running over one's end is seen.
const GUARD: u64 = 16;

/// What kind of register, and its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Pred(u32),
    /// 16 bits, in the lower half of a word.
    Half(u32),
    Word(u32),
    Long(u32),
    /// 128 bits or 8 bits, which no instruction here takes.
    Other,
}

/// The slots of a function's registers.
pub struct Slots {
    classes: Vec<Class>,
    counts: SlotCounts,
}

/// How many slots of each kind a warp needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotCounts {
    pub preds: u32,
    pub words: u32,
    pub longs: u32,
}

impl Slots {
    pub fn new(function: &Function) -> Self {
        let mut counts = SlotCounts::default();
        let mut next = |kind: fn(&mut SlotCounts) -> &mut u32| {
            let count = kind(&mut counts);
            *count += 1;
            *count - 1
        };
        let classes = function
            .registers
            .iter()
            .map(|register| match register.ty {
                Type::Pred => Class::Pred(next(|c| &mut c.preds)),
                ty => match ty.bytes() {
                    2 => Class::Half(next(|c| &mut c.words)),
                    4 => Class::Word(next(|c| &mut c.words)),
                    8 => Class::Long(next(|c| &mut c.longs)),
                    _ => Class::Other,
                },
            })
            .collect();
        Self { classes, counts }
    }

    pub fn class(&self, reg: Reg) -> Class {
        self.classes[reg.0 as usize]
    }

    pub fn pred(&self, reg: Reg) -> Option<u32> {
        match self.class(reg) {
            Class::Pred(slot) => Some(slot),
            _ => None,
        }
    }

    /// Names of words by their slots, for messages.
    pub fn names(&self, function: &Function) -> Vec<String> {
        let of = |class: &Class| matches!(class, Class::Half(_) | Class::Word(_));
        let words = self.classes.iter().zip(&function.registers).filter(|(class, _)| of(class));
        words.map(|(_, register)| register.name.clone()).collect()
    }

    pub fn counts(&self) -> SlotCounts {
        self.counts
    }
}

/// A parameter of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    pub offset: u32,
    pub bytes: u32,
    pub align: u32,
}

/// A variable in shared memory, with its place in the window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedVariable {
    pub name: String,
    pub start: u64,
    pub bytes: u64,
}

/// Addresses of all variables.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    pub params: Vec<Param>,
    pub param_bytes: u32,
    /// Static ones, in the order of their addresses.
    pub shared: Vec<SharedVariable>,
    /// What the static ones take as the hardware counts it, without guards.
    pub static_shared: u32,
    /// Where dynamic shared memory begins.
    pub dynamic_start: u64,
    /// Bytes of local memory of a thread.
    pub local_bytes: u32,
    symbols: HashMap<String, (Space, u64)>,
}

/// The next multiple of `align` from `at` on.
fn aligned(at: u64, align: u32) -> u64 {
    at.next_multiple_of(u64::from(align.max(1)))
}

impl Layout {
    /// Errors: variables that no executor here can hold.
    pub fn new(module: &Module, function: &Function) -> Result<Self, String> {
        let mut layout = Self::default();
        let mut at = 0u64;
        for param in &function.params {
            let bytes =
                param.bytes.ok_or_else(|| format!("parameter {} has no size", param.name))?;
            let offset = aligned(at, param.align);
            at = offset + bytes;
            if at > 32_764 {
                return Err("more than 32764 bytes of parameters".into());
            }
            layout.symbols.insert(param.name.clone(), (Space::Param, offset));
            layout.params.push(Param {
                offset: offset as u32,
                bytes: bytes as u32,
                align: param.align,
            });
        }
        layout.param_bytes = at as u32;
        let names = used_names(function);
        let used = |v: &&Variable| names.contains(v.name.as_str());
        let shared = module.variables.iter().filter(used).chain(&function.variables);
        let shared: Vec<&Variable> = shared.filter(|v| v.space == Space::Shared).collect();
        let (mut place, mut packed) = (SHARED_START, 0u64);
        for variable in shared.iter().filter(|v| v.bytes.is_some()) {
            let bytes = variable.bytes.unwrap_or(0);
            place = aligned(place, variable.align.max(16));
            layout.symbols.insert(variable.name.clone(), (Space::Shared, place));
            layout.shared.push(SharedVariable { name: variable.name.clone(), start: place, bytes });
            place = place.saturating_add(bytes).saturating_add(GUARD);
            packed = aligned(packed, variable.align).saturating_add(bytes);
        }
        if packed > 1 << 20 {
            return Err(format!("{packed} bytes of static shared memory"));
        }
        layout.static_shared = packed as u32;
        // All names of dynamic shared memory are one place; a tile of 1024 bytes may be wanted there.
        let align = shared.iter().filter(|v| v.bytes.is_none()).map(|v| v.align).max();
        layout.dynamic_start = aligned(place, align.unwrap_or(16).max(16));
        for variable in shared.iter().filter(|v| v.bytes.is_none()) {
            layout.symbols.insert(variable.name.clone(), (Space::Shared, layout.dynamic_start));
        }
        let mut local = 0u64;
        for variable in function.variables.iter().filter(|v| v.space == Space::Local) {
            let bytes = variable.bytes.ok_or("local memory without a size")?;
            let start = aligned(local, variable.align.max(8));
            layout.symbols.insert(variable.name.clone(), (Space::Local, start));
            local = start.saturating_add(bytes);
        }
        if local > 512 << 10 {
            return Err(format!("{local} bytes of local memory in a thread"));
        }
        layout.local_bytes = local as u32;
        let other = module.variables.iter().filter(used).find(|v| v.space != Space::Shared);
        if let Some(variable) = other {
            return Err(format!(
                "'{}' is a variable of the module outside of shared memory, which is not implemented",
                variable.name
            ));
        }
        Ok(layout)
    }

    pub fn symbol(&self, name: &str) -> Option<(Space, u64)> {
        self.symbols.get(name).copied()
    }
}

/// The names that a function's instructions mention.
fn used_names(function: &Function) -> std::collections::HashSet<&str> {
    use crate::ptx::ast::Operand;
    fn visit<'a>(operand: &'a Operand, names: &mut std::collections::HashSet<&'a str>) {
        match operand {
            Operand::Symbol(name, _) => _ = names.insert(name),
            Operand::Vector(all) => all.iter().for_each(|o| visit(o, names)),
            Operand::Address(base, _) => visit(base, names),
            Operand::Tensor(map, all) => {
                visit(map, names);
                all.iter().for_each(|o| visit(o, names));
            }
            Operand::Pair(a, b) => {
                visit(a, names);
                visit(b, names);
            }
            _ => {}
        }
    }
    let mut names = std::collections::HashSet::new();
    for instruction in &function.instructions {
        instruction.operands.iter().for_each(|o| visit(o, &mut names));
    }
    names
}
