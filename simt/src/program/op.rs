//! Decoded instructions: operands are slots, arithmetic is a function over the lanes of a warp.

use super::lanes::{
    Compare32, Compare64, Fn1, Fn2, Fn3, Mix32To64, Mix64To32, MulWide, Shift64, Wide3,
};
use crate::clocks::Objects;
use crate::ptx::ast::Space;

pub use super::kinds::*;
pub use super::operand::*;
pub use super::product::*;

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
    /// `%is_explicit_cluster`.
    ExplicitCluster {
        d: u32,
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
        /// `None` for a weak one; whether one that is not weak releases.
        strong: Option<bool>,
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
    /// `isspacep`.
    IsSpace {
        space: Space,
        d: u32,
        a: Src64,
    },
    Atomic {
        at: Access,
        op: AtomicOp,
        is_release: bool,
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

    /// `fence.proxy.async`: what was done so far, the asynchronous proxy sees; or what was done to these objects.
    FenceProxy {
        only: Option<Objects>,
    },
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
        /// `.shared::cluster`: it may be in another block.
        is_cluster: bool,
    },
    MbarrierWait {
        at: Address,
        space: Space,
        what: WaitFor,
        p: u32,
        tries: bool,
        is_relaxed: bool,
        /// Of scope `.cluster`.
        is_wide: bool,
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
        /// `cp.reduce`: a store that adds to what is there.
        adds: bool,
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
    /// `griddepcontrol.wait`.
    GridWait,
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

/// Which unit of a multiprocessor an instruction goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pipe {
    /// Whole numbers, logic, comparisons of them, moves, selection.
    Integer,
    /// f32 sums, products and comparisons.
    Fma,
    /// Conversions between types.
    Convert,
    /// Reciprocals, roots, exponentials and the like.
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
