//! The memory of a device that is executed on the host: named allocations between guard zones, poisoned,
//! with a shadow per byte on a checked device. Freed memory stays in quarantine for a while, so that a use
//! after free is reported as such. Addresses are those of the host.

use std::alloc::{Layout, alloc, dealloc};
use std::collections::VecDeque;
use std::sync::Arc;

use crate::error::MemoryError;
use crate::shadow::{Byte, HOST, shadow};

/// Result of what memory is asked for.
pub type Result<T> = std::result::Result<T, MemoryError>;

/// `cudaMalloc` promises at least this.
const ALIGN: usize = 256;
/// Guarded bytes before and after every allocation; touching them is a fault.
const GUARD: usize = 256;
const GUARD_BYTE: u8 = 0xFB;
/// f32 and bf16 read NaN from it.
pub const POISON: u8 = 0xFF;
/// Freed bytes kept before their addresses are given back.
const QUARANTINE: usize = 64 << 20;

/// Tells a sanitizer that nobody may touch these bytes (first one, count) from now on, or, with `false`,
/// that anybody may again.
pub type Poison = fn(*const u8, usize, bool);

/// What kind of memory it is.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Name of the device in messages.
    pub device: &'static str,
    /// Whether every byte has a shadow.
    pub checked: bool,
    /// The books count allocations in whole multiples of this.
    pub unit: usize,
    pub poison: Poison,
}

impl Options {
    fn rounded(&self, len: usize) -> usize {
        len.max(1).next_multiple_of(self.unit)
    }
}

/// Bytes of allocations, each rounded up to the unit of [`Options`]: now, and the most there ever were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub live: usize,
    pub peak: usize,
}

/// One allocation. Its bytes belong to kernels and to the host in turn, like device memory.
pub struct Allocation {
    pub name: String,
    pub start: u64,
    pub len: usize,
    pub shadow: Box<[Byte]>,
    base: *mut u8,
    layout: Layout,
    poison: Poison,
}

// SAFETY: `base` is owned by the allocation; its bytes are only touched by running kernels and, in
// between, by the methods of `Memory`, as device memory is.
unsafe impl Send for Allocation {}
// SAFETY: as above.
unsafe impl Sync for Allocation {}

impl Allocation {
    fn new(name: &str, len: usize, options: &Options) -> Result<Self> {
        let Options { device, checked, poison, .. } = *options;
        let out_of_memory = || {
            MemoryError::OutOfMemory(format!("{device}: {len} bytes for '{name}' are not there"))
        };
        let total = len.checked_add(2 * GUARD).ok_or_else(out_of_memory)?;
        let layout = Layout::from_size_align(total, ALIGN).map_err(|_| out_of_memory())?;
        // SAFETY: the size is not zero; the writes stay within it.
        let base = unsafe {
            let base = alloc(layout);
            if base.is_null() {
                return Err(out_of_memory());
            }
            base.write_bytes(GUARD_BYTE, GUARD);
            base.add(GUARD).write_bytes(POISON, len);
            base.add(GUARD + len).write_bytes(GUARD_BYTE, GUARD);
            base
        };
        poison(base, GUARD, true);
        poison(base.wrapping_add(GUARD + len), GUARD, true);
        let shadow = if checked { shadow(len) } else { Box::default() };
        let start = base as u64 + GUARD as u64;
        Ok(Self { name: name.into(), start, len, shadow, base, layout, poison })
    }

    fn guards_are_intact(&self) -> bool {
        // SAFETY: both ranges lie within the allocation.
        let (before, after) = unsafe {
            (
                std::slice::from_raw_parts(self.base, GUARD),
                std::slice::from_raw_parts(self.base.add(GUARD + self.len), GUARD),
            )
        };
        before.iter().chain(after).all(|&b| b == GUARD_BYTE)
    }

    fn end(&self) -> u64 {
        self.start + self.len as u64
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        (self.poison)(self.base, self.layout.size(), false);
        // SAFETY: allocated in `new` with this layout, freed once.
        unsafe { dealloc(self.base, self.layout) }
    }
}

/// All allocations, sorted by address; what a launch works on is a snapshot of this.
#[derive(Clone, Default)]
pub struct Map {
    pub live: Vec<Arc<Allocation>>,
    pub freed: VecDeque<Arc<Allocation>>,
}

