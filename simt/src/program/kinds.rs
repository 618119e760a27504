//! Varieties of decoded instructions: which of several things one does.

use super::operand::{Dst, Src, Src64};
use crate::ptx::ast::Space;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BoolOp {
    And,
    Or,
    Xor,
}

impl BoolOp {
    pub fn apply(self, a: u32, b: u32) -> u32 {
        match self {
            Self::And => a & b,
            Self::Or => a | b,
            Self::Xor => a ^ b,
        }
    }
}

/// How a shuffle finds its source lane (9.7.9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shuffle {
    Up,
    Down,
    Bfly,
    Idx,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vote {
    All,
    Any,
    Uni,
    Ballot,
}

/// A whole-number operation of atomics and `redux`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtomicOp {
    Add,
    MinSigned,
    MinUnsigned,
    MaxSigned,
    MaxUnsigned,
    And,
    Or,
    Xor,
    Exchange,
    CompareSwap,
    Increment,
    Decrement,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduce {
    None,
    And,
    Or,
    Popc,
}

/// What a window of addresses a generic one belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cvta {
    /// From a space to generic.
    From(Space),
    /// From generic to a space.
    To(Space),
}

/// What is done to a barrier in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MbarrierOp {
    Init {
        count: Src,
    },
    Invalidate,
    ExpectTx {
        bytes: Src,
    },
    CompleteTx {
        bytes: Src,
    },
    Arrive {
        how: Arrive,
        count: Option<Src>,
        tx: Option<Src>,
        state: Dst,
        is_relaxed: bool,
        /// Of scope `.cluster`.
        is_wide: bool,
    },
    PendingCount {
        d: Dst,
        state: Src64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrive {
    Plain,
    NoComplete,
    Drop,
    DropNoComplete,
}

/// The phase that a wait is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitFor {
    State(Src64),
    Parity(Src),
}

/// Where a bulk copy goes: global to shared memory, back, or to another block's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BulkWay {
    Load,
    Store,
    Across,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorWay {
    Load,
    LoadIm2col,
    Store,
    StoreIm2col,
}

/// The shapes of `mma.sync` that kernels use (9.7.14.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MmaKind {
    Bf16K16,
    F16K16,
    Bf16K8,
    F16K8,
    Tf32K8,
    Tf32K4,
}
