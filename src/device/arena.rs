//! Bookkeeping of device memory: large segments from the driver, cut into blocks by best fit, merged
//! with free neighbours when they come back. No address is touched here, so all of it is tested
//! without a GPU.
//!
//! Blocks are handed out again at once: one stream orders their uses. The same sequence of requests
//! gives the same addresses, which is what makes a step capturable as a graph. Blocks of a capture
//! come from segments of their own, which serve no other request while the graph lives.

use std::collections::{BTreeMap, BTreeSet, HashMap};

/// All blocks are multiples of this and aligned to it.
pub const UNIT: usize = 512;
/// Requests up to this share segments of [`SMALL_SEGMENT`], so that they do not splinter large ones.
const SMALL: usize = 1 << 20;
const SMALL_SEGMENT: usize = 2 << 20;
const LARGE_SEGMENT: usize = 32 << 20;

/// Whose memory a segment is: everybody's, or that of one graph.
pub type Owner = u64;
/// The owner of what no graph keeps.
pub const SHARED: Owner = 0;

/// What kind of segment serves a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Pool {
    owner: Owner,
    small: bool,
}

struct Block {
    bytes: usize,
    /// Address of the segment it was cut from.
    segment: u64,
    pool: Pool,
    /// What holds it; `None` when it is free.
    name: Option<&'static str>,
}

/// Bytes of device memory by what becomes of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Held by tensors now, and the most there ever were.
    pub live: usize,
    pub peak: usize,
    /// Got from the driver.
    pub reserved: usize,
}

/// Device memory in segments, from which blocks are handed out.
#[derive(Default)]
pub struct Arena {
    /// Every block by address; the blocks of a segment lie one behind the other.
    blocks: BTreeMap<u64, Block>,
    /// Free blocks by size, then address: the first that is large enough is the best fit.
    free: HashMap<Pool, BTreeSet<(usize, u64)>>,
    segments: BTreeMap<u64, usize>,
    usage: Usage,
    /// Bytes held by name, now and when the most was held.
    by_name: BTreeMap<&'static str, usize>,
    peak_by_name: BTreeMap<&'static str, usize>,
    current: Owner,
    last_owner: Owner,
    /// Blocks of others that were given back during a capture: the graph may still use them.
    held: HashMap<Owner, Vec<u64>>,
}

/// What a request really takes.
fn rounded(bytes: usize) -> usize {
    bytes.max(1).next_multiple_of(UNIT)
}

impl Arena {
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// Starts a new measurement of the peak.
    #[cfg(feature = "cuda")]
    pub fn reset_peak(&mut self) {
        self.usage.peak = self.usage.live;
        self.peak_by_name = self.by_name.clone();
    }