impl Map {
    /// The live allocation whose guarded range holds `address`, nearest one first.
    pub fn find(&self, address: u64) -> Option<&Arc<Allocation>> {
        let after = self.live.partition_point(|a| a.start - GUARD as u64 <= address);
        let found = &self.live[after.checked_sub(1)?];
        (address < found.end() + GUARD as u64).then_some(found)
    }

    /// What a range of at least one byte runs into that is not within one live allocation.
    pub fn describe(&self, start: u64, len: usize) -> String {
        const NEAR: u64 = 1 << 20;
        let last = start.saturating_add(len as u64 - 1);
        let holds = |a: &&Arc<Allocation>| last >= a.start && start < a.end();
        if let Some(freed) = self.freed.iter().find(holds) {
            let offset = start.saturating_sub(freed.start);
            return format!("byte {offset} of '{}', which was freed", freed.name);
        }
        let before = self.live.iter().rfind(|a| a.end() <= last && a.start <= start);
        let after = self.live.iter().find(|a| start < a.start);
        let past = before.map(|a| (last - a.end() + 1, a)).filter(|p| p.0 < NEAR);
        let short = after.map(|a| (a.start - start, a)).filter(|s| s.0 < NEAR);
        match (past, short) {
            (Some((n, a)), s) if s.is_none_or(|s| n <= s.0) => {
                format!("{n} bytes past the end of '{}' ({} bytes)", a.name, a.len)
            }
            (_, Some((n, a))) => format!("{n} bytes before '{}' ({} bytes)", a.name, a.len),
            _ if start < 4096 => format!("the null pointer plus {start}"),
            _ => format!("{start:#x}, in no allocation"),
        }
    }

    /// The allocation that holds all of `len` bytes from `ptr`, and the offset within.
    fn range(&self, op: &'static str, ptr: u64, len: usize) -> Result<(&Allocation, usize)> {
        let end = ptr.checked_add(len as u64);
        match self.find(ptr) {
            Some(a) if ptr >= a.start && end.is_some_and(|end| end <= a.end()) => {
                Ok((a, (ptr - a.start) as usize))
            }
            _ => Err(MemoryError::Fault(format!(
                "{op} of {len} bytes reaches {}",
                self.describe(ptr, len.max(1))
            ))),
        }
    }
}

/// The memory of one device.
pub struct Memory {
    pub map: Arc<Map>,
    options: Options,
    quarantined: usize,
    usage: Usage,
}

impl Memory {
    pub fn new(options: Options) -> Self {
        Self { map: Arc::default(), options, quarantined: 0, usage: Usage::default() }
    }

    /// Whether every byte has a shadow.
    pub fn is_checked(&self) -> bool {
        self.options.checked
    }

    /// The address of `len` new bytes, poisoned; `name` appears in messages.
    pub fn alloc(&mut self, len: usize, name: &str) -> Result<u64> {
        let new = Arc::new(Allocation::new(name, len, &self.options)?);
        let start = new.start;
        self.usage.live += self.options.rounded(len);
        self.usage.peak = self.usage.peak.max(self.usage.live);
        let map = Arc::make_mut(&mut self.map);
        let at = map.live.partition_point(|a| a.start < start);
        map.live.insert(at, new);
        Ok(start)
    }

    /// Takes an allocation back.
    ///
    /// Errors: no live allocation starts there, or something was written just outside it.
    pub fn free(&mut self, ptr: u64) -> Result<()> {
        let map = Arc::make_mut(&mut self.map);
        let at = map.live.binary_search_by_key(&ptr, |a| a.start).map_err(|_| {
            MemoryError::Fault(format!(
                "free of {}: not the start of an allocation",
                map.describe(ptr, 1)
            ))
        })?;
        let old = map.live.remove(at);
        self.usage.live -= self.options.rounded(old.len);
        let intact = old.guards_are_intact();
        let message = format!("something wrote just outside '{}' ({} bytes)", old.name, old.len);
        (old.poison)(old.base.wrapping_add(GUARD), old.len, true);
        self.quarantined += old.len;
        map.freed.push_back(old);
        while self.quarantined > QUARANTINE {
            let Some(oldest) = map.freed.pop_front() else { break };
            self.quarantined -= oldest.len;
        }
        if intact { Ok(()) } else { Err(MemoryError::Fault(message)) }
    }

