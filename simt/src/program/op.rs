//! Decoded instructions: operands are slots, arithmetic is a function over the lanes of a warp.

use super::lanes::{
    Compare32, Compare64, Fn1, Fn2, Fn3, Mix32To64, Mix64To32, MulWide, Shift64, Wide3,
};
use crate::hopper::descriptor::Major;
use crate::hopper::wgmma::Input;
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
}

/// A load or store: `n` elements of `bytes` each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    pub space: Space,
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

/// What an instruction does. Names of arithmetic shapes: number of sources, then their widths.
#[derive(Clone, Copy)]
pub enum Op {
    Nop,
    Mov {
        d: u32,
        a: Src,
    },
    Mov64 {
        d: u32,
        a: Src64,
    },
    MovPred {
        d: u32,
        a: SrcPred,
    },
    Special {
        d: Dst,
        which: Special,
    },
    /// Two halves into a whole, and back.
    Pack32 {
        d: u32,
        low: Src,
        high: Src,
    },
    Pack64 {
        d: u32,
        low: Src,
        high: Src,
    },
    /// Four 16-bit pieces into 64 bits.
    Pack64Of4 {
        d: u32,
        parts: [Src; 4],
    },
    Unpack32 {
        low: Dst,
        high: Dst,
        a: Src,
    },
    Unpack64 {
        low: Dst,
        high: Dst,
        a: Src64,
    },

    A1 {
        f: Fn1<u32>,
        d: u32,
        a: Src,
    },
    A2 {
        f: Fn2<u32>,
        d: u32,
        a: Src,
        b: Src,
    },
    A3 {
        f: Fn3<u32>,
        d: u32,
        a: Src,
        b: Src,
        c: Src,
    },
    L1 {
        f: Fn1<u64>,
        d: u32,
        a: Src64,
    },
    L2 {
        f: Fn2<u64>,
        d: u32,
        a: Src64,
        b: Src64,
    },
    L3 {
        f: Fn3<u64>,
        d: u32,
        a: Src64,
        b: Src64,
        c: Src64,
    },
    /// 32 to 64 bits.
    Widen {
        f: Mix32To64,
        d: u32,
        a: Src,
    },
    /// 64 to 32 bits.
    Narrow {
        f: Mix64To32,
        d: u32,
        a: Src64,
    },
    /// Two words to a long: `mul.wide`.
    MulWide {
        f: MulWide,
        d: u32,
        a: Src,
        b: Src,
    },
    /// Two words and a long to a long: `mad.wide`.
    MadWide {
        f: Wide3,
        d: u32,
        a: Src,
        b: Src,
        c: Src64,
    },
    /// A long by a word: shifts.
    Shift64 {
        f: Shift64,
        d: u32,
        a: Src64,
        b: Src,
    },
    /// An A2 that faults where the second source is zero.
    Divide {
        f: Fn2<u32>,
        d: u32,
        a: Src,
        b: Src,
    },
    Divide64 {
        f: Fn2<u64>,
        d: u32,
        a: Src64,
        b: Src64,
    },
    Lop3 {
        table: u8,
        d: u32,
        a: Src,
        b: Src,
        c: Src,
    },
    Prmt {
        d: u32,
        a: Src,
        b: Src,
        c: Src,
    },

    Setp {
        f: Compare32,
        d: u32,
        inverse: Option<u32>,
        a: Src,
        b: Src,
        with: Option<(BoolOp, SrcPred)>,
    },
    Setp64 {
        f: Compare64,
        d: u32,
        inverse: Option<u32>,
        a: Src64,
        b: Src64,
        with: Option<(BoolOp, SrcPred)>,
    },
    /// `set`: a word of `yes` where the comparison holds, 0 elsewhere.
    Set {
        f: Compare32,
        d: u32,
        yes: u32,
        a: Src,
        b: Src,
    },
    Select {
        d: u32,
        a: Src,
        b: Src,
        p: SrcPred,
    },
    Select64 {
        d: u32,
        a: Src64,
        b: Src64,
        p: SrcPred,
    },
    Pred {
        op: BoolOp,
        d: u32,
        a: SrcPred,
        b: SrcPred,
    },
    NotPred {
        d: u32,
        a: SrcPred,
    },

    Load {
        at: Access,
        d: [Dst; 4],
        is_signed: bool,
        is_read_only: bool,
    },
    Store {
        at: Access,
        from: [Value; 4],
    },
    LoadParam {
        offset: u32,
        bytes: u8,
        n: u8,
        d: [Dst; 4],
        is_signed: bool,
    },
    Cvta {
        which: Cvta,
        d: u32,
        a: Src64,
    },
    CvtaWord {
        which: Cvta,
        d: u32,
        a: Src,
    },
    /// `isspacep`.
    IsSpace {
        space: Space,
        d: u32,
        a: Src64,
    },
    Atomic {
        at: Access,
        op: AtomicOp,
        d: Dst,
        b: Value,
        c: Value,
    },

    CopyAsync {
        to: Address,
        from: Address,
        bytes: u8,
        size: Option<Src>,
        ignore: Option<SrcPred>,
    },
    CopyCommit,
    /// Leaves at most that many groups open.
    CopyWait {
        open: u32,
        /// `wait_all`: what no group holds yet becomes one first.
        commits: bool,
    },
    LdMatrix {
        n: u8,
        transposed: bool,
        d: [u32; 4],
        from: Address,
    },
    StMatrix {
        n: u8,
        transposed: bool,
        to: Address,
        a: [Src; 4],
    },
    Mma {
        kind: MmaKind,
        d: [u32; 4],
        a: [Src; 4],
        b: [Src; 2],
        c: [Src; 4],
    },