    /// Name and bytes at the moment when the most was held, the largest first.
    pub fn peak_by_class(&self) -> Vec<(&'static str, usize)> {
        let mut rows: Vec<_> =
            self.peak_by_name.iter().map(|(&name, &n)| (name, n)).filter(|r| r.1 > 0).collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.1));
        rows
    }

    fn pool(&self, bytes: usize) -> Pool {
        Pool { owner: self.current, small: bytes <= SMALL }
    }

    /// A block of at least `bytes`; `None` when a segment of [`Arena::segment_bytes`] must be added
    /// first.
    pub fn take(&mut self, bytes: usize, name: &'static str) -> Option<u64> {
        let bytes = rounded(bytes);
        let pool = self.pool(bytes);
        let free = self.free.get_mut(&pool)?;
        let &(size, at) = free.range((bytes, 0)..).next()?;
        free.remove(&(size, at));
        let block = self.blocks.get_mut(&at)?;
        block.name = Some(name);
        let (rest, segment) = (size - bytes, block.segment);
        if rest >= UNIT {
            block.bytes = bytes;
            let behind = at + bytes as u64;
            free.insert((rest, behind));
            self.blocks.insert(behind, Block { bytes: rest, segment, pool, name: None });
        }
        // What is left of the block, if less than a unit, is held as well.
        let held = if rest >= UNIT { bytes } else { size };
        self.usage.live += held;
        *self.by_name.entry(name).or_default() += held;
        if self.usage.live > self.usage.peak {
            self.usage.peak = self.usage.live;
            self.peak_by_name.clone_from(&self.by_name);
        }
        Some(at)
    }

    /// How much to ask the driver for when `take(bytes)` finds nothing.
    pub fn segment_bytes(bytes: usize) -> usize {
        let bytes = rounded(bytes);
        if bytes <= SMALL {
            SMALL_SEGMENT
        } else {
            bytes.max(LARGE_SEGMENT).next_multiple_of(SMALL_SEGMENT)
        }
    }

    /// Adds memory that the driver gave for a request of `bytes`.
    pub fn add_segment(&mut self, at: u64, segment_bytes: usize, bytes: usize) {
        let pool = self.pool(rounded(bytes));
        self.segments.insert(at, segment_bytes);
        self.usage.reserved += segment_bytes;
        self.blocks.insert(at, Block { bytes: segment_bytes, segment: at, pool, name: None });
        self.free.entry(pool).or_default().insert((segment_bytes, at));
    }

    /// Takes a block back. False when there is no such block or it is free already.
    pub fn give(&mut self, at: u64) -> bool {
        let Some(block) = self.blocks.get(&at).filter(|b| b.name.is_some()) else { return false };
        if self.current != SHARED && block.pool.owner != self.current {
            let held = self.held.entry(self.current).or_default();
            if held.contains(&at) {
                return false;
            }
            held.push(at);
            return true;
        }
        self.release(at);
        true
    }

    fn release(&mut self, at: u64) {
        let Some(mut block) = self.blocks.remove(&at) else { return };
        self.usage.live -= block.bytes;
        if let Some(held) = block.name.take().and_then(|name| self.by_name.get_mut(name)) {
            *held -= block.bytes;
        }
        let mut at = at;
        let behind = at + block.bytes as u64;
        let merges = |other: &Block| other.segment == block.segment && other.name.is_none();
        let next = self.blocks.get(&behind).filter(|b| merges(b)).map(|b| b.bytes);
        let before = self.blocks.range(..at).next_back().filter(|(_, b)| merges(b));
        let before = before.map(|(&start, b)| (start, b.bytes));
        let free = self.free.entry(block.pool).or_default();
        if let Some(bytes) = next {
            self.blocks.remove(&behind);
            free.remove(&(bytes, behind));
            block.bytes += bytes;
        }
        if let Some((start, bytes)) = before {
            free.remove(&(bytes, start));
            block.bytes += bytes;
            at = start;
        }
        free.insert((block.bytes, at));
        self.blocks.insert(at, block);
    }

    /// From now on blocks come from memory of a new owner, until [`Arena::end_private`].
    pub fn begin_private(&mut self) -> Owner {
        self.last_owner += 1;
        self.current = self.last_owner;
        self.current
    }

    pub fn end_private(&mut self) {
        self.current = SHARED;
    }

    /// The owner is gone: its memory is everybody's again.
    pub fn disown(&mut self, owner: Owner) {
        for at in self.held.remove(&owner).unwrap_or_default() {
            self.release(at);
        }
        for block in self.blocks.values_mut().filter(|b| b.pool.owner == owner) {
            block.pool.owner = SHARED;
        }
        for small in [false, true] {
            let free = self.free.remove(&Pool { owner, small }).unwrap_or_default();
            self.free.entry(Pool { owner: SHARED, small }).or_default().extend(free);
        }
    }

    /// Whether the driver's memory at `at` is still ours.
    pub fn has(&self, at: u64) -> bool {
        let before = self.segments.range(..=at).next_back();
        before.is_some_and(|(&start, &bytes)| at - start < bytes as u64)
    }

    /// Forgets every segment of which nothing is in use, and returns their addresses for the driver.
    /// Those of a graph are in use as long as it lives, whether or not a tensor is in them.
    pub fn take_unused_segments(&mut self) -> Vec<u64> {
        let unused = |(at, size): (&u64, &usize)| {
            let whole = self.blocks.get(at)?;
            let is_unused = whole.name.is_none() && whole.bytes == *size;
            (is_unused && whole.pool.owner == SHARED).then_some((*at, *size, whole.pool))
        };
        let unused: Vec<_> = self.segments.iter().filter_map(unused).collect();
        for &(at, size, pool) in &unused {
            self.segments.remove(&at);
            self.blocks.remove(&at);
            self.free.entry(pool).or_default().remove(&(size, at));
            self.usage.reserved -= size;
        }
        unused.into_iter().map(|(at, ..)| at).collect()
    }

    /// The `n` names that hold the most bytes: name, blocks, bytes.
    #[cfg(any(feature = "cuda", test))]
    pub fn largest(&self, n: usize) -> Vec<(&'static str, usize, usize)> {
        let mut by_name: BTreeMap<(&'static str, usize), usize> = BTreeMap::new();
        for block in self.blocks.values() {
            if let Some(name) = block.name {
                *by_name.entry((name, block.bytes)).or_default() += 1;
            }
        }
        let mut rows: Vec<_> =
            by_name.into_iter().map(|((name, b), count)| (name, count, b * count)).collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.2));
        rows.truncate(n);
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, Rng};

    /// Serves requests from a made-up driver.
    struct Driver {
        arena: Arena,
        next: u64,
        segments: usize,
    }

    impl Driver {
        fn new() -> Self {
            Self { arena: Arena::default(), next: 1 << 20, segments: 0 }
        }

        fn alloc(&mut self, bytes: usize) -> u64 {
            if let Some(at) = self.arena.take(bytes, "x") {
                return at;
            }
            let size = Arena::segment_bytes(bytes);
            assert!(size >= bytes);
            self.arena.add_segment(self.next, size, bytes);
            // A gap: blocks of two segments must never merge, even when the next has none.
            self.next += size as u64 + if self.segments.is_multiple_of(2) { 0 } else { 4096 };
            self.segments += 1;
            self.arena.take(bytes, "x").unwrap()
        }
    }

    #[test]
    fn blocks_do_not_overlap_and_all_memory_comes_back() {
        let mut rng = Rng::new(5, Purpose::Test, 0, 0, 0);
        let mut driver = Driver::new();
        let mut live: Vec<(u64, usize)> = Vec::new();
        for _ in 0..4000 {
            if live.len() < 5 || rng.range(0.0, 1.0) < 0.52 {
                let bytes = rng.range(3.0, 26.0).exp2() as usize;
                let at = driver.alloc(bytes);
                assert_eq!(at % UNIT as u64, 0);
                for &(other, len) in &live {
                    assert!(at + bytes as u64 <= other || other + len as u64 <= at);
                }
                live.push((at, bytes));
            } else {
                let i = rng.range(0.0, live.len() as f64) as usize;
                assert!(driver.arena.give(live.swap_remove(i).0));
            }
        }
        let held: usize = live.iter().map(|l| rounded(l.1)).sum();
        assert_eq!(driver.arena.usage().live, held);
        for (at, _) in live {
            assert!(driver.arena.give(at));
            assert!(!driver.arena.give(at), "given back twice");
        }
        assert_eq!(driver.arena.usage().live, 0);
        // Everything has merged again, so every segment can go.
        assert_eq!(driver.arena.take_unused_segments().len(), driver.segments);
        assert_eq!(driver.arena.usage().reserved, 0);
        assert!(driver.arena.blocks.is_empty());
    }

    #[test]
    fn a_repeated_step_repeats_its_addresses_and_needs_nothing_new() {
        let mut driver = Driver::new();
        let step = |driver: &mut Driver| {
            let sizes = [100, 5 << 20, 70 << 20, 3000, 900_000, 5 << 20];
            let all: Vec<u64> = sizes.iter().map(|&n| driver.alloc(n)).collect();
            all.iter().rev().for_each(|&at| assert!(driver.arena.give(at)));
            all
        };
        let first = step(&mut driver);
        let segments = driver.segments;
        for _ in 0..3 {
            assert_eq!(step(&mut driver), first);
        }
        assert_eq!(driver.segments, segments);
    }

    #[test]
    fn a_graph_keeps_what_it_uses() {
        let mut driver = Driver::new();
        let input = driver.alloc(4096);
        let owner = driver.arena.begin_private();
        let inside = driver.alloc(4096);
        let passing = driver.alloc(4096);
        assert!(driver.arena.give(passing));
        assert_eq!(driver.alloc(4096), passing, "memory repeats within the graph");
        assert!(driver.arena.give(input), "dropped inside, but the graph reads it");
        assert!(!driver.arena.give(input));
        driver.arena.end_private();
        for _ in 0..40 {
            let outside = driver.alloc(4096);
            assert!(![input, inside, passing].contains(&outside));
        }
        assert!(driver.arena.give(inside));
        assert_ne!(driver.alloc(4096), inside, "the graph still writes it");
        assert!(driver.arena.take_unused_segments().is_empty(), "nor does the driver get it");
        assert!(driver.arena.has(inside) && driver.arena.has(passing + 4095));
        driver.arena.disown(owner);
        let reused: Vec<u64> = (0..3000).map(|_| driver.alloc(4096)).collect();
        assert!(reused.contains(&input) && reused.contains(&inside));
    }

    #[test]
    fn the_largest_holders_are_named() {
        let mut driver = Driver::new();
        driver.alloc(1 << 20);
        driver.alloc(1 << 20);
        driver.alloc(3 << 19);
        assert_eq!(driver.arena.largest(1), [("x", 2, 2 << 20)]);
        assert_eq!(driver.arena.largest(5).len(), 2);
    }
}