    /// Writes from the host. Errors (of this and the next three): a range that is not within one allocation.
    pub fn upload(&self, to: u64, from: &[u8]) -> Result<()> {
        let (a, offset) = self.map.range("upload", to, from.len())?;
        // SAFETY: `range` checked that the bytes lie within the allocation.
        unsafe { std::ptr::copy(from.as_ptr(), a.base.add(GUARD + offset), from.len()) }
        self.mark(a, offset, from.len());
        Ok(())
    }

    /// Writes the same byte over and over.
    pub fn fill(&self, to: u64, byte: u8, len: usize) -> Result<()> {
        let (a, offset) = self.map.range("fill", to, len)?;
        // SAFETY: as above.
        unsafe { a.base.add(GUARD + offset).write_bytes(byte, len) }
        self.mark(a, offset, len);
        Ok(())
    }

    fn mark(&self, a: &Allocation, offset: usize, len: usize) {
        if self.options.checked {
            a.shadow[offset..offset + len].iter().for_each(|b| b.set(HOST));
        }
    }

    /// Reads into the host's memory. Also an error, when checked: bytes that were never written.
    pub fn download(&self, from: u64, to: &mut [u8]) -> Result<()> {
        let (a, offset) = self.map.range("download", from, to.len())?;
        if self.options.checked {
            let range = &a.shadow[offset..offset + to.len()];
            if let Some(i) = range.iter().position(|b| !b.is_written()) {
                return Err(MemoryError::Fault(format!(
                    "download of byte {} of '{}', which was never written",
                    offset + i,
                    a.name
                )));
            }
        }
        // SAFETY: as above.
        unsafe { std::ptr::copy(a.base.add(GUARD + offset), to.as_mut_ptr(), to.len()) }
        Ok(())
    }

    /// Copies within the device; bytes that were never written stay so.
    pub fn copy(&self, to: u64, from: u64, len: usize) -> Result<()> {
        let (source, s) = self.map.range("copy", from, len)?;
        let (target, t) = self.map.range("copy", to, len)?;
        // SAFETY: as above; `copy` allows the ranges to overlap.
        unsafe { std::ptr::copy(source.base.add(GUARD + s), target.base.add(GUARD + t), len) }
        if self.options.checked {
            for (to, from) in target.shadow[t..t + len].iter().zip(&source.shadow[s..s + len]) {
                to.copy_from(from);
            }
        }
        Ok(())
    }

