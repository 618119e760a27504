//! Operands of decoded instructions.

use crate::ptx::ast::Space;

/// A source of 32 bits (or of 16, in the lower half).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Src {
    Slot(u32),
    Value(u32),
}

/// A source of 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Src64 {
    Slot(u32),
    Value(u64),
}

/// A source predicate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SrcPred {
    Slot { slot: u32, negated: bool },
    Value(bool),
}

/// Where a result goes: a slot of 32 bits, of which 16 may be kept, or of 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dst {
    Half(u32),
    Word(u32),
    Long(u32),
    Sink,
}

/// What a store takes: any register, or a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    Word(Src),
    Long(Src64),
}

/// An address: a register or a number, plus an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    pub base: Base,
    pub offset: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    Word(u32),
    Long(u32),
    /// The offset says it all.
    None,
    /// The shared memory of the thread's own block.
    Own,
}

/// A load or store: `n` elements of `bytes` each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    pub space: Space,
    /// `.shared::cluster`: the address may be one of another block's.
    pub is_cluster: bool,
    pub address: Address,
    pub bytes: u8,
    pub n: u8,
}

/// A special register (section 10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    NWarpId,
    SmId,
    GridId,
    LaneMaskEq,
    LaneMaskLe,
    LaneMaskLt,
    LaneMaskGe,
    LaneMaskGt,
    DynamicShared,
    TotalShared,
    ClusterRank,
    ClusterSize,
    ClusterId(u8),
    NClusterId(u8),
    ClusterCtaid(u8),
    ClusterNctaid(u8),
    IsExplicitCluster,
    Clock,
    GlobalTimer,
}