    Branch {
        target: u32,
        is_uniform: bool,
    },
    BranchTable {
        table: u32,
        index: Src,
        is_uniform: bool,
    },
    Exit,
    Trap,

    Barrier {
        id: Src,
        threads: Option<Src>,
        waits: bool,
        is_aligned: bool,
        reduce: Reduce,
        d: Dst,
        d_pred: u32,
        p: SrcPred,
    },
    WarpSync {
        mask: Src,
    },
    Shuffle {
        how: Shuffle,
        d: u32,
        p: Option<u32>,
        a: Src,
        b: Src,
        c: Src,
        mask: Src,
    },
    Vote {
        how: Vote,
        d: u32,
        p: SrcPred,
        mask: Src,
    },
    MatchAny {
        d: u32,
        a: Src,
        mask: Src,
    },
    MatchAll {
        d: u32,
        p: Option<u32>,
        a: Src,
        mask: Src,
    },
    MatchAny64 {
        d: u32,
        a: Src64,
        mask: Src,
    },
    MatchAll64 {
        d: u32,
        p: Option<u32>,
        a: Src64,
        mask: Src,
    },
    Redux {
        op: AtomicOp,
        d: u32,
        a: Src,
        mask: Src,
    },
    ActiveMask {
        d: u32,
    },
    Elect {
        d: Dst,
        p: u32,
        mask: Src,
    },
    /// `membar`, `fence`: orders this thread's accesses for others.
    Fence,

    /// `fence.proxy.async`: what was done so far, the asynchronous proxy sees.
    FenceProxy,
    /// `fence.mbarrier_init`.
    FenceMbarrierInit,
    /// The shared address of another block of the cluster.
    Mapa {
        d: Dst,
        a: Value,
        rank: Src,
    },
    ClusterBarrier {
        waits: bool,
        is_relaxed: bool,
    },
    Mbarrier {
        action: MbarrierOp,
        at: Address,
        space: Space,
    },
    MbarrierWait {
        at: Address,
        space: Space,
        what: WaitFor,
        p: u32,
        tries: bool,
        is_relaxed: bool,
    },
    /// `cp.async.mbarrier.arrive`.
    CopyArrive {
        at: Address,
        space: Space,
        is_counted: bool,
    },
    BulkCopy {
        way: BulkWay,
        to: Address,
        from: Address,
        bytes: Src,
        barrier: Option<Address>,
        multicast: Option<Src>,
    },
    TensorCopy {
        way: TensorWay,
        rank: u8,
        shared: Address,
        map: Src64,
        coordinates: [Src; 5],
        offsets: [Src; 3],
        barrier: Option<Address>,
        multicast: Option<Src>,
    },
    BulkPrefetch {
        from: Address,
        bytes: Src,
    },
    BulkCommit,
    /// Leaves at most that many groups open.
    BulkWait {
        open: u32,
        reads_only: bool,
    },
    ProductFence,
    ProductCommit,
    ProductWait {
        open: u32,
    },
    /// `wgmma.mma_async`: an index of the program's products.
    Product(u32),
    SetMaxRegisters {
        count: u32,
        is_more: bool,
    },
}

/// What is done to a barrier in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MbarrierOp {
    Init { count: Src },
    Invalidate,
    ExpectTx { bytes: Src },
    CompleteTx { bytes: Src },
    Arrive { how: Arrive, count: Option<Src>, tx: Option<Src>, state: Dst, is_relaxed: bool },
    PendingCount { d: Dst, state: Src64 },
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

/// A of a product of a warpgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FactorA {
    Registers([Src; 4]),
    /// A descriptor.
    Shared(Src64),
}

/// A product of a warpgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Product {
    pub input: Input,
    pub n: u32,
    /// The accumulators, which are results as well.
    pub d: Vec<u32>,
    pub a: FactorA,
    pub b: Src64,
    pub scale_d: SrcPred,
    pub negate_a: bool,
    pub negate_b: bool,
    pub a_major: Major,
    pub b_major: Major,
}

impl Product {
    /// Registers that are not to be touched while it is under way.
    pub fn registers(&self) -> impl Iterator<Item = u32> {
        let a: &[Src] = match &self.a {
            FactorA::Registers(sources) => sources,
            FactorA::Shared(_) => &[],
        };
        let a = a.iter().filter_map(|source| match source {
            Src::Slot(slot) => Some(*slot),
            Src::Value(_) => None,
        });
        self.d.iter().copied().chain(a)
    }
}

/// Registers of products that another instruction touches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touch {
    pub reads: Vec<u32>,
    pub writes: Vec<u32>,
    /// A mere copy: to and from.
    pub copy: Option<(u32, u32)>,
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

/// Which unit of a multiprocessor an instruction goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pipe {
    /// Whole numbers, logic, comparisons of them, moves, selection.
    Integer,
    /// f32 sums, products and comparisons.
    Fma,
    /// Conversions and special functions.
    Special,
    LoadStore,
    Tensor,
    /// Branches, barriers, and what else steers.
    Control,
}

/// A decoded instruction.
#[derive(Clone, Copy)]
pub struct Inst {
    pub op: Op,
    pub guard: Option<(u32, bool)>,
    pub pipe: Pipe,
    /// Whether a path may have to wait here.
    pub may_wait: bool,
    /// Whether it touches registers of products of warpgroups without being one.
    pub touches: bool,
    /// Line of the PTX.
    pub line: u32,
    /// Index into the places of the function.
    pub at: Option<u32>,
}
