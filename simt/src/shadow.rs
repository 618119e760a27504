//! What a checked device remembers about every byte of device and shared memory: who wrote it
//! last, and who read it last. From that follow reads of never-written bytes and data races, within a
//! block and between blocks.
//!
//! A stamp names an access: the running block (or cluster of blocks; a number that is never used twice in a
//! process), the thread, and the clock of its warp. Whether it comes before now is asked of the reader's [`View`].

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use crate::blocks::Others;
use crate::clocks::Seen;

/// Packed as block (28 bits), flag (2), thread (14), clock (20). 0: never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp(pub u64);

const CLOCK_BITS: u64 = 20;
const THREAD_BITS: u64 = 14;
const FLAG_AT: u64 = CLOCK_BITS + THREAD_BITS;
const BLOCK_AT: u64 = FLAG_AT + 2;
const LAST_CLOCK: u32 = (1 << CLOCK_BITS) - 1;

/// The "block" that stands for the host.
pub const HOST_BLOCK: u32 = 1;

/// Reserves numbers for the blocks of a launch, and returns the first: stamps of older launches are all
/// smaller. `None` when the process has no such numbers left.
pub fn number_blocks(blocks: u32) -> Option<u32> {
    static NEXT: AtomicU64 = AtomicU64::new(HOST_BLOCK as u64 + 1);
    let first = NEXT.fetch_add(u64::from(blocks), Relaxed);
    (first + u64::from(blocks) <= 1 << (64 - BLOCK_AT)).then_some(first as u32)
}

/// Written by the host (an upload, a fill).
pub const HOST: Stamp = Stamp((HOST_BLOCK as u64) << BLOCK_AT);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flag {
    Plain = 0,
    /// Two atomics never race.
    Atomic = 1,
    /// The target of an asynchronous copy that has not arrived.
    Pending = 2,
    /// Through the asynchronous proxy: a bulk copy, or a matrix product of a warpgroup.
    Async = 3,
}

impl Stamp {
    pub fn new(block: u32, flag: Flag, thread: u32, clock: u32) -> Self {
        // A clock that has reached its end stays there; `precedes` then reports no race rather than
        // a false one.
        Self(
            u64::from(block) << BLOCK_AT
                | (flag as u64) << FLAG_AT
                | u64::from(thread) << CLOCK_BITS
                | u64::from(clock.min(LAST_CLOCK)),
        )
    }

    pub fn block(self) -> u32 {
        (self.0 >> BLOCK_AT) as u32
    }

    pub fn thread(self) -> u32 {
        (self.0 >> CLOCK_BITS) as u32 & ((1 << THREAD_BITS) - 1)
    }

    fn is(self, flag: Flag) -> bool {
        self.0 >> FLAG_AT & 3 == flag as u64
    }

    pub fn is_atomic(self) -> bool {
        self.is(Flag::Atomic)
    }

    pub fn clock(self) -> u32 {
        self.0 as u32 & LAST_CLOCK
    }
}

/// The accessing thread, and what it has seen of the others.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// Stamp of the access itself.
    pub stamp: Stamp,
    /// The thread whose program it is part of: that of the stamp, or the one that started the operation.
    pub owner: u32,
    /// The first block number of this launch: older stamps are history.
    pub first_block: u32,
    pub seen: &'a Seen,
    /// For an access through the asynchronous proxy: what it can see of accesses that went through the
    /// generic one, to objects of that state space.
    pub proxy: Option<&'a Seen>,
    /// What is ordered before this one by atomics on one address (the last-block pattern).
    pub others: Others<'a>,
    /// Where in the code this access is, for the message when a later one races with it.
    pub site: u32,
}

