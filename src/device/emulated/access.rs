//! Where a checked kernel's load or store goes, and whether it may.

use std::ops::Range;
use std::sync::OnceLock;

use glmae_simt::blocks::Others;
use glmae_simt::shadow::{Byte, Flag, Stamp, Trouble, View};

use super::block::Block;
use super::symbols::{SharedVariable, Symbols};
use crate::device::launch::{KERNELS, Kernel};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    /// Its flag says whether it is atomic, or will only arrive later.
    Write(Flag),
}

/// The static `__shared__` variables of all checked kernels, by offset from an OS thread's anchor.
#[derive(Default)]
pub struct SharedMap {
    variables: Vec<SharedVariable>,
    low: i64,
    /// Per byte from `low`: index of its variable plus 1.
    owner: Vec<u16>,
}

impl SharedMap {
    /// That of this executable; empty without a symbol table.
    pub fn get() -> &'static Self {
        static MAP: OnceLock<SharedMap> = OnceLock::new();
        MAP.get_or_init(|| Symbols::get().map_or_else(Self::default, |s| Self::new(&s.shared)))
    }

    fn new(variables: &[SharedVariable]) -> Self {
        let low = variables.iter().map(|v| v.offset).min().unwrap_or(0);
        let high = variables.iter().map(|v| v.offset + v.len as i64).max().unwrap_or(low);
        let mut owner = vec![0; (high - low) as usize];
        for (i, v) in variables.iter().enumerate() {
            let start = (v.offset - low) as usize;
            owner[start..start + v.len].fill(i as u16 + 1);
        }
        Self { variables: variables.to_vec(), low, owner }
    }

    /// Which of the variables a kernel may touch: its own, and those of helpers in its file. Those of
    /// other kernels lie right beside them.
    pub fn allowed(&self, kernel: &Kernel) -> Vec<bool> {
        let namespace = format!("glmae_checked_{}", kernel.file);
        let of_other = |v: &SharedVariable| {
            v.function != kernel.name && KERNELS.iter().any(|k| k.name == v.function)
        };
        self.variables.iter().map(|v| v.namespace == namespace && !of_other(v)).collect()
    }

    /// Bytes of the variables that a kernel may touch: what it has of static shared memory, or more.
    pub fn bytes_of(&self, kernel: &Kernel) -> u32 {
        let is_allowed = self.allowed(kernel);
        let sizes =
            self.variables.iter().zip(is_allowed).map(|(v, yes)| if yes { v.len } else { 0 });
        u32::try_from(sizes.sum::<usize>()).unwrap_or(u32::MAX)
    }

    /// Bytes from the first variable to the end of the last.
    pub fn len(&self) -> usize {
        self.owner.len()
    }

    /// Offset from the first variable, when `address` lies among them.
    fn offset(&self, anchor: u64, address: u64) -> Option<usize> {
        let offset = address.wrapping_sub(anchor.wrapping_add_signed(self.low));
        (offset < self.owner.len() as u64).then_some(offset as usize)
    }
}

/// Whether `address` is shared memory of this block.
pub fn is_shared(block: &Block, address: u64) -> bool {
    let dynamic = address.wrapping_sub(block.dynamic) < u64::from(block.launch.config.shared_bytes);
    dynamic || block.launch.shared.offset(block.anchor, address).is_some()
}

