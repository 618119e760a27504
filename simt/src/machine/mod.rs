//! Execution: a grid of blocks on the threads of the host, the warps of a block in turn on one of them, the lanes
//! of a warp in vector code.

mod access;
mod addition;
mod asynchronous;
mod atomic;
mod barrier;
mod bulk;
mod chunks;
mod cluster;
mod collective;
mod completion;
mod copies;
mod early;
mod exec;
mod matrix;
mod mbarriers;
mod meeting;
mod paths;
mod products;
mod registers;
mod rendezvous;
mod report;
mod scopes;
mod special;
mod traffic;
mod turn;
mod waits;
mod warp;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use rayon::prelude::*;

pub(crate) use self::access::window as window_of;
use crate::blocks::Blocks;
use crate::count::Counts;
use crate::memory::Map;
use crate::program::Program;
use crate::random::Random;
use crate::shadow;

/// The order in which warps, and blocks, are started and resumed, and when asynchronous operations end. A correct
/// deterministic kernel gives the same bits under all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// Operations end as late as possible.
    Ascending,
    /// Operations end as early as possible.
    Descending,
    /// Another order at every pass, from this seed. Operations end at any time, and `mbarrier.try_wait` sometimes
    /// gives up, so that counts depend on the seed where it is used.
    Shuffled(u64),
}

/// A launch of a kernel.
pub struct Launch<'a> {
    pub program: &'a Program,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Blocks of a cluster by axis; `[1, 1, 1]` without clusters.
    pub cluster: [u32; 3],
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
    /// The parameters as they lie in their buffer, [`Program::param_bytes`] long.
    pub params: &'a [u8],
    /// What of global memory there is.
    pub memory: Arc<Map>,
    /// Whether every access is checked for unwritten bytes and races, besides bounds and alignment.
    pub is_checked: bool,
    pub schedule: Schedule,
}

/// What went wrong in a kernel, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub kernel: String,
    pub block: [u32; 3],
    pub warp: u32,
    /// The lanes it is about.
    pub lanes: u32,
    /// Thread of the first of them within its block.
    pub thread: [u32; 3],
    /// Line of the PTX.
    pub line: u32,
    /// The instruction with its modifiers.
    pub instruction: String,
    /// Where in the CUDA source, innermost first; empty without line information.
    pub place: String,
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([bx, by, bz], [x, y, z]) = (self.block, self.thread);
        write!(f, "kernel {}, block ({bx}, {by}, {bz}), thread ({x}, {y}, {z})", self.kernel)?;
        if self.lanes.count_ones() > 1 {
            write!(f, " and {} more of warp {}", self.lanes.count_ones() - 1, self.warp)?;
        }
        if !self.place.is_empty() {
            write!(f, ", {}", self.place)?;
        }
        if self.line == 0 {
            return write!(f, ": {}", self.message);
        }
        write!(f, ", PTX line {} ({}): {}", self.line, self.instruction, self.message)
    }
}

impl std::error::Error for Fault {}

/// Trouble of some lanes; the machine adds where it happened.
#[derive(Debug)]
struct Trouble {
    lanes: u32,
    message: String,
    /// The instruction, where it is not the one that is executed: of a copy that was started before.
    pc: Option<u32>,
}

impl Trouble {
    fn new(lanes: u32, message: impl Into<String>) -> Self {
        Self { lanes, message: message.into(), pc: None }
    }
}

/// What all blocks of a launch share.
struct Grid<'a> {
    launch: &'a Launch<'a>,
    first_block: u32,
    /// Per address of an atomic: what the blocks that have been there let others see of themselves, and of those before
    /// them.
    met: Mutex<HashMap<u64, Blocks>>,
}

impl Grid<'_> {
    /// Where a block of a cluster is in the grid.
    fn block_index(&self, cluster: u32, rank: u32) -> [u32; 3] {
        let [cx, cy, _] = self.launch.cluster;
        let [x, y, _] = self.launch.grid;
        let (across, down) = (x / cx, y / cy);
        let at = [cluster % across, cluster / across % down, cluster / across / down];
        let inner = [rank % cx, rank / cx % cy, rank / cx / cy];
        std::array::from_fn(|i| at[i] * self.launch.cluster[i] + inner[i])
    }

    /// Blocks of a cluster.
    fn cluster_blocks(&self) -> u32 {
        self.launch.cluster.iter().product()
    }

    fn threads(&self) -> u32 {
        self.launch.block.iter().product()
    }

    /// Coordinates of a thread of a block.
    fn thread(&self, thread: u32) -> [u32; 3] {
        let [x, y, _] = self.launch.block;
        [thread % x, thread / x % y, thread / x / y]
    }
}

