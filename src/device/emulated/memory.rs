//! The memory of the emulated device: named allocations between guard zones, poisoned, with a shadow
//! per byte on a checked device. Freed memory stays in quarantine for a while, so that a use after
//! free is reported as such.

use std::alloc::{Layout, alloc, dealloc};
use std::collections::VecDeque;
use std::sync::Arc;

use super::sanitizer;
use super::shadow::{Byte, HOST, shadow};
use crate::device::arena::{self, Usage};
use crate::device::launch::DevicePtr;
use crate::error::{Error, Result};

/// `cudaMalloc` promises at least this.
const ALIGN: usize = 256;
/// Guarded bytes before and after every allocation; touching them is a fault.
const GUARD: usize = 256;
const GUARD_BYTE: u8 = 0xFB;
/// f32 and bf16 read NaN from it.
pub const POISON: u8 = 0xFF;
/// Freed bytes kept before their addresses are given back.
const QUARANTINE: usize = 64 << 20;

/// One allocation. Its bytes belong to kernels and to the host in turn, like device memory.
pub struct Allocation {
    pub name: String,
    pub start: u64,
    pub len: usize,
    pub shadow: Box<[Byte]>,
    base: *mut u8,
    layout: Layout,
}

// SAFETY: `base` is owned by the allocation; its bytes are only touched by running kernels and, in
// between, by the methods of `Memory`, as device memory is.
unsafe impl Send for Allocation {}
// SAFETY: as above.
unsafe impl Sync for Allocation {}

impl Allocation {
    fn new(name: &str, len: usize, checked: bool) -> Result<Self> {
        let out_of_memory = || {
            Error::OutOfMemory(format!("emulated device: {len} bytes for '{name}' are not there"))
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
        sanitizer::poison(base, GUARD, true);
        sanitizer::poison(base.wrapping_add(GUARD + len), GUARD, true);
        let shadow = if checked { shadow(len) } else { Box::default() };
        Ok(Self { name: name.into(), start: base as u64 + GUARD as u64, len, shadow, base, layout })
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
        sanitizer::poison(self.base, self.layout.size(), false);
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
    fn range(&self, op: &'static str, ptr: DevicePtr, len: usize) -> Result<(&Allocation, usize)> {
        match self.find(ptr.0) {
            Some(a) if ptr.0 >= a.start && ptr.0 + len as u64 <= a.end() => {
                Ok((a, (ptr.0 - a.start) as usize))
            }
            _ => Err(Error::Device(format!(
                "{op} of {len} bytes reaches {}",
                self.describe(ptr.0, len.max(1))
            ))),
        }
    }
}

pub struct Memory {
    pub map: Arc<Map>,
    pub checked: bool,
    quarantined: usize,
    usage: Usage,
}

impl Memory {
    pub fn new(checked: bool) -> Self {
        Self { map: Arc::default(), checked, quarantined: 0, usage: Usage::default() }
    }

    pub fn alloc(&mut self, len: usize, name: &str) -> Result<DevicePtr> {
        let new = Arc::new(Allocation::new(name, len, self.checked)?);
        let start = new.start;
        self.usage.live += arena::rounded(len);
        self.usage.peak = self.usage.peak.max(self.usage.live);
        let map = Arc::make_mut(&mut self.map);
        let at = map.live.partition_point(|a| a.start < start);
        map.live.insert(at, new);
        Ok(DevicePtr(start))
    }

    pub fn free(&mut self, ptr: DevicePtr) -> Result<()> {
        let map = Arc::make_mut(&mut self.map);
        let at = map.live.binary_search_by_key(&ptr.0, |a| a.start).map_err(|_| {
            Error::Device(format!(
                "free of {}: not the start of an allocation",
                map.describe(ptr.0, 1)
            ))
        })?;
        let old = map.live.remove(at);
        self.usage.live -= arena::rounded(old.len);
        let intact = old.guards_are_intact();
        let message = format!("something wrote just outside '{}' ({} bytes)", old.name, old.len);
        sanitizer::poison(old.base.wrapping_add(GUARD), old.len, true);
        self.quarantined += old.len;
        map.freed.push_back(old);
        while self.quarantined > QUARANTINE {
            let Some(oldest) = map.freed.pop_front() else { break };
            self.quarantined -= oldest.len;
        }
        if intact { Ok(()) } else { Err(Error::Device(message)) }
    }

    pub fn upload(&self, to: DevicePtr, from: &[u8]) -> Result<()> {
        let (a, offset) = self.map.range("upload", to, from.len())?;
        // SAFETY: `range` checked that the bytes lie within the allocation.
        unsafe { std::ptr::copy(from.as_ptr(), a.base.add(GUARD + offset), from.len()) }
        self.mark(a, offset, from.len());
        Ok(())
    }

    pub fn fill(&self, to: DevicePtr, byte: u8, len: usize) -> Result<()> {
        let (a, offset) = self.map.range("fill", to, len)?;
        // SAFETY: as above.
        unsafe { a.base.add(GUARD + offset).write_bytes(byte, len) }
        self.mark(a, offset, len);
        Ok(())
    }

    fn mark(&self, a: &Allocation, offset: usize, len: usize) {
        if self.checked {
            a.shadow[offset..offset + len].iter().for_each(|b| b.set(HOST));
        }
    }

    pub fn download(&self, from: DevicePtr, to: &mut [u8]) -> Result<()> {
        let (a, offset) = self.map.range("download", from, to.len())?;
        if self.checked {
            let range = &a.shadow[offset..offset + to.len()];
            if let Some(i) = range.iter().position(|b| !b.is_written()) {
                return Err(Error::Device(format!(
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

    pub fn copy(&self, to: DevicePtr, from: DevicePtr, len: usize) -> Result<()> {
        let (source, s) = self.map.range("copy", from, len)?;
        let (target, t) = self.map.range("copy", to, len)?;
        // SAFETY: as above; `copy` allows the ranges to overlap.
        unsafe { std::ptr::copy(source.base.add(GUARD + s), target.base.add(GUARD + t), len) }
        if self.checked {
            for (to, from) in target.shadow[t..t + len].iter().zip(&source.shadow[s..s + len]) {
                to.copy_from(from);
            }
        }
        Ok(())
    }

    /// Bytes held now and at most so far, as the allocator of a GPU counts them.
    pub fn usage(&self) -> Usage {
        Usage { reserved: self.usage.live, ..self.usage }
    }

    /// Looks for writes just outside the allocations (a plain device sees them only so).
    pub fn check_guards(&self) -> Result<()> {
        match self.map.live.iter().find(|a| !a.guards_are_intact()) {
            None => Ok(()),
            Some(a) => Err(Error::Device(format!(
                "something wrote just outside '{}' ({} bytes)",
                a.name, a.len
            ))),
        }
    }
}