impl View<'_> {
    /// Whether the access `other` of the same block is ordered before this one.
    #[inline]
    pub fn precedes(&self, other: Stamp) -> bool {
        let (thread, clock) = (other.thread(), other.clock());
        (thread == self.owner || clock == LAST_CLOCK || self.seen.has(thread, clock))
            && (self.proxy.is_none() || self.is_visible(other))
    }

    /// Whether the asynchronous proxy, if it makes this access, does not lack a fence behind the access `other`
    /// (8.9.5, 9.7.13.4): it needs one even where the thread itself has made that.
    #[inline(never)]
    fn is_visible(&self, other: Stamp) -> bool {
        match self.proxy {
            Some(proxy) if !other.is(Flag::Async) && other.clock() != LAST_CLOCK => {
                match other.block() == self.stamp.block() {
                    true => proxy.has(other.thread(), other.clock()),
                    false => self.others.proxy_has(other),
                }
            }
            _ => true,
        }
    }

    /// What is wrong with the order of this access and an earlier one with which it is in a race.
    #[cold]
    pub fn trouble(&self, other: Other) -> Trouble {
        let is_ordered = self.proxy.is_some() && !Self { proxy: None, ..*self }.races(other.stamp);
        if is_ordered { Trouble::NoFence(other) } else { Trouble::Race(other) }
    }

    /// Whether this access and the earlier `other` are in a race.
    #[inline(always)]
    fn races(&self, other: Stamp) -> bool {
        if self.stamp.is(Flag::Atomic) && other.is(Flag::Atomic) {
            false
        } else if other.block() == self.stamp.block() {
            !self.precedes(other)
        } else {
            other.block() >= self.first_block && !self.comes_behind(other)
        }
    }

    /// Whether the access `other` of another block in this launch is ordered before this one.
    #[inline(never)]
    fn comes_behind(&self, other: Stamp) -> bool {
        // That an atomic has come is known to all who come to that word later, whatever it released.
        let is_met =
            (self.stamp.is_atomic() || other.is_atomic()) && self.others.know(other.block());
        (is_met || self.others.have(other)) && self.is_visible(other)
    }
}

/// What is wrong with an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    Unwritten,
    /// The bytes are still on their way: of a copy that was started there, and not waited for.
    Pending(u32),
    Race(Other),
    /// The asynchronous proxy would see an older state, or be seen by an earlier read: a `fence.proxy.async` is missing
    /// behind that access.
    NoFence(Other),
    /// Read as if nobody had written it in this launch.
    Changed(Other),
}

/// The earlier access of a race.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Other {
    pub stamp: Stamp,
    pub was_write: bool,
    pub site: u32,
}

/// The shadow of one byte: its last writer, and its last two readers, of different warps where there
/// were several (a write that is in order with both may still race with a third: another schedule,
/// in which that one reads last, finds it).
#[derive(Default)]
pub struct Byte {
    write: AtomicU64,
    reads: [AtomicU64; 2],
    /// Sites of the writer and the readers; only for messages.
    write_site: AtomicU32,
    read_sites: [AtomicU32; 2],
}

impl Byte {
    pub fn set(&self, writer: Stamp) {
        self.write.store(writer.0, Relaxed);
        self.reads[0].store(0, Relaxed);
        self.reads[1].store(0, Relaxed);
    }

    /// The bytes of an asynchronous copy are there.
    pub fn deliver(&self, writer: Stamp, site: u32) {
        self.set(writer);
        self.write_site.store(site, Relaxed);
    }

    pub fn is_written(&self) -> bool {
        self.write.load(Relaxed) != 0
    }

    /// A device-to-device copy takes along whether the byte was written.
    pub fn copy_from(&self, other: &Self) {
        self.set(if other.is_written() { HOST } else { Stamp(0) });
    }

    /// What is wrong with a read that [`Byte::note`] records later: one that an asynchronous operation makes.
    #[inline]
    pub fn peek(&self, view: &View, shared: bool) -> Option<Trouble> {
        let write = Stamp(self.write.load(SeqCst));
        self.after(write, view, shared)
    }

    /// What is wrong with reading behind this write.
    fn after(&self, write: Stamp, view: &View, shared: bool) -> Option<Trouble> {
        let block = view.stamp.block();
        if write.0 == 0 || shared && write.block() != block {
            return Some(Trouble::Unwritten);
        }
        if write.is(Flag::Pending) && write.block() == block {
            return Some(Trouble::Pending(self.write_site.load(Relaxed)));
        }
        view.races(write).then(|| {
            let site = self.write_site.load(Relaxed);
            view.trouble(Other { stamp: write, was_write: true, site })
        })
    }

    /// What is wrong with a read of what is to stay as it is for the whole launch.
    pub fn changed(&self, view: &View) -> Option<Trouble> {
        let stamp = self.writer();
        let site = self.write_site.load(Relaxed);
        (stamp.block() >= view.first_block).then_some(Trouble::Changed(Other {
            stamp,
            was_write: true,
            site,
        }))
    }