/// Runs a kernel to its end and counts what it did.
///
/// Errors: of all faults that blocks met, that of the first block.
pub fn run(launch: &Launch) -> Result<Counts, Box<Fault>> {
    let program = launch.program;
    let whole = |message: String| {
        Box::new(Fault {
            kernel: program.name.clone(),
            block: [0; 3],
            warp: 0,
            lanes: 0,
            thread: [0; 3],
            line: 0,
            instruction: "launch".into(),
            place: String::new(),
            message,
        })
    };
    let blocks: u64 = launch.grid.iter().map(|&n| u64::from(n)).product();
    let threads: u64 = launch.block.iter().map(|&n| u64::from(n)).product();
    if launch.params.len() != program.param_bytes() as usize {
        let (got, wanted) = (launch.params.len(), program.param_bytes());
        return Err(whole(format!("{got} bytes of parameters, the kernel has {wanted}")));
    }
    if threads == 0 || threads > 1024 || blocks == 0 {
        return Err(whole(format!("{blocks} blocks of {threads} threads")));
    }
    if program.required_threads.is_some_and(|required| required != launch.block) {
        return Err(whole(format!("blocks of {:?}, where .reqntid says otherwise", launch.block)));
    }
    let size: u64 = launch.cluster.iter().map(|&n| u64::from(n)).product();
    let divides =
        |i: usize| launch.cluster[i] > 0 && launch.grid[i].is_multiple_of(launch.cluster[i]);
    let fits = (0..3).all(divides);
    if !fits || size > 16 || size * (threads.div_ceil(32) + 1) > 512 {
        let (grid, cluster) = (launch.grid, launch.cluster);
        return Err(whole(format!("a grid of {grid:?} blocks in clusters of {cluster:?}")));
    }
    if let Some(wanted) = program.cluster
        && wanted != launch.cluster
    {
        let got = launch.cluster;
        return Err(whole(format!(
            "clusters of {got:?}, where .reqnctapercluster says {wanted:?}"
        )));
    }
    let blocks = blocks / size;
    let blocks = u32::try_from(blocks).map_err(|_| whole("2^32 blocks or more".into()))?;
    // Only checks need numbers of their own.
    let first_block = if launch.is_checked { shadow::number_blocks(blocks) } else { Some(2) };
    let Some(first_block) = first_block else {
        return Err(whole("more than 2^28 checked blocks in one process".into()));
    };
    let grid = Grid { launch, first_block, met: Mutex::default() };
    let order: Vec<u32> = match launch.schedule {
        Schedule::Ascending => (0..blocks).collect(),
        Schedule::Descending => (0..blocks).rev().collect(),
        Schedule::Shuffled(seed) => Random::new(seed).permutation(blocks),
    };
    let stop = AtomicBool::new(false);
    let merged = order
        .par_iter()
        .with_max_len(1)
        .fold(
            || (Counts::new(program), None::<(u32, Box<Fault>)>),
            |(mut counts, mut first), &linear| {
                if !stop.load(Relaxed)
                    && let Err(fault) = cluster::run(&grid, linear, &mut counts)
                {
                    stop.store(true, Relaxed);
                    if first.as_ref().is_none_or(|(n, _)| linear < *n) {
                        first = Some((linear, fault));
                    }
                }
                (counts, first)
            },
        )
        .reduce(
            || (Counts::new(program), None),
            |(mut a, first), (b, other)| {
                a.add(&b);
                let earlier = match (first, other) {
                    (Some(x), Some(y)) => Some(if y.0 < x.0 { y } else { x }),
                    (x, y) => x.or(y),
                };
                (a, earlier)
            },
        );
    match merged {
        (_, Some((_, fault))) => Err(fault),
        (counts, None) => Ok(counts),
    }
}
