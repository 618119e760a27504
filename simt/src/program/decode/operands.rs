//! Operands of the tree as sources and destinations, with their classes checked.

use super::Decoder;
use crate::program::layout::Class;
use crate::program::op::{Address, Base, Dst, Src, Src64, SrcPred, Value};
use crate::program::own;
use crate::ptx::ast::{Instruction, LabelId, Operand, Space};

impl Decoder<'_> {
    /// Operand `i`, or an error that says how many there are.
    pub(super) fn operand<'i>(
        &self,
        inst: &'i Instruction,
        i: usize,
    ) -> Result<&'i Operand, String> {
        inst.operands.get(i).ok_or_else(|| {
            format!("{} operands, at least {} are needed", inst.operands.len(), i + 1)
        })
    }

    /// Errors: another count of operands than `n`.
    pub(super) fn count(&self, inst: &Instruction, n: usize) -> Result<(), String> {
        if inst.operands.len() == n {
            return Ok(());
        }
        Err(format!("{} operands, where {n} are needed", inst.operands.len()))
    }

    fn class(&self, operand: &Operand) -> Option<Class> {
        match operand {
            Operand::Register(reg) => Some(self.slots.class(*reg)),
            _ => None,
        }
    }

    fn wrong(&self, operand: &Operand, wanted: &str) -> String {
        match operand {
            Operand::Register(reg) | Operand::Negated(reg) => {
                let register = &self.function.registers[reg.0 as usize];
                format!(
                    "{} is a register of .{}, where {wanted} is needed",
                    register.name, register.ty
                )
            }
            other => format!("{other:?}, where {wanted} is needed"),
        }
    }

    /// A source of 32 bits.
    pub(super) fn word(&self, operand: &Operand) -> Result<Src, String> {
        match (operand, self.class(operand)) {
            (_, Some(Class::Word(slot))) => Ok(Src::Slot(slot)),
            // Negative numbers keep their pattern of 32 bits.
            (Operand::Integer(v), _) if i32::try_from(*v).is_ok() || u32::try_from(*v).is_ok() => {
                Ok(Src::Value(*v as u32))
            }
            (Operand::Float32(bits), _) => Ok(Src::Value(*bits)),
            (Operand::Symbol(name, offset), _) => {
                if let Some(own) = own::slots(self.own, name, *offset) {
                    return Ok(Src::Slot(own.word));
                }
                let (_, address) = self.symbol(name)?;
                let address = address.wrapping_add_signed(*offset);
                u32::try_from(address)
                    .map(Src::Value)
                    .map_err(|_| format!("the address of '{name}' does not fit into 32 bits"))
            }
            _ => Err(self.wrong(operand, "a value of 32 bits")),
        }
    }

    /// A source of 16 bits: a number is cut to that.
    pub(super) fn half(&self, operand: &Operand) -> Result<Src, String> {
        match (operand, self.class(operand)) {
            (_, Some(Class::Half(slot))) => Ok(Src::Slot(slot)),
            (Operand::Integer(v), _) => Ok(Src::Value(*v as u32 & 0xffff)),
            _ => Err(self.wrong(operand, "a value of 16 bits")),
        }
    }

    /// A source of 64 bits.
    pub(super) fn long(&self, operand: &Operand) -> Result<Src64, String> {
        match (operand, self.class(operand)) {
            (_, Some(Class::Long(slot))) => Ok(Src64::Slot(slot)),
            (Operand::Integer(v), _) => Ok(Src64::Value(*v as u64)),
            (Operand::Float64(bits), _) => Ok(Src64::Value(*bits)),
            (Operand::Symbol(name, offset), _) => {
                if let Some(own) = own::slots(self.own, name, *offset) {
                    return Ok(Src64::Slot(own.long));
                }
                let (_, address) = self.symbol(name)?;
                Ok(Src64::Value(address.wrapping_add_signed(*offset)))
            }
            _ => Err(self.wrong(operand, "a value of 64 bits")),
        }
    }

    /// What a store or an atomic takes.
    pub(super) fn value(&self, operand: &Operand, bytes: u32) -> Result<Value, String> {
        if bytes == 8 {
            return Ok(Value::Long(self.long(operand)?));
        }
        match (operand, self.class(operand)) {
            // A narrow store may take a wider register.
            (_, Some(Class::Long(slot))) => Ok(Value::Long(Src64::Slot(slot))),
            (_, Some(Class::Half(slot))) if bytes <= 2 => Ok(Value::Word(Src::Slot(slot))),
            (Operand::Integer(v), _) => Ok(Value::Word(Src::Value(*v as u32))),
            _ => Ok(Value::Word(self.word(operand)?)),
        }
    }

    pub(super) fn dst(&self, operand: &Operand) -> Result<Dst, String> {
        match (operand, self.class(operand)) {
            (_, Some(Class::Half(slot))) => Ok(Dst::Half(slot)),
            (_, Some(Class::Word(slot))) => Ok(Dst::Word(slot)),
            (_, Some(Class::Long(slot))) => Ok(Dst::Long(slot)),
            (Operand::Sink, _) => Ok(Dst::Sink),
            _ => Err(self.wrong(operand, "a register")),
        }
    }

    /// A destination of 32 bits.
    pub(super) fn dst_word(&self, operand: &Operand) -> Result<u32, String> {
        match self.class(operand) {
            Some(Class::Word(slot)) => Ok(slot),
            _ => Err(self.wrong(operand, "a register of 32 bits")),
        }
    }

    /// A destination of 16 bits.
    pub(super) fn dst_half(&self, operand: &Operand) -> Result<u32, String> {
        match self.class(operand) {
            Some(Class::Half(slot)) => Ok(slot),
            _ => Err(self.wrong(operand, "a register of 16 bits")),
        }
    }

    /// A destination of 64 bits.
    pub(super) fn dst_long(&self, operand: &Operand) -> Result<u32, String> {
        match self.class(operand) {
            Some(Class::Long(slot)) => Ok(slot),
            _ => Err(self.wrong(operand, "a register of 64 bits")),
        }
    }

    /// A destination predicate.
    pub(super) fn dst_pred(&self, operand: &Operand) -> Result<u32, String> {
        match self.class(operand) {
            Some(Class::Pred(slot)) => Ok(slot),
            _ => Err(self.wrong(operand, "a predicate")),
        }
    }

    pub(super) fn pred(&self, operand: &Operand) -> Result<SrcPred, String> {
        match (operand, self.class(operand)) {
            (_, Some(Class::Pred(slot))) => Ok(SrcPred::Slot { slot, negated: false }),
            (Operand::Negated(reg), _) => match self.slots.class(*reg) {
                Class::Pred(slot) => Ok(SrcPred::Slot { slot, negated: true }),
                _ => Err(self.wrong(operand, "a predicate")),
            },
            (Operand::Integer(v), _) => Ok(SrcPred::Value(*v != 0)),
            _ => Err(self.wrong(operand, "a predicate")),
        }
    }

    /// `[register+offset]`, `[name+offset]`, `[number]`.
    pub(super) fn address(&self, operand: &Operand) -> Result<Address, String> {
        let Operand::Address(base, offset) = operand else {
            return Err(self.wrong(operand, "an address"));
        };
        match (base.as_ref(), self.class(base)) {
            (_, Some(Class::Word(slot))) => Ok(Address { base: Base::Word(slot), offset: *offset }),
            (_, Some(Class::Long(slot))) => Ok(Address { base: Base::Long(slot), offset: *offset }),
            (Operand::Integer(v), _) => {
                Ok(Address { base: Base::None, offset: v.wrapping_add(*offset) })
            }
            (Operand::Symbol(name, more), _) => {
                let (space, address) = self.symbol(name)?;
                let offset = (address as i64).wrapping_add(*more).wrapping_add(*offset);
                let base = if space == Space::Shared { Base::Own } else { Base::None };
                Ok(Address { base, offset })
            }
            (other, _) => Err(self.wrong(other, "a register or a name")),
        }
    }

    /// Space and address of a variable.
    pub(super) fn symbol(&self, name: &str) -> Result<(Space, u64), String> {
        self.layout
            .symbol(name)
            .ok_or_else(|| format!("there is no variable '{name}' that can be addressed"))
    }

    pub(super) fn label(&self, operand: &Operand) -> Result<LabelId, String> {
        match operand {
            Operand::Label(label) => Ok(*label),
            other => Err(self.wrong(other, "a label")),
        }
    }

    /// A number known when the program is decoded.
    pub(super) fn constant(&self, operand: &Operand) -> Result<i64, String> {
        match operand {
            Operand::Integer(v) => Ok(*v),
            other => Err(self.wrong(other, "a number")),
        }
    }

    /// The elements of a vector; a single operand counts as one.
    pub(super) fn elements<'i>(&self, operand: &'i Operand) -> &'i [Operand] {
        match operand {
            Operand::Vector(elements) => elements,
            other => std::slice::from_ref(other),
        }
    }

    /// Exactly `N` elements, each decoded by `f`.
    pub(super) fn vector<const N: usize, T: Copy + Default>(
        &self,
        operand: &Operand,
        n: usize,
        f: impl Fn(&Operand) -> Result<T, String>,
    ) -> Result<[T; N], String> {
        let elements = self.elements(operand);
        if elements.len() != n || n > N {
            return Err(format!("a vector of {} elements, where {n} are needed", elements.len()));
        }
        let mut all = [T::default(); N];
        for (slot, element) in all.iter_mut().zip(elements) {
            *slot = f(element)?;
        }
        Ok(all)
    }
}