    /// Records a read. `shared`: only writes of the same block count as having written.
    #[inline]
    pub fn read(&self, view: &View, shared: bool) -> Option<Trouble> {
        self.note(view);
        self.peek(view, shared)
    }

    /// Records a read that was checked before.
    #[inline]
    pub fn note(&self, view: &View) {
        let now = view.stamp;
        let last = Stamp(self.reads[0].load(Relaxed));
        if last != now {
            let site = self.read_sites[0].load(Relaxed);
            self.read_sites[0].store(view.site, Relaxed);
            if last.block() != now.block() {
                // Blocks run on different OS threads. Each publishes its own access before it
                // looks for the others': at least one of two sees the other.
                self.reads[0].swap(now.0, SeqCst);
                self.read_sites[1].store(site, Relaxed);
                self.reads[1]
                    .store(if last.block() >= view.first_block { last.0 } else { 0 }, SeqCst);
            } else {
                let second = Stamp(self.reads[1].load(Relaxed));
                let warp = now.thread() / 32;
                let keep_second = last.thread() == now.thread()
                    || last.thread() / 32 == warp
                        && second.block() == now.block()
                        && second.thread() / 32 != warp;
                if !keep_second {
                    self.read_sites[1].store(site, Relaxed);
                    self.reads[1].store(last.0, Relaxed);
                }
                self.reads[0].store(now.0, Relaxed);
            }
        }
    }

    /// Takes over all that is known of another byte.
    pub fn assign(&self, other: &Self) {
        self.write.store(other.write.load(Relaxed), Relaxed);
        self.write_site.store(other.write_site.load(Relaxed), Relaxed);
        for i in 0..2 {
            self.reads[i].store(other.reads[i].load(Relaxed), Relaxed);
            self.read_sites[i].store(other.read_sites[i].load(Relaxed), Relaxed);
        }
    }

    /// Who wrote the byte last.
    #[inline]
    pub fn writer(&self) -> Stamp {
        Stamp(self.write.load(SeqCst))
    }

    /// Records a write, or an atomic, which also reads.
    #[inline]
    pub fn write(&self, view: &View, shared: bool) -> Option<Trouble> {
        let now = view.stamp;
        let mut last = Stamp(self.write.load(Relaxed));
        let site = self.write_site.load(Relaxed);
        self.write_site.store(view.site, Relaxed);
        if last.block() == now.block() {
            self.write.store(now.0, Relaxed);
        } else {
            last = Stamp(self.write.swap(now.0, SeqCst));
        }
        let is_there = last.0 != 0 && !(shared && last.block() != now.block());
        if view.proxy.is_some() && last.is(Flag::Pending) && last.block() == now.block() {
            return Some(Trouble::Pending(site));
        }
        if now.is(Flag::Atomic) && !is_there {
            return Some(Trouble::Unwritten);
        }
        if last.0 != 0 && view.races(last) {
            return Some(view.trouble(Other { stamp: last, was_write: true, site }));
        }
        for (read, site) in self.reads.iter().zip(&self.read_sites) {
            let stamp = Stamp(read.load(SeqCst));
            if stamp.0 != 0 && view.races(stamp) {
                let site = site.load(Relaxed);
                return Some(view.trouble(Other { stamp, was_write: false, site }));
            }
        }
        None
    }
}

/// `n` bytes of shadow, never written. Zeroed pages come from the system untouched.
pub fn shadow(n: usize) -> Box<[Byte]> {
    let layout = std::alloc::Layout::array::<Byte>(n);
    let Ok(layout) = layout else { return Box::default() };
    if layout.size() == 0 {
        return Box::default();
    }
    // SAFETY: `Byte` is six atomic integers, for which all zeros is a valid value; the layout is
    // that of `[Byte; n]`, as `Box` will assume when it frees it.
    unsafe {
        let data = std::alloc::alloc_zeroed(layout).cast::<Byte>();
        if data.is_null() {
            std::alloc::handle_alloc_error(layout);
        }
        Box::from_raw(std::ptr::slice_from_raw_parts_mut(data, n))
    }
}
