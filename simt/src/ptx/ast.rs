//! What a PTX module says, as a tree. Names of registers and labels are resolved; nothing is executed here.
//!
//! Sections are those of the PTX ISA manual, version 9.0.

use std::fmt;

/// A fundamental type (section 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    Pred,
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    F32,
    F64,
}

impl Type {
    /// The type of this name, without its dot.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "pred" => Self::Pred,
            "b8" => Self::B8,
            "b16" => Self::B16,
            "b32" => Self::B32,
            "b64" => Self::B64,
            "b128" => Self::B128,
            "u8" => Self::U8,
            "u16" => Self::U16,
            "u32" => Self::U32,
            "u64" => Self::U64,
            "s8" => Self::S8,
            "s16" => Self::S16,
            "s32" => Self::S32,
            "s64" => Self::S64,
            "f16" => Self::F16,
            "f16x2" => Self::F16x2,
            "bf16" => Self::Bf16,
            "bf16x2" => Self::Bf16x2,
            "f32" => Self::F32,
            "f64" => Self::F64,
            _ => return None,
        })
    }

    /// Bytes of a value in memory; 0 for predicates, which are in none.
    pub fn bytes(self) -> u32 {
        match self {
            Self::Pred => 0,
            Self::B8 | Self::U8 | Self::S8 => 1,
            Self::B16 | Self::U16 | Self::S16 | Self::F16 | Self::Bf16 => 2,
            Self::B32 | Self::U32 | Self::S32 | Self::F32 | Self::F16x2 | Self::Bf16x2 => 4,
            Self::B64 | Self::U64 | Self::S64 | Self::F64 => 8,
            Self::B128 => 16,
        }
    }

    pub fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::F16x2 | Self::Bf16 | Self::Bf16x2 | Self::F32 | Self::F64)
    }

    pub fn is_signed(self) -> bool {
        matches!(self, Self::S8 | Self::S16 | Self::S32 | Self::S64)
    }
}

/// A state space (section 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    /// No space was named: the address is generic.
    Generic,
    Global,
    Shared,
    Local,
    Param,
    Const,
}

/// A module: one file of PTX.
#[derive(Clone, Debug, Default)]
pub struct Module {
    /// `.version`, such as (9, 0).
    pub version: (u32, u32),
    /// `.target`, such as `sm_90a`.
    pub target: String,
    /// Paths by their number in `.file`.
    pub files: Vec<(u32, String)>,
    /// Variables of the module: static and dynamic shared memory, constants, global arrays.
    pub variables: Vec<Variable>,
    pub functions: Vec<Function>,
}

impl Module {
    pub fn function(&self, name: &str) -> Option<&Function> {
        self.functions.iter().find(|f| f.name == name)
    }
}

/// A variable that is no register (section 5.4).
#[derive(Clone, Debug, PartialEq)]
pub struct Variable {
    pub name: String,
    pub space: Space,
    pub ty: Type,
    /// At least the alignment of the type.
    pub align: u32,
    /// `None` for `name[]`: its size is known at the launch.
    pub bytes: Option<u64>,
    /// Initial bytes, empty if there are none.
    pub init: Vec<u8>,
    pub is_extern: bool,
}

/// A kernel (`.entry`) or a function (`.func`).
#[derive(Clone, Debug, Default)]
pub struct Function {
    pub name: String,
    pub is_entry: bool,
    /// Line of its head in the PTX.
    pub line: u32,
    pub params: Vec<Variable>,
    /// `.maxntid`: threads of a block at most, by axis.
    pub max_threads: Option<[u32; 3]>,
    /// `.reqntid`: threads of a block exactly, by axis.
    pub required_threads: Option<[u32; 3]>,
    /// `.minnctapersm`.
    pub min_blocks: Option<u32>,
    /// `.maxnreg`.
    pub max_registers: Option<u32>,
    /// `.reqnctapercluster`: blocks of a cluster, by axis.
    pub cluster: Option<[u32; 3]>,
    /// `.explicitcluster`: it can only be launched in clusters.
    pub is_explicit_cluster: bool,
    pub registers: Vec<Register>,
    /// Variables of the body: `.shared`, `.local`.
    pub variables: Vec<Variable>,
    pub labels: Vec<Label>,
    pub instructions: Vec<Instruction>,
    /// Places in CUDA sources, by [`Instruction::at`].
    pub places: Vec<Place>,
}