    /// Bytes held now and at most so far.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// Looks for writes just outside the allocations (a plain device sees them only so).
    pub fn check_guards(&self) -> Result<()> {
        match self.map.live.iter().find(|a| !a.guards_are_intact()) {
            None => Ok(()),
            Some(a) => Err(MemoryError::Fault(format!(
                "something wrote just outside '{}' ({} bytes)",
                a.name, a.len
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn options(checked: bool) -> Options {
        Options { device: "test device", checked, unit: 512, poison: |_, _, _| {} }
    }

    fn message<T: std::fmt::Debug>(result: Result<T>) -> String {
        match result {
            Err(MemoryError::Fault(message)) => message,
            other => panic!("no fault: {other:?}"),
        }
    }

    #[test]
    fn bytes_go_in_and_out() {
        let mut memory = Memory::new(options(true));
        let a = memory.alloc(10, "a").unwrap();
        let b = memory.alloc(10, "b").unwrap();
        assert!(a.is_multiple_of(256) && b.is_multiple_of(256));
        memory.upload(a, &[1, 2, 3, 4]).unwrap();
        memory.fill(a + 4, 9, 2).unwrap();
        memory.copy(b + 2, a + 1, 5).unwrap();
        let mut got = [0; 5];
        memory.download(b + 2, &mut got).unwrap();
        assert_eq!(got, [2, 3, 4, 9, 9]);
    }

    #[test]
    fn bytes_that_nobody_wrote_are_poison_and_are_not_downloaded_when_checked() {
        let mut plain = Memory::new(options(false));
        let at = plain.alloc(4, "x").unwrap();
        let mut got = [0; 4];
        plain.download(at, &mut got).unwrap();
        assert!(f32::from_ne_bytes(got).is_nan());
        let mut checked = Memory::new(options(true));
        let (x, y) = (checked.alloc(4, "x").unwrap(), checked.alloc(4, "y").unwrap());
        checked.upload(x, &[1, 2]).unwrap();
        checked.copy(y, x, 4).unwrap();
        let told = message(checked.download(y, &mut got));
        assert_eq!(told, "download of byte 2 of 'y', which was never written");
    }

    #[test]
    fn ranges_end_with_their_allocation() {
        let mut memory = Memory::new(options(false));
        let x = memory.alloc(16, "x").unwrap();
        let past = message(memory.fill(x + 8, 0, 9));
        assert_eq!(past, "fill of 9 bytes reaches 1 bytes past the end of 'x' (16 bytes)");
        let before = message(memory.upload(x - 4, &[0; 2]));
        assert_eq!(before, "upload of 2 bytes reaches 4 bytes before 'x' (16 bytes)");
        assert!(message(memory.fill(x, 0, usize::MAX)).starts_with("fill of"));
        assert!(message(memory.fill(8, 0, 1)).ends_with("the null pointer plus 8"));
        let unknown = message(memory.copy(x, x ^ 1 << 46, 1));
        assert!(unknown.ends_with("in no allocation"), "{unknown}");
    }

    #[test]
    fn memory_that_was_freed_is_known_until_it_leaves_quarantine() {
        let mut memory = Memory::new(options(false));
        let x = memory.alloc(16, "x").unwrap();
        memory.free(x).unwrap();
        let told = message(memory.fill(x + 3, 0, 1));
        assert_eq!(told, "fill of 1 bytes reaches byte 3 of 'x', which was freed");
        assert!(message(memory.free(x)).starts_with("free of byte 0 of 'x', which was freed"));
        let large = memory.alloc(QUARANTINE, "large").unwrap();
        memory.free(large).unwrap();
        let freed: Vec<_> = memory.map.freed.iter().map(|a| a.name.as_str()).collect();
        assert_eq!(freed, ["large"]);
    }

    #[test]
    fn writes_in_the_guard_zones_are_found() {
        for offset in [-1, 16] {
            let mut memory = Memory::new(options(false));
            let x = memory.alloc(16, "x").unwrap();
            memory.check_guards().unwrap();
            let outside = x.wrapping_add_signed(offset) as *mut u8;
            // SAFETY: a byte of the guard zone, which belongs to the same block of the host's allocator.
            unsafe { outside.write(0) };
            let told = "something wrote just outside 'x' (16 bytes)";
            assert_eq!(message(memory.check_guards()), told);
            assert_eq!(message(memory.free(x)), told);
        }
    }

    #[test]
    fn the_books_count_whole_units() {
        let mut memory = Memory::new(options(false));
        let a = memory.alloc(1, "a").unwrap();
        let b = memory.alloc(513, "b").unwrap();
        memory.free(a).unwrap();
        assert_eq!(memory.usage(), Usage { live: 1024, peak: 1536 });
        memory.free(b).unwrap();
        assert_eq!(memory.usage(), Usage { live: 0, peak: 1536 });
    }

    #[test]
    fn what_no_machine_has_is_an_error() {
        let told = format!("test device: {} bytes for 'x' are not there", usize::MAX);
        let refused = Memory::new(options(false)).alloc(usize::MAX, "x");
        assert_eq!(refused, Err(MemoryError::OutOfMemory(told)));
    }

    /// The calls of the hook: offset from the allocation, bytes, whether they are closed.
    static CALLS: Mutex<Vec<(usize, usize, bool)>> = Mutex::new(Vec::new());

    #[test]
    fn a_sanitizer_is_told_what_nobody_may_touch() {
        fn note(at: *const u8, bytes: usize, poisoned: bool) {
            CALLS.lock().unwrap().push((at as usize, bytes, poisoned));
        }
        let mut memory = Memory::new(Options { poison: note, ..options(false) });
        let x = memory.alloc(300, "x").unwrap();
        memory.free(x).unwrap();
        drop(memory);
        let x = x as usize;
        let (before, after, all) = ((x - 256, 256), (x + 300, 256), (x - 256, 812));
        let expected = [(before, true), (after, true), ((x, 300), true), (all, false)];
        let expected = expected.map(|((at, bytes), poisoned)| (at, bytes, poisoned));
        assert_eq!(*CALLS.lock().unwrap(), expected);
    }
}