/// Checks and records an access of the running thread. Returns what is wrong with it.
pub fn check(block: &Block, at: u64, bytes: usize, access: Access, pc: u64) -> Option<String> {
    if bytes == 0 {
        return None;
    }
    let verb = if access == Access::Read { "read" } else { "write" };
    // SAFETY: the reference ends before any switch.
    let state = unsafe { block.state() };
    if access == Access::Write(Flag::Atomic) && !is_shared(block, at) {
        block.launch.meet(at, block.number, &mut state.seen_blocks);
    }
    let thread = state.current;
    let stamp = match access {
        Access::Read | Access::Write(Flag::Plain) => state.clocks.stamp(thread),
        Access::Write(flag) => state.clocks.stamp_as(thread, flag),
    };
    let view = View {
        stamp,
        first_block: block.launch.first_block,
        seen: state.clocks.seen(thread),
        proxy: None,
        owner: thread,
        others: Others::Whole(&state.seen_blocks),
        site: pc.wrapping_sub(image().start) as u32,
    };

    // What other blocks did to the shared memory of this OS thread is history.
    let shared_view = View { first_block: u32::MAX, ..view };
    let live = &block.launch.map.live;
    if let Some(a) = live.get(state.last_allocation)
        && let Some(offset) = within(at, bytes, a.start, a.len)
    {
        return record(&view, &a.shadow[offset..offset + bytes], access, false)
            .map(|(i, t)| tell(block, t, verb, bytes, offset + i, &a.name));
    }
    let size = block.launch.config.shared_bytes as usize;
    if at.wrapping_sub(block.dynamic) < size as u64 {
        let Some(offset) = within(at, bytes, block.dynamic, size) else {
            return Some(format!(
                "{verb} of {bytes} bytes past the end of dynamic shared memory ({size} bytes)"
            ));
        };
        return record(&shared_view, &block.dynamic_shadow[offset..offset + bytes], access, true)
            .map(|(i, t)| tell(block, t, verb, bytes, offset + i, "dynamic shared memory"));
    }
    let shared = &block.launch.shared;
    if let Some(offset) = shared.offset(block.anchor, at) {
        let owner = shared.owner[offset];
        let last = shared.owner.get(offset + bytes - 1);
        let index = (owner as usize).wrapping_sub(1);
        let allowed = block.launch.allowed.get(index) == Some(&true) && last == Some(&owner);
        let Some(variable) = shared.variables.get(index).filter(|_| allowed) else {
            return Some(format!(
                "{verb} of {bytes} bytes outside every __shared__ variable of this kernel"
            ));
        };
        let start = (variable.offset - shared.low) as usize;
        return record(&shared_view, &block.static_shadow[offset..offset + bytes], access, true)
            .map(|(i, t)| {
                let name = format!("__shared__ {}", variable.name);
                tell(block, t, verb, bytes, offset - start + i, &name)
            });
    }
    let found = live.partition_point(|a| a.start <= at).checked_sub(1);
    if let Some(i) = found
        && let a = &live[i]
        && let Some(offset) = within(at, bytes, a.start, a.len)
    {
        state.last_allocation = i;
        return record(&view, &a.shadow[offset..offset + bytes], access, false)
            .map(|(i, t)| tell(block, t, verb, bytes, offset + i, &a.name));
    }
    if access == Access::Read && image().contains(&at) {
        return None;
    }
    if size > 0 && at.wrapping_sub(block.dynamic.wrapping_sub(64)) < size as u64 + 128 {
        return Some(format!(
            "{verb} of {bytes} bytes outside dynamic shared memory ({size} bytes)"
        ));
    }
    Some(format!("{verb} of {bytes} bytes reaches {}", block.launch.map.describe(at, bytes)))
}

/// Offset of `[at, at + bytes)` within `[start, start + len)`, if it lies there as a whole.
fn within(at: u64, bytes: usize, start: u64, len: usize) -> Option<usize> {
    let offset = at.wrapping_sub(start);
    let end = offset.checked_add(bytes as u64)?;
    (end <= len as u64).then_some(offset as usize)
}

/// Notes the access in the shadow; the first byte with trouble, and which.
#[inline]
fn record(view: &View, shadow: &[Byte], access: Access, shared: bool) -> Option<(usize, Trouble)> {
    let note = |b: &Byte| match access {
        Access::Read => b.read(view, shared),
        Access::Write(_) => b.write(view, shared),
    };
    shadow.iter().enumerate().find_map(|(i, b)| Some((i, note(b)?)))
}

#[cold]
fn tell(
    block: &Block,
    trouble: Trouble,
    verb: &str,
    bytes: usize,
    offset: usize,
    name: &str,
) -> String {
    let place = format!("{verb} of {bytes} bytes at byte {offset} of '{name}'");
    match trouble {
        Trouble::Unwritten => format!("{place}, which was never written"),
        Trouble::Pending(_) => {
            format!("{place}, where an asynchronous copy was not waited for")
        }
        // The emulated kernels have no asynchronous proxy, and no loads past the coherent cache.
        Trouble::NoFence(other) | Trouble::Changed(other) | Trouble::Race(other) => {
            let did = if other.was_write { "written" } else { "read" };
            let site = image().start + u64::from(other.site);
            let line = block.on_big_stack(|| block.launch.locate(site));
            let who = who(block, other.stamp);
            format!("data race: {place}, {did} by {who} ({line}) with no barrier between")
        }
    }
}

fn who(block: &Block, other: Stamp) -> String {
    let [x, y, z] = block.coordinates(other.thread());
    if other.block() == block.number {
        return format!("thread ({x}, {y}, {z})");
    }
    let [bx, by, bz] = block.launch.index(other.block() - block.launch.first_block);
    format!("thread ({x}, {y}, {z}) of block ({bx}, {by}, {bz})")
}

/// Where this executable lies in memory; constants of a kernel file are in it.
fn image() -> Range<u64> {
    unsafe extern "C" {
        static __executable_start: u8;
        static _end: u8;
    }
    // Names of the linker; only their addresses are used.
    &raw const __executable_start as u64..&raw const _end as u64
}