/// A register. Names of inner scopes (`{ .reg ... }` of inline assembly) hide outer ones; each has its own entry.
#[derive(Clone, Debug, PartialEq)]
pub struct Register {
    /// With its percent sign if it has one.
    pub name: String,
    pub ty: Type,
}

/// Index into [`Function::registers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reg(pub u32);

/// Index into [`Function::labels`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LabelId(pub u32);

#[derive(Clone, Debug, PartialEq)]
pub struct Label {
    pub name: String,
    /// The instruction it stands before; the count of instructions if it is at the end.
    pub at: u32,
    /// `.branchtargets`: the labels of a table for `brx.idx`; empty for an ordinary label.
    pub targets: Vec<LabelId>,
}

/// Where an instruction comes from in the CUDA source, from the innermost inlined call outwards.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// Number of the file, line and column of `.loc`.
    pub file: u32,
    pub line: u32,
    pub column: u32,
    /// Where the function it belongs to was inlined: an index of an earlier place.
    pub inlined_at: Option<u32>,
}

/// An instruction (chapter 9).
#[derive(Clone, Debug, PartialEq)]
pub struct Instruction {
    /// The guard: run where the register is true, or (with `negated`) where it is false.
    pub guard: Option<Guard>,
    /// The first word: `ld`, `mma`, `cp`.
    pub opcode: String,
    /// The words behind it without their dots: `["global", "nc", "v4", "u32"]`, `["sync", "aligned"]`,
    /// `["async", "bulk", "shared::cluster", "global"]`.
    pub modifiers: Vec<String>,
    pub operands: Vec<Operand>,
    /// Line of the PTX.
    pub line: u32,
    /// Index into [`Function::places`]; `None` without `-lineinfo`.
    pub at: Option<u32>,
}

impl Instruction {
    /// The instruction's name with all modifiers: `ld.global.nc.v4.u32`.
    pub fn name(&self) -> String {
        let mut name = self.opcode.clone();
        for modifier in &self.modifiers {
            name.push('.');
            name.push_str(modifier);
        }
        name
    }

    pub fn has(&self, modifier: &str) -> bool {
        self.modifiers.iter().any(|m| m == modifier)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    pub register: Reg,
    pub negated: bool,
}

/// An operand (chapter 6).
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    Register(Reg),
    /// `!%p1`.
    Negated(Reg),
    /// A whole number; `0x..U` and negative ones as their 64-bit pattern.
    Integer(i64),
    /// `0f3F800000`: the bits of an f32.
    Float32(u32),
    /// `0d3FF0000000000000`, or a decimal number with a point: the bits of an f64.
    Float64(u64),
    /// `%tid.x`: the special register `tid`, and the axis 0, 1, 2 if it has one.
    Special(String, Option<u8>),
    /// The address of a variable, plus an offset: `_ZZ3fooE4tile+16`.
    Symbol(String, i64),
    /// `{%f1, %f2}`; elements may be registers, numbers, or `Sink`.
    Vector(Vec<Operand>),
    /// `[%rd1+16]`, `[name+4]`, `[16]`.
    Address(Box<Operand>, i64),
    /// `[%rd1, {%r1, %r2}]`: a tensor map (the operand is a register or symbol) and coordinates.
    Tensor(Box<Operand>, Vec<Operand>),
    Label(LabelId),
    /// `%p1|%p2`, `%r1|%p1`: two results.
    Pair(Box<Operand>, Box<Operand>),
    /// `_`: a result that nobody wants.
    Sink,
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format!("{self:?}").to_lowercase())
    }
}
